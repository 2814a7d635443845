"""Drives the Go host: cells are compiled, and each runs as a program of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from kernelagent_host.host import HostFailed, Listener
from kernelagent_host.json_driver import JsonDriver
from kernelagent_host.private import make_private_directory

# What the host must tell us about again once we have handled it: the program waits for that.
_SHOWN = frozenset({"display", "result", "clear"})


class Driver(JsonDriver):
    """The host compiles with what was made at installation."""

    language_info = {  # noqa: RUF012
        "name": "go",
        "version": "1",
        "mimetype": "text/x-go",
        "file_extension": ".go",
        "codemirror_mode": "go",
        "pygments_lexer": "go",
    }
    banner = "Go"

    def __init__(self, listener: Listener, options: Sequence[str]) -> None:
        super().__init__(listener, options)
        self._work: Path | None = None
        self._command: list[str] = []

    def start(self) -> None:
        install = _load_install()
        try:
            made = install.ensure_installed()
        except install.InstallFailed as error:
            raise HostFailed(str(error)) from error
        self._work = make_private_directory("ka-go")
        self._command = [str(made.program), str(made.tools)]
        with _environment(
            KERNELAGENT_GO_WORK=str(self._work), KERNELAGENT_GO_PACKAGES=str(install.PACKAGES)
        ):
            super().start()

    def command(self) -> Sequence[str]:
        return self._command

    def close(self) -> None:
        super().close()
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None

    def _handle(self, message: dict[str, Any]) -> None:
        super()._handle(message)
        if message["op"] in _SHOWN:
            self._write({"op": "shown"})


def _load_install() -> ModuleType:
    path = Path(__file__).resolve().with_name("install.py")
    spec = importlib.util.spec_from_file_location("kernelagent_go_install", path)
    if spec is None or spec.loader is None:
        raise HostFailed(f"{path} cannot be read")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def _environment(**added: str) -> Iterator[None]:
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
