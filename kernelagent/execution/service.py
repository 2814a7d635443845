"""Runs a request: finds its session, fills in limits, follows the caller's leaving."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from kernelagent import logs
from kernelagent.concurrency import CLIENT_LEFT, Disconnected, ends_first
from kernelagent.errors import InvalidJson, InvalidRequest
from kernelagent.execution.models import ExecuteRequest
from kernelagent.execution.rendering import answer
from kernelagent.execution.runs import Answer
from kernelagent.jupyter.outputs import Budget
from kernelagent.outcome import Outcome
from kernelagent.sessions.engine import DEFAULT_SESSION, Engine
from kernelagent.sessions.events import Feed
from kernelagent.sessions.execution import Execution, Result, RunRequest
from kernelagent.sessions.session import Session
from kernelagent.web.errors import invalid_body
from kernelagent.web.json import dump_json

# Published clients give up at timeout + 30 s and send the request again.
_REQUEST_MARGIN = 25.0

# Making one of several MiB takes long enough for others to notice.
_LARGE_ANSWER = 512 * 1024


def parse_request(body: bytes | str, *, language: str | None = None) -> ExecuteRequest:
    """The request in `body`; `language` overrides its own. Raises what answers with 400."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error.msg}") from None
    return check_request(data, language=language)


def check_request(data: Any, *, language: str | None = None) -> ExecuteRequest:
    """The request that `data` is; raises what answers with 400."""
    if not isinstance(data, dict):
        raise InvalidJson("the body is not a JSON object")
    if language is not None:
        data = {**data, "language": language}
    try:
        return ExecuteRequest.model_validate(data)
    except ValidationError as error:
        raise invalid_body(error) from None


@dataclass(slots=True)
class Submission:
    """A run that is on its way, and the session it is in."""

    session: Session
    execution: Execution
    # What happens in it, if it was submitted for streaming.
    feed: Feed | None

    def cancel(self, reason: str) -> None:
        """Take it back: from the queue, or by an interrupt."""
        self.session.cancel(self.execution, Outcome.CANCELLED, reason)

    def interrupt(self) -> None:
        """Interrupt it if it runs; take it back if it waits."""
        reason = "the run was interrupted on request"
        self.session.cancel(self.execution, Outcome.INTERRUPTED, reason)


class ExecutionService:
    """What the routes of the /execute family share."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextlib.asynccontextmanager
    async def submit(
        self, request: ExecuteRequest, *, streamed: bool = False
    ) -> AsyncIterator[Submission]:
        """Submit a run; raises what is wrong with it before anything runs.

        An isolated run's session ends with the context. Whoever can answer from the cache does so
        before, and takes these wishes out of the request.
        """
        if request.names_cache:
            _refuse_cache(request)
        async with contextlib.AsyncExitStack() as stack:
            run = await self._run_request(request, streamed=streamed)
            if request.isolated:
                if request.session_id is not None:
                    raise InvalidRequest("an isolated run has no session: drop session_id")
                session = await stack.enter_async_context(
                    self.engine.isolated_session(request.language)
                )
            else:
                session = self.engine.session(
                    request.session_id or DEFAULT_SESSION, request.language
                )
                _check_language(self.engine, session, request.language)
            _check_scope(session, run)
            execution = session.submit(run)
            feed = None
            if streamed:
                feed = Feed(run.budget.bytes * 2)
                execution.follow(feed)
            logs.session_id.set(session.id)
            logs.execution_id.set(execution.id)
            yield Submission(session, execution, feed)

    async def answer(
        self, request: ExecuteRequest, disconnected: Disconnected, *, rich: bool
    ) -> Answer | None:
        """See `Runs.answer`, and `run`."""
        result = await self.run(request, disconnected)
        if result is None:
            return None
        if result.truncation.kept_bytes < _LARGE_ANSWER:
            return Answer(_render(result, rich))
        return Answer(await asyncio.to_thread(_render, result, rich))

    async def run(self, request: ExecuteRequest, disconnected: Disconnected) -> Result | None:
        """The result of a run; None if the caller left, for which `disconnected` waits.

        A run whose caller left is interrupted, unless it asked to go on.
        """
        async with self.submit(request) as submission:
            finished = submission.execution.finished
            try:
                if await ends_first(finished, disconnected):
                    return finished.result()
                if request.on_disconnect != "continue":
                    submission.cancel(CLIENT_LEFT)
                elif not request.isolated:
                    return None
                await asyncio.wait([finished])
                return None
            except asyncio.CancelledError:
                submission.cancel(CLIENT_LEFT)
                raise

    def limits(self, request: ExecuteRequest) -> tuple[float, float]:
        """Seconds for the run itself, and for queue and run together."""
        settings = self.engine.settings
        timeout = min(request.timeout or settings.default_timeout, settings.max_timeout)
        return timeout, request.request_timeout or timeout + _REQUEST_MARGIN

    def budget(self, request: ExecuteRequest) -> Budget:
        """What of the output stays in the answer."""
        settings = self.engine.settings
        wanted = request.max_output_bytes or settings.output_bytes
        return Budget(min(wanted, settings.max_output_bytes), settings.output_items)

    async def _run_request(self, request: ExecuteRequest, *, streamed: bool) -> RunRequest:
        timeout, total = self.limits(request)
        return RunRequest(
            code=request.code,
            timeout=timeout,
            queue_timeout=request.queue_timeout or total,
            request_timeout=total,
            budget=self.budget(request),
            env=request.env or {},
            cwd=await self.engine.sandbox.directory(request.workdir),
            allow_stdin=streamed and request.stdin is not False,
        )


def _refuse_cache(request: ExecuteRequest) -> None:
    if request.asks_cache:
        raise InvalidRequest(
            "only an isolated run that POST /execute answers in one piece can be cached, no "
            "stream and no job: drop cache, cache_ttl and input_files, or ask for one answer"
        )
    if request.input_files is not None:
        raise InvalidRequest(
            "input_files say what a cached result depends on: add cache: true, or drop them"
        )


def _check_language(engine: Engine, session: Session, language: str | None) -> None:
    own = session.facts.language
    if language is not None and engine.languages.find(language) != own:
        raise InvalidRequest(
            f"session {session.id} runs {own.name}, not {language}",
            details={"language": own.name},
        )


def _check_scope(session: Session, run: RunRequest) -> None:
    language = session.facts.language
    if (run.env or run.cwd is not None) and not language.has_side_channel:
        raise InvalidRequest(
            f"{language.name} kernels cannot change their environment or directory for one run: "
            "give `env` and `workdir` to POST /sessions",
            details={"language": language.name},
        )


def _render(result: Result, rich: bool) -> bytes:
    return dump_json(answer(result, with_outputs=rich))
