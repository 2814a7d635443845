"""The log of a job as a stream that can be followed to its end and taken up again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kernelagent.execution.messages import dump
from kernelagent.execution.streams import NDJSON, until_disconnect
from kernelagent.jobs.job import Job
from kernelagent.jobs.log import Gap
from kernelagent.jobs.rendering import end_message, log_message
from kernelagent.jobs.service import JobService

_CHUNK = 256 * 1024
# After a piece of output, others get this long to join it: a line at a time would cost most.
_PACE = 0.005


class FollowedLog(Response):
    """A response: what a job has printed from an offset on and, with `follow`, prints to its end.

    As server-sent events each message has its `next_offset` as id, so that a browser takes up
    where it lost the connection.
    """

    def __init__(
        self,
        service: JobService,
        job: Job,
        *,
        offset: int,
        stream: str | None,
        follow: bool,
        media_type: str,
        keepalive: float,
    ) -> None:
        # Proxies must not collect the stream.
        super().__init__(media_type=media_type, headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._service = service
        self._job = job
        self._offset = offset
        self._stream = stream
        self._follow = follow
        self._media_type = media_type
        self._keepalive = keepalive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        leaving = asyncio.create_task(until_disconnect(receive))
        sending = asyncio.create_task(self._send_all(send))
        try:
            await asyncio.wait((leaving, sending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (leaving, sending):
                task.cancel()
            await asyncio.gather(leaving, sending, return_exceptions=True)
        if sending.done() and not sending.cancelled():
            sending.result()

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for messages in self._messages():
            body = b"".join(self._encode(message) for message in messages)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _messages(self) -> AsyncGenerator[list[dict[str, Any]]]:
        offset = self._offset
        # Something is sent in each of these spans, whatever the job does.
        due = time.monotonic() + self._keepalive
        while True:
            # Asked first: what is written until then is read below.
            live = self._service.live(self._job)
            entries, offset = await self._service.read_log(self._job, offset, _CHUNK)
            wanted = [
                log_message(entry)
                for entry in entries
                if isinstance(entry, Gap) or self._stream in (None, entry.stream)
            ]
            if not wanted and time.monotonic() >= due:
                wanted = [{"type": "keepalive"}]
            if wanted:
                yield wanted
                due = time.monotonic() + self._keepalive
                await asyncio.sleep(_PACE)
            elif entries:
                continue
            elif live is None:
                yield [end_message(await self._service.find(self._job.id), offset)]
                return
            elif not self._follow:
                return
            elif live.log.closed:
                await live.ended.wait()
            else:
                await _until(live.log.grown(offset), due)

    def _encode(self, message: dict[str, Any]) -> bytes:
        line = dump(message)
        if self._media_type == NDJSON:
            return f"{line}\n".encode()
        if message["type"] == "keepalive":
            return b": keepalive\n\n"
        number = f"id: {message['next_offset']}\n"
        return f"{number}event: {message['type']}\ndata: {line}\n\n".encode()


async def _until(waiting: Coroutine[Any, Any, Any], due: float) -> None:
    """Wait for something, but no longer than until `due`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(due - time.monotonic(), 0)):
            await waiting
