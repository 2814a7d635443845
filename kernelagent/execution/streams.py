"""A run as a stream of messages, and these as NDJSON and server-sent events over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.types import Receive, Scope, Send

from kernelagent.concurrency import CLIENT_LEFT
from kernelagent.errors import ApiError, InternalError
from kernelagent.execution.messages import MessageMaker
from kernelagent.execution.models import ExecuteRequest
from kernelagent.execution.service import ExecutionService, Submission
from kernelagent.web.streaming import Message, StreamResponse, complete, refusal


class StreamedRun(StreamResponse):
    """A response: the messages of one run, as they happen.

    The headers go out before the code runs. A keepalive follows each pause, in the queue too. A
    client that leaves interrupts the run.
    """

    def __init__(
        self,
        service: ExecutionService,
        request: ExecuteRequest,
        media_type: str,
        keepalive: float,
    ) -> None:
        super().__init__(media_type, keepalive)
        self._service = service
        self._request = request

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        # Raises what is wrong with it before the headers are out.
        async with self._service.submit(self._request, streamed=True) as submission:
            try:
                await self.send_pieces(self._pieces(submission), receive, send)
            finally:
                await leave(submission, self._request)

    async def _pieces(self, submission: Submission) -> AsyncGenerator[bytes]:
        messages = stream_messages(submission, rich=True)
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield self.encode(message)


async def stream_messages(submission: Submission, *, rich: bool) -> AsyncGenerator[Message]:
    """All messages of a run, `complete` last whatever happens."""
    execution = submission.execution
    maker = MessageMaker(execution, rich=rich)
    if submission.feed is None:
        raise RuntimeError("the run was not submitted for streaming")
    while events := await submission.feed.next():
        for event in events:
            for message in maker.messages(event):
                yield message
    try:
        result = await asyncio.shield(execution.finished)
    except ApiError as error:
        yield refusal(error)
        yield complete(False)
        return
    except Exception:
        yield refusal(InternalError("the run failed inside the service"))
        yield complete(False)
        return
    yield maker.result(result)
    yield complete(result.success)


async def leave(submission: Submission, request: ExecuteRequest) -> None:
    """Settle a run whose reader is done: interrupt what is unfinished, unless it may go on."""
    execution = submission.execution
    finished = execution.finished
    if finished.done():
        return
    if submission.feed is not None:
        # Nobody reads it: what the run still shows is not to be kept for it.
        execution.events.leave(submission.feed.put)
    if request.on_disconnect != "continue":
        submission.cancel(CLIENT_LEFT)
    elif not request.isolated:
        return
    await asyncio.shield(asyncio.wait([finished]))
