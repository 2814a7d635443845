"""What tests of clients that come and go do meanwhile."""

from __future__ import annotations

from tests.runs import client_of
from tests.servers import Service


async def round_trips(server: Service) -> None:
    """Ask so often that the server has seen, by then, whatever happened before."""
    async with client_of(server) as client:
        for _ in range(20):
            await client.get("/sessions")
