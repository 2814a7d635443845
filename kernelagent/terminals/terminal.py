"""One terminal: a program on a pseudo-terminal, what it has printed, and who looks at it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from kernelagent.errors import InvalidRequest, TerminalInputFull, TerminalStartFailed
from kernelagent.processes.process import (
    PLAIN,
    ChildProcess,
    ExitStatus,
    Program,
    Starter,
    describe_refusal,
)
from kernelagent.terminals.pty import Pty
from kernelagent.terminals.scrollback import Scrollback

# Read in one turn; then the others have theirs.
_TURN = 64 * 1024
_LAST_TURNS = 4
# After a full turn of a program that nobody keeps up with: it shall not take the service's time.
_BREATH = 0.004
# Until it is seen whether a terminal that was hung up is read again.
_HUNG_UP = 0.2
# Output on its way to a client beyond which the program has to wait.
_AHEAD = 128 * 1024
# What is kept of it where nobody can come back for it: enough for _AHEAD, one turn and what the
# system still holds when the program has ended.
_PASSING = 512 * 1024
# Where a client that was too slow goes on, in bytes before the end.
_SCREENFUL = 64 * 1024
# Input that may wait for the program, and how long one that takes none of it is waited for.
_MOST_INPUT = 2**20
_INPUT_PIECE = 64 * 1024
_STALL = 2.0


@dataclass(frozen=True, slots=True)
class TerminalSpec:
    """What is run and where.

    `name` is what it has in URLs. `grace` is how long it may take to end when it is hung up. With
    `scrollback` bytes kept, a client that takes nothing for `patience` seconds no longer holds the
    program up; without, the program waits for it.
    """

    id: str
    name: str
    program: Program
    cols: int
    rows: int
    grace: float
    scrollback: int | None = None
    patience: float = math.inf
    starter: Starter = PLAIN


class View:
    """A client at a terminal: how far it has come in the output. `lost` once another took over."""

    def __init__(self, terminal: Terminal, position: int) -> None:
        self._terminal = terminal
        self.position = position
        self.taken_at = time.monotonic()
        self.lost = asyncio.Event()
        self.changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether no more will come."""
        return self._terminal.ended.is_set()

    async def more_than(self, size: int) -> None:
        """Wait until more than `size` bytes are there to be read, or no more will come."""
        while not self.ended and self._terminal.output.end - self.position <= size:
            self.changed.clear()
            await self.changed.wait()

    def catch_up(self) -> int:
        """Go on near the end if output was lost before it was read; how many bytes are left out."""
        output = self._terminal.output
        if self.position >= output.start:
            return 0
        before = self.position
        self.position = output.character_at(output.end - _SCREENFUL)
        return self.position - before

    def peek(self, most: int) -> bytes:
        """What comes next, at most `most` bytes."""
        return self._terminal.output.read(self.position, most)

    def advance(self, size: int) -> None:
        """So much was taken."""
        self.position += size
        self.taken_at = time.monotonic()
        self._terminal.resume()


class Terminal:
    """A terminal whose program runs; made by `start`, ended by `close`."""

    def __init__(
        self,
        spec: TerminalSpec,
        pty: Pty,
        child: ChildProcess,
        on_end: Callable[[Terminal], None],
    ) -> None:
        self.spec = spec
        self.pid = child.pid
        self.output = Scrollback(spec.scrollback or _PASSING)
        self.view: View | None = None
        self.created_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        # Since when nobody looks at it, and since when it has ended; monotonic.
        self.left_at = time.monotonic()
        self.over_at = math.inf
        self.exit_code: int | None = None
        self.ended = asyncio.Event()
        self._pty = pty
        self._child = child
        self._on_end = on_end
        self._closing = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._pause: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._stalled = False
        self._life = asyncio.create_task(self._live(), name=spec.id)
        self.resume()

    @classmethod
    def start(cls, spec: TerminalSpec, on_end: Callable[[Terminal], None]) -> Terminal:
        """Start the program; raises TerminalStartFailed. `on_end` is called once all is over."""
        try:
            pty = Pty(spec.cols, spec.rows)
        except OSError as error:
            raise TerminalStartFailed(
                f"the system has no terminal left: {error.strerror}"
            ) from error
        try:
            child = ChildProcess.start(spec.program.on_terminal(pty.program_end), spec.starter)
        except BaseException as error:
            pty.close()
            if isinstance(error, OSError | ValueError):
                reason = describe_refusal(spec.program.argv, error)
                raise TerminalStartFailed(reason) from error
            raise
        return cls(spec, pty, child, on_end)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self._pty.cols, self._pty.rows

    def attach(self, position: int) -> View:
        """Let a client see the output from `position` on; whoever was there loses it."""
        if self.view is not None:
            self.view.lost.set()
        self.view = View(self, position)
        self.resume()
        return self.view

    def detach(self, view: View) -> None:
        """The client has left."""
        if self.view is view:
            self.view = None
            self.left_at = time.monotonic()
            self.resume()

    async def feed(self, data: bytes) -> None:
        """Give the program input; waits while it takes some. Raises TerminalInputFull."""
        for start in range(0, len(data), _INPUT_PIECE):
            while self._pty.waiting_bytes >= _MOST_INPUT and not self.ended.is_set():
                if self._stalled:
                    left = len(data) - start
                    raise TerminalInputFull(
                        f"the program does not read: {left} bytes of input were not taken",
                        details={"lost_bytes": left, "waiting_bytes": self._pty.waiting_bytes},
                    )
                self._room.clear()
                try:
                    async with asyncio.timeout(_STALL):
                        await self._room.wait()
                except TimeoutError:
                    self._stalled = True
            self._pty.write(data[start : start + _INPUT_PIECE], self._on_progress)

    def resize(self, cols: int, rows: int) -> None:
        """Another size."""
        self._pty.resize(cols, rows)

    def signal(self, number: int) -> None:
        """Signal the program in the foreground; raises InvalidRequest if that is not allowed."""
        try:
            self._pty.signal(number)
        except PermissionError:
            raise InvalidRequest(
                "signal: the program in the foreground belongs to another user"
            ) from None

    def hang_up(self) -> None:
        """Have the program end, and all that it has started."""
        self._closing.set()

    async def close(self) -> None:
        """Hang up, and wait until they have ended."""
        self.hang_up()
        await asyncio.shield(asyncio.wait([self._life]))

    def resume(self) -> None:
        """Read on, if the client has taken enough."""
        if self._reading or not self._pty.open:
            return
        wait = self._wait()
        if wait > 0:
            self._hold(wait)
            return
        self._end_pause()
        self._reading = True
        self._pty.start_reading(self._on_output)

    def _wait(self) -> float:
        """Seconds for which no more is read, unless the client takes something before."""
        view = self.view
        if view is None or self._closing.is_set() or self._ahead < _AHEAD:
            return 0.0
        return view.taken_at + self.spec.patience - time.monotonic()

    @property
    def _ahead(self) -> float:
        """By how much the program is ahead of whoever looks at it."""
        return math.inf if self.view is None else self.output.end - self.view.position

    def _hold(self, seconds: float) -> None:
        self._reading = False
        self._pty.stop_reading()
        self._end_pause()
        if seconds < math.inf:
            self._pause = self._loop.call_later(seconds, self.resume)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def _on_output(self) -> None:
        wait = self._wait()
        if wait > 0:
            self._hold(wait)
            return
        try:
            size = self._read()
        except OSError:
            # Somebody has hung up from inside, as `vhangup` does.
            self._hold(_HUNG_UP)
            return
        if size >= _TURN and self._ahead >= _AHEAD:
            self._hold(_BREATH)

    def _read(self) -> int:
        pieces, size = [], 0
        while size < _TURN and (data := self._pty.read()):
            pieces.append(data)
            size += len(data)
        if size:
            self.output.append(b"".join(pieces))
            if self.view is not None:
                self.view.changed.set()
        return size

    def _on_progress(self) -> None:
        self._stalled = False
        self._room.set()

    async def _live(self) -> None:
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((closing, self._child.exited), return_when=asyncio.FIRST_COMPLETED)
            if self._child.running:
                await self._cut_line()
        finally:
            closing.cancel()
            try:
                await asyncio.shield(self._child.kill())
                await asyncio.to_thread(self._pty.kill_users)
            finally:
                self._finish()

    async def _cut_line(self) -> None:
        # What has left the session is found later only through its parents of now.
        await self._child.pin_descendants()
        # As the system does when a line is cut: the shell passes it on to its jobs.
        self.resume()
        with contextlib.suppress(PermissionError):
            self._pty.signal(signal.SIGHUP)
        self._child.send_signal(signal.SIGHUP)
        self._child.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + self.spec.grace
        await asyncio.wait([self._child.exited], timeout=self.spec.grace)
        # A shell ends at once, and an editor below it may still save what it has.
        await self._child.outlast_descendants(deadline - time.monotonic())

    def _finish(self) -> None:
        # Nobody is left to write: what the system still holds is less than this.
        with contextlib.suppress(OSError):
            for _ in range(_LAST_TURNS):
                self._read()
        self._end_pause()
        self._pty.close()
        status = self._child.exited.result() if self._child.exited.done() else ExitStatus()
        self.exit_code = 128 + status.signal if status.signal is not None else status.code or 0
        self.ended_at = datetime.now(UTC)
        self.over_at = time.monotonic()
        self._room.set()
        self.ended.set()
        self._on_end(self)
        if self.view is not None:
            self.view.changed.set()
