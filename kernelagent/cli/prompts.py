"""Answers what a run asks for with what is typed here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from kernelagent.cli.terminal import LineReader
from kernelagent.client import ServiceError

if TYPE_CHECKING:
    from kernelagent.cli.printer import Printer
    from kernelagent.client import AsyncClient, Message


class Prompts:
    """Asks beside the stream, which goes on: a run may end while it waits for an answer."""

    def __init__(
        self, client: AsyncClient, session_id: str, printer: Printer, *, stdin_is_code: bool
    ) -> None:
        self._client = client
        self._session_id = session_id
        self._printer = printer
        self._stdin_is_code = stdin_is_code
        self._reader: LineReader | None = None
        self._terminal: int | None = None
        self._asking: asyncio.Task[None] | None = None
        self.exhausted = False  # a prompt found no more input, so the run was interrupted

    async def __aenter__(self) -> Prompts:
        if not self._stdin_is_code:
            self._reader = LineReader(sys.stdin.fileno())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
        if self._terminal is not None:
            os.close(self._terminal)

    def ask(self, message: Message) -> None:
        """Show a prompt, and send what is answered once it is there."""
        if self._asking is not None:
            self._asking.cancel()
        self._asking = asyncio.create_task(self._answer(message))

    async def _answer(self, message: Message) -> None:
        self._printer.prompt(message["prompt"])
        reader = self._reader or self._open_terminal()
        line = await reader.line(hidden=bool(message["password"])) if reader else None
        if line is not None:
            self._printer.answered()
        # 409: the run ended while the line was typed.
        with contextlib.suppress(ServiceError):
            if line is not None:
                await self._client.send_input(
                    self._session_id, line, execution_id=message["execution_id"]
                )
                return
            self.exhausted = True
            self._printer.note("the code asks for input and stdin has ended: it was interrupted")
            await self._client.interrupt_session(self._session_id)

    def _open_terminal(self) -> LineReader | None:
        """The terminal itself, as stdin was the code."""
        try:
            self._terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        self._reader = LineReader(self._terminal)
        return self._reader
