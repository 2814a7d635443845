"""Whether a server has time for others: how much it works while one small request waits.

Its work is counted, not the time: on a busy machine every answer takes long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.servers import Server

_ASK = """
import http.client, json, select, sys, time
address, process, fewest = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
# All that the threads of the process have worked; see clock_getcpuclockid(3).
clock = ~process << 3 | 2
connection = http.client.HTTPConnection(address)
print("on", flush=True)
worked = []
while len(worked) < fewest or not select.select([sys.stdin], [], [], 0.005)[0]:
    before = time.clock_gettime(clock)
    connection.request("GET", "/ping")
    connection.getresponse().read()
    worked.append(time.clock_gettime(clock) - before)
json.dump(worked, sys.stdout)
"""


@dataclass
class Pulse:
    """Processor seconds that the server took for anything while each of the requests waited."""

    worked: list[float] = field(default_factory=list)

    @property
    def most(self) -> float:
        """In all but one of fifty: whoever asks may itself be kept from its processor."""
        return sorted(self.worked)[int(len(self.worked) * 0.98)]


@contextlib.asynccontextmanager
async def pulse(server: Server, *, fewest: int = 21) -> AsyncIterator[Pulse]:
    """Ask the server over and over, from a process of its own: this one is busy too.

    If need be it goes on after the work is done, until there are `fewest` answers.
    """
    address = server.url.removeprefix("http://")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _ASK, address, str(server.process.pid), str(fewest)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    await process.stdout.readline()
    found = Pulse()
    try:
        yield found
    finally:
        output, _ = await process.communicate(b"\n")
    found.worked = json.loads(output)
