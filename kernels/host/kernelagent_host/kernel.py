"""The host kernel: speaks the Jupyter protocol for a process that runs the code."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import select
import signal
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ipykernel.kernelbase import Kernel

from kernelagent_host.host import Driver, Ended, Failure, HostFailed, MimeBundle, Run
from kernelagent_host.interrupts import HostInterrupts
from kernelagent_host.loading import DriverSpec
from kernelagent_host.output import OutputBuffer
from kernelagent_python.lean.serving import LeanServing, Message
from kernelagent_python.lean.sockets import received
from kernelagent_python.scope import ScopeError, configure
from kernelagent_python.sidechannel import SIDE_CHANNEL, failure, scope_of

_HISTORY = 1000
# How often descriptors of a host that has ended are read again: each read takes all that is there.
_LAST_READS = 1000
_END_OF_FILE = "\x04"


class HostKernel(LeanServing):
    """A kernel that has its code run by a host, through the language's driver.

    The host is replaced when it has ended by itself, and the reply says so in
    `content["kernelagent"]`: `exit_code`, `note`, `state_lost`. If a signal has killed it the
    kernel ends in the same way, so that whoever watches kernels sees what has happened. It has the
    side channel of the Python kernel.
    """

    implementation = "kernelagent"
    implementation_version = importlib.metadata.version("ipykernel")
    msg_types = [*Kernel.msg_types, "kernelagent_request"]  # noqa: RUF012

    interrupts: HostInterrupts
    die: Callable[[int], None]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.execution_count = 1
        self._spec: DriverSpec
        self._driver: Driver
        self._pidfd = -1
        self._output = OutputBuffer(self._send_text)
        self._timer: asyncio.TimerHandle | None = None
        self._watched: set[int] = set()
        self._parent: Message = {}
        self._running = False
        self._ended: Ended | None = None
        self._asking = False
        self._note = ""
        # The count of the last run: by its end `execution_count` is that of the next one.
        self._count = 0
        self._history: deque[tuple[int, int, str]] = deque(maxlen=_HISTORY)

    @property
    def kernel_info(self) -> dict[str, Any]:
        driver = self._driver
        return {
            "protocol_version": "5.4",
            "implementation": f"{self.implementation}-{driver.language_info['name']}",
            "implementation_version": self.implementation_version,
            "language_info": dict(driver.language_info),
            "banner": driver.banner,
            "help_links": [],
            "supported_features": [],
        }

    def start_host(self, spec: DriverSpec) -> None:
        """Start the host that runs the code; raises HostFailed, ImportError."""
        self._spec = spec
        self._driver = driver = spec.make(self)
        try:
            driver.start()
            self._pidfd = os.pidfd_open(driver.pid)
        except BaseException:
            driver.close()
            raise

    def close_host(self) -> None:
        """End the host and what it has started."""
        self._unwatch()
        self._driver.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def listen(self, shell_socket: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().listen(shell_socket, loop)
        self._watch()

    # Runs.

    async def _execute(self, identities: list[bytes], message: Message) -> None:
        await super()._execute(identities, message)
        if self._ended is not None and self._ended.fresh:
            self._replace_host()
        self._watch()

    async def _run(self, content: Message, silent: bool, metadata: Message) -> Message:
        request = scope_of(metadata)
        count = self._count = self.execution_count
        code = content["code"]
        if not silent and content.get("store_history", True):
            self.execution_count += 1
            self._history.append((0, count, code))
        run = Run(
            code,
            count,
            silent,
            bool(content.get("allow_stdin", False)),
            request.get("env") or {},
            request.get("cwd"),
        )
        try:
            ended = self._follow(run)
        except ScopeError as error:
            ended = Ended(Failure("ScopeError", str(error)))
        return self._reply(ended, count, silent)

    def _follow(self, run: Run) -> Ended:
        """Run it to its end; raises ScopeError."""
        self._parent = self.get_parent("shell")
        self._allow_stdin = run.allow_stdin
        self._ended = None
        self._running = True
        self._asking = False
        self.interrupts.take()
        self.interrupts.enter()
        try:
            self._driver.run(run)
            while self._ended is None:
                self._wait(self._output.due_in)
        except HostFailed as error:
            self._ended = Ended(Failure("HostFailed", str(error)), 1, str(error), fresh=True)
        finally:
            self._running = False
            self.interrupts.leave()
        return self._ended

    def _wait(self, seconds: float | None) -> None:
        """Let happen what happens next."""
        driver, output = self._driver, self._output
        poll = select.poll()
        descriptors = list(driver.descriptors)
        for descriptor in (*descriptors, self._pidfd, self.interrupts.descriptor):
            poll.register(descriptor, select.POLLIN)
        if self._asking:
            poll.register(self.stdin_socket.fd, select.POLLIN)
        ready = {found for found, _ in poll.poll(None if seconds is None else seconds * 1000)}
        for descriptor in descriptors:
            # An earlier one may have had the driver close this one.
            if descriptor in ready and descriptor in driver.descriptors:
                driver.take(descriptor)
        if output.due_in == 0:
            output.flush()
        if self._asking:
            self._take_answer()
        if self._ended is not None:
            return
        if self.interrupts.take():
            self._asking = False
            driver.interrupt()
        if self._pidfd in ready:
            self._host_gone()

    def _settle_output(self) -> None:
        self._output.finish()

    def _reply(self, ended: Ended, count: int, silent: bool) -> Message:
        failure = ended.failure
        if failure is None and ended.exit_code:
            failure = Failure("ExitStatus", str(ended.exit_code))
        reply: Message = {"execution_count": count, "user_expressions": {}, "payload": []}
        if failure is None:
            reply["status"] = "ok"
        else:
            error = {
                "ename": failure.name,
                "evalue": failure.value,
                "traceback": list(failure.traceback),
            }
            reply |= {"status": "error", **error}
            self._output.finish()
            if not silent and failure.name != "ScopeError":
                self._publish("error", error)
        note = " ".join(filter(None, (self._note, ended.note)))
        self._note = ""
        reply[SIDE_CHANNEL] = {
            "exit_code": ended.exit_code or (1 if failure else 0),
            "note": note,
            "state_lost": ended.fresh,
        }
        return reply

    # The host between runs.

    def _watch(self) -> None:
        """Have the loop tell of what the host does while nothing runs."""
        loop = self._loop
        if loop is None or self._pidfd < 0:
            return
        wanted = {*self._driver.descriptors, self._pidfd}
        for descriptor in self._watched - wanted:
            loop.remove_reader(descriptor)
        for descriptor in wanted - self._watched:
            loop.add_reader(descriptor, self._take_between_runs, descriptor)
        self._watched = wanted

    def _unwatch(self) -> None:
        if self._loop is not None:
            for descriptor in self._watched:
                self._loop.remove_reader(descriptor)
        self._watched = set()

    def _take_between_runs(self, descriptor: int) -> None:
        driver = self._driver
        try:
            if descriptor in driver.descriptors:
                driver.take(descriptor)
            elif descriptor == self._pidfd:
                self._host_gone()
                ended = self._ended
                if ended is not None and ended.fresh:
                    self._note = ended.note
                    self._replace_host()
        except HostFailed as error:
            self._give_up(str(error))
        self._watch()
        self._flush_in_time()

    def _flush_in_time(self) -> None:
        seconds = self._output.due_in
        if self._loop is None or seconds is None or self._timer is not None:
            return

        def flush() -> None:
            self._timer = None
            self._output.flush()

        self._timer = self._loop.call_later(seconds, flush)

    def _host_gone(self) -> None:
        """It has ended by itself, or something has ended it."""
        driver = self._driver
        for _ in range(_LAST_READS):
            poll = select.poll()
            for descriptor in driver.descriptors:
                poll.register(descriptor, select.POLLIN)
            ready = [found for found, events in poll.poll(0) if events & select.POLLIN]
            if not ready:
                break
            for descriptor in ready:
                if descriptor in driver.descriptors:
                    driver.take(descriptor)
        ended = os.waitid(os.P_PID, driver.pid, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_code != os.CLD_EXITED:
            self._output.finish()
            name = signal.Signals(ended.si_status).name
            os.write(2, f"the process that runs the code was killed by {name}\n".encode())
            self.die(ended.si_status)
        elif ended is not None and (self._ended is None or not self._running):
            self._ended = driver.gone(ended.si_status)

    def _replace_host(self) -> None:
        self.close_host()
        try:
            self.start_host(self._spec)
        except (HostFailed, OSError) as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        os.write(2, f"{reason}\n".encode())
        self.die(signal.SIGKILL)

    # What the driver calls.

    def stream(self, name: str, data: bytes) -> None:
        self._output.add(name, data)
        if not self._running:
            self._flush_in_time()

    def display(
        self,
        data: MimeBundle,
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        self._output.flush()
        content: Message = {"data": data, "metadata": metadata or {}, "transient": {}}
        if display_id is not None:
            content["transient"]["display_id"] = display_id
        self._publish("update_display_data" if update else "display_data", content)

    def result(self, data: MimeBundle, metadata: dict[str, Any] | None = None) -> None:
        self._output.flush()
        content = {"data": data, "metadata": metadata or {}, "execution_count": self._count}
        self._publish("execute_result", content)

    def clear(self, *, wait: bool = False) -> None:
        self._output.flush()
        self._publish("clear_output", {"wait": wait})

    def ask(self, prompt: str, *, password: bool = False) -> None:
        if not self._running or not self._allow_stdin:
            self._driver.deny()
            return
        self._output.finish()
        for _ in received(self.stdin_socket):
            """An answer to an earlier question."""
        self.session.send(
            self.stdin_socket,
            "input_request",
            {"prompt": prompt, "password": password},
            self._parent,
            ident=self._get_shell_context_var(self._shell_parent_ident),
        )
        self._asking = True

    def ended(self, ended: Ended) -> None:
        self._ended = ended

    def _take_answer(self) -> None:
        for frames in received(self.stdin_socket):
            _, parts = self.session.feed_identities(frames)
            with contextlib.suppress(ValueError, LookupError, TypeError):
                value = str(self.session.deserialize(parts)["content"]["value"])
                self._asking = False
                if value == _END_OF_FILE:
                    self._driver.deny()
                else:
                    self._driver.answer(value)

    def _send_text(self, name: str, text: str) -> None:
        self._publish("stream", {"name": name, "text": text})

    def _publish(self, kind: str, content: Message) -> None:
        self.session.send(
            self.iopub_socket, kind, content, parent=self._parent, ident=self._topic(kind)
        )

    # Other requests.

    async def do_complete(self, code: str, cursor_pos: int) -> Message:
        try:
            matches, start, end = self._driver.complete(code, cursor_pos)
        except HostFailed as error:
            return failure(error)
        return {
            "status": "ok",
            "matches": list(matches),
            "cursor_start": start,
            "cursor_end": end,
            "metadata": {},
        }

    async def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()
    ) -> Message:
        del detail_level, omit_sections
        try:
            data = self._driver.inspect(code, cursor_pos)
        except HostFailed as error:
            return failure(error)
        return {"status": "ok", "found": data is not None, "data": data or {}, "metadata": {}}

    async def do_is_complete(self, code: str) -> Message:
        try:
            status = self._driver.is_complete(code)
        except HostFailed:
            status = "unknown"
        return {"status": status, **({"indent": ""} if status == "incomplete" else {})}

    async def do_history(self, hist_access_type: str, *_: Any, **wanted: Any) -> Message:
        """The last cells, whichever were asked for."""
        entries = list(self._history)
        if hist_access_type == "tail" and wanted.get("n"):
            entries = entries[-int(wanted["n"]) :]
        return {"status": "ok", "history": entries}

    async def kernelagent_request(self, stream: Any, ident: Any, parent: Message) -> None:
        """Answer one question or order of the side channel."""
        try:
            content = self._answer(parent["content"])
        except (ScopeError, HostFailed) as error:
            content = failure(error)
        self.session.send(stream, "kernelagent_reply", content, parent, ident=ident)

    def _answer(self, content: Mapping[str, Any]) -> Message:
        match content.get("op"):
            case "configure":
                env, unset = content.get("env") or {}, content.get("unset") or []
                # Here too: another host starts with what this process has.
                configure(env, unset, content.get("cwd"))
                self._driver.configure(env, unset, content.get("cwd"))
                return {"status": "ok"}
            case "variables":
                return {"status": "ok", **self._driver.variables(content.get("limit", 500))}
            case unknown:
                return failure(ValueError(f"unknown operation {unknown!r}"))
