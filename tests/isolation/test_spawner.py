"""The spawner starts processes as the service itself would, and can be lost."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from kernelagent.isolation import spawning
from kernelagent.isolation.confinement import Confinement
from kernelagent.isolation.spawner import MISSING, Request, pack, unpack
from kernelagent.isolation.spawning import Spawner
from kernelagent.processes.environment import Environment
from kernelagent.processes.process import PLAIN, ChildProcess, Program
from kernelagent.settings import Settings
from tests.isolation.confinements import ENV, NEEDS, children, output_of, spawner_of
from tests.waiting import PATIENCE, wait_until


async def test_processes_are_our_children(confinement: Confinement) -> None:
    printed = await output_of(confinement, "sh", "-c", "echo $PPID")
    assert int(printed) == os.getpid()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_spawner_costs_no_command(
    confinement: Confinement,
    number: signal.Signals,
    caplog: pytest.LogCaptureFixture,
    endless_patience: None,
) -> None:
    lost = spawner_of(confinement)
    lost.send_signal(number)
    assert await output_of(confinement, "echo", "one") == "one\n"
    assert await output_of(confinement, "echo", "two") == "two\n"
    assert confinement.restarts == 1
    assert not lost.is_running()
    assert "is replaced" in caplog.text
    assert spawner_of(confinement).pid != lost.pid


# The step named last waits for ever, as if its process had been stopped there.
STUCK = """
import signal, sys
sys.path.append(sys.argv[1])
from kernelagent.isolation import begin, calls, spawner
real, stuck = calls.raw_syscall, begin._NUMBERS[calls.MACHINE].get("{step}")
if stuck is None:
    begin.Steps._go_through = lambda _: signal.pause()
else:
    calls.raw_syscall = lambda number, *a: signal.pause() if number == stuck else real(number, *a)
spawner.main()
"""


@contextlib.asynccontextmanager
async def stuck_at(
    step: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Confinement]:
    """A confinement whose first spawner makes nothing but processes that wait at `step`."""
    settings.workspace.mkdir()
    confinement = Confinement(settings)
    with monkeypatch.context() as patched:
        patched.setattr(spawning, "_PROGRAM", STUCK.format(step=step))
        await confinement.open(NEEDS, Environment())
    try:
        yield confinement
    finally:
        await confinement.close()


@pytest.fixture
def endless_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is given up is given up at once, and not after a time."""
    monkeypatch.setattr(spawning, "_PATIENCE", 10 * PATIENCE)


def stop_next(spawner: psutil.Process) -> None:
    """Stop the next process that it makes once that waits, as what runs may stop each new one."""

    def one_that_waits() -> psutil.Process | None:
        for child in children():
            if child != spawner and child.status() == psutil.STATUS_SLEEPING:
                return child
        return None

    def stop() -> None:
        wait_until(one_that_waits).send_signal(signal.SIGSTOP)

    threading.Thread(target=stop).start()


@pytest.mark.parametrize("is_stopped", [True, False])
async def test_a_process_that_is_stopped_at_once_costs_no_command(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    endless_patience: None,
    *,
    is_stopped: bool,
) -> None:
    ready = Spawner.wait_until_ready

    def successor_ready(spawner: Spawner) -> object:
        monkeypatch.setattr(spawning, "_PATIENCE", 10 * PATIENCE)
        return ready(spawner)

    async with stuck_at("getpid", settings, monkeypatch) as confinement:
        lost = spawner_of(confinement)
        if is_stopped:
            stop_next(lost)
        else:
            monkeypatch.setattr(spawning, "_PATIENCE", 0.4)
            monkeypatch.setattr(Spawner, "wait_until_ready", successor_ready)
        assert await output_of(confinement, "echo", "one") == "one\n"
        assert confinement.restarts == 1
        assert caplog.text.count("is replaced") == 2
        # Nothing is left of the spawner and of what it had begun.
        assert spawner_of(confinement).pid != lost.pid


async def test_a_process_that_is_stopped_before_its_program_is_given_up_at_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, endless_patience: None
) -> None:
    async with stuck_at("chdir", settings, monkeypatch) as confinement:
        spawner = spawner_of(confinement)
        stop_next(spawner)
        with pytest.raises(TimeoutError, match="does not begin"):
            await output_of(confinement, "echo", "one")
        assert spawner_of(confinement) == spawner
        assert confinement.restarts == 0


async def test_processes_outlive_the_spawner_that_made_them(confinement: Confinement) -> None:
    child = ChildProcess.start(Program(["sleep", "60"], ENV, Path("/"), "test"), confinement)
    next(c for c in children() if c.pid != child.pid).kill()
    await output_of(confinement, "true")
    assert child.running
    await child.kill()


async def test_a_spawner_that_ends_each_time_is_told(
    confinement: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Spawner.wait_until_ready

    def ready_but_dead(self: Spawner) -> object:
        layers = original(self)
        os.kill(self.pid, signal.SIGKILL)
        return layers

    monkeypatch.setattr(Spawner, "wait_until_ready", ready_but_dead)
    spawner_of(confinement).kill()
    with pytest.raises(OSError, match="nothing can be started"):
        await output_of(confinement, "true")
    monkeypatch.undo()
    assert await output_of(confinement, "echo", "again") == "again\n"


async def test_a_successor_with_fewer_layers_is_refused(
    confinement: Confinement, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Spawner.wait_until_ready
    monkeypatch.setattr(
        Spawner,
        "wait_until_ready",
        lambda self: [layer._replace(state=MISSING) for layer in original(self)],
    )
    spawner_of(confinement).kill()
    with pytest.raises(OSError, match=r"its successor lacks .*landlock"):
        await output_of(confinement, "true")


async def test_nothing_starts_after_the_end(confinement: Confinement) -> None:
    await confinement.close()
    with pytest.raises(OSError, match="shutting down"):
        await output_of(confinement, "true")
    assert children() == []


async def test_much_can_be_asked_for(confinement: Confinement) -> None:
    arguments = ["x" * 1000] * 1500
    env = {**ENV, **{f"NAME{n}": "é" * 1000 for n in range(100)}}
    line = 'echo $# ${#NAME99} "$(env | wc -c)"'
    argv = ("bash", "-c", line, "bash", *arguments)
    asked = {**env, "LC_ALL": "C.UTF-8"}
    assert await output_of(confinement, *argv, env=asked) == await output_of(
        PLAIN, *argv, env=asked
    )


@pytest.mark.parametrize("size", [0, 10, 60_000, 62_000, 100_000])
def test_a_request_survives_its_way(size: int) -> None:
    request = Request(b"/", [b"a", b""], [b"", b"x" * size, b""], [b"A=", b"B==\xff"], [0, 7], -1)
    packet, apart = pack(request)
    descriptors: list[int] = []
    if apart:
        descriptors.append(os.memfd_create("test"))
        os.write(descriptors[0], apart)
    assert len(packet) <= 64 * 1024
    assert unpack(packet, descriptors) == request
    assert descriptors == []


@pytest.mark.parametrize(
    ("argv", "env", "cwd"),
    [
        (["no-such-program"], ENV, "/"),
        (["/no/such/program"], ENV, "/"),
        (["/etc"], ENV, "/"),
        (["/etc/passwd"], ENV, "/"),
        (["/etc/passwd/x"], ENV, "/"),
        (["true"], ENV, "/no/such/directory"),
        (["true"], ENV, "/etc/passwd"),
        (["true"], {"PATH": "/no/such:/etc/passwd"}, "/"),
        (["passwd"], {"PATH": "/etc:/no/such"}, "/"),
        (["x" * 300], ENV, "/"),
        (["true", "x" * 200_000], ENV, "/"),
        (["true", *["x" * 1000] * 4000], ENV, "/"),
        (["true", "a\0b"], ENV, "/"),
        (["true"], {"A=B": "c"}, "/"),
        (["true"], {"A": "a\0b"}, "/"),
    ],
)
async def test_what_cannot_be_started_is_told_as_if_we_had_tried(
    confinement: Confinement, argv: list[str], env: dict[str, str], cwd: str
) -> None:
    told = []
    for starter in (PLAIN, confinement):
        with pytest.raises((OSError, ValueError)) as caught:
            ChildProcess.start(Program(argv, env, Path(cwd), "test"), starter)
        error = caught.value
        told.append((type(error), str(error), getattr(error, "filename", None)))
    assert told[0] == told[1]
    assert len(children()) == 1


async def test_a_process_has_its_descriptors_and_no_other(confinement: Confinement) -> None:
    first, second = os.pipe()
    numbers = [first, second, *(os.dup(first) for _ in range(12))]
    line = (
        "import os\n"
        "names = [f'/proc/self/fd/{n}' for n in range(3, 99)]\n"
        "print([(name, os.readlink(name)) for name in names if os.path.exists(name)])"
    )
    found = []
    for starter in (PLAIN, confinement):
        reader, writer = os.pipe()
        descriptors = {1: writer, **dict(zip(numbers, numbers, strict=True))}
        argv = ["/usr/bin/env", "python3", "-c", line]
        child = ChildProcess.start(Program(argv, ENV, Path("/"), "test", descriptors), starter)
        os.close(writer)
        found.append(os.read(reader, 10_000))
        os.close(reader)
        await child.exited
    for number in numbers:
        os.close(number)
    assert found[0] == found[1]
    assert found[0].count(b"pipe:") == len(numbers)


async def test_signals_are_as_a_program_expects_them(confinement: Confinement) -> None:
    argv = ("grep", "^Sig[BIC]", "/proc/self/status")
    assert await output_of(confinement, *argv) == await output_of(PLAIN, *argv)


async def test_a_terminal_becomes_the_controlling_one(confinement: Confinement) -> None:
    for starter in (PLAIN, confinement):
        main, terminal = pty.openpty()
        argv = ["sh", "-c", "tty; ps -o tpgid= -p $$; echo $$; exit 7"]
        program = Program(argv, ENV, Path("/"), "test").on_terminal(terminal)
        child = ChildProcess.start(program, starter)
        name = os.ttyname(terminal)
        os.close(terminal)
        assert (await child.exited).code == 7
        shown = b""
        with contextlib.suppress(OSError):
            while data := os.read(main, 1000):
                shown += data
        os.close(main)
        assert shown.decode().split() == [name, str(child.pid), str(child.pid)]


async def test_usage_is_that_of_the_program(confinement: Confinement) -> None:
    argv = ["python3", "-c", "x = bytearray(200 << 20); sum(range(3_000_000))"]
    child = ChildProcess.start(Program(argv, ENV, Path("/"), "test"), confinement)
    await child.exited
    assert child.usage is not None
    seconds, memory = child.usage
    assert seconds > 0.02
    assert 200 << 20 < memory < 300 << 20


# A makes B, which goes through the steps; what B makes is A's child.
BEGINS = """
import os, sys
sys.path.append(sys.argv[1])
from kernelagent.isolation.begin import FAILED, STARTED, Steps
for paths, cwd in ((["/no/such", "/bin/sh"], "/"), (["/no", "/etc"], "/"), (["/bin/sh"], "/no")):
    reader, writer = os.pipe()
    b = os.fork()
    if b == 0:
        steps = Steps(writer)
        steps.add("setsid")
        steps.add("chdir", cwd.encode())
        argv = [b"sh", b"-c", b"test $PPID = $A && exit 3"]
        steps.execute([path.encode() for path in paths], argv, [b"A=%d" % os.getppid()])
        steps.begin()
        os._exit(0)
    os.waitpid(b, 0)
    os.close(writer)
    told = b""
    while piece := os.read(reader, 100):
        told += piece
    (pid,) = STARTED.unpack_from(told)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    failed = FAILED.unpack(told[STARTED.size:]) if len(told) > STARTED.size else None
    print(status, failed)
"""


def test_a_process_begins_as_told_and_says_how_far_it_came() -> None:
    root = str(Path(__file__).parent.parent.parent)
    printed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BEGINS, root],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert printed.splitlines() == ["3 None", "255 (True, 13)", "255 (False, 2)"]
