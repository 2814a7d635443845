"""The ways to run code that most scenarios compare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from bench.clients import GatewayRunner, NaiveRunner, OurRunner, Runner, Shown
from bench.findings import OURS
from bench.samples import Measure, Peer, PeerFailed, of_peer, timed
from bench.servers import gateway_server, naive_server, our_server, wait_for_pool

NAIVE = "FastAPI + AsyncKernelClient"
GATEWAY = "kernel gateway"
GATEWAY_QUICK = "kernel gateway, quick ACK"

ONE = Shown("", "1", 0)

# A line of 1,000 points, the usual way.
PLOT = """
import matplotlib.pyplot as plt
import numpy as np
x = np.arange(1000)
fig, ax = plt.subplots()
ax.plot(x, np.sin(x / 50))
plt.show()
"""
PLOTTED = Shown("", "", 1)


class WrongAnswer(RuntimeError):
    """A server did not answer what it was asked for."""


def expect(wanted: object, got: object) -> None:
    """Raise WrongAnswer unless they are equal."""
    if got != wanted:
        raise WrongAnswer(f"an answer is wrong: {got!r:.300} instead of {wanted!r:.300}")


class PeerRunner:
    """A runner of others; whatever goes wrong in it is its failure."""

    def __init__(self, start: Callable[[], Runner]) -> None:
        self._peer = Peer(start)

    def execute(self, code: str) -> Shown:
        runner = self._peer.get()
        try:
            return runner.execute(code)
        except Exception as error:
            raise PeerFailed(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        with contextlib.suppress(PeerFailed):
            self._peer.get().close()


def timed_run(runner: Runner, code: str, check: Callable[[Shown], object]) -> Measure:
    """A run with a stopwatch; `check` raises if what it shows is wrong."""
    measure = timed(partial(runner.execute, code), check)
    return of_peer(measure) if isinstance(runner, PeerRunner) else measure


@contextlib.contextmanager
def warm_runners(*gateway_options: str) -> Iterator[dict[str, Runner]]:
    """One warm kernel and one connection for each variant, all alive at once."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(our_server())
        gateway = Peer(lambda: stack.enter_context(gateway_server(*gateway_options)))
        control = Peer(lambda: gateway.get().client())

        def naive_runner() -> Runner:
            return NaiveRunner(stack.enter_context(naive_server()).client())

        def gateway_runner(*, quick_ack: bool) -> Runner:
            kernel = control.get().request("POST", "/api/kernels", {})["id"]
            return GatewayRunner(gateway.get().port, kernel, quick_ack=quick_ack)

        client = ours.client()
        runners: dict[str, Runner] = {
            OURS: OurRunner(client),
            NAIVE: PeerRunner(naive_runner),
            GATEWAY: PeerRunner(partial(gateway_runner, quick_ack=False)),
            GATEWAY_QUICK: PeerRunner(partial(gateway_runner, quick_ack=True)),
        }
        try:
            for runner in runners.values():
                with contextlib.suppress(PeerFailed):
                    timed_run(runner, "1", partial(expect, ONE))()
            # Our default session has taken a kernel, which is replaced before anybody is measured.
            wait_for_pool(client, 1)
            yield runners
        finally:
            for runner in runners.values():
                runner.close()
            with contextlib.suppress(PeerFailed):
                control.get().close()


def warm_up(measures: Mapping[str, Measure], times: int = 1) -> None:
    """Measure all of them for nothing."""
    for measure in measures.values():
        with contextlib.suppress(PeerFailed):
            for _ in range(times):
                measure()
