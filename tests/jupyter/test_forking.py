"""The asking for forked processes, and what becomes of answers and statuses that come late."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from kernelagent.jupyter.forking import (
    ChannelLost,
    ForkChannel,
    ForkRefused,
    ForkSource,
    Statuses,
)
from kernelagent.processes.process import ExitStatus
from tests.jupyter.leaks import descriptors
from tests.waiting import PATIENCE, until

EXITED_7 = 7 << 8
# Higher than any id that the system gives.
NOBODY, NOBODY_ELSE = 2**30, 2**30 + 1


class FarEnd:
    """Stands where the process is that is asked."""

    def __init__(self, descriptor: int) -> None:
        self.socket = socket.socket(fileno=descriptor)
        self.children: list[subprocess.Popen[bytes]] = []

    def request(self) -> dict[str, Any]:
        """The next request, its descriptors closed."""
        packet, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 20, 16)
        for descriptor in descriptors:
            os.close(descriptor)
        content: dict[str, Any] = json.loads(packet)
        assert len(content["descriptors"]) == len(descriptors)
        return content

    def say(self, **content: Any) -> None:
        self.socket.send(json.dumps(content).encode())

    def child(self) -> subprocess.Popen[bytes]:
        """A process that stays."""
        child = subprocess.Popen(["sleep", "100"])
        self.children.append(child)
        return child

    def answer(self, child: subprocess.Popen[bytes] | None = None) -> subprocess.Popen[bytes]:
        """Say that `child` was forked."""
        child = child or self.child()
        descriptor = os.pidfd_open(child.pid)
        content = json.dumps({"op": "forked", "pid": child.pid}).encode()
        socket.send_fds(self.socket, [content], [descriptor])
        os.close(descriptor)
        return child

    def close(self) -> None:
        self.socket.close()
        for child in self.children:
            child.kill()
            child.wait()


class Ends:
    """A channel, its far end, and what the channel told."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.lost = 0
        self.on_message: Callable[[], object] = lambda: None
        self.channel, descriptor = ForkChannel.pair(on_message=self._take, on_lost=self._lose)
        self.far = FarEnd(descriptor)

    async def ask(
        self, timeout: float = PATIENCE, **descriptors: int
    ) -> asyncio.Task[tuple[int, int]]:
        """A request that is on its way when this returns."""
        task = asyncio.create_task(
            self.channel.fork({"op": "kernel"}, descriptors, timeout=timeout)
        )
        await asyncio.sleep(0)
        return task

    def _take(self, message: dict[str, Any]) -> None:
        self.told.append(message)
        self.on_message()

    def _lose(self) -> None:
        self.lost += 1


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.channel.close()
    made.far.close()


@pytest.fixture
def statuses() -> Statuses:
    return Statuses()


@pytest.fixture
def orphan() -> Iterator[int]:
    """A process that exits with 7, and that nobody has waited for."""
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def ended(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is not None


async def test_a_request_names_its_descriptors_and_the_answer_has_one(ends: Ends) -> None:
    task = await ends.ask(stderr=2, lifeline=0)
    assert ends.far.request() == {"op": "kernel", "descriptors": ["stderr", "lifeline"]}
    child = ends.far.answer()
    pid, pidfd = await task
    assert pid == child.pid
    assert not os.get_inheritable(pidfd)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)
    assert child.wait() == -signal.SIGKILL


async def test_answers_go_to_their_askers_in_order(ends: Ends) -> None:
    tasks = [await ends.ask() for _ in range(3)]
    children = [ends.far.answer() for _ in range(3)]
    answers = await asyncio.gather(*tasks)
    assert [pid for pid, _ in answers] == [child.pid for child in children]
    for _, pidfd in answers:
        os.close(pidfd)


async def test_a_refusal_has_a_code_and_a_reason(ends: Ends) -> None:
    task = await ends.ask()
    ends.far.say(op="refused", code="BRANCH_REFUSED", reason="it has threads")
    with pytest.raises(ForkRefused, match="it has threads") as refused:
        await task
    assert refused.value.code == "BRANCH_REFUSED"


async def test_what_is_no_answer_is_told_apart(ends: Ends) -> None:
    task = await ends.ask()
    ends.far.say(op="exited", pid=1, status=0)
    ends.far.answer()
    os.close((await task)[1])
    assert ends.told == [{"op": "exited", "pid": 1, "status": 0}]


async def test_a_lost_channel_fails_who_waits_and_who_comes(ends: Ends) -> None:
    tasks = [await ends.ask() for _ in range(2)]
    ends.far.close()
    for task in tasks:
        with pytest.raises(ChannelLost, match="has ended"):
            await task
    with pytest.raises(ChannelLost, match="has ended"):
        await (await ends.ask())
    assert ends.lost == 1
    assert ends.channel.closed
    ends.channel.tell({"op": "adopt", "pid": 1})
    ends.channel.close()


@pytest.mark.parametrize(
    "packet",
    [b"no JSON", b"[]", b"{}", b'{"op": "forked"}', b'{"op": "forked", "pid": "x"}', b'{"op": 1}'],
)
async def test_a_message_that_is_none_of_ours_closes_the_channel_and_keeps_nothing(
    ends: Ends, packet: bytes
) -> None:
    before = descriptors()
    waiting = await ends.ask()
    ends.on_message = [].pop
    some = os.open(os.devnull, os.O_RDONLY)
    socket.send_fds(ends.far.socket, [packet], [some])
    os.close(some)
    with pytest.raises(ChannelLost):
        await waiting
    assert ends.channel.closed
    assert ends.lost == 1
    # The channel's own is gone too.
    assert descriptors() == before - 1


async def test_a_channel_that_is_closed_here_fails_who_waits(ends: Ends) -> None:
    task = await ends.ask()
    ends.channel.close()
    with pytest.raises(ChannelLost):
        await task
    assert ends.lost == 0


async def test_a_process_that_takes_no_requests_is_not_waited_for(ends: Ends) -> None:
    tasks = [await ends.ask() for _ in range(2000)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    refused = [task for task in tasks if task.done()]
    assert refused
    for task in refused:
        with pytest.raises(ChannelLost, match="could not be asked for"):
            await task
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_after_the_time_out_ends_its_process(ends: Ends) -> None:
    before = descriptors()
    with pytest.raises(ChannelLost, match=r"within 0\.01 s"):
        await (await ends.ask(timeout=0.01))
    child = ends.far.answer()
    await until(lambda: ended(child))
    assert descriptors() == before


async def test_an_answer_after_the_asker_has_gone_ends_its_process_and_no_other(
    ends: Ends,
) -> None:
    before = descriptors()
    gone, there = await ends.ask(), await ends.ask()
    gone.cancel()
    late, wanted = ends.far.answer(), ends.far.answer()
    pid, pidfd = await there
    assert pid == wanted.pid
    await until(lambda: ended(late))
    assert not ended(wanted)
    os.close(pidfd)
    assert descriptors() == before


async def test_an_answer_in_the_moment_in_which_the_asker_goes_ends_its_process(
    ends: Ends,
) -> None:
    before = descriptors()
    task = await ends.ask()
    # Both are taken in at once, so the asker has its answer but does not run yet.
    ends.on_message = task.cancel
    child = ends.far.answer()
    ends.far.say(op="exited", pid=1, status=0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: ended(child))
    assert descriptors() == before


async def test_a_late_answer_of_a_process_that_has_ended_is_no_trouble(ends: Ends) -> None:
    before = descriptors()
    with pytest.raises(ChannelLost):
        await (await ends.ask(timeout=0.01))
    child = ends.far.child()
    descriptor = os.pidfd_open(child.pid)
    child.kill()
    child.wait()
    content = json.dumps({"op": "forked", "pid": child.pid}).encode()
    socket.send_fds(ends.far.socket, [content], [descriptor])
    os.close(descriptor)
    ends.far.say(op="exited", pid=1, status=0)
    await until(lambda: bool(ends.told))
    assert descriptors() == before


async def test_a_source_keeps_nothing_of_a_fork_that_failed(ends: Ends, statuses: Statuses) -> None:
    source = ForkSource(ends.channel, statuses)
    before = descriptors()
    with pytest.raises(ChannelLost):
        await source.fork({"op": "park", "marker": "x"}, {}, timeout=0.01)
    task = asyncio.create_task(source.fork({"op": "park", "marker": "x"}, {}, timeout=PATIENCE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(2):
        assert ends.far.request()["descriptors"] == ["channel", "lifeline", "stderr"]
    assert descriptors() == before


async def test_a_source_tells_the_fork_server_what_it_must_know(
    ends: Ends, statuses: Statuses
) -> None:
    adopted: list[int] = []
    source = ForkSource(ends.channel, statuses, adopted.append)
    before = descriptors()
    task = asyncio.create_task(source.fork({"op": "park", "marker": "x"}, {}, timeout=PATIENCE))
    await asyncio.sleep(0)
    ends.far.request()
    child = ends.far.answer()
    process = await task
    assert adopted == [process.pid] == [child.pid]
    child.kill()
    child.wait()
    statuses.put(child.pid, EXITED_7)
    assert await process.exited == ExitStatus(code=7)
    assert descriptors() == before


async def test_a_process_that_leads_no_group_yet_is_ended_too(
    ends: Ends, statuses: Statuses
) -> None:
    source = ForkSource(ends.channel, statuses)
    content = {"op": "park", "marker": "a mark that nobody has"}
    task = asyncio.create_task(source.fork(content, {}, timeout=PATIENCE))
    await asyncio.sleep(0)
    ends.far.request()
    child = ends.far.answer()
    process = await task
    killing = asyncio.create_task(process.kill())
    await until(lambda: ended(child))
    statuses.put(child.pid, signal.SIGKILL)
    await killing
    assert await process.exited == ExitStatus(signal=signal.SIGKILL)


async def test_a_status_is_kept_until_it_is_asked_for(statuses: Statuses) -> None:
    told: list[ExitStatus] = []
    statuses.expect(NOBODY)
    statuses.put(NOBODY, EXITED_7)
    assert statuses.take(NOBODY, told.append) == ExitStatus(code=7)
    assert told == []


async def test_a_status_that_comes_later_is_told(statuses: Statuses) -> None:
    told: list[ExitStatus] = []
    statuses.expect(NOBODY)
    assert statuses.take(NOBODY, told.append) is None
    statuses.put(NOBODY, signal.SIGKILL)
    assert told == [ExitStatus(signal=signal.SIGKILL)]


async def test_a_status_that_comes_before_it_is_expected_is_not_lost(statuses: Statuses) -> None:
    told: list[ExitStatus] = []
    statuses.put(NOBODY, EXITED_7)
    statuses.expect(NOBODY)
    assert statuses.take(NOBODY, told.append) == ExitStatus(code=7)
    assert told == []


async def test_a_status_that_nobody_expects_is_not_kept_for_long(
    statuses: Statuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelagent.jupyter.forking._STATUS_GRACE", 0.02)
    told: list[ExitStatus] = []
    statuses.put(NOBODY, EXITED_7)
    statuses.put(NOBODY_ELSE, EXITED_7)
    statuses.expect(NOBODY_ELSE)
    await asyncio.sleep(0.05)
    statuses.expect(NOBODY)
    assert statuses.take(NOBODY, told.append) is None
    assert statuses.take(NOBODY_ELSE, told.append) == ExitStatus(code=7)


async def test_a_status_that_never_comes_is_not_waited_for_long(
    statuses: Statuses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelagent.jupyter.forking._STATUS_GRACE", 0.02)
    told: list[ExitStatus] = []
    statuses.expect(NOBODY)
    assert statuses.take(NOBODY, told.append) is None
    await until(lambda: bool(told))
    assert told == [ExitStatus()]
    statuses.put(NOBODY, EXITED_7)
    assert told == [ExitStatus()]


async def test_who_asks_when_the_fork_server_has_gone_is_told_at_once(
    statuses: Statuses, orphan: int
) -> None:
    told: list[ExitStatus] = []
    statuses.expect(NOBODY)
    statuses.expect(NOBODY_ELSE)
    statuses.expect(orphan)
    assert statuses.take(NOBODY, told.append) is None
    statuses.give_up()
    assert told == [ExitStatus()]
    assert statuses.take(NOBODY_ELSE, told.append) == ExitStatus()
    # Where we are the first process of a container, it is our child now.
    assert statuses.take(orphan, told.append) == ExitStatus(code=7)
    assert told == [ExitStatus()]
