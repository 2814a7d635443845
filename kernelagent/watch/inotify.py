"""inotify: what the system says about directories, in the order in which it happened."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from enum import IntFlag
from typing import NamedTuple

from kernelagent.errors import WatchLimit

# struct inotify_event: watch, mask, cookie, length of the name that follows (inotify(7)).
_HEAD = struct.Struct("iIII")
# At least one event with the longest name; as much as one read should take of the loop's time.
_READ = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Mask(IntFlag):
    """What has happened, and to what; the numbers are the system's."""

    MODIFY = 0x2
    ATTRIB = 0x4
    MOVED_FROM = 0x40
    MOVED_TO = 0x80
    CREATE = 0x100
    DELETE = 0x200
    DELETE_SELF = 0x400
    MOVE_SELF = 0x800
    UNMOUNT = 0x2000
    Q_OVERFLOW = 0x4000
    IGNORED = 0x8000
    ONLYDIR = 0x1000000
    ISDIR = 0x40000000


class Said(NamedTuple):
    """One event: `watch` is the number of the directory, `name` a name in it or empty.

    `cookie` is the same in both halves of a rename.
    """

    watch: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """One inotify instance; its descriptor can be waited for. `close` it."""

    def __init__(self) -> None:
        """Raises WatchLimit if the user has too many."""
        self.descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise _failure()

    def add(self, directory: int, mask: int) -> int:
        """Watch an open directory; the number of the watch, the same one for the same directory.

        Raises WatchLimit, and OSError where it may not be read.
        """
        path = b"/proc/self/fd/%d" % directory
        watch: int = _libc.inotify_add_watch(self.descriptor, path, mask | Mask.ONLYDIR)
        if watch < 0:
            raise _failure()
        return watch

    def remove(self, watch: int) -> None:
        """Watch it no more; what it has said comes nevertheless."""
        _libc.inotify_rm_watch(self.descriptor, watch)

    def read(self) -> bytes:
        """What waits, without waiting for it; empty if nothing does."""
        try:
            return os.read(self.descriptor, _READ)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Watch nothing."""
        os.close(self.descriptor)


def parse(data: bytes) -> Iterator[Said]:
    """The events in what was read."""
    place = 0
    while place < len(data):
        watch, mask, cookie, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        name = data[place : place + length].rstrip(b"\0")
        place += length
        yield Said(watch, mask, cookie, os.fsdecode(name))


def _failure() -> Exception:
    number = ctypes.get_errno()
    if number in (errno.ENOSPC, errno.EMFILE):
        return WatchLimit(
            "the system has no more inotify watches or instances for this user: raise "
            "fs.inotify.max_user_watches or fs.inotify.max_user_instances, or watch less"
        )
    return OSError(number, os.strerror(number))
