"""What clients do with files, each step in a thread and by descriptor."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from kernelagent.errors import DirectoryNotFound, InvalidPath, PathNotAllowed
from kernelagent.files.archives.staging import ArchiveLimits, Staging
from kernelagent.files.fs import names
from kernelagent.files.fs.draft import Draft, Sweeper, sync, temporary_name
from kernelagent.files.fs.failures import translated
from kernelagent.files.fs.open_file import OpenFile
from kernelagent.files.fs.paths import Identity, Place, Roots, make_directory, quoted, told
from kernelagent.files.fs.threads import FileThreads
from kernelagent.files.fs.transfer import copy_entry, move_entry
from kernelagent.files.fs.tree import remove_tree
from kernelagent.files.listing import Listing, describe_path, facts_at, list_directory
from kernelagent.files.search.globs import Glob
from kernelagent.files.search.search import TextSearch

if TYPE_CHECKING:
    from kernelagent.sandbox import Sandbox

T = TypeVar("T")

DIRECTORY_MODE = 0o755
FILE_MODE = 0o644


class FileService:
    """Files beneath the allowed roots.

    `owner` (uid, gid) is whose rights are used and whom new files belong to, if the service is
    root; None means the service's own user.
    """

    def __init__(
        self,
        roots: Roots,
        limits: ArchiveLimits,
        *,
        owner: tuple[int, int] | None = None,
        most_operations: int = 256,
        hard_links: bool = False,
    ) -> None:
        self.roots = roots
        self.limits = limits
        self.threads = FileThreads(owner, most_operations)
        self.sweeper = Sweeper()
        self._hard_links = hard_links

    @classmethod
    def of(cls, sandbox: Sandbox, closed: Iterable[Path | None] = ()) -> Self:
        """Of a sandbox that is open. The state directory is out of reach, and what is `closed`."""
        settings = sandbox.settings
        out_of_reach = [settings.state_dir, *filter(None, closed)]
        return cls(
            Roots(settings.workspace, settings.allowed_roots, out_of_reach),
            ArchiveLimits(settings.max_archive_entries, settings.max_archive_bytes),
            owner=sandbox.owner,
            most_operations=settings.max_file_operations,
            hard_links=settings.file_hard_links,
        )

    async def close(self) -> None:
        """Wait until everything is done; may be repeated."""
        await self.threads.close()

    async def run(self, path: str, work: Callable[[], T], *, long: bool = False) -> T:
        """What `work` returns; what the system refuses is told as of `path`."""
        return await self.threads.run(translated(path)(work), long=long)

    async def open(self, path: str) -> OpenFile:
        """Open a regular file for reading."""
        return await self.run(path, partial(self.open_now, path))

    async def open_tree(self, path: str) -> OpenFile:
        """Open a directory."""

        def work() -> OpenFile:
            directory = self.open_directory(path)
            return OpenFile(directory, os.fstat(directory), path)

        return await self.run(path, work)

    async def read_small(self, path: str, most: int) -> tuple[OpenFile, bytes | None]:
        """The file, and its contents if there is not more than `most`."""

        def work() -> tuple[OpenFile, bytes | None]:
            file = self.open_now(path)
            if file.facts.st_size > most:
                return file, None
            return file, b"".join(file.pieces(0, file.facts.st_size, most))

        return await self.run(path, work)

    async def list(self, path: str, *, recursive: bool, glob: str | None, limit: int) -> Listing:
        """What is in a directory, in the order of names."""
        pattern = None if glob is None else Glob(names.real(glob))

        def work() -> Listing:
            directory = self.open_directory(path)
            return list_directory(self.roots, directory, path, pattern, limit, recursive=recursive)

        return await self.run(path, work, long=recursive)

    async def look(self, path: str) -> dict[str, Any]:
        """What a path names, links followed; for a link also where it leads."""
        return await self.run(path, partial(describe_path, self.roots, path))

    async def exists(self, path: str) -> os.stat_result | None:
        """What is there, if anything is that may be used."""
        return await self.threads.run(partial(facts_at, self.roots, path))

    async def remove(self, path: str, *, recursive: bool) -> int:
        """Remove a file, a link itself, or a directory; the size of what it was."""
        return await self.run(path, partial(self._remove, path, recursive=recursive), long=True)

    async def make_directory(self, path: str, mode: int) -> None:
        """Have a directory, and those above it."""
        await self.run(path, partial(self._make_directory, path, mode))

    async def move(self, source: str, destination: str, *, overwrite: bool) -> str:
        """Give it another path, on another file system too; the new path."""
        return await self.run(
            source, partial(self._transfer, source, destination, overwrite, move_entry), long=True
        )

    async def copy(self, source: str, destination: str, *, overwrite: bool) -> str:
        """Copy a file, or a directory with all that is in it; the new path."""
        return await self.run(
            source, partial(self._transfer, source, destination, overwrite, copy_entry), long=True
        )

    async def search(self, path: str, wanted: TextSearch) -> None:
        """Look in a file, or in all files beneath a directory; `wanted` has the matches."""
        await self.run(path, partial(self._search, path, wanted), long=True)

    def may_read(self, facts: os.stat_result) -> bool:
        """Whether a file's contents may be shown.

        Another name of a file can be made where its contents must not be read. The system does not
        let users do that to others' files, but it can be told to.
        """
        owner = self.threads.owner
        trusted = owner[0] if owner is not None else os.geteuid() or None
        return facts.st_nlink <= 1 or self._hard_links or facts.st_uid == trusted

    def write_now(
        self, path: str, pieces: Iterable[bytes], mode: int | None, *, overwrite: bool
    ) -> int:
        """Make or replace a file, as a whole, and return its size; blocks."""
        with translated(path), self.locate_new(path) as place:
            draft = Draft(place.directory)
            try:
                for piece in pieces:
                    draft.write(piece)
                self.commit(draft, place, mode, overwrite=overwrite)
            finally:
                draft.discard()
            return draft.size

    def open_now(self, path: str) -> OpenFile:
        """Open a regular file for reading; blocks."""
        with self.roots.locate(path) as place:
            descriptor = place.open(os.O_RDONLY)
        facts = os.fstat(descriptor)
        file = OpenFile(descriptor, facts, path)
        try:
            if stat.S_ISDIR(facts.st_mode):
                raise _wrong(path, "this is a directory")
            if not stat.S_ISREG(facts.st_mode):
                raise _wrong(path, "this is no regular file")
            if not self.may_read(facts):
                raise PathNotAllowed(
                    "this file has other names (hard links), perhaps where it must not be read"
                    f"{quoted(_shown(path))}",
                    details={"path": _shown(path)},
                )
        except BaseException:
            file.close()
            raise
        return file

    def open_directory(self, path: str) -> int:
        """A descriptor of a directory; blocks. Raises DirectoryNotFound, InvalidPath."""
        try:
            with self.roots.locate(path) as place:
                descriptor = place.open(os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            shown = _shown(path)
            raise DirectoryNotFound(
                f"no such file or directory{quoted(shown)}", details={"path": shown}, status=404
            ) from None
        if self.roots.is_closed(os.fstat(descriptor)):
            os.close(descriptor)
            raise PathNotAllowed("this path is not allowed")
        return descriptor

    def locate_new(self, path: str) -> Place:
        """Where something is going to be; missing directories are made. Blocks."""
        if path.endswith("/"):
            raise _wrong(path, "a file's path does not end with a slash")
        place = self.roots.locate(path, make_mode=DIRECTORY_MODE)
        try:
            if place.name == ".":
                raise _wrong(path, "this is a directory")
            self.sweeper.sweep(place.directory)
        except BaseException:
            place.close()
            raise
        return place

    def locate_directory(self, path: str) -> Place:
        """Where a directory is or is going to be; those above it are made. Blocks."""
        place = self.roots.locate(path, make_mode=DIRECTORY_MODE)
        try:
            self.sweeper.sweep(place.directory)
        except BaseException:
            place.close()
            raise
        return place

    def new_draft(self) -> Draft:
        """Return a draft in the workspace, for a file whose path is not known yet; blocks."""
        # By a name in it: the workspace itself may be seen as one in the directory above.
        with self.locate_directory(temporary_name()) as place:
            return Draft(place.directory)

    def new_staging(self, place: Place) -> Staging:
        """Return a directory to be filled unseen, for what is unpacked at `place`; blocks."""
        staging = Staging(place, self.roots.is_closed, self.limits)
        try:
            self.sweeper.sweep(staging.parent)
        except BaseException:
            staging.discard()
            raise
        return staging

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory already; blocks."""
        try:
            with self.roots.locate(path) as place:
                return stat.S_ISDIR(place.facts().st_mode)
        except OSError:
            return False

    def commit(self, draft: Draft, place: Place, mode: int | None, *, overwrite: bool) -> None:
        """Give a draft its name; blocks."""
        with contextlib.suppress(FileNotFoundError):
            facts = place.facts()
            if stat.S_ISDIR(facts.st_mode):
                raise _wrong(place.path, "this is a directory")
            if not stat.S_ISREG(facts.st_mode):
                raise _wrong(place.path, "this is no regular file")
            if mode is None:
                mode = stat.S_IMODE(facts.st_mode) & 0o777
        draft.commit(
            place.directory,
            place.name,
            mode=FILE_MODE if mode is None else mode,
            overwrite=overwrite,
        )

    def _remove(self, path: str, *, recursive: bool) -> int:
        with self.roots.locate(path, follow=False) as place:
            facts = place.facts()
            if not stat.S_ISDIR(facts.st_mode):
                os.unlink(place.name, dir_fd=place.directory)
                return facts.st_size
            self._spare_protected(path, facts)
            if place.name == ".":
                raise _wrong(path, "a directory is removed by its name")
            if recursive:
                remove_tree(place.directory, place.name)
            else:
                os.rmdir(place.name, dir_fd=place.directory)
            return 0

    def _spare_protected(self, path: str, facts: os.stat_result) -> None:
        if self.roots.holds_protected(Identity.of(facts)):
            shown = _shown(path)
            raise PathNotAllowed(
                f"this directory is, or holds, one that is needed{quoted(shown)}",
                details={"path": shown},
            )

    def _make_directory(self, path: str, mode: int) -> None:
        with self.roots.locate(path, make_mode=DIRECTORY_MODE) as place:
            if place.name == ".":
                return
            try:
                os.mkdir(place.name, mode, dir_fd=place.directory)
            except FileExistsError:
                os.close(make_directory(place.directory, place.name, mode))
                return
            # Whatever the service's umask is.
            made = os.open(
                place.name,
                os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC,
                dir_fd=place.directory,
            )
            try:
                os.fchmod(made, mode)
            finally:
                os.close(made)
            sync(place.directory)

    def _transfer(self, source: str, destination: str, overwrite: bool, work: Transfer) -> str:
        with self.roots.locate(source, follow=False) as place:
            facts = place.facts()
            if place.name == ".":
                raise _wrong(source, "it is moved and copied by its name")
            if work is move_entry and stat.S_ISDIR(facts.st_mode):
                self._spare_protected(source, facts)
            if destination.endswith("/"):
                destination += place.name
            with translated(destination), self.locate_new(destination) as target:
                try:
                    if overwrite:
                        self._spare_replaced(target)
                    work(place, target, self.roots.is_closed, self.may_read, overwrite=overwrite)
                except BaseException:
                    target.unmake()
                    raise
        return destination

    def _spare_replaced(self, target: Place) -> None:
        with contextlib.suppress(FileNotFoundError):
            facts = target.facts()
            if stat.S_ISDIR(facts.st_mode):
                self._spare_protected(target.path, facts)

    def _search(self, path: str, wanted: TextSearch) -> None:
        try:
            directory = self.open_directory(path)
        except NotADirectoryError:
            with self.open_now(path) as file:
                wanted.file(file.descriptor, "")
            return
        wanted.directory(directory, self.roots.is_closed, self.may_read)


Transfer = Callable[..., None]


def _shown(path: str) -> str:
    return told(names.shown(path))


def _wrong(path: str, sentence: str) -> InvalidPath:
    shown = _shown(path)
    return InvalidPath(f"{sentence}{quoted(shown)}", details={"path": shown})
