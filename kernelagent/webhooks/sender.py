"""One attempt at a delivery: sign, send, and say what the answer means."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import httpcore

from kernelagent.errors import WebhookRefused
from kernelagent.webhooks.addresses import Guard
from kernelagent.webhooks.backoff import read_retry_after
from kernelagent.webhooks.headers import build_headers
from kernelagent.webhooks.network import Network
from kernelagent.webhooks.resolver import Resolver
from kernelagent.webhooks.target import Target

log = logging.getLogger(__name__)

# Beside 5xx.
_AGAIN = (408, 425, 429)
# Signing more than this would hold the loop up.
_LARGE = 256 * 1024
# The answer's body says nothing to us; it is read so that the receiver does not meet an error.
_DRAIN_TIME = 1.0
_LONGEST_ERROR = 300


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent in one attempt, the `attempt`th."""

    id: str
    attempt: int
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    secret: str | None = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: delivered if `error` is empty, else `final` or to be made again.

    `pause` is what the receiver asked for, in seconds.
    """

    status: int | None = None
    error: str = ""
    final: bool = False
    pause: float | None = None


class Sender:
    """Makes attempts of at most `timeout` seconds each, all in all."""

    def __init__(
        self, guard: Guard, resolver: Resolver, timeout: float, tls: ssl.SSLContext
    ) -> None:
        self._guard = guard
        self._resolver = resolver
        self._timeout = timeout
        self._tls = tls

    async def send(self, parcel: Parcel) -> Outcome:
        """Raises nothing but CancelledError."""
        answers: list[tuple[int, float | None]] = []
        outcome = Outcome(error="the receiver did not answer")
        try:
            async with asyncio.timeout(self._timeout):
                await self._exchange(parcel, answers)
        except WebhookRefused as error:
            outcome = Outcome(error=error.message, final=True)
        except TimeoutError:
            outcome = Outcome(error=f"no answer within {self._timeout:g} seconds")
        except (httpcore.NetworkError, httpcore.TimeoutException) as error:
            outcome = Outcome(error=_describe(error))
        except httpcore.RemoteProtocolError:
            outcome = Outcome(error="the receiver's answer is not HTTP/1.1, or it broke off")
        except Exception as error:
            # The message may quote a header.
            log.error("webhook %s: an attempt failed with %s", parcel.id, type(error).__name__)
            outcome = Outcome(error=f"the attempt failed with {type(error).__name__}")
        # Once the status is there, it counts, whatever happens to the rest.
        return _classify(*answers[0]) if answers else outcome

    async def _exchange(self, parcel: Parcel, answers: list[tuple[int, float | None]]) -> None:
        target = Target.parse(parcel.url)
        self._guard.check_url(target)
        headers = await self._make_headers(parcel, target)
        network = Network(target, self._guard, self._resolver)
        try:
            async with (
                httpcore.AsyncConnectionPool(
                    ssl_context=self._tls,
                    max_connections=1,
                    max_keepalive_connections=0,
                    network_backend=network,
                ) as pool,
                pool.stream(
                    "POST",
                    target.url,
                    headers=headers,
                    content=parcel.body,
                    extensions={
                        "sni_hostname": target.name,
                        "timeout": {"connect": self._timeout},
                    },
                ) as response,
            ):
                answers.append((response.status, _read_pause(response)))
                async with asyncio.timeout(_DRAIN_TIME):
                    async for _ in response.aiter_stream():
                        pass
        finally:
            await network.close()

    async def _make_headers(self, parcel: Parcel, target: Target) -> list[tuple[bytes, bytes]]:
        now = str(int(time.time()))
        ours = {
            "Host": target.authority,
            "Content-Length": str(len(parcel.body)),
            "Connection": "close",
            "Idempotency-Key": parcel.id,
            "X-HOPX-Timestamp": now,
            "X-HOPX-Attempt": str(parcel.attempt),
        }
        if parcel.secret:
            if len(parcel.body) > _LARGE:
                signature = await asyncio.to_thread(sign, parcel.secret, now, parcel.body)
            else:
                signature = sign(parcel.secret, now, parcel.body)
            ours["X-HOPX-Signature"] = signature
        return build_headers(parcel.headers, ours)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The signature's header: HMAC-SHA256 over the timestamp's text and the body."""
    digest = hmac.new(secret.encode(), timestamp.encode(), hashlib.sha256)
    digest.update(body)
    return f"sha256={digest.hexdigest()}"


def _read_pause(response: httpcore.Response) -> float | None:
    for name, value in response.headers:
        if name.lower() == b"retry-after":
            return read_retry_after(value.decode("latin-1"), time.time())
    return None


def _classify(status: int, pause: float | None) -> Outcome:
    if 200 <= status < 300:
        return Outcome(status)
    if 500 <= status < 600 or status in _AGAIN:
        return Outcome(status, f"the receiver answered {status}", pause=pause)
    what = "redirects are not followed" if 300 <= status < 400 else "it is not asked again"
    return Outcome(status, f"the receiver answered {status}: {what}", final=True)


def _describe(error: Exception) -> str:
    text = str(error)[:_LONGEST_ERROR]
    if isinstance(error, httpcore.ConnectError):
        return text
    return f"the connection broke off: {text}" if text else "the connection broke off"
