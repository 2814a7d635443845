"""What is done once, in the fork server, so that no kernel has to do it."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from pathlib import Path
from typing import Any

from kernelagent_python.app import PLOTS, prepare_lean, without_debugger
from kernelagent_python.forking import settle_native_threads
from kernelagent_python.lean.support import unsupported

# Imported by the first cells of nearly everybody, after the fork 5 to 8 ms each time.
_USUAL = (
    "IPython.core.completerlib",
    "IPython.core.ultratb",
    "IPython.extensions.storemagic",
    "pygments.formatters.terminal256",
    "pygments.lexers.python",
    "tornado.ioloop",
    "tornado.platform.asyncio",
    "concurrent.futures.thread",
    "asyncio.runners",
    "decimal",
    "getpass",
    "psutil",
    "subprocess",
)


class Unusable(Exception):
    """Kernels cannot be forked from this process; the reason is for people."""


def prepare_python(preload: list[str], *, stock: bool) -> Any:
    """A Python kernel with `preload` imported and all warmed up; raises Unusable."""
    app = None if stock or unsupported() else prepare_lean([])
    os.environ.setdefault("MPLBACKEND", PLOTS)
    _import(preload)
    if app is not None:
        from kernelagent_python.warming import warm

        warm(app)
    else:
        with without_debugger():
            importlib.import_module("kernelagent_python.stock")
    return app


def _import(preload: list[str]) -> None:
    for name in _USUAL:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in preload:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise Unusable(f"the preload of {name} failed: {sentence(error)}") from error
        refuse_what_cannot_be_forked(f"the preload of {name}")


def refuse_what_cannot_be_forked(culprit: str) -> None:
    """Raises Unusable, which blames `culprit`, if there are threads or an event loop."""
    names = _other_threads()
    if names:
        settle_native_threads()
        names = _other_threads()
    if names:
        count = f"{len(names)} thread{'s' if len(names) > 1 else ''}"
        raise Unusable(
            f"{culprit} has started {count} ({', '.join(names[:5])}), which a fork would not copy"
        )
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if "eventpoll" in str(entry.readlink()):
                raise Unusable(f"{culprit} has made an event loop, which all kernels would share")


def _other_threads() -> list[str]:
    """The names of all threads but this one: Python's own where they have one."""
    known = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    names = []
    for task in Path("/proc/self/task").iterdir():
        # It may end while we look.
        with contextlib.suppress(OSError):
            if task.name != str(os.getpid()):
                names.append(known.get(task.name) or (task / "comm").read_text().strip())
    return sorted(names)


def sentence(error: BaseException) -> str:
    """`error` for people."""
    return str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
