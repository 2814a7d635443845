"""Look-ups of hosts, in threads of their own."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from kernelagent.webhooks.addresses import Address

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]

_AT_ONCE = 32


class Resolver:
    """Asks the system for the addresses of hosts, at most 32 at once.

    A look-up that hangs cannot be stopped. The loop's own threads serve everybody else, and the
    process waits for them at its end; so each look-up has a thread that it does not wait for.
    """

    def __init__(self, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self._getaddrinfo = getaddrinfo
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def resolve(self, host: str, port: int) -> list[Address]:
        """The host's addresses in the system's order; raises OSError."""
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Address]] = loop.create_future()

        def settle(addresses: list[Address], error: OSError | None) -> None:
            self._slots.release()
            if found.done():
                return
            if error is None:
                found.set_result(addresses)
            else:
                found.set_exception(error)

        def look_up() -> None:
            addresses: list[Address] = []
            failure: OSError | None = None
            try:
                addresses = _read(self._getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except OSError as error:
                failure = error
            except Exception as error:
                failure = OSError(f"the look-up failed: {type(error).__name__}")
            # The loop may have ended meanwhile, and everything that waited with it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, addresses, failure)

        try:
            threading.Thread(target=look_up, name="webhook-resolver", daemon=True).start()
        except RuntimeError as error:
            self._slots.release()
            raise OSError("no thread can be started") from error
        return await found


def _read(answers: Sequence[tuple[Any, ...]]) -> list[Address]:
    addresses: dict[Address, None] = {}
    for family, _, _, _, place in answers:
        if family == socket.AF_INET6:
            zone = f"%{place[3]}" if place[3] and "%" not in place[0] else ""
            addresses[ipaddress.IPv6Address(place[0] + zone)] = None
        elif family == socket.AF_INET:
            addresses[ipaddress.IPv4Address(place[0])] = None
    if not addresses:
        raise OSError("the host has no address")
    return list(addresses)
