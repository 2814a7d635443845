"""Files that keep what exceeds a run's output budget."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_FOLDER = (".kernelagent", "outputs")
# Runs whose files are kept; the oldest go first.
_KEPT_RUNS = 100
# Data that waits for the disk; beyond it the rest is counted as lost, and the answer says so.
_BACKLOG = 64 * 2**20


@dataclass(slots=True)
class SpilledFile:
    """One file of excess output."""

    path: Path
    bytes: int = 0


class Spill:
    """Writes one run's excess output below the workspace, in a thread, in order.

    At most `limit` bytes over all files; what exceeds that, or cannot be written, is counted in
    `lost`. Nothing is created before the first write.
    """

    def __init__(self, workspace: Path, execution_id: str, limit: int) -> None:
        self._workspace = workspace
        self._execution_id = execution_id
        self._limit = limit
        self._accepted = 0
        self._backlog: list[tuple[str, bytes]] = []
        self._backlog_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._descriptors: dict[str, int] = {}
        self._directory: int | None = None
        self.files: dict[str, SpilledFile] = {}
        self.lost = 0

    @property
    def directory(self) -> Path:
        """Where the files are, once there are some."""
        return self._workspace.joinpath(*_FOLDER, self._execution_id)

    def write(self, name: str, data: bytes) -> Path | None:
        """Append to the file `name`; its path, or None if nothing of `data` was taken."""
        room = min(self._limit - self._accepted, _BACKLOG - self._backlog_bytes)
        taken = data[: max(room, 0)]
        self.lost += len(data) - len(taken)
        if not taken:
            return self.files[name].path if name in self.files else None
        self._accepted += len(taken)
        file = self.files.setdefault(name, SpilledFile(self.directory / name))
        file.bytes += len(taken)
        self._backlog.append((name, taken))
        self._backlog_bytes += len(taken)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        return file.path

    async def close(self) -> None:
        """Wait until everything is written, and close the files."""
        while self._writer is not None:
            await self._writer
        await asyncio.to_thread(self._close_files)

    async def _write_all(self) -> None:
        try:
            while self._backlog:
                batch, self._backlog = self._backlog, []
                try:
                    await asyncio.to_thread(self._write_batch, batch)
                except OSError as error:
                    self._give_up(batch, error)
                self._backlog_bytes -= sum(len(data) for _, data in batch)
        finally:
            self._writer = None

    def _give_up(self, batch: list[tuple[str, bytes]], error: OSError) -> None:
        log.warning("excess output could not be written: %s", error.strerror)
        self._limit = 0
        for name, data in batch:
            self.lost += len(data)
            self.files[name].bytes -= len(data)

    def _write_batch(self, batch: list[tuple[str, bytes]]) -> None:
        if self._directory is None:
            self._directory = _make_beneath(self._workspace, (*_FOLDER, self._execution_id))
            _prune(self._workspace.joinpath(*_FOLDER))
        for name, data in batch:
            if name not in self._descriptors:
                self._descriptors[name] = os.open(
                    name,
                    os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW,
                    0o644,
                    dir_fd=self._directory,
                )
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptors[name], view) :]

    def _close_files(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None


def _make_beneath(root: Path, parts: tuple[str, ...]) -> int:
    """A descriptor of `root/parts...`, made if missing; a link on the way is refused.

    Code that runs in the workspace could plant one.
    """
    current = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=current)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = below
    except BaseException:
        os.close(current)
        raise
    return current


def _prune(folder: Path) -> None:
    runs = sorted(folder.iterdir(), key=lambda run: run.lstat().st_mtime)
    for run in runs[:-_KEPT_RUNS]:
        shutil.rmtree(run, ignore_errors=True)
