"""Connections to checked addresses, for one attempt each."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterable
from typing import Any

import anyio
import httpcore

from kernelagent.webhooks.addresses import Address, Guard
from kernelagent.webhooks.resolver import Resolver
from kernelagent.webhooks.target import Target

MOST_READ = 64 * 1024

# More than one that is dead is rare, and all share the time of the attempt.
_MOST_ADDRESSES = 4


class Network(httpcore.AsyncNetworkBackend):
    """Looks the target up once, checks every address, and connects to one that was checked.

    `close` closes what was opened, however the attempt has ended.
    """

    def __init__(self, target: Target, guard: Guard, resolver: Resolver) -> None:
        self._target = target
        self._guard = guard
        self._resolver = resolver
        self._backend = httpcore.AnyIOBackend()
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the target's
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection; raises WebhookRefused, httpcore.ConnectError, httpcore.ConnectTimeout."""
        try:
            addresses = await self._resolver.resolve(self._target.host, port)
        except OSError as error:
            raise httpcore.ConnectError(
                f"{self._target.name} could not be looked up: {error.strerror or error}"
            ) from error
        self._guard.check_addresses(self._target, addresses)
        addresses = addresses[:_MOST_ADDRESSES]
        failure: Exception | None = None
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            try:
                # What the last one gets is bounded by the attempt.
                share = None if left == 1 or timeout is None else timeout / (len(addresses) + 1)
                self._stream = await self._connect(
                    address, port, share, local_address, socket_options
                )
                return _Stream(self._stream)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise httpcore.ConnectError(f"could not connect to {self._target.name}: {failure}")

    async def close(self) -> None:
        """Close the connection; may be repeated."""
        if self._stream is not None:
            with contextlib.suppress(OSError, anyio.BrokenResourceError):
                await self._stream.aclose()

    async def _connect(
        self, address: Address, port: int, share: float | None, *options: Any
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._backend.connect_tcp(str(address), port, share, *options)
        except httpcore.ConnectTimeout:
            raise httpcore.ConnectTimeout("no answer in time") from None
        except httpcore.ConnectError as error:
            raise httpcore.ConnectError(_reason(error)) from error


class _Stream(httpcore.AsyncNetworkStream):
    """A connection from which a bounded number of bytes is read."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MOST_READ

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._left == 0:
            raise httpcore.ReadError(f"the answer is larger than {MOST_READ} bytes")
        data = await self._stream.read(min(max_bytes, self._left), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except httpcore.ConnectError as error:
            raise httpcore.ConnectError(f"no secure connection: {_reason(error)}") from error
        return _Stream(stream)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _reason(error: BaseException) -> str:
    """What the system or the TLS library said, from the errors behind `error`."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, ssl.SSLCertVerificationError):
            return f"the certificate is not accepted ({chain.verify_message})"
        if isinstance(chain, ssl.SSLError):
            return str(chain.reason or "TLS failed").replace("_", " ").lower()
        if isinstance(chain, OSError) and chain.errno:
            return os.strerror(chain.errno)
        chain = chain.__cause__ or chain.__context__
    return "the connection ended"
