"""A typed client of the service, for the command line and for tests."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import httpx

from kernelagent.errors import KernelagentError

Message = dict[str, Any]

_CONNECT_TIMEOUT = 10.0
# The service bounds runs itself; only questions that it answers at once have a limit here.
_QUICK = httpx.Timeout(_CONNECT_TIMEOUT)
_ENDLESS = httpx.Timeout(_CONNECT_TIMEOUT, read=None)
# A list of jobs has the end of what each has printed.
_LIST = httpx.Timeout(60.0, connect=_CONNECT_TIMEOUT)
# A followed log is never silent for so long: the service sends keepalives. Only a connection that
# is dead without a word is.
_FOLLOWED = httpx.Timeout(_CONNECT_TIMEOUT, read=60.0)

LogStream = Literal["stdout", "stderr"]


class ServiceError(KernelagentError):
    """The service refused a request."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class ServiceUnreachable(KernelagentError):
    """Nobody answers at the URL, or the connection broke."""


class ServiceClient:
    """Talks to one service; use as an async context manager."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else None,
            timeout=_QUICK,
            transport=transport,
            # A proxy of the environment knows nothing of this machine's own ports.
            trust_env=not is_loopback(url),
            verify=_trusted(url),
        )

    async def __aenter__(self) -> ServiceClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def health(self) -> dict[str, Any]:
        """What the service says about itself; needs no token."""
        return await self._request("GET", "/health")

    async def create_session(
        self,
        *,
        language: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """The id of a new session, whose kernel is ready."""
        body = _given(language=language, workdir=workdir, env=dict(env) if env else None)
        session = await self._request("POST", "/sessions", body, timeout=_ENDLESS)
        return str(session["id"])

    async def close_session(self, session_id: str) -> None:
        """End a session and its kernel."""
        await self._request("DELETE", f"/sessions/{session_id}")

    async def interrupt_session(self, session_id: str) -> None:
        """Interrupt what the session runs."""
        await self._request("POST", f"/sessions/{session_id}/interrupt")

    async def execute_rich(
        self,
        code: str,
        *,
        language: str | None = None,
        session_id: str | None = None,
        timeout: float | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run code and return everything it showed, once it is over."""
        body = _run_body(code, language, session_id, timeout, workdir, env)
        return await self._request("POST", "/execute/rich", body, timeout=_ENDLESS)

    async def execute_stream(
        self,
        code: str,
        *,
        language: str | None = None,
        session_id: str | None = None,
        timeout: float | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Message, None]:
        """Run code and yield its messages as they come, up to `complete`.

        Close the iterator early (`contextlib.aclosing`) and the service interrupts the run.
        """
        body = _run_body(code, language, session_id, timeout, workdir, env)
        stream = self._stream("POST", "/execute", body)
        async with contextlib.aclosing(stream):
            async for message in stream:
                yield message
                if message.get("type") == "complete":
                    return
        raise ServiceUnreachable(f"{self.url} ended the stream before the run was over")

    async def send_input(
        self, session_id: str, value: str, *, execution_id: str | None = None
    ) -> None:
        """Answer the prompt that a run of the session waits for."""
        body = _given(value=value, execution_id=execution_id)
        await self._request("POST", f"/sessions/{session_id}/input", body)

    async def start_background(
        self,
        code: str,
        *,
        language: str | None = None,
        timeout: float | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        name: str | None = None,
    ) -> dict[str, Any]:
        """Start a job that runs code on a kernel of its own; answered before it runs."""
        body = {**_run_body(code, language, None, timeout, workdir, env), **_given(name=name)}
        return await self._request("POST", "/execute/background", body, timeout=_ENDLESS)

    async def jobs(self, *, status: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """The newest jobs, with how many there are."""
        query = _given(status=status, limit=limit)
        return await self._request("GET", "/jobs", query=query, timeout=_LIST)

    async def processes(self) -> list[dict[str, Any]]:
        """All jobs, however many, oldest first; in short."""
        answer = await self._request("GET", "/execute/processes", timeout=_LIST)
        return list(answer["processes"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """All that is known of a job."""
        return await self._request("GET", _job_path(job_id))

    async def job_log(
        self,
        job_id: str,
        *,
        offset: int | None = None,
        stream: LogStream | None = None,
        tail: int | None = None,
        follow: bool = False,
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Message, None]:
        """What a job has printed, message by message, over one connection.

        With `follow`, up to `end`, which comes with the end of the job. `on_open` is called when
        the service has answered, which may be long before the first message.
        """
        query = _given(offset=offset, stream=stream, tail=tail, follow=follow or None)
        path = f"{_job_path(job_id)}/logs"
        messages = self._stream("GET", path, query=query, timeout=_FOLLOWED, on_open=on_open)
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message
                if message.get("type") == "end":
                    return
        if follow:
            raise ServiceUnreachable(f"{self.url} ended the stream before the job was over")

    async def kill_job(self, job_id: str) -> dict[str, Any]:
        """End a job with all its processes, and wait until it has."""
        return await self._request("POST", f"{_job_path(job_id)}/kill", timeout=_ENDLESS)

    async def _stream(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: httpx.Timeout = _ENDLESS,
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Message, None]:
        """The messages of an answer in NDJSON, as they come."""
        try:
            request = self._client.build_request(
                method,
                path,
                json=body,
                params=query,
                headers={"Accept": "application/x-ndjson"},
                timeout=timeout,
            )
            response = await self._client.send(request, stream=True)
            try:
                if response.is_error:
                    await response.aread()
                    raise _error(response)
                if on_open is not None:
                    on_open()
                async for line in response.aiter_lines():
                    if line.strip():
                        yield self._message(line)
            finally:
                await response.aclose()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _message(self, line: str) -> Message:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            # Half a line, if a proxy ended the answer as though it were whole.
            raise ServiceUnreachable(f"{self.url} sent what is no message: {line[:80]!r}")
        return message

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: httpx.Timeout = _QUICK,
    ) -> dict[str, Any]:
        try:
            response = await self._client.request(
                method, path, json=body, params=query, timeout=timeout
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise _error(response)
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ServiceError(
                response.status_code, "NOT_OURS", f"{self.url} is no kernelagent service"
            )
        return answer

    def _unreachable(self, error: Exception) -> ServiceUnreachable:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return ServiceUnreachable(f"nothing answers at {self.url}")
        if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
            return ServiceUnreachable(f"{self.url} is no http URL")
        reason = str(error) or type(error).__name__
        return ServiceUnreachable(f"the connection to {self.url} broke: {reason}")


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine."""
    try:
        host = httpx.URL(url).host
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except (httpx.InvalidURL, ValueError):
        return False


def _trusted(url: str) -> ssl.SSLContext | bool:
    """Which authorities to trust: none, without loading them, where nothing is encrypted."""
    if url.lower().startswith("http:"):
        # Loading them takes longer than most answers.
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return True


def _run_body(
    code: str,
    language: str | None,
    session_id: str | None,
    timeout: float | None,
    workdir: str | None,
    env: Mapping[str, str] | None,
) -> dict[str, Any]:
    return _given(
        code=code,
        language=language,
        session_id=session_id,
        timeout=timeout,
        workdir=workdir,
        env=dict(env) if env else None,
    )


def _job_path(job_id: str) -> str:
    return f"/jobs/{quote(job_id, safe='')}"


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _error(response: httpx.Response) -> ServiceError:
    try:
        body = response.json()
        return ServiceError(response.status_code, str(body["code"]), str(body["message"]))
    except (ValueError, KeyError, TypeError):
        reason = response.reason_phrase or "an error"
        return ServiceError(
            response.status_code, "HTTP_ERROR", f"HTTP {response.status_code}: {reason}"
        )
