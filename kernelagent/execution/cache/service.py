"""Runs whose result may be that of an equal run: looked up, shared, kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from kernelagent.concurrency import Disconnected, ends_first
from kernelagent.errors import FileNotFound, InvalidRequest, QueueTimeout, ServiceClosing
from kernelagent.execution.cache.key import InputFile, Stopped, make_key, read_files
from kernelagent.execution.cache.store import Rendered, ResultStore
from kernelagent.execution.flight import Flights
from kernelagent.execution.models import ExecuteRequest
from kernelagent.execution.runs import Answer
from kernelagent.execution.service import ExecutionService
from kernelagent.sessions.execution import Result

Files = dict[str, InputFile]

# Whoever reads large files must not keep all others from reading theirs.
_READERS = 4
# Up to here neither a key nor an answer takes long enough to be worth a thread.
_SMALL = 256 * 1024


@dataclass(frozen=True, slots=True)
class _Run:
    rendered: Rendered
    success: bool
    # Whether an equal run would have shown the same, as far as the result tells.
    complete: bool


class CachedRuns:
    """Answers runs that ask for the cache; leave it after the engine's.

    Equal runs at the same time are one flight, which belongs to all of its callers.
    """

    def __init__(self, service: ExecutionService) -> None:
        settings = service.engine.settings
        self.ttl = settings.cache_ttl
        self.store = ResultStore(max_bytes=settings.cache_bytes, max_entries=settings.cache_entries)
        self._service = service
        self._flights: Flights[_Run | None] = Flights()
        self._readers = ThreadPoolExecutor(_READERS, "input files")
        self._closing = Event()

    async def __aenter__(self) -> CachedRuns:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._flights.close()
        await asyncio.to_thread(self._readers.shutdown, cancel_futures=True)

    async def answer(
        self, request: ExecuteRequest, disconnected: Disconnected, *, rich: bool
    ) -> Answer | None:
        """See `Runs.answer`; as others have got it, where an equal run is known.

        Raises InvalidRequest, FileNotFound and whatever a run raises.
        """
        _check(request)
        plain = request.model_copy(update={"cache": None, "cache_ttl": None, "input_files": None})
        if not self.store.enabled:
            self.store.statistics.misses += 1
            alone = await self._run(plain, disconnected)
            return None if alone is None else Answer(alone.rendered.body(rich=rich, cached=False))
        generation = self.store.generation
        environment = self._service.engine.sandbox.environment
        variables = environment.variables
        directory = await self._service.engine.sandbox.directory(request.workdir)
        names = tuple(dict.fromkeys(request.input_files or ()))
        reading = partial(self._read, plain, directory, names)
        files = await _unless_left(reading(), disconnected) if names else {}
        if files is None:
            return None
        key = await self._key(plain, directory, files, variables)
        ttl = min(request.cache_ttl or self.ttl, self.ttl)
        found = self.store.get(key, ttl)
        if found is not None:
            self.store.statistics.hits += 1
            rendered, age = found
            return Answer(rendered.body(rich=rich, cached=True, age=age))

        async def fly(abandoned: Disconnected) -> _Run | None:
            run = await self._run(plain, abandoned)
            if run is None:
                return None
            same = environment.variables is variables
            if run.complete and same and (not names or await _gives(reading, files)):
                self.store.put(key, run.rendered, ttl, generation=generation)
            else:
                self.store.refuse()
            return run

        # A run from before a clearing is nothing that a later caller should get.
        flight = self._flights.find((generation, key))
        joined = flight is not None
        if flight is None:
            self.store.statistics.misses += 1
            flight = self._flights.start((generation, key), fly)
        else:
            self.store.statistics.shared += 1
        run = await flight.join(disconnected, hold=request.on_disconnect == "continue")
        if run is None:
            return None
        return Answer(run.rendered.body(rich=rich, cached=joined and run.success))

    async def _run(self, request: ExecuteRequest, disconnected: Disconnected) -> _Run | None:
        result = await self._service.run(request, disconnected)
        if result is None:
            return None
        if result.truncation.kept_bytes < _SMALL:
            rendered = Rendered.of(result)
        else:
            rendered = await asyncio.to_thread(Rendered.of, result)
        return _Run(rendered, result.success, _is_complete(result))

    async def _read(
        self, request: ExecuteRequest, directory: Path | None, names: tuple[str, ...]
    ) -> Files:
        if self._closing.is_set():
            raise ServiceClosing("the service is shutting down")
        stop = Event()
        limit = self._service.limits(request)[1]
        try:
            async with asyncio.timeout(limit):
                return await asyncio.get_running_loop().run_in_executor(
                    self._readers,
                    read_files,
                    directory or self._service.engine.sandbox.workspace,
                    names,
                    lambda: stop.is_set() or self._closing.is_set(),
                )
        except Stopped:
            raise ServiceClosing("the service is shutting down") from None
        except TimeoutError:
            raise QueueTimeout(
                f"the input files could not be read within {limit:g} s; the code was not run",
                details={"request_timeout": limit},
            ) from None
        finally:
            stop.set()

    async def _key(
        self,
        request: ExecuteRequest,
        directory: Path | None,
        files: Files,
        variables: Mapping[str, str],
    ) -> bytes:
        engine = self._service.engine
        env = request.env or {}
        make = partial(
            make_key,
            engine.languages.find(request.language),
            request.code,
            inherited={**engine.sandbox.environment.of_kernel(), **variables},
            env=env,
            directory=directory,
            budget=self._service.budget(request),
            files=files,
        )
        if len(request.code) + sum(map(len, env.values())) < _SMALL:
            return make()
        return await asyncio.to_thread(make)


async def _unless_left(
    reading: Coroutine[None, None, Files], disconnected: Disconnected
) -> Files | None:
    """What is read; None if the caller leaves before that."""
    work = asyncio.create_task(reading)
    try:
        return work.result() if await ends_first(work, disconnected) else None
    finally:
        work.cancel()


async def _gives(reading: Callable[[], Coroutine[None, None, Files]], files: Files) -> bool:
    """Whether the same is read again."""
    try:
        return await reading() == files
    except (FileNotFound, QueueTimeout):
        return False


def _is_complete(result: Result) -> bool:
    truncation = result.truncation
    whole = not truncation.truncated and not truncation.files
    return result.success and whole and not result.late_outputs


def _check(request: ExecuteRequest) -> None:
    if not request.isolated:
        raise InvalidRequest(
            "only isolated runs can be cached, as a session's state is part of what others show: "
            "add isolated: true, or drop cache"
        )
    if request.session_id is not None:
        raise InvalidRequest("an isolated run has no session: drop session_id")
