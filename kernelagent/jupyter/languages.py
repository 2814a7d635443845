"""The registry of languages: names, aliases, and the kernelspec each one runs on."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_core.paths import jupyter_path
from traitlets import TraitError

from kernelagent.errors import InvalidRequest, LanguageNotAvailable
from kernelagent.isolation.confinement import Needs
from kernelagent.jupyter.requirements import check_requirements, find_command

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parent.parent

# In the order in which they are told.
_ALIASES: dict[str, tuple[str, ...]] = {
    "python": ("python3", "py", "ipython"),
    "javascript": ("node", "nodejs", "js"),
    "typescript": ("ts",),
    "bash": ("sh", "shell"),
    "go": ("golang",),
}


def kernels_directory() -> Path:
    """Where the kernels are: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "_kernels"
    return installed if installed.is_dir() else _PACKAGE.parent / "kernels"


@dataclass(frozen=True, slots=True)
class Language:
    """A language and the kernelspec that runs it; `missing` says why it cannot run, if so, and how
    to mend that."""

    name: str
    aliases: tuple[str, ...]
    spec: KernelSpec | None
    missing: str | None = None
    # Of what runs the code; empty if nobody knows.
    version: str = ""

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

    @property
    def driver(self) -> list[str]:
        """For a host kernel: the path of its driver, and options."""
        return self._fill(["", *self._extension.get("driver", ())], {})[1:]

    @property
    def fork_key(self) -> str:
        """Equal for languages whose kernels one fork server can fork."""
        command = self.fork_command(0)
        return "\0".join([*map(os.path.normpath, command), *self.preload])

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

    @property
    def requirements(self) -> list[dict[str, Any]]:
        """What its kernelspec says that it needs, for `check_requirements`."""
        return list(self._extension.get("requires", ()))

    @property
    def files(self) -> list[Path]:
        """What must be readable for its kernels: their folder, the programs that they need."""
        programs = (
            find_command(item["command"]) for item in self.requirements if "command" in item
        )
        return [Path(self.kernelspec.resource_dir), *(Path(path) for path in programs if path)]

    @property
    def placeholders(self) -> dict[str, str]:
        """What stands for what in its kernelspec."""
        return {"{resource_dir}": self.kernelspec.resource_dir, "{prefix}": sys.prefix}

    def _fill(self, template: list[str], values: dict[str, str]) -> list[str]:
        values = {**values, **self.placeholders}
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
        """Ours, with the kernelspecs found in `directory`, then those that users have installed.

        A kernelspec of Jupyter's is known by its language and by its own name, unless a name is
        taken.
        """
        folder = directory or kernels_directory()
        # Most of the time goes into programs that are asked for their version.
        with ThreadPoolExecutor() as threads:
            found = [threads.submit(_load, *one, folder / one[0]) for one in _ALIASES.items()]
            ours = [one.result() for one in found]
        return cls([*ours, *_installed(ours)] if directory is None else ours)

    def __iter__(self) -> Iterator[Language]:
        return iter(self._languages.values())

    @property
    def needs(self) -> Needs:
        """What a user must be able to use for kernels to run as that user."""
        there = [language for language in self if language.available]
        python = next((language for language in there if language.name == "python"), None)
        return Needs(
            sys.executable if python is None else python.command(Path("unused"))[0],
            [path for language in there for path in language.files],
        )

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


def _ipython_directory() -> Path:
    """Where IPython keeps what is this user's, as it finds it.

    It is made before anything is closed to kernels: they may write to it only if it is there.
    """
    directory = Path(os.environ.get("IPYTHONDIR") or Path.home() / ".ipython")
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    return directory


def _load(name: str, aliases: tuple[str, ...], folder: Path) -> Language:
    if not (folder / "kernel.json").is_file():
        return Language(name, aliases, None, "its kernel is not part of this installation")
    try:
        spec = KernelSpec.from_resource_dir(str(folder))
    except (OSError, ValueError, TypeError, TraitError) as error:
        return Language(name, aliases, None, f"{folder / 'kernel.json'} cannot be read: {error}")
    if not spec.argv:
        return Language(name, aliases, None, f"{folder / 'kernel.json'} has no argv")
    language = Language(name, aliases, spec)
    found = check_requirements(language.requirements, language.placeholders)
    version = found.version or (platform.python_version() if name == "python" else "")
    return replace(language, missing=found.missing, version=version)


def _installed(ours: Iterable[Language]) -> Iterator[Language]:
    """What is installed for Jupyter and is none of ours, nor another kernel for ours."""
    taken = {name for language in ours for name in (language.name, *language.aliases)}
    # As the manager has them, which imports all of IPython to know the last one.
    folders = [*jupyter_path("kernels"), str(_ipython_directory() / "kernels")]
    manager = KernelSpecManager(kernel_dirs=folders)
    for kernel, folder in sorted(manager.find_kernel_specs().items()):
        try:
            spec = KernelSpec.from_resource_dir(folder)
        except (OSError, ValueError, TypeError, TraitError) as error:
            log.warning("the kernelspec in %s cannot be read: %s", folder, error)
            continue
        own = kernel.lower()
        if own.startswith("kernelagent-") or own in taken or not spec.argv:
            continue
        names = [name for name in (spec.language.strip().lower(), own) if name not in taken]
        names = list(dict.fromkeys(filter(None, names)))
        program = spec.argv[0]
        missing = None if find_command(program) else f"{program}, which runs it, is not installed"
        taken.update(names)
        yield Language(names[0], tuple(names[1:]), spec, missing)
