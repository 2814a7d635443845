"""A watch as a stream of messages, and these as server-sent events and NDJSON over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from starlette.types import Receive, Scope, Send

from kernelagent.errors import ApiError
from kernelagent.files.fs import names
from kernelagent.text import utc_timestamp
from kernelagent.watch.changes import Ending, Overflow
from kernelagent.watch.service import Message, Watch, WatchService
from kernelagent.web.streaming import StreamResponse, refusal

# Changes that are sent in one piece.
PIECE = 256


async def stream_messages(watch: Watch, *, is_again: bool) -> AsyncGenerator[list[Message]]:
    """All messages of a watch in pieces, `end` or `error` last; they are numbered by `id`."""
    number = 0

    def numbered(messages: list[Message]) -> list[Message]:
        nonlocal number
        for message in messages:
            number += 1
            message["id"] = number
        return messages

    yield numbered([_started(watch)])
    if is_again:
        yield numbered([_overflow(watch, 0, "the connection was lost: changes may be missing")])
    while (found := await watch.messages(PIECE)) is not None:
        if isinstance(found, Overflow):
            sentence = "more changes than could be kept: list the files again"
            found = [_overflow(watch, found.lost, sentence)]
        yield numbered(found)
    if isinstance(watch.ending, ApiError):
        yield numbered([refusal(watch.ending)])
    reason = watch.ending.value if isinstance(watch.ending, Ending) else "error"
    yield numbered([{"type": "end", "reason": reason, "timestamp": utc_timestamp()}])


def _started(watch: Watch) -> Message:
    return {
        "type": "started",
        "watch_id": watch.facts.id,
        "path": names.shown(watch.facts.path),
        "is_directory": watch.is_directory,
        "timestamp": utc_timestamp(),
    }


def _overflow(watch: Watch, lost: int, sentence: str) -> Message:
    return {
        "type": "overflow",
        "path": names.shown(watch.facts.path),
        "lost": lost,
        "message": sentence,
        "timestamp": utc_timestamp(),
    }


class StreamedWatch(StreamResponse):
    """A response: the changes beneath a path until the client leaves or the path is gone."""

    def __init__(
        self, service: WatchService, path: str | None, media_type: str, *, is_again: bool
    ) -> None:
        super().__init__(media_type, service.settings.keepalive)
        self._service = service
        self._path = service.default_path if path is None else path
        self._is_again = is_again

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        # Raises what is wrong with the path before the headers are out.
        async with self._service.watch(self._path) as watch:
            await self.send_pieces(self._pieces(watch), receive, send)

    def event_id(self, message: Message) -> str | None:
        """The message's number."""
        return str(message["id"])

    async def _pieces(self, watch: Watch) -> AsyncGenerator[bytes]:
        messages = stream_messages(watch, is_again=self._is_again)
        async with contextlib.aclosing(messages):
            async for several in messages:
                yield b"".join(map(self.encode, several))
