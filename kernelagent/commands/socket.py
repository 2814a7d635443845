"""A WebSocket on which commands are asked for."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from pydantic import ValidationError
from starlette.websockets import WebSocket

from kernelagent.commands.models import RunRequest
from kernelagent.commands.output import PassedOutput
from kernelagent.commands.service import CommandService, RunningCommand
from kernelagent.commands.streams import parts_of, stream_messages
from kernelagent.web.errors import invalid_body
from kernelagent.web.sockets import RequestSocket
from kernelagent.web.streaming import Message

# Some published clients end a WebSocket at 64 KiB of text.
_LONGEST_TEXT = 48 * 1024
_ON_REQUEST = "the command was ended on request"


class CommandSocket(RequestSocket):
    """One WebSocket on which commands are asked for, one after the other.

    Client messages: the fields of POST /commands/run with any `type`; `interrupt` ends the one that
    runs. Each command ends with `complete`. A client that leaves ends its command.
    """

    noun = "command"

    def __init__(self, websocket: WebSocket, service: CommandService) -> None:
        super().__init__(websocket)
        self._service = service
        self._running: RunningCommand | None = None

    def parse(self, data: str | bytes) -> Any:
        """Allow lone surrogates: they stand for bytes of file names."""
        return json.loads(data)

    async def take(self, message: Message) -> None:
        """Queue a command; end the one that runs at once."""
        if message.get("type") not in ("interrupt", "kill"):
            self.enqueue(message)
        elif self._running is not None:
            self._running.command.stop(_ON_REQUEST)
        else:
            self.interrupt_next()

    async def work(self, request: Message) -> None:
        """Run a command and send its messages."""
        output = PassedOutput()
        running = await self._service.prepare(_checked(request), output)
        try:
            self._running = running
            if self.interrupts_next:
                running.command.stop(_ON_REQUEST)
            messages = stream_messages(self._service, running, output)
            async with contextlib.aclosing(messages):
                async for message in messages:
                    for part in parts_of(message, _LONGEST_TEXT):
                        await self.socket.send(part)
        finally:
            self._running = None
            self._service.give_up(running)


def _checked(message: Message) -> RunRequest:
    try:
        return RunRequest.model_validate(message)
    except ValidationError as error:
        raise invalid_body(error) from None
