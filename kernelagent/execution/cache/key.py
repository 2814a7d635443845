"""What a cached result depends on: files by their content, everything else by its value."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelagent.errors import FileNotFound
from kernelagent.jupyter.languages import Language
from kernelagent.jupyter.outputs import Budget

_CHUNK = 1024 * 1024
_LONGEST_PATH_TOLD = 1000
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class Stopped(Exception):
    """Nobody waits for the content of the files any more."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file as it was at one moment."""

    digest: str
    # Its identity, size and time of change: another content may have been there in between.
    mark: tuple[int, int, int, int]


def read_files(
    directory: Path, names: Sequence[str], stopped: Callable[[], bool]
) -> dict[str, InputFile]:
    """Each file by its name; blocks. Raises FileNotFound, and Stopped once `stopped` says so."""
    return {name: _read(directory / name, stopped) for name in dict.fromkeys(names)}


def make_key(
    language: Language,
    code: str,
    *,
    inherited: Mapping[str, str],
    env: Mapping[str, str],
    directory: Path | None,
    budget: Budget,
    files: Mapping[str, InputFile],
) -> bytes:
    """32 bytes that are equal for runs whose results are interchangeable, and only for them.

    `inherited` is what the service gives its kernels, `env` what the request adds.
    """
    spec = language.kernelspec
    facts: dict[str, Any] = {
        "language": language.name,
        "version": language.version,
        "kernel": spec.to_dict(),
        "kernel_directory": spec.resource_dir,
        "code": code,
        "inherited": dict(inherited),
        "env": dict(env),
        "directory": None if directory is None else str(directory),
        "budget": [budget.bytes, budget.items],
        "files": {name: file.digest for name, file in files.items()},
    }
    # Escapes whatever is not ASCII, lone surrogates of the system's environment included.
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _read(path: Path, stopped: Callable[[], bool]) -> InputFile:
    try:
        # Looked at first: to open a device can do something.
        if not stat.S_ISREG(path.stat().st_mode):
            raise _unusable(path, "is no regular file")
        descriptor = os.open(path, _FLAGS)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - it is open already
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _unusable(path, "is no regular file")
            digest = hashlib.sha256()
            buffer = bytearray(_CHUNK)
            view = memoryview(buffer)
            while count := file.readinto(buffer):
                if stopped():
                    raise Stopped
                digest.update(view[:count])
            if count is None:
                raise _unusable(path, "is no regular file: it can make its readers wait")
    except FileNotFoundError:
        raise _unusable(path, "does not exist") from None
    except (OSError, ValueError) as error:
        # A name that no file can have is a ValueError.
        reason = getattr(error, "strerror", None) or "it is no path"
        raise _unusable(path, f"cannot be read: {reason}") from None
    mark = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return InputFile(digest.hexdigest(), mark)


def _unusable(path: Path, reason: str) -> FileNotFound:
    shown = str(path)[:_LONGEST_PATH_TOLD]
    return FileNotFound(f"the input file {shown} {reason}", details={"path": shown})
