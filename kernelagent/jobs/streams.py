"""The log of a job as a stream that can be followed to its end and taken up again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.types import Receive, Scope, Send

from kernelagent.jobs.job import Job
from kernelagent.jobs.log import Gap
from kernelagent.jobs.rendering import end_message, log_message
from kernelagent.jobs.service import JobService
from kernelagent.web.streaming import Message, StreamResponse

_CHUNK = 256 * 1024
# After a piece of output, others get this long to join it: a line at a time would cost most.
_PACE = 0.005


class FollowedLog(StreamResponse):
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
        super().__init__(media_type, keepalive)
        self._service = service
        self._job = job
        self._offset = offset
        self._stream = stream
        self._follow = follow

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        await self.send_pieces(self._pieces(), receive, send)

    def event_id(self, message: Message) -> str | None:
        """The offset at which the log goes on after this message."""
        return str(message["next_offset"])

    async def _pieces(self) -> AsyncGenerator[bytes]:
        messages = self._messages()
        async with contextlib.aclosing(messages):
            async for several in messages:
                yield b"".join(self.encode(message) for message in several)

    async def _messages(self) -> AsyncGenerator[list[Message]]:
        offset = self._offset
        while True:
            # Asked first: what is written until then is read below.
            live = self._service.live(self._job)
            entries, offset = await self._service.read_log(self._job, offset, _CHUNK)
            wanted = [
                log_message(entry)
                for entry in entries
                if isinstance(entry, Gap) or self._stream in (None, entry.stream)
            ]
            if wanted:
                yield wanted
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
                await live.log.grown(offset)
