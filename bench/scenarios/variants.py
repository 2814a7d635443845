"""The ways to run code that most scenarios compare."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.clients import GatewayRunner, NaiveRunner, OurRunner, Runner, Shown
from bench.findings import OURS
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


@contextlib.contextmanager
def warm_runners(*gateway_options: str) -> Iterator[dict[str, Runner]]:
    """One warm kernel and one connection for each variant, all alive at once."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(our_server())
        naive = stack.enter_context(naive_server())
        gateway = stack.enter_context(gateway_server(*gateway_options))
        control = gateway.client()
        kernels = [control.request("POST", "/api/kernels", {})["id"] for _ in range(2)]
        client = ours.client()
        runners: dict[str, Runner] = {
            OURS: OurRunner(client),
            NAIVE: NaiveRunner(naive.client()),
            GATEWAY: GatewayRunner(gateway.port, kernels[0], quick_ack=False),
            GATEWAY_QUICK: GatewayRunner(gateway.port, kernels[1], quick_ack=True),
        }
        try:
            for runner in runners.values():
                expect(ONE, runner.execute("1"))
            # Our default session has taken a kernel, which is replaced before anybody is measured.
            wait_for_pool(client, 1)
            yield runners
        finally:
            for runner in runners.values():
                runner.close()
            control.close()
