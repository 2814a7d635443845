"""A run as a stream: NDJSON and server-sent events over HTTP, messages over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from kernelagent.errors import ApiError, InternalError, InvalidJson, InvalidRequest
from kernelagent.execution.messages import MessageMaker
from kernelagent.execution.models import ExecuteRequest
from kernelagent.execution.service import (
    CLIENT_LEFT,
    ExecutionService,
    Submission,
    check_request,
)
from kernelagent.web.streaming import Message, StreamResponse, complete, dump, refusal

log = logging.getLogger(__name__)

# A published client loses messages that arrive in one read with another: at least 5 ms between two.
_PACE = 0.006

# Requests that may wait on one WebSocket behind the one that runs.
_SOCKET_BACKLOG = 100


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
                await _leave(submission, self._request)

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


async def _leave(submission: Submission, request: ExecuteRequest) -> None:
    """Settle a run whose reader is done: interrupt what is unfinished, unless it may go on."""
    finished = submission.execution.finished
    if finished.done():
        return
    if request.on_disconnect != "continue":
        submission.cancel(CLIENT_LEFT)
    elif not request.isolated:
        return
    await asyncio.shield(asyncio.wait([finished]))


class RunSocket:
    """One WebSocket on which runs are asked for, one after the other.

    Client messages: `execute` (the fields of POST /execute), `input` (`data` or `value` answers a
    prompt), `interrupt`. Each run ends with `complete`. A client that leaves interrupts its run.
    """

    def __init__(
        self, websocket: WebSocket, service: ExecutionService, *, language: str | None, rich: bool
    ) -> None:
        self._websocket = websocket
        self._service = service
        self._language = language
        self._rich = rich
        self._backlog: asyncio.Queue[dict[str, Any] | ApiError] = asyncio.Queue(_SOCKET_BACKLOG)
        self._submission: Submission | None = None
        self._submitting = False
        self._interrupt_next = False
        self._sent_at = 0.0
        self._sending = asyncio.Lock()

    async def serve(self) -> None:
        """Accept the connection and work until the client leaves."""
        await self._websocket.accept()
        worker = asyncio.create_task(self._work())
        full = False
        try:
            while True:
                await self._take(await self._receive())
        except WebSocketDisconnect:
            pass
        except asyncio.QueueFull:
            full = True
        finally:
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        if full:
            # The only answer that cannot be mistaken for that of another run.
            await self._websocket.close(1008, f"more than {_SOCKET_BACKLOG} requests wait")

    async def _receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        text: str | bytes = message.get("text") or message.get("bytes") or ""
        return text

    async def _take(self, text: str | bytes) -> None:
        try:
            # Refuses what cannot be passed on (lone surrogates, NaN) and any depth of nesting.
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            message = None
        if not isinstance(message, dict):
            self._backlog.put_nowait(InvalidJson("a message is not a JSON object"))
            return
        match message.get("type") or "execute":
            case "execute":
                self._backlog.put_nowait(message)
            case "input":
                await self._answer(message)
            case "interrupt":
                if self._submission is not None:
                    self._submission.interrupt()
                else:
                    # What it means may still be on its way to its session.
                    self._interrupt_next = self._submitting or not self._backlog.empty()
            case unknown:
                self._backlog.put_nowait(
                    InvalidRequest(
                        f"unknown message type {str(unknown)[:64]!r}; known are execute, input, "
                        "interrupt"
                    )
                )

    async def _answer(self, message: dict[str, Any]) -> None:
        value = message.get("data", message.get("value", ""))
        try:
            if self._submission is None:
                raise InvalidRequest("nothing runs that could ask for input")
            self._submission.session.answer_input(
                str(value), execution_id=self._submission.execution.id
            )
        except ApiError as error:
            await self._send(refusal(error))

    async def _work(self) -> None:
        while True:
            item = await self._backlog.get()
            if isinstance(item, ApiError):
                await self._refuse(item)
                continue
            self._submitting = True
            try:
                request = check_request(item, language=self._language)
                await self._run(request)
            except ApiError as error:
                await self._refuse(error)
            except WebSocketDisconnect:
                return
            except Exception:
                log.exception("a run asked for over a WebSocket failed inside the service")
                await self._refuse(InternalError("the run failed inside the service"))
            finally:
                self._submitting = self._interrupt_next = False

    async def _run(self, request: ExecuteRequest) -> None:
        async with self._service.submit(request, streamed=True) as submission:
            self._submission = submission
            if self._interrupt_next:
                submission.interrupt()
            try:
                messages = stream_messages(submission, rich=self._rich)
                async for message in messages:
                    await self._send(message)
            finally:
                self._submission = None
                await _leave(submission, request)

    async def _refuse(self, error: ApiError) -> None:
        await self._send(refusal(error))
        await self._send(complete(False))

    async def _send(self, message: Message) -> None:
        async with self._sending:
            pause = self._sent_at + _PACE - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            await self._websocket.send_text(dump(message))
            self._sent_at = time.monotonic()
