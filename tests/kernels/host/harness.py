"""Drives a language's host as the host kernel does, and gathers what comes of each run."""

from __future__ import annotations

import importlib.util
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernelagent.jupyter.languages import kernels_directory
from kernelagent_host.host import Driver, DriverClass, Ended, Failure, Run
from tests.waiting import PATIENCE


@dataclass
class Outcome:
    """A run as its caller sees it."""

    displays: list[dict[str, Any]] = field(default_factory=list)
    result: dict[str, Any] | None = None
    events: list[tuple[str, Any]] = field(default_factory=list)
    prompts: list[tuple[str, bool]] = field(default_factory=list)
    ended: Ended | None = None
    seconds: float = 0.0
    # The signal that the host died of.
    signal: int | None = None
    pieces: dict[str, list[str]] = field(default_factory=lambda: {"stdout": [], "stderr": []})

    @property
    def stdout(self) -> str:
        return self._join("stdout")

    @property
    def stderr(self) -> str:
        return self._join("stderr")

    def _join(self, name: str) -> str:
        whole = "".join(self.pieces[name])
        self.pieces[name] = [whole]
        return whole

    @property
    def text(self) -> str | None:
        """The result as plain text."""
        return None if self.result is None else str(self.result["text/plain"])

    @property
    def failure(self) -> Failure:
        assert self.ended is not None
        assert self.ended.failure is not None, self
        return self.ended.failure

    @property
    def exit_code(self) -> int:
        assert self.ended is not None
        return self.ended.exit_code

    @property
    def ok(self) -> bool:
        return self.ended is not None and self.ended.failure is None and self.ended.exit_code == 0


def begun(outcome: Outcome) -> bool:
    """Whether it has printed "begun"."""
    return "begun" in outcome.stdout


class Host:
    """A driver with its host, started; `close` in any case.

    `run` answers prompts with the lines it is given, and refuses when they are used up.
    """

    def __init__(self, language: str, *options: str) -> None:
        self._class = load_driver(kernels_directory() / language / "driver.py")
        self._options = options
        self._count = 0
        self._lines: list[str] = []
        self.outcome = Outcome()
        self.driver: Driver
        self._start()

    def run(
        self,
        code: str,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        lines: list[str] | None = None,
        interrupt_when: Callable[[Outcome], bool] | None = None,
        silent: bool = False,
    ) -> Outcome:
        """`interrupt_when` is asked with what has come so far, every 5 ms at least."""
        outcome = self.outcome = Outcome()
        self._count += 1
        self._lines = list(lines or [])
        started = time.monotonic()
        self.driver.run(Run(code, self._count, silent, lines is not None, dict(env or {}), cwd))
        interrupted = False
        while outcome.ended is None and outcome.signal is None:
            assert time.monotonic() - started < PATIENCE, outcome
            self.poll(0.005)
            if interrupt_when is not None and not interrupted and interrupt_when(outcome):
                interrupted = True
                self.driver.interrupt()
        outcome.seconds = time.monotonic() - started
        if outcome.ended is not None and outcome.ended.fresh:
            self.driver.close()
            self._start()
        return outcome

    def poll(self, seconds: float) -> None:
        """Take what comes within that time."""
        poll = select.poll()
        descriptors = list(self.driver.descriptors)
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
        for descriptor in descriptors:
            if descriptor in ready and descriptor in self.driver.descriptors:
                self.driver.take(descriptor)
        self._notice_death()

    def wait_for(self, done: Callable[[Outcome], bool]) -> Outcome:
        """Until what came after the last run satisfies `done`."""
        deadline = time.monotonic() + PATIENCE
        while not done(self.outcome):
            assert time.monotonic() < deadline, self.outcome
            self.poll(0.005)
        return self.outcome

    def close(self) -> None:
        self.driver.close()

    def _start(self) -> None:
        self.driver = self._class(self, self._options)
        try:
            self.driver.start()
        except BaseException:
            self.driver.close()
            raise

    def _notice_death(self) -> None:
        if self.outcome.ended is not None:
            return
        with suppress(ChildProcessError):
            ended = os.waitid(os.P_PID, self.driver.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return
            for _ in range(3):
                for descriptor in list(self.driver.descriptors):
                    self.driver.take(descriptor)
            if self.outcome.ended is None:
                if ended.si_code == os.CLD_EXITED:
                    self.outcome.ended = self.driver.gone(ended.si_status)
                else:
                    self.outcome.signal = ended.si_status

    # What the driver calls.

    def stream(self, name: str, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        self.outcome.events.append((name, text))
        self.outcome.pieces[name].append(text)

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        shown = {"data": data, "metadata": metadata or {}, "id": display_id, "update": update}
        self.outcome.displays.append(shown)
        self.outcome.events.append(("display", data))

    def result(self, data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        del metadata
        self.outcome.result = data
        self.outcome.events.append(("result", data))

    def clear(self, *, wait: bool = False) -> None:
        self.outcome.events.append(("clear", wait))

    def ask(self, prompt: str, *, password: bool = False) -> None:
        self.outcome.prompts.append((prompt, password))
        if self._lines:
            self.driver.answer(self._lines.pop(0))
        else:
            self.driver.deny()

    def ended(self, ended: Ended) -> None:
        self.outcome.ended = ended


def load_driver(path: Path) -> DriverClass:
    """The class `Driver` of a language's driver file."""
    spec = importlib.util.spec_from_file_location(f"kernelagent_driver_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    driver: DriverClass = module.Driver
    return driver


@contextmanager
def opened(directory: Path, language: str, *options: str) -> Iterator[Host]:
    """A host in `directory`."""
    host = Host(language, *options)
    try:
        host.driver.configure({}, [], str(directory))
        yield host
    finally:
        host.close()
