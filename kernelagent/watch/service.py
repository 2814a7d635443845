"""Watches: each a thread that keeps the picture of a tree and tells what changes in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernelagent.errors import (
    ApiError,
    FileNotFound,
    InternalError,
    InvalidPath,
    ServiceClosing,
    WatchLimit,
)
from kernelagent.files.fs import names
from kernelagent.files.fs.paths import Roots, quoted, told
from kernelagent.files.fs.threads import act_as
from kernelagent.sandbox import Sandbox
from kernelagent.settings import Settings
from kernelagent.text import utc_timestamp
from kernelagent.watch.changes import Change, ChangeFeed, Ending, Event, Overflow
from kernelagent.watch.nodes import Budget
from kernelagent.watch.notifier import TICK
from kernelagent.watch.tree import RootGone, Stopped, Tree

log = logging.getLogger(__name__)

Message = dict[str, Any]

# After changes, and then so long without one, the tree is looked through for what was missed.
# Whether the path is still there is looked at as often.
_QUIET = 0.5
# Of the time at most one in so many parts goes into that.
_SHARE = 20
# Above so many hints at once some may have been lost before they reached us.
_FLOOD = 4096
# With watchfiles that takes 40 inotify instances, of usually 128 that a user may have.
_MOST_DIRECTORIES = 20_000


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched: `path` as the client wrote it, made absolute."""

    id: str
    path: str
    since: str


class Watch:
    """One watch; `start` it, and `close` it in any case."""

    def __init__(
        self,
        path: str,
        settings: Settings,
        roots: Roots,
        budget: Budget,
        owner: tuple[int, int] | None,
    ) -> None:
        self.facts = Watched(
            f"watch_{uuid.uuid4().hex[:20]}",
            os.path.normpath(roots.absolute(path)),
            utc_timestamp(),
        )
        self.is_directory = True
        self._wanted = path
        self._roots = roots
        self._budget = budget
        self._owner = owner
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._feed = ChangeFeed(loop, settings.watch_changes)
        self._stop = threading.Event()
        self._started = loop.create_future()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._work, name=self.facts.id, daemon=True)

    async def start(self) -> None:
        """Begin; what happens from now on is told. Raises what is wrong with the path."""
        self._thread.start()
        await asyncio.shield(self._started)

    async def messages(self, most: int) -> list[Message] | Overflow | None:
        """The next changes as messages, or that some were lost; None at the end."""
        found = await self._feed.next(most)
        if not isinstance(found, list):
            return found
        timestamp = utc_timestamp()
        return [self._message(change, timestamp) for change in found]

    @property
    def ending(self) -> Ending | ApiError | None:
        """Why it has ended, once it has."""
        return self._feed.ending

    @property
    def is_on(self) -> bool:
        """Whether it has begun."""
        return self._started.done() and self._started.exception() is None

    def stop(self, ending: Ending) -> None:
        """Have it end soon."""
        self._feed.end(ending)
        self._stop.set()

    async def close(self) -> None:
        """End it, and wait until nothing of it is left."""
        self.stop(Ending.LEFT)
        if self._thread.ident is not None:
            await self._ended.wait()

    def _message(self, change: Change, timestamp: str) -> Message:
        message = {
            "type": "change",
            "path": self._absolute(change.path),
            "event": change.event.value,
            "is_directory": change.is_directory,
            "timestamp": timestamp,
        }
        if change.old_path is not None:
            message["old_path"] = self._absolute(change.old_path)
        return message

    def _absolute(self, path: str) -> str:
        if not path or not self.is_directory:
            return names.shown(self.facts.path)
        return names.shown(f"{self.facts.path.rstrip('/')}/{path}")

    # In the thread.

    def _work(self) -> None:
        ending: Ending | ApiError = Ending.LEFT
        try:
            act_as(self._owner)
            with self._open() as tree:
                self._loop.call_soon_threadsafe(self._tell_start, None)
                self._follow(tree)
        except RootGone:
            self._feed.put([Change(Event.DELETED, "", self.is_directory)])
            ending = Ending.GONE
        except Stopped:
            pass
        except ApiError as error:
            ending = error
        except Exception:
            log.exception("a watch failed inside the service")
            ending = InternalError("the watch failed inside the service")
        self._feed.end(ending)
        self._loop.call_soon_threadsafe(self._tell_end)

    def _tell_start(self, error: ApiError | None) -> None:
        if self._started.done():
            return
        if error is None:
            self._started.set_result(None)
        else:
            self._started.set_exception(error)
            # Nobody may be waiting any more.
            self._started.exception()

    def _tell_end(self) -> None:
        ending = self._feed.ending
        if ending is Ending.CLOSING:
            ending = ServiceClosing("the service is shutting down")
        self._tell_start(ending if isinstance(ending, ApiError) else _no_such(self._wanted))
        self._ended.set()

    @contextlib.contextmanager
    def _open(self) -> Iterator[Tree]:
        root, path, only = self._locate()
        self.is_directory = only is None
        tree = Tree(
            root,
            path,
            only=only,
            most_directories=_MOST_DIRECTORIES,
            budget=self._budget,
            closed=self._roots.closed(),
            stop=self._stop,
        )
        try:
            tree.open()
            yield tree
        finally:
            tree.close()

    def _locate(self) -> tuple[int, str, str | None]:
        """An open directory, where it is, and the name in it if only one is watched."""
        try:
            with self._roots.locate(self._wanted) as place:
                mode = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode
                if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                    raise InvalidPath("only directories and files can be watched")
                only = None if stat.S_ISDIR(mode) else place.name
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                root = os.open("." if only else place.name, flags, dir_fd=place.directory)
        except PermissionError:
            raise InvalidPath("the service may not read this path") from None
        except OSError:
            raise _no_such(self._wanted) from None
        return root, str(Path(f"/proc/self/fd/{root}").readlink()), only

    def _follow(self, tree: Tree) -> None:
        is_unsure, not_before = False, 0.0
        while True:
            patience = TICK if tree.has_put_off else _QUIET
            hints = tree.notifier.collect(self._stop, patience)
            if hints is None:
                raise Stopped
            is_unsure = is_unsure or bool(hints.names) or tree.has_put_off
            # Also without hints: from then on none is older than what is remembered.
            if changes := tree.update(hints):
                self._feed.put(changes)
            flooded = len(hints.names) > _FLOOD
            if (hints.lost or flooded) and not tree.is_complete:
                self._feed.lose()
            rested = not hints.names and time.monotonic() >= not_before
            if hints.lost or (is_unsure and rested):
                began = time.monotonic()
                self._feed.put(tree.look_through())
                cost = time.monotonic() - began
                is_unsure, not_before = False, began + _SHARE * cost
                if hints.lost:
                    # Whatever makes it lose them may do so all the time.
                    self._stop.wait(cost * _SHARE)


def _no_such(path: str) -> ApiError:
    shown = told(names.shown(path))
    return FileNotFound(f"no such file or directory{quoted(shown)}", details={"path": shown})


class WatchService:
    """What the routes of watches share. `close` ends all watches."""

    def __init__(self, sandbox: Sandbox, roots: Roots) -> None:
        self.settings = settings = sandbox.settings
        self._roots = roots
        self._owner = sandbox.owner
        self._budget = Budget(settings.watch_names)
        self._watches: dict[str, Watch] = {}
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._closing = False

    @property
    def watches(self) -> list[Watched]:
        """Those that are on."""
        return [watch.facts for watch in self._watches.values() if watch.is_on]

    @property
    def default_path(self) -> str:
        """What is watched if nothing is named."""
        return str(self.settings.workspace)

    async def close(self) -> None:
        """End all, and wait until they have ended."""
        self._closing = True
        for watch in self._watches.values():
            watch.stop(Ending.CLOSING)
        await self._none_left.wait()

    @contextlib.asynccontextmanager
    async def watch(self, path: str) -> AsyncIterator[Watch]:
        """A watch that is on. Raises WatchLimit, FileNotFound, PathNotAllowed, InvalidPath."""
        limit = self.settings.max_watches
        if len(self._watches) >= limit:
            raise WatchLimit(
                f"{limit} watches are on, as many as the settings allow", details={"limit": limit}
            )
        watch = Watch(path, self.settings, self._roots, self._budget, self._owner)
        if self._closing:
            watch.stop(Ending.CLOSING)
        self._watches[watch.facts.id] = watch
        self._none_left.clear()
        try:
            await watch.start()
            yield watch
        finally:
            await asyncio.shield(self._end(watch))

    async def _end(self, watch: Watch) -> None:
        try:
            await watch.close()
        finally:
            del self._watches[watch.facts.id]
            if not self._watches:
                self._none_left.set()
