"""Files that nobody sees before they are complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections import OrderedDict

from kernelagent.files.fs import syscalls
from kernelagent.files.fs.paths import TEMPORARY_PREFIX, Identity
from kernelagent.files.fs.tree import remove_tree

_PIECE = 1024 * 1024
_SWEPT = 4096


def temporary_name() -> str:
    """A name for what is not finished."""
    return f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"


class Draft:
    """A new file in `directory`, without a name where the system can do that.

    `commit` gives it its name, once it is on the disk; `discard` is owed in any case. While it is
    open it is locked: a file with a temporary name that nobody holds was left by a crash.
    """

    def __init__(self, directory: int) -> None:
        self._directory = os.dup(directory)
        self._name: str | None = None
        self.size = 0
        try:
            self._file = self._make()
        except BaseException:
            os.close(self._directory)
            raise
        self._open = True

    def _make(self) -> int:
        try:
            return os.open(
                ".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._directory
            )
        except OSError as error:
            # EISDIR: a kernel that does not know it.
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        name = temporary_name()
        file = os.open(name, flags, 0o600, dir_fd=self._directory)
        self._name = name
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return file

    @property
    def file(self) -> int:
        """Its descriptor."""
        return self._file

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`; raises OSError."""
        rest = memoryview(data)
        while rest:
            written = os.write(self._file, rest)
            self.size += written
            rest = rest[written:]

    def write_from(self, source: int) -> None:
        """Append what is left of another file; raises OSError."""
        while data := os.read(source, _PIECE):
            self.write(data)

    def commit(self, directory: int, name: str, *, mode: int, overwrite: bool) -> None:
        """Make it the file `name` in `directory`, at once and for good.

        Raises FileExistsError unless `overwrite`, IsADirectoryError, OSError; then nothing has
        changed.
        """
        os.fchmod(self._file, mode)
        os.fsync(self._file)
        try:
            self._place(directory, name, overwrite=overwrite)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._commit_copy(directory, name, mode=mode, overwrite=overwrite)
        else:
            sync(directory)
        self.discard()

    def _place(self, directory: int, name: str, *, overwrite: bool) -> None:
        if self._name is None:
            try:
                self._link(directory, name)
            except FileExistsError:
                if not overwrite:
                    raise
            else:
                return
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary = temporary_name()
            self._link(directory, temporary)
            try:
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                os.unlink(temporary, dir_fd=directory)
                raise
            return
        if overwrite:
            os.rename(self._name, name, src_dir_fd=self._directory, dst_dir_fd=directory)
        else:
            syscalls.rename_new(
                self._name, name, directory=self._directory, new_directory=directory
            )
        self._name = None

    def _link(self, directory: int, name: str) -> None:
        os.link(f"/proc/self/fd/{self._file}", name, dst_dir_fd=directory, follow_symlinks=True)

    def _commit_copy(self, directory: int, name: str, *, mode: int, overwrite: bool) -> None:
        """As `commit` to another file system."""
        os.lseek(self._file, 0, os.SEEK_SET)
        copy = Draft(directory)
        try:
            copy.write_from(self._file)
            copy.commit(directory, name, mode=mode, overwrite=overwrite)
        finally:
            copy.discard()

    def discard(self) -> None:
        """Let go of it; what has no name by now is gone. May be repeated."""
        if not self._open:
            return
        self._open = False
        try:
            if self._name is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._name, dir_fd=self._directory)
        finally:
            os.close(self._file)
            os.close(self._directory)


def sync(directory: int) -> None:
    """See that names which were given in `directory` survive a crash of the machine."""
    try:
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    except PermissionError:
        return  # one that may be written and not read
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has nothing to write
            raise
    finally:
        os.close(opened)


class Sweeper:
    """Removes what a crash has left: once in each directory, before the first write to it."""

    def __init__(self) -> None:
        self._swept: OrderedDict[Identity, None] = OrderedDict()

    def sweep(self, directory: int) -> None:
        """Remove what has a temporary name and is nobody's."""
        identity = Identity.of(os.fstat(directory))
        if identity in self._swept:
            return
        self._swept[identity] = None
        while len(self._swept) > _SWEPT:
            self._swept.popitem(last=False)
        try:
            opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        except PermissionError:
            return
        try:
            with os.scandir(opened) as entries:
                left = [entry.name for entry in entries if entry.name.startswith(TEMPORARY_PREFIX)]
            for name in left:
                _remove_unlocked(opened, name)
        finally:
            os.close(opened)


def _remove_unlocked(directory: int, name: str) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(name, flags, dir_fd=directory)
    except OSError:
        return  # another's, or gone
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(file).st_mode):
            remove_tree(directory, name)
        else:
            os.unlink(name, dir_fd=directory)
    except OSError:
        return  # in use, or not ours to remove
    finally:
        os.close(file)
