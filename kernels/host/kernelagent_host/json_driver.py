"""A driver for hosts that speak JSON lines on two pipes of their own.

The numbers of the two pipes are the host's last two arguments. It reads requests from the first:

    {"op": "run", "id", "code", "count", "silent", "allow_stdin", "env": {}, "cwd": str | null}
    {"op": "configure", "id", "env": {}, "unset": [], "cwd": str | null}
    {"op": "complete" | "inspect", "id", "code", "cursor"}      cursor in code points
    {"op": "is_complete", "id", "code"}
    {"op": "variables", "id", "limit"}
    {"op": "input", "line": str | null}                         null: nobody can answer

and writes messages to the second:

    {"op": "ready"}                                             once it can take requests
    {"op": "stream", "name": "stdout" | "stderr", "text"}
    {"op": "display", "data", "metadata", "display_id": str | null, "update": bool}
    {"op": "result", "data", "metadata"}
    {"op": "clear", "wait": bool}
    {"op": "ask", "prompt", "password": bool}
    {"op": "reply", "id", ...}                                  the answer to each request

A run's reply: {"failure": {"name", "value", "traceback": []} | null, "exit_code", "note", "fresh"},
all optional; to other requests `complete`: {"matches", "start", "end"}, `inspect`: {"data"} or
{"data": null}, `is_complete`: {"status"}, `variables`: as it is passed on; `configure` and `run`
may answer {"scope_error": text} with nothing changed. SIGINT interrupts the run. What the host and
its children write to stdout and stderr is output, too: before a message is handled, what was
written before it is taken.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kernelagent_host.host import Driver, Ended, Failure, HostFailed, Listener, MimeBundle, Run
from kernelagent_host.process import end_process, start_process
from kernelagent_python.scope import ScopeError

_READ = 256 * 1024
_WRITE = 64 * 1024
_START = 30.0
_ANSWER = 10.0


class JsonDriver(Driver):
    """A subclass says what to start (`command`) and describes its language."""

    def __init__(self, listener: Listener, options: Sequence[str]) -> None:
        self.options = options
        self._listener = listener
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = -1
        self._messages = -1
        self._streams: dict[int, str] = {}
        self._buffer = bytearray()
        self._last_id = 0
        self._run_id = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._ready = False
        self._outgoing = bytearray()
        self._flushing = False
        self._taking = False

    def command(self) -> Sequence[str]:
        """The argument vector, without the numbers of the pipes; raises HostFailed."""
        raise NotImplementedError

    def start(self) -> None:
        requests, self._requests = os.pipe2(os.O_CLOEXEC)
        self._messages, messages = os.pipe2(os.O_CLOEXEC)
        stdout, into_stdout = os.pipe2(os.O_CLOEXEC)
        stderr, into_stderr = os.pipe2(os.O_CLOEXEC)
        self._streams = {stdout: "stdout", stderr: "stderr"}
        try:
            self._process = start_process(
                [*self.command(), str(requests), str(messages)],
                stdin=subprocess.DEVNULL,
                stdout=into_stdout,
                stderr=into_stderr,
                pass_fds=(requests, messages),
            )
        finally:
            for descriptor in (requests, messages, into_stdout, into_stderr):
                os.close(descriptor)
        for descriptor in (*self.descriptors, self._requests):
            os.set_blocking(descriptor, False)
        self._wait(lambda: self._ready, _START, "it was not ready")

    @property
    def pid(self) -> int:
        assert self._process is not None  # noqa: S101 - `start` came first
        return self._process.pid

    @property
    def descriptors(self) -> Sequence[int]:
        # Streams first: what was written before a message must be taken before it.
        return [*self._streams, *([self._messages] if self._messages >= 0 else [])]

    def take(self, descriptor: int) -> None:
        if descriptor == self._messages:
            self._take_messages()
        elif descriptor in self._streams:
            self._take_stream(descriptor)

    def run(self, run: Run) -> None:
        self._run_id = self._send(
            "run",
            code=run.code,
            count=run.count,
            silent=run.silent,
            allow_stdin=run.allow_stdin,
            env=dict(run.env),
            cwd=run.cwd,
        )

    def interrupt(self) -> None:
        os.kill(self.pid, signal.SIGINT)

    def gone(self, exit_code: int) -> Ended:
        return Ended(
            Failure("HostDied", f"the process that runs the code ended with status {exit_code}"),
            exit_code or 1,
            f"the process that runs the code ended with status {exit_code}: the next run has a "
            "fresh state",
            fresh=True,
        )

    def configure(self, env: Mapping[str, str], unset: Sequence[str], cwd: str | None) -> None:
        reply = self._ask("configure", env=dict(env), unset=list(unset), cwd=cwd)
        if reply.get("scope_error"):
            raise ScopeError(reply["scope_error"])

    def answer(self, line: str) -> None:
        self._write({"op": "input", "line": line})

    def deny(self) -> None:
        self._write({"op": "input", "line": None})

    def complete(self, code: str, cursor: int) -> tuple[Sequence[str], int, int]:
        reply = self._ask("complete", code=code, cursor=cursor)
        return reply["matches"], reply["start"], reply["end"]

    def inspect(self, code: str, cursor: int) -> MimeBundle | None:
        data: MimeBundle | None = self._ask("inspect", code=code, cursor=cursor).get("data")
        return data

    def is_complete(self, code: str) -> str:
        return str(self._ask("is_complete", code=code).get("status", "unknown"))

    def variables(self, limit: int) -> Mapping[str, Any]:
        reply = self._ask("variables", limit=limit)
        return {name: reply[name] for name in ("variables", "total", "truncated")}

    def close(self) -> None:
        if self._process is not None:
            end_process(self._process)
        for descriptor in (*self._streams, self._messages, self._requests):
            if descriptor >= 0:
                os.close(descriptor)
        self._streams = {}
        self._messages = self._requests = -1
        self._outgoing.clear()

    def _take_stream(self, descriptor: int) -> None:
        data = _read(descriptor)
        if data:
            self._listener.stream(self._streams[descriptor], data)
        elif data is not None:
            os.close(descriptor)
            del self._streams[descriptor]

    def _take_messages(self) -> None:
        data = _read(self._messages) if self._messages >= 0 else None
        if data is None:
            return
        if not data:
            os.close(self._messages)
            self._messages = -1
            return
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        self._taking = True
        try:
            for line in lines:
                try:
                    self._handle(json.loads(line))
                except (ValueError, TypeError, LookupError) as error:
                    raise HostFailed(f"the host broke its protocol: {error!r}") from error
        finally:
            self._taking = False
        self._flush_requests()

    def _handle(self, message: dict[str, Any]) -> None:
        listener = self._listener
        if message["op"] != "stream":
            # Of what was written to the descriptors, this much came before the message.
            for descriptor in list(self._streams):
                self._take_stream(descriptor)
        match message["op"]:
            case "stream":
                listener.stream(message["name"], message["text"].encode("utf-8", "replace"))
            case "display":
                listener.display(
                    message["data"],
                    message.get("metadata"),
                    display_id=message.get("display_id"),
                    update=bool(message.get("update")),
                )
            case "result":
                listener.result(message["data"], message.get("metadata"))
            case "clear":
                listener.clear(wait=bool(message.get("wait")))
            case "ask":
                listener.ask(message.get("prompt", ""), password=bool(message.get("password")))
            case "ready":
                self._ready = True
            case "reply":
                self._take_reply(message)
            case unknown:
                raise ValueError(f"unknown operation {unknown!r}")

    def _take_reply(self, reply: dict[str, Any]) -> None:
        if reply["id"] != self._run_id:
            self._replies[reply["id"]] = reply
            return
        self._run_id = 0
        if reply.get("scope_error"):
            failure: Failure | None = Failure("ScopeError", reply["scope_error"])
        else:
            said = reply.get("failure")
            failure = said and Failure(said["name"], said["value"], said.get("traceback", ()))
        self._listener.ended(
            Ended(
                failure,
                int(reply.get("exit_code") or 0),
                reply.get("note", ""),
                bool(reply.get("fresh")),
            )
        )

    def _ask(self, op: str, **content: Any) -> dict[str, Any]:
        """Ask between two runs; raises HostFailed if no answer comes."""
        number = self._send(op, **content)
        self._wait(lambda: number in self._replies, _ANSWER, "it does not answer")
        return self._replies.pop(number)

    def _wait(self, done: Any, seconds: float, complaint: str) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if self._messages < 0:
                raise HostFailed(f"{complaint}: it has ended")
            left = deadline - time.monotonic()
            if left <= 0:
                raise HostFailed(f"{complaint} within {seconds:g} s")
            poll = select.poll()
            for descriptor in self.descriptors:
                poll.register(descriptor, select.POLLIN)
            for descriptor, _ in poll.poll(left * 1000):
                self.take(descriptor)

    def _send(self, op: str, **content: Any) -> int:
        self._last_id += 1
        self._write({"op": op, "id": self._last_id, **content})
        return self._last_id

    def _write(self, content: dict[str, Any]) -> None:
        self._outgoing += json.dumps(content).encode() + b"\n"
        self._flush_requests()

    def _flush_requests(self) -> None:
        # What is taken keeps its order: what it calls for is written after all of it.
        if self._flushing or self._taking:
            return
        self._flushing = True
        try:
            while self._outgoing:
                try:
                    del self._outgoing[: os.write(self._requests, self._outgoing[:_WRITE])]
                except BlockingIOError:
                    self._take_until_writable()
                except BrokenPipeError:
                    # A host that has ended is noticed by whoever waits for its answer.
                    self._outgoing.clear()
        finally:
            self._flushing = False

    def _take_until_writable(self) -> None:
        """The host may be about to write more than a pipe holds, and read nothing before."""
        poll = select.poll()
        poll.register(self._requests, select.POLLOUT)
        for descriptor in self.descriptors:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll():
            if descriptor in self.descriptors:
                self.take(descriptor)


def _read(descriptor: int) -> bytes | None:
    """What is there; None if nothing, empty at the end."""
    try:
        return os.read(descriptor, _READ)
    except BlockingIOError:
        return None
