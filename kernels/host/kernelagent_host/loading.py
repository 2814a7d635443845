"""A language's driver, found by the path that its kernelspec gives."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kernelagent_host.host import Driver, Listener


@dataclass(frozen=True, slots=True)
class DriverSpec:
    """The path of a driver's file and the options behind it."""

    path: str
    options: Sequence[str] = ()

    def make(self, listener: Listener) -> Driver:
        """A driver whose host has not started; raises ImportError."""
        driver: Driver = load_driver_class(self.path)(listener, self.options)
        return driver


_loaded: dict[str, type[Driver]] = {}


def load_driver_class(path: str) -> type[Driver]:
    """The class `Driver` in the file `path`; raises ImportError."""
    found = _loaded.get(path)
    if found is None:
        name = f"kernelagent_driver_{Path(path).resolve().parent.name}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found = _loaded[path] = module.Driver
    return found
