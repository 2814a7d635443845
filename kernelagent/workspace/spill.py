"""Files that keep what exceeds a run's output budget."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from kernelagent.workspace.beneath import give_to_owner_of, make_beneath

log = logging.getLogger(__name__)

_FOLDER = (".kernelagent", "outputs")
# Runs whose files are kept; the oldest go first.
_KEPT_RUNS = 100
# Files of one run: an answer lists them all.
_MOST_FILES = 1000
# Data that waits for the disk; beyond it the rest is counted as lost, and the answer says so.
_BACKLOG = 64 * 2**20


@dataclass(slots=True)
class SpilledFile:
    """One file of excess output."""

    path: Path
    bytes: int = 0


class Spill:
    """Writes one run's excess output below the workspace, in a thread, in order.

    At most `limit` bytes over all files, and a bounded number of these; what exceeds that, or
    cannot be written, is counted in `lost`. Nothing is created before the first write.
    """

    def __init__(self, workspace: Path, execution_id: str, limit: int) -> None:
        self._workspace = workspace
        self._execution_id = execution_id
        self._limit = limit
        self._accepted = 0
        self._backlog: dict[str, list[bytes]] = {}
        self._backlog_bytes = 0
        self._writer: asyncio.Task[None] | None = None
        self._directory: int | None = None
        self._closing: asyncio.Task[None] | None = None
        self.files: dict[str, SpilledFile] = {}
        self.lost = 0

    @property
    def directory(self) -> Path:
        """Where the files are, once there are some."""
        return self._workspace.joinpath(*_FOLDER, self._execution_id)

    @property
    def backlog_bytes(self) -> int:
        """How much waits for the disk."""
        return self._backlog_bytes

    async def drained(self) -> None:
        """Wait until everything taken so far is on disk, or lost."""
        while self._writer is not None:
            await asyncio.shield(self._writer)

    def write(self, name: str, data: bytes) -> Path | None:
        """Append to the file `name`; its path, or None if nothing of `data` was taken."""
        room = min(self._limit - self._accepted, _BACKLOG - self._backlog_bytes)
        if name not in self.files and len(self.files) >= _MOST_FILES:
            room = 0
        taken = data[: max(room, 0)]
        self.lost += len(data) - len(taken)
        if not taken:
            return self.files[name].path if name in self.files else None
        self._accepted += len(taken)
        file = self.files.setdefault(name, SpilledFile(self.directory / name))
        file.bytes += len(taken)
        self._backlog.setdefault(name, []).append(taken)
        self._backlog_bytes += len(taken)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        return file.path

    async def close(self) -> None:
        """Wait until everything is written; what comes later is lost. May be repeated."""
        self._limit = 0
        if not self.files:
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        # A caller that is cancelled must leave neither a writer nor a descriptor behind.
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._writer is not None:
            await self._writer
        if self._directory is not None:
            os.close(self._directory)
            self._directory = None

    async def _write_all(self) -> None:
        try:
            while self._backlog:
                batch, self._backlog = self._backlog, {}
                size = sum(map(_size, batch.values()))
                try:
                    await asyncio.to_thread(self._write_batch, batch)
                except OSError as error:
                    self._give_up(batch, error)
                self._backlog_bytes -= size
        finally:
            self._writer = None

    def _give_up(self, unwritten: dict[str, list[bytes]], error: OSError) -> None:
        log.warning("excess output could not be written: %s", error.strerror)
        self._limit = 0
        for name, pieces in unwritten.items():
            self.lost += _size(pieces)
            self.files[name].bytes -= _size(pieces)

    def _write_batch(self, batch: dict[str, list[bytes]]) -> None:
        """Write the pieces in `batch` and remove them; what is left of it was not written."""
        if self._directory is None:
            self._directory = _make_run_folder(self._workspace, self._execution_id)
        for name in list(batch):
            # One file at a time: a run may have more of them than we may have descriptors.
            with open(name, "ab", opener=self._open) as file:
                file.writelines(batch[name])
            del batch[name]

    def _open(self, name: str, flags: int) -> int:
        # The code that runs can plant a link or a pipe here, and a pipe would block.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(name, flags, 0o644, dir_fd=self._directory)
        facts = os.fstat(descriptor)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1:
            if facts.st_size == 0 and self._directory is not None:
                give_to_owner_of(self._directory, descriptor)
            return descriptor
        os.close(descriptor)
        raise OSError(errno.EPERM, f"{name} is not a file of ours")


def _size(pieces: list[bytes]) -> int:
    return sum(map(len, pieces))


def _make_run_folder(workspace: Path, name: str) -> int:
    """A descriptor of the folder of one run; old folders are removed on this occasion."""
    folder = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in _FOLDER:
            above, folder = folder, make_beneath(folder, part)
            os.close(above)
        run = make_beneath(folder, name)
        _prune(folder)
        return run
    finally:
        os.close(folder)


def _prune(folder: int) -> None:
    ages = []
    with os.scandir(folder) as runs:
        for run in runs:
            # Another run may be pruning too.
            with contextlib.suppress(OSError):
                ages.append((run.stat(follow_symlinks=False).st_mtime_ns, run.name))
    for _, name in sorted(ages)[:-_KEPT_RUNS]:
        shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
