"""What a language's kernel needs of this machine, as its kernelspec says: commands and files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_TIMEOUT = 20.0
_VERSION = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Findings:
    """The version of the first command; what is missing and how to get it, if anything is."""

    version: str = ""
    missing: str | None = None


def check_requirements(
    requirements: Sequence[Mapping[str, Any]], fill: Mapping[str, str]
) -> Findings:
    """Look for each one; `fill` are the values of placeholders.

    `{"command", "version": arguments, "at_least", "how"}` is a program, `{"file", "how"}` a path.
    """
    version = ""
    for requirement in requirements:
        values = {name: _filled(value, fill) for name, value in requirement.items()}
        how = values.get("how", "")
        if "file" in values:
            path = Path(values["file"])
            if not path.exists():
                return Findings(version, f"{path.name} is missing: {how}")
            continue
        command, wanted = values["command"], values.get("at_least", "")
        program = find_command(command)
        if program is None:
            return Findings(version, f"{command} is not installed: {how}")
        try:
            found = _version_of(program, tuple(values.get("version", ("--version",))))
        except (OSError, subprocess.SubprocessError) as error:
            return Findings(version, f"{command} does not work ({error}): {how}")
        version = version or found
        if wanted and _numbers(found) < _numbers(wanted):
            reason = f"{command} {wanted} or newer is needed, {program} is {found or 'unknown'}"
            return Findings(version, f"{reason}: {how}")
    return Findings(version)


def find_command(name: str) -> str | None:
    """The program `name`: on the PATH, or beside our interpreter, where wheels put theirs."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), beside)))


@lru_cache(maxsize=32)
def _version_of(program: str, arguments: tuple[str, ...]) -> str:
    said = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=True,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    found = _VERSION.search(said.stdout)
    return found[0] if found else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)


def _filled(value: Any, fill: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for placeholder, text in fill.items():
            value = value.replace(placeholder, text)
    return value
