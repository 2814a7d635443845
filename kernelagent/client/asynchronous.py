"""The asynchronous client, from which `make docs` writes the synchronous one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from kernelagent.client.shared import (
    ENDLESS,
    FOLLOWED,
    LIST,
    QUICK,
    TRANSFER,
    LogStream,
    Message,
    ServiceUnreachable,
    connection_options,
    given,
    job_path,
    read_answer,
    read_message,
    refusal,
    run_body,
    session_path,
    unreachable,
)


class AsyncClient:
    """Talks to one service; close it by `async with` or `aclose`.

    Answers are the service's JSON objects as dictionaries. Each method raises ServiceError if the
    service refuses, ServiceUnreachable if nobody answers or the connection breaks. Durations are
    seconds, sizes bytes; what is None is left to the service.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Connect to nothing yet; `transport` replaces how httpx reaches the service."""
        self.url = url.rstrip("/")
        self._client = httpx.AsyncClient(transport=transport, **connection_options(self.url, token))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def health(self) -> dict[str, Any]:
        """Return what the service says about itself (`status`, ...); needs no token."""
        return await self._request("GET", "/health")

    async def sessions(self) -> list[dict[str, Any]]:
        """Return all sessions, oldest first, each with `id`, `language`, `state` and so on."""
        answer = await self._request("GET", "/sessions")
        return list(answer["sessions"])

    async def create_session(
        self,
        *,
        language: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Make a session and return its id when its kernel is ready.

        `env` holds for the whole session. Raise ServiceError with `SESSION_LIMIT` if there are too
        many.
        """
        body = given(language=language, workdir=workdir, env=dict(env) if env else None)
        session = await self._request("POST", "/sessions", body, timeout=ENDLESS)
        return str(session["id"])

    async def restart_session(self, session_id: str) -> dict[str, Any]:
        """Give a session a fresh kernel and return the session; what runs or waits is cancelled."""
        path = f"{session_path(session_id)}/restart"
        return await self._request("POST", path, timeout=ENDLESS)

    async def interrupt_session(self, session_id: str) -> None:
        """Interrupt what the session runs; its state is kept."""
        await self._request("POST", f"{session_path(session_id)}/interrupt")

    async def close_session(self, session_id: str) -> None:
        """End a session and its kernel."""
        await self._request("DELETE", session_path(session_id))

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
        """Run code and return everything that it showed, once it is over.

        The answer has `success`, `outcome`, `exit_code`, `stdout`, `stderr`, `result`,
        `rich_outputs`, `outputs` (as in notebooks) and more. Code that fails is an answer with
        `success` false. Without `session_id` the language's default session runs it. `timeout` is
        the limit of the run itself, 60 if None; at the limit the outcome is `timeout`.
        """
        body = run_body(code, language, session_id, timeout, workdir, env)
        return await self._request("POST", "/execute/rich", body, timeout=ENDLESS)

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
        """Run code as `execute_rich` does and yield its messages as they come, up to `complete`.

        A message's `type` is `started`, `stdout`, `rich`, `input_request`, `result` and so on.
        Close the generator early (`contextlib.aclosing`) and the service interrupts the run.
        """
        body = run_body(code, language, session_id, timeout, workdir, env)
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
        """Answer the `input_request` that a streamed run of the session waits for.

        Raise ServiceError with status 409 if nothing waits, or another run than `execution_id`.
        """
        body = given(value=value, execution_id=execution_id)
        await self._request("POST", f"{session_path(session_id)}/input", body)

    async def run_command(
        self,
        command: str,
        *,
        args: Sequence[str] | None = None,
        stdin: str | None = None,
        timeout: float | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run a program and return what it came to, once it is over.

        With `args` they reach the program `command` exactly as they are, without them `command` is
        a line for the shell. The answer has `success`, `outcome`, `exit_code`, `stdout`, `stderr`
        and more, whatever the exit code. `timeout` is 30 if None.
        """
        body = given(
            command=command,
            args=None if args is None else list(args),
            stdin=stdin,
            timeout=timeout,
            workdir=workdir,
            env=dict(env) if env else None,
        )
        return await self._request("POST", "/commands/run", body, timeout=ENDLESS)

    async def read_file(self, path: str) -> bytes:
        """Return the bytes of a file; relative paths begin at the workspace.

        Raise ServiceError with `FILE_NOT_FOUND`, `PATH_NOT_ALLOWED` and so on.
        """
        query = {"path": path}
        response = await self._send("GET", "/files/download", query=query, timeout=TRANSFER)
        return response.content

    async def write_file(self, path: str, data: bytes) -> dict[str, Any]:
        """Make or replace a file as a whole, and the directories above it; return `path`, `size`.

        Relative paths begin at the workspace. Raise ServiceError with `PATH_NOT_ALLOWED`,
        `DISK_FULL` and so on; the old contents are there then.
        """
        return await self._request(
            "POST",
            "/files/upload",
            query={"path": path},
            # Without a name of its own, so that a directory's path is refused.
            files={"file": (None, data)},
            timeout=TRANSFER,
        )

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
        """Start a job that runs code on a kernel of its own; answered before it runs.

        The answer's `process_id` is the job's id.
        """
        body = {**run_body(code, language, None, timeout, workdir, env), **given(name=name)}
        return await self._request("POST", "/execute/background", body, timeout=ENDLESS)

    async def jobs(self, *, status: str | None = None, limit: int | None = None) -> dict[str, Any]:
        """Return the newest jobs (`jobs`), with how many there are."""
        query = given(status=status, limit=limit)
        return await self._request("GET", "/jobs", query=query, timeout=LIST)

    async def processes(self) -> list[dict[str, Any]]:
        """Return all jobs, however many, oldest first; in short."""
        answer = await self._request("GET", "/execute/processes", timeout=LIST)
        return list(answer["processes"])

    async def job(self, job_id: str) -> dict[str, Any]:
        """Return all that is known of a job."""
        return await self._request("GET", job_path(job_id))

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
        """Yield what a job has printed, message by message, over one connection.

        Begin at `offset`, or with the last `tail` bytes. With `follow`, go on up to `end`, which
        comes with the end of the job. `on_open` is called when the service has answered, which may
        be long before the first message.
        """
        query = given(offset=offset, stream=stream, tail=tail, follow=follow or None)
        path = f"{job_path(job_id)}/logs"
        messages = self._stream("GET", path, query=query, timeout=FOLLOWED, on_open=on_open)
        async with contextlib.aclosing(messages):
            async for message in messages:
                yield message
                if message.get("type") == "end":
                    return
        if follow:
            raise ServiceUnreachable(f"{self.url} ended the stream before the job was over")

    async def kill_job(self, job_id: str) -> dict[str, Any]:
        """End a job with all its processes, and return what it came to when it has ended."""
        return await self._request("POST", f"{job_path(job_id)}/kill", timeout=ENDLESS)

    async def _stream(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: httpx.Timeout = ENDLESS,
        on_open: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Message, None]:
        """Yield the messages of an answer in NDJSON, as they come."""
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
                    raise refusal(response)
                if on_open is not None:
                    on_open()
                async for line in response.aiter_lines():
                    if line.strip():
                        yield read_message(self.url, line)
            finally:
                await response.aclose()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error) from error

    async def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[str, Any]:
        response = await self._send(method, path, body, **options)
        return read_answer(self.url, response)

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        files: Mapping[str, tuple[None, bytes]] | None = None,
        timeout: httpx.Timeout = QUICK,
    ) -> httpx.Response:
        """Return a good answer with its content, raise ServiceError for another."""
        try:
            response = await self._client.request(
                method, path, json=body, params=query, files=files, timeout=timeout
            )
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise unreachable(self.url, error) from error
        if response.is_error:
            raise refusal(response)
        return response
