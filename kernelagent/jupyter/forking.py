"""Processes that other processes fork for us: the asking, and what is known of the result.

The other side, and the messages, are `kernelagent_python.forking`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kernelagent.processes.process import ExitStatus, RunningProcess

log = logging.getLogger(__name__)

_LARGEST_PACKET = 64 * 1024
# The status of a process that has ended follows at once, unless the fork server has ended too.
_STATUS_GRACE = 1.0


class ForkRefused(Exception):
    """No process was made; `code` is for programs, the text for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class ChannelLost(Exception):
    """The process that was asked is gone, or does not answer."""


class ForkChannel:
    """Our end of the socket over which one process is asked to fork others.

    Its owner closes it. `on_message` gets what is no answer to a request; `on_lost` is called once
    when the other end is gone.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_message: Callable[[dict[str, Any]], None] = lambda _: None,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_lost = on_lost
        # In the order of the requests; one whose asker has gone is cancelled.
        self._answers: deque[asyncio.Future[tuple[int, int]]] = deque()
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._on_readable)

    @classmethod
    def pair(cls, **options: Any) -> tuple[ForkChannel, int]:
        """A channel, and the descriptor of its other end, which the caller closes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours, **options), theirs.detach()

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Ask no more; who waits for an answer gets ChannelLost."""
        if self.closed:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(ChannelLost("the process that was to be copied has ended"))

    def tell(self, content: Mapping[str, Any]) -> None:
        """Send what has no answer; nothing happens if the other end is gone."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self._socket.send(orjson.dumps(content))

    async def fork(
        self, content: Mapping[str, Any], descriptors: Mapping[str, int], *, timeout: float
    ) -> tuple[int, int]:
        """The id and the process descriptor of a new process; raises ForkRefused, ChannelLost.

        A process that comes after `timeout` seconds, or when the caller has gone, is ended.
        """
        if self.closed:
            raise ChannelLost("the process that was to be copied has ended")
        answer: asyncio.Future[tuple[int, int]] = self._loop.create_future()
        packet = orjson.dumps({**content, "descriptors": list(descriptors)})
        try:
            socket.send_fds(self._socket, [packet], list(descriptors.values()))
        except OSError as error:
            raise ChannelLost(f"a process could not be asked for: {error}") from error
        self._answers.append(answer)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except BaseException as error:
            # The answer may have come in the very moment in which its asker went.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _end(answer.result()[1])
            if isinstance(error, TimeoutError):
                raise ChannelLost(f"no process was made within {timeout:g} s") from None
            raise

    def _on_readable(self) -> None:
        while not self.closed:
            try:
                packet, descriptors, _, _ = socket.recv_fds(self._socket, _LARGEST_PACKET, 4)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self.close()
                self._on_lost()
                return
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            try:
                self._take(orjson.loads(packet), descriptors)
            except (ValueError, TypeError, LookupError, asyncio.InvalidStateError) as error:
                # Code in a kernel can write to its end of the channel.
                log.warning("a fork channel is closed: it brought no message of ours: %r", error)
                self.close()
                self._on_lost()
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _take(self, message: dict[str, Any], descriptors: list[int]) -> None:
        """Handle a message; takes out of `descriptors` what it keeps."""
        if message["op"] not in ("forked", "refused"):
            self._on_message(message)
            return
        # All that can be wrong with it is read first: then nobody waits for an answer in vain.
        if message["op"] == "refused":
            refusal = ForkRefused(str(message["code"]), str(message["reason"]))
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(refusal)
            return
        made = int(message["pid"]), descriptors[0]
        answer = self._answers.popleft()
        del descriptors[0]
        if answer.done():
            _end(made[1])
        else:
            answer.set_result(made)


class ForkedProcess(RunningProcess):
    """A process that the fork server is the parent of; its status comes from there.

    `lifeline` is what keeps it alive: the system ends the process when it is closed. `source` is
    for what shall be forked from it in turn.
    """

    def __init__(
        self,
        pid: int,
        pidfd: int,
        stderr_fd: int,
        marker: str,
        *,
        lifeline: int,
        source: ForkSource,
        begun: asyncio.Future[None],
    ) -> None:
        super().__init__(pid, pidfd, stderr_fd, marker)
        self.source = source
        # Done when a parked process no longer depends on the one that it is a copy of.
        self.begun = begun
        self._lifeline = lifeline
        source.statuses.expect(pid)

    def send_signal(self, number: int, *, group: bool = False) -> None:
        super().send_signal(number, group=group)
        if group and number == signal.SIGKILL:
            # In its first moments it does not lead a group yet.
            super().send_signal(number)

    def collect(self) -> None:
        status = self.source.statuses.take(self.pid, self.settle)
        if status is not None:
            self.settle(status)

    def settle(self, status: ExitStatus) -> None:
        super().settle(status)
        self.source.channel.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


class Statuses:
    """How the processes of one fork server ended, until somebody asks.

    What ends without being expected is kept for a second: a kernel of which it was not heard yet,
    or a daemon that user code has started.
    """

    def __init__(self) -> None:
        self._given_up = False
        self._expected: set[int] = set()
        self._known: dict[int, ExitStatus] = {}
        self._askers: dict[int, Callable[[ExitStatus], None]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def expect(self, pid: int) -> None:
        """`take` will be called for this process."""
        self._expected.add(pid)

    def put(self, pid: int, status: int) -> None:
        """A process was reaped, with `status` as of waitpid."""
        asker = self._askers.pop(pid, None)
        if asker is not None:
            self._forget(pid)
            asker(ExitStatus.unpack(status))
            return
        self._known[pid] = ExitStatus.unpack(status)
        if pid not in self._expected:
            loop = asyncio.get_running_loop()
            self._timers[pid] = loop.call_later(_STATUS_GRACE, self._drop, pid)

    def take(self, pid: int, asker: Callable[[ExitStatus], None]) -> ExitStatus | None:
        """How `pid` ended; if it is not known yet, `asker` is told within a second."""
        status = self._known.pop(pid, None)
        if status is not None:
            self._forget(pid)
            return status
        if self._given_up:
            self._forget(pid)
            return _bury(pid)
        self._askers[pid] = asker
        loop = asyncio.get_running_loop()
        self._timers[pid] = loop.call_later(_STATUS_GRACE, self._give_up, pid)
        return None

    def give_up(self) -> None:
        """The fork server is gone: nothing more will be known."""
        self._given_up = True
        for pid in list(self._askers):
            self._give_up(pid)

    def _give_up(self, pid: int) -> None:
        asker = self._askers.pop(pid)
        self._forget(pid)
        asker(_bury(pid))

    def _drop(self, pid: int) -> None:
        if pid not in self._expected:
            self._known.pop(pid, None)
            self._timers.pop(pid, None)

    def _forget(self, pid: int) -> None:
        self._expected.discard(pid)
        timer = self._timers.pop(pid, None)
        if timer is not None:
            timer.cancel()


@dataclass(frozen=True, slots=True)
class ForkSource:
    """A process that can be asked to fork another one; `adopt` tells the fork server of it."""

    channel: ForkChannel
    statuses: Statuses
    adopt: Callable[[int], None] = lambda _: None

    async def fork(
        self,
        content: Mapping[str, Any],
        listeners: Mapping[str, int],
        *,
        join_file: Path | None = None,
        timeout: float,
    ) -> ForkedProcess:
        """A new process, which carries `content["marker"]`; raises ForkRefused, ChannelLost.

        `listeners` are handed over to it and stay the caller's to close. It joins the memory group
        of `join_file`, which is opened here: the process may not.
        """
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            channel, far_end = ForkChannel.pair(on_message=lambda _: begun.set_result(None))
            ours.callback(channel.close)
            theirs.callback(os.close, far_end)
            far_lifeline, lifeline = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, lifeline)
            theirs.callback(os.close, far_lifeline)
            stderr, far_stderr = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, stderr)
            theirs.callback(os.close, far_stderr)
            descriptors = {"channel": far_end, "lifeline": far_lifeline, "stderr": far_stderr}
            if join_file is not None:
                try:
                    descriptors["group"] = os.open(join_file, os.O_WRONLY | os.O_CLOEXEC)
                    theirs.callback(os.close, descriptors["group"])
                except OSError as error:
                    log.warning("a kernel's memory is only watched: %s", error)
            pid, pidfd = await self.channel.fork(
                content, {**descriptors, **listeners}, timeout=timeout
            )
            self.adopt(pid)
            ours.pop_all()
            return ForkedProcess(
                pid,
                pidfd,
                stderr,
                content["marker"],
                lifeline=lifeline,
                source=ForkSource(channel, self.statuses, self.adopt),
                begun=begun,
            )


def _end(pidfd: int) -> None:
    """End a process that nobody wants any more."""
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def _bury(pid: int) -> ExitStatus:
    """What the fork server would have done: end the group of a process that has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    # Where we are the first process of a container, orphans come to us.
    try:
        reaped, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return ExitStatus()
    return ExitStatus.unpack(status) if reaped else ExitStatus()
