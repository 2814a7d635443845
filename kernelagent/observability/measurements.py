"""What is counted and timed while the service works; every label has few values."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

from kernelagent.observers import (
    CommandEnded,
    Event,
    JobEnded,
    KernelStarted,
    RequestEnded,
    RunEnded,
    RunRefused,
)
from kernelagent.outcome import Outcome

# Upper bounds in seconds. Runs, queues and commands: from a warm cell to an hour of training.
LONG = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 3600.0,
)  # fmt: skip
# Requests, starts of kernels.
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# How late the event loop is; its timers are good to a millisecond.
LATE = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Histogram:
    """How often values fell into which range, and their sum; written by the loop alone."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Take one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: Histogram) -> None:
        """Take all values of another one with the same bounds."""
        for place, count in enumerate(other.counts):
            self.counts[place] += count
        self.total += other.total

    def copy(self) -> Histogram:
        """The same as of now."""
        copied = Histogram(self.bounds)
        copied.counts[:] = self.counts
        copied.total = self.total
        return copied

    @property
    def count(self) -> int:
        """How many values it has taken."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Their mean; 0 before the first."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """About the value below which `share` of the values are; 0 before the first.

        Within a range values are taken as evenly spread, and beyond the last bound for that bound.
        """
        wanted = share * self.count
        low, seen = 0.0, 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= wanted:
                return low + (bound - low) * max(wanted - seen, 0.0) / count
            low, seen = bound, seen + count
        return self.bounds[-1] if self.count else 0.0


class RunTimes:
    """How long runs of one language with one outcome have waited, run, and taken as a whole."""

    __slots__ = ("queue", "run", "whole")

    def __init__(self) -> None:
        self.queue = Histogram(LONG)
        self.run = Histogram(LONG)
        self.whole = Histogram(LONG)

    def copy(self) -> RunTimes:
        """The same as of now."""
        copied = RunTimes()
        copied.queue, copied.run = self.queue.copy(), self.run.copy()
        copied.whole = self.whole.copy()
        return copied


class Measurements:
    """Listens to what services tell."""

    def __init__(self) -> None:
        # By language and outcome; by language and code.
        self.runs: defaultdict[tuple[str, str], RunTimes] = defaultdict(RunTimes)
        self.refused_runs: Counter[tuple[str, str]] = Counter()
        # By language and how; by language and code.
        self.starts: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(SHORT))
        self.failed_starts: Counter[tuple[str, str]] = Counter()
        # By outcome; by kind and status.
        self.commands: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(LONG))
        self.jobs: Counter[tuple[str, str]] = Counter()
        # By method, route and status; by method and route.
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.request_times: defaultdict[tuple[str, str], Histogram] = defaultdict(
            lambda: Histogram(SHORT)
        )
        self.loop_lag = Histogram(LATE)
        self._takers: dict[type[Any], Callable[[Any], None]] = {
            RunEnded: self._take_run,
            RunRefused: self._take_refusal,
            KernelStarted: self._take_start,
            CommandEnded: self._take_command,
            JobEnded: self._take_job,
            RequestEnded: self._take_request,
        }

    def __call__(self, event: Event) -> None:
        """Take what is told."""
        taker = self._takers.get(type(event))
        if taker is not None:
            taker(event)

    def copy(self) -> Measurements:
        """The same as of now, for whoever reads it in another thread."""
        copied = Measurements()
        copied.runs.update({key: times.copy() for key, times in self.runs.items()})
        copied.refused_runs.update(self.refused_runs)
        copied.starts.update({key: times.copy() for key, times in self.starts.items()})
        copied.failed_starts.update(self.failed_starts)
        copied.commands.update({key: times.copy() for key, times in self.commands.items()})
        copied.jobs.update(self.jobs)
        copied.requests.update(self.requests)
        copied.request_times.update(
            {key: times.copy() for key, times in self.request_times.items()}
        )
        copied.loop_lag = self.loop_lag.copy()
        return copied

    @property
    def total_runs(self) -> int:
        """Runs that have a result."""
        return sum(times.whole.count for times in self.runs.values())

    @property
    def failed_runs(self) -> int:
        """Those whose outcome was another one than ok."""
        return sum(
            times.whole.count
            for (_, outcome), times in self.runs.items()
            if outcome != Outcome.OK.value
        )

    @property
    def total_requests(self) -> int:
        """Requests and WebSockets that are over."""
        return sum(self.requests.values())

    @property
    def failed_requests(self) -> int:
        """Those that ended with a status of 400 or more."""
        return sum(count for (_, _, status), count in self.requests.items() if status >= 400)

    def _take_run(self, end: RunEnded) -> None:
        times = self.runs[end.language, end.outcome]
        times.queue.add(end.queued_seconds)
        times.whole.add(end.queued_seconds + end.seconds)
        if end.begun:
            times.run.add(end.seconds)

    def _take_refusal(self, refusal: RunRefused) -> None:
        self.refused_runs[refusal.language, refusal.code] += 1

    def _take_start(self, start: KernelStarted) -> None:
        if start.code:
            self.failed_starts[start.language, start.code] += 1
        else:
            self.starts[start.language, start.how].add(start.seconds)

    def _take_command(self, end: CommandEnded) -> None:
        self.commands[end.outcome].add(end.seconds)

    def _take_job(self, end: JobEnded) -> None:
        self.jobs[end.kind, end.status] += 1

    def _take_request(self, end: RequestEnded) -> None:
        self.requests[end.method, end.route, end.status] += 1
        self.request_times[end.method, end.route].add(end.seconds)
