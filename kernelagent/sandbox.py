"""Where and as whom everything runs: kernels, commands and terminals are built from it."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from kernelagent.errors import DirectoryNotFound, InvalidRequest
from kernelagent.isolation.confinement import Confinement, Needs
from kernelagent.observers import Observers
from kernelagent.processes.environment import Environment
from kernelagent.processes.process import SERVER, Starter
from kernelagent.settings import Settings
from kernelagent.workspace.paths import real_path

_LONGEST_PATH_TOLD = 1000


class Sandbox:
    """The workspace, the variables, and what starts processes away from the service.

    `open` it before everything that is built from it, and `close` it after that, in any case.
    """

    def __init__(self, settings: Settings, needs: Needs, *, server_id: str | None = None) -> None:
        """`needs` is what another user must be able to use for everything to run as that user."""
        self.server_id = server_id or uuid.uuid4().hex
        self.settings = settings
        self.workspace = settings.workspace
        self.environment = Environment(settings.kernel_env, {SERVER: self.server_id})
        self.observers = Observers()
        self.confinement = Confinement(settings)
        self._needs = needs

    @property
    def starter(self) -> Starter:
        """What starts processes."""
        return self.confinement.starter

    @property
    def owner(self) -> tuple[int, int] | None:
        """The user and group that everything runs as, if they are not the service's."""
        return self.confinement.owner

    async def open(self) -> None:
        """Make the workspace and choose the layers of isolation; raises ConfigurationError."""
        await asyncio.to_thread(self.workspace.mkdir, parents=True, exist_ok=True)
        await self.confinement.open(self._needs, self.environment)

    async def close(self) -> None:
        """Let go of what starts processes; may be repeated."""
        await self.confinement.close()

    async def directory(self, workdir: str | None) -> Path | None:
        """The existing directory `workdir`, relative to the workspace; raises DirectoryNotFound."""
        if not workdir:
            return None
        path = _directory_path(workdir, self.workspace)
        if not await asyncio.to_thread(_is_directory, path):
            shown = str(path)[:_LONGEST_PATH_TOLD]
            raise DirectoryNotFound(
                f"workdir does not exist or is no directory: {shown}", details={"path": shown}
            )
        return path


def _directory_path(workdir: str, workspace: Path) -> Path:
    """The absolute directory that `workdir` names; raises InvalidRequest if no path can be so."""
    if "\0" in workdir:
        raise InvalidRequest("workdir contains a NUL character")
    workdir = real_path(workdir, workspace)
    try:
        return workspace / Path(workdir).expanduser()
    except RuntimeError:
        # Nobody has the name behind the ~, so it is that of a directory.
        return workspace / workdir


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        # Too long, or behind a directory that we may not enter.
        return False
