"""A WebSocket on which runs are asked for."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.websockets import WebSocket

from kernelagent.errors import ApiError, InvalidRequest
from kernelagent.execution.service import ExecutionService, Submission, check_request
from kernelagent.execution.streams import leave, stream_messages
from kernelagent.web.sockets import RequestSocket
from kernelagent.web.streaming import Message, refusal


class RunSocket(RequestSocket):
    """One WebSocket on which runs are asked for, one after the other.

    Client messages: `execute` (the fields of POST /execute), `input` (`data` or `value` answers a
    prompt), `interrupt`. Each run ends with `complete`. A client that leaves interrupts its run.
    """

    noun = "run"

    def __init__(
        self, websocket: WebSocket, service: ExecutionService, *, language: str | None, rich: bool
    ) -> None:
        super().__init__(websocket)
        self._service = service
        self._language = language
        self._rich = rich
        self._submission: Submission | None = None

    def parse(self, data: str | bytes) -> Any:
        """Refuse what cannot be passed on (lone surrogates, NaN) and any depth of nesting."""
        return orjson.loads(data)

    async def take(self, message: Message) -> None:
        """Queue a run; answer a prompt or interrupt at once."""
        match message.get("type") or "execute":
            case "execute":
                self.enqueue(message)
            case "input":
                await self._answer_input(message)
            case "interrupt" if self._submission is not None:
                self._submission.interrupt()
            case "interrupt":
                self.interrupt_next()
            case unknown:
                self.refuse(
                    InvalidRequest(
                        f"unknown message type {str(unknown)[:64]!r}; known are execute, input, "
                        "interrupt"
                    )
                )

    async def work(self, request: Message) -> None:
        """Run code and send its messages."""
        wanted = check_request(request, language=self._language)
        async with self._service.submit(wanted, streamed=True) as submission:
            self._submission = submission
            if self.interrupts_next:
                submission.interrupt()
            try:
                async for message in stream_messages(submission, rich=self._rich):
                    await self.socket.send(message)
            finally:
                self._submission = None
                await leave(submission, wanted)

    async def _answer_input(self, message: Message) -> None:
        value = message.get("data", message.get("value", ""))
        submission = self._submission
        try:
            if submission is None:
                raise InvalidRequest("nothing runs that could ask for input")
            submission.session.answer_input(str(value), execution_id=submission.execution.id)
        except ApiError as error:
            await self.socket.send(refusal(error))
