"""A moment in the future as a descriptor that can be polled."""

from __future__ import annotations

import contextlib
import ctypes
import os

_CLOCK_MONOTONIC = 1
_CLOSE_ON_EXEC = 0o2000000
_NONBLOCK = 0o4000

# Keeps the interpreter lock: the calls take a microsecond.
_libc = ctypes.PyDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Interval(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """Becomes readable once, some time after `set`."""

    def __init__(self) -> None:
        self.descriptor = _libc.timerfd_create(_CLOCK_MONOTONIC, _CLOSE_ON_EXEC | _NONBLOCK)
        if self.descriptor < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def set(self, seconds: float) -> None:
        """Replaces an earlier time; 0 means never."""
        whole = int(seconds)
        value = _Timespec(whole, int((seconds - whole) * 1e9))
        interval = _Interval(_Timespec(0, 0), value)
        _libc.timerfd_settime(self.descriptor, 0, ctypes.byref(interval), None)

    def take(self) -> None:
        """Its time has come: no longer readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.descriptor, 8)

    def close(self) -> None:
        os.close(self.descriptor)
