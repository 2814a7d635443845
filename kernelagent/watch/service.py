"""Watches: each keeps the picture of a tree and tells what changes in it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kernelagent.concurrency import race
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
from kernelagent.files.fs.threads import FileThreads
from kernelagent.files.service import FileService
from kernelagent.settings import Settings
from kernelagent.text import utc_timestamp
from kernelagent.watch.changes import Change, ChangeFeed, Ending, Event, Overflow
from kernelagent.watch.nodes import Budget
from kernelagent.watch.tree import Stopped, Tree

log = logging.getLogger(__name__)

Message = dict[str, Any]

T = TypeVar("T")

# Seconds in which changes are gathered: what does not show any more at their end is not told.
_TICK = 0.05
# Bytes that were said and not looked at yet; beyond it the system keeps them, and tells if it
# loses some.
_MOST_WAITING = 8 * 2**20
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
        threads: FileThreads,
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
        self._threads = threads
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._feed = ChangeFeed(loop, settings.watch_changes)
        # The same for threads and for the loop.
        self._stop = threading.Event()
        self._stopped = asyncio.Event()
        self._started: asyncio.Future[None] = loop.create_future()
        self._work: asyncio.Task[None] | None = None
        self._said: list[bytes] = []
        self._is_said = asyncio.Event()

    async def start(self) -> None:
        """Begin; what happens from now on is told. Raises what is wrong with the path."""
        self._work = self._loop.create_task(self._run(), name=self.facts.id)
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
        self._stopped.set()

    async def close(self) -> None:
        """End it, and wait until nothing of it is left."""
        self.stop(Ending.LEFT)
        if self._work is not None:
            await asyncio.wait([self._work])

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

    async def _run(self) -> None:
        ending: Ending | ApiError = Ending.LEFT
        try:
            tree = await self._in_thread(self._open)
            try:
                # A large tree takes long, and must keep no changes waiting.
                await self._in_thread(tree.open, long=True)
                self._started.set_result(None)
                ending = await self._follow(tree)
            finally:
                await self._in_thread(tree.close)
        except Stopped:
            pass
        except ApiError as error:
            ending = error
        except Exception:
            log.exception("a watch failed inside the service")
            ending = InternalError("the watch failed inside the service")
        self._feed.end(ending)
        if not self._started.done():
            self._started.set_exception(self._refusal())
            # Nobody may be waiting any more.
            self._started.exception()

    def _refusal(self) -> ApiError:
        ending = self._feed.ending
        if ending is Ending.CLOSING:
            return ServiceClosing("the service is shutting down")
        return ending if isinstance(ending, ApiError) else _no_such(self._wanted)

    async def _in_thread(self, work: Callable[[], T], *, long: bool = False) -> T:
        return await self._threads.run(work, long=long)

    async def _follow(self, tree: Tree) -> Ending:
        """Tell what changes until the path is gone; raises Stopped and what ends it."""
        self._listen(tree)
        try:
            while True:
                pieces, self._said = self._said, []
                self._is_said.clear()
                self._listen(tree)
                changes, lost = await self._in_thread(partial(tree.update, pieces))
                self._feed.put(changes)
                if lost:
                    self._feed.lose()
                if await self._in_thread(lambda: tree.is_gone):
                    self._feed.put([Change(Event.DELETED, "", self.is_directory)])
                    return Ending.GONE
                if not tree.holds_back:
                    await self._until_said()
                await self._rest()
        finally:
            self._loop.remove_reader(tree.inotify.descriptor)

    def _listen(self, tree: Tree) -> None:
        self._loop.add_reader(tree.inotify.descriptor, self._hear, tree)

    def _hear(self, tree: Tree) -> None:
        self._said.append(tree.inotify.read())
        self._is_said.set()
        if sum(map(len, self._said)) > _MOST_WAITING:
            self._loop.remove_reader(tree.inotify.descriptor)

    async def _until_said(self) -> None:
        """Raises Stopped."""
        await race(self._is_said.wait(), self._stopped.wait())
        if self._stop.is_set():
            raise Stopped

    async def _rest(self) -> None:
        """Raises Stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TICK):
                await self._stopped.wait()
            raise Stopped

    def _open(self) -> Tree:
        root, path, only = self._locate()
        try:
            tree = Tree(
                root,
                path,
                only=only,
                most_directories=_MOST_DIRECTORIES,
                budget=self._budget,
                closed=self._roots.closed(),
                stop=self._stop,
            )
        except BaseException:
            os.close(root)
            raise
        self.is_directory = only is None
        return tree

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


def _no_such(path: str) -> ApiError:
    shown = told(names.shown(path))
    return FileNotFound(f"no such file or directory{quoted(shown)}", details={"path": shown})


class WatchService:
    """What the routes of watches share. `close` ends all watches."""

    def __init__(self, settings: Settings, files: FileService) -> None:
        self.settings = settings
        self._roots = files.roots
        self._threads = files.threads
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
        watch = Watch(path, self.settings, self._roots, self._budget, self._threads)
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
