"""The registry of languages: names, aliases, and the kernelspec each one runs on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from traitlets import TraitError

from kernelagent.errors import InvalidRequest, LanguageNotAvailable

_PACKAGE = Path(__file__).resolve().parent.parent

# name: (aliases, how to get it)
_KNOWN: dict[str, tuple[tuple[str, ...], str]] = {
    "python": (("python3", "py", "ipython"), "pip install ipykernel"),
    "javascript": (("node", "nodejs", "js"), "no JavaScript kernel is part of this version"),
    "bash": (("sh", "shell"), "no Bash kernel is part of this version"),
    "go": (("golang",), "no Go kernel is part of this version"),
}


def kernels_directory() -> Path:
    """Where the kernels are: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "_kernels"
    return installed if installed.is_dir() else _PACKAGE.parent / "kernels"


@dataclass(frozen=True, slots=True)
class Language:
    """A language and the kernelspec that runs it; `missing` says why it cannot run, if so."""

    name: str
    aliases: tuple[str, ...]
    spec: KernelSpec | None
    missing: str | None = None

    @property
    def available(self) -> bool:
        return self.spec is not None and self.missing is None

    @property
    def has_side_channel(self) -> bool:
        """Whether its kernel takes environment and directory as data."""
        return bool(self._extension.get("side_channel"))

    @property
    def kernelspec(self) -> KernelSpec:
        """The kernelspec; raises LanguageNotAvailable."""
        if self.spec is None or self.missing is not None:
            raise LanguageNotAvailable(
                f"{self.name} is not available here: {self.missing}",
                details={"language": self.name, "how": self.missing},
            )
        return self.spec

    @property
    def has_lean_kernel(self) -> bool:
        """Whether its kernel can be told to run on stock classes."""
        return bool(self._extension.get("lean"))

    @property
    def can_fork(self) -> bool:
        """Whether its kernels can be forked from a preloaded process."""
        return bool(self._extension.get("fork_server"))

    @property
    def preload(self) -> tuple[str, ...]:
        """The modules that its fork server imports unless the settings name others."""
        return tuple(self._extension.get("preload", ()))

    def command(self, connection_file: Path) -> list[str]:
        """The argument vector that starts the kernel."""
        return self._fill(self.kernelspec.argv, {"{connection_file}": str(connection_file)})

    def fork_command(self, descriptor: int) -> list[str]:
        """The argument vector that starts the fork server, which talks over `descriptor`."""
        return self._fill(self._extension["fork_server"], {"{descriptor}": str(descriptor)})

    @property
    def _extension(self) -> dict[str, Any]:
        extension: dict[str, Any] = self.kernelspec.metadata.get("kernelagent") or {}
        return extension

    def _fill(self, template: list[str], values: dict[str, str]) -> list[str]:
        values = {
            **values,
            "{resource_dir}": self.kernelspec.resource_dir,
            "{prefix}": sys.prefix,
        }
        argv = list(template)
        # As in jupyter_client: a bare "python" means the interpreter that runs the server.
        if argv[0] in ("python", "python3"):
            argv[0] = sys.executable
        for placeholder, value in values.items():
            argv = [argument.replace(placeholder, value) for argument in argv]
        return argv


class Languages:
    """All languages by name and alias."""

    def __init__(self, languages: list[Language]) -> None:
        self._languages = {language.name: language for language in languages}
        self._names = {
            alias: language
            for language in languages
            for alias in (language.name, *language.aliases)
        }

    @classmethod
    def load(cls, directory: Path | None = None) -> Languages:
        """The known languages, with the kernelspecs found in `directory`."""
        folder = directory or kernels_directory()
        return cls([_load(name, *known, folder / name) for name, known in _KNOWN.items()])

    def __iter__(self) -> Iterator[Language]:
        return iter(self._languages.values())

    def find(self, name: str | None) -> Language:
        """The language called `name` (python if None); raises InvalidRequest if unknown."""
        wanted = (name or "python").strip().lower()
        language = self._names.get(wanted)
        if language is None:
            known = ", ".join(self._languages)
            raise InvalidRequest(
                f"unknown language {wanted[:64]!r}; known are {known}",
                details={"languages": list(self._languages)},
            )
        return language


def _load(name: str, aliases: tuple[str, ...], how: str, folder: Path) -> Language:
    if not (folder / "kernel.json").is_file():
        return Language(name, aliases, None, how)
    try:
        spec = KernelSpec.from_resource_dir(str(folder))
    except (OSError, ValueError, TypeError, TraitError) as error:
        return Language(name, aliases, None, f"{folder / 'kernel.json'} cannot be read: {error}")
    if not spec.argv:
        return Language(name, aliases, None, f"{folder / 'kernel.json'} has no argv")
    return Language(name, aliases, spec)
