"""What both clients share: errors, timeouts, what is sent and how answers are read."""

from __future__ import annotations

import ipaddress
import json
import ssl
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import httpx

from kernelagent.errors import KernelagentError

# One message of a stream; its `type` says which other fields it has.
Message = dict[str, Any]

LogStream = Literal["stdout", "stderr"]

_CONNECT_TIMEOUT = 10.0
# The service bounds runs itself; only questions that it answers at once have a limit here.
QUICK = httpx.Timeout(_CONNECT_TIMEOUT)
ENDLESS = httpx.Timeout(_CONNECT_TIMEOUT, read=None)
# A list of jobs has the end of what each has printed.
LIST = httpx.Timeout(60.0, connect=_CONNECT_TIMEOUT)
# A followed log is never silent for so long: the service sends keepalives. Only a connection that
# is dead without a word is.
FOLLOWED = httpx.Timeout(_CONNECT_TIMEOUT, read=60.0)
# A disk may be slow, and a large upload is on it before it is answered.
TRANSFER = httpx.Timeout(_CONNECT_TIMEOUT, read=None, write=None)


class ServiceError(KernelagentError):
    """The service refused a request.

    `status` is the HTTP status, `code` one of docs/errors.md, `message` a sentence for people, and
    `details` depends on the code. Answers that are not from a service have the codes `HTTP_ERROR`
    and `NOT_OURS`.
    """

    def __init__(
        self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})


class ServiceUnreachable(KernelagentError):
    """Nobody answers at the URL, or the connection broke."""


def connection_options(url: str, token: str | None) -> dict[str, Any]:
    """Return the arguments of an httpx client that talks to the service at `url`."""
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {token}"} if token else None,
        "timeout": QUICK,
        # A proxy of the environment knows nothing of this machine's own ports.
        "trust_env": not is_loopback(url),
        "verify": _trusted(url),
    }


def is_loopback(url: str) -> bool:
    """Return whether `url` names this machine."""
    try:
        host = httpx.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (httpx.InvalidURL, ValueError):
        return False


def _trusted(url: str) -> ssl.SSLContext | bool:
    """Return which authorities to trust: none, without loading them, if nothing is encrypted."""
    if url.lower().startswith("http:"):
        # Loading them takes longer than most answers.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return True


def run_body(
    code: str,
    language: str | None,
    session_id: str | None,
    timeout: float | None,
    workdir: str | None,
    env: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the body of a request that runs code."""
    return given(
        code=code,
        language=language,
        session_id=session_id,
        timeout=timeout,
        workdir=workdir,
        env=dict(env) if env else None,
    )


def session_path(session_id: str) -> str:
    """Return the path of a session, whatever characters its id has."""
    return f"/sessions/{quote(session_id, safe='')}"


def job_path(job_id: str) -> str:
    """Return the path of a job, whatever characters its id has."""
    return f"/jobs/{quote(job_id, safe='')}"


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def read_answer(url: str, response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object in a good answer, raise ServiceError if there is something else."""
    if not response.content:
        return {}
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ServiceError(response.status_code, "NOT_OURS", f"{url} is not a kernelagent service")
    return answer


def read_message(url: str, line: str) -> Message:
    """Return the message in a line of a stream, raise ServiceUnreachable if it has none."""
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        # Half a line, if a proxy ended the answer as though it were whole.
        raise ServiceUnreachable(f"{url} sent a line that is not a message: {line[:80]!r}")
    return message


def refusal(response: httpx.Response) -> ServiceError:
    """Return the error that an answer with an error's status tells of."""
    status = response.status_code
    try:
        body = response.json()
        details = body.get("details")
        return ServiceError(
            status,
            str(body["code"]),
            str(body["message"]),
            details if isinstance(details, dict) else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        reason = response.reason_phrase or "an error"
        return ServiceError(status, "HTTP_ERROR", f"HTTP {status}: {reason}")


def unreachable(url: str, error: Exception) -> ServiceUnreachable:
    """Return what an error of the connection means."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ServiceUnreachable(f"nothing answers at {url}")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return ServiceUnreachable(f"{url} is not an http URL")
    reason = str(error) or type(error).__name__
    return ServiceUnreachable(f"the connection to {url} broke: {reason}")
