"""The kernel class: requests carry environment and directory as data, and can ask for variables."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from IPython.core.error import StdinNotImplementedError
from traitlets import Float

from kernelagent_python.scope import RunScope, ScopeError, configure
from kernelagent_python.sidechannel import failure, scope_of
from kernelagent_python.streams import drain_descriptors
from kernelagent_python.variables import list_variables

_NO_INPUT = (
    "input() has nobody to ask: this run is answered in one piece. Run it as a stream "
    "(WebSocket /execute/stream, or Accept: application/x-ndjson) to answer prompts."
)


class KernelagentKernel(IPythonKernel):  # type: ignore[misc,unused-ignore] # untyped base
    """IPythonKernel plus a side channel that user code does not see.

    `metadata["kernelagent"]` of an execute_request may hold `env` (strings) and `cwd`: both hold
    for that run and are undone exactly. A `kernelagent_request` on the shell channel (operations
    `configure` and `variables`) is answered by a `kernelagent_reply`; it touches neither the
    execution count nor the history.
    """

    msg_types = [*IPythonKernel.msg_types, "kernelagent_request"]  # noqa: RUF012

    # Stock kernels pause before each reply in the hope that output overtakes it; our client waits
    # for `idle`, which follows all output.
    _execute_sleep = Float(0.0).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._run_scope = RunScope()
        self.shell_channel_thread: Any = self.shell_channel_thread or _NoShellChannelThread()

    @property
    def _supports_kernel_subshells(self) -> bool:
        return bool(self.shell_channel_thread)

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: dict[str, Any] | None = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        request = scope_of(cell_meta)
        try:
            self._run_scope.enter(request.get("env") or {}, request.get("cwd"))
        except ScopeError as error:
            return failure(error) | {"execution_count": self.execution_count, "payload": []}
        # IPython leaves that of an earlier run if this one is a coroutine.
        self.shell._last_traceback = None
        try:
            reply: dict[str, Any] = await super().do_execute(
                code,
                silent,
                store_history,
                user_expressions,
                allow_stdin,
                cell_meta=cell_meta,
                cell_id=cell_id,
            )
            if reply["status"] == "error" and self.shell._last_traceback is None:
                # IPython could not format the traceback, or was interrupted at that.
                name, text = reply["ename"], reply["evalue"]
                reply["traceback"] = [f"{name}: {text}"]
                self._publish_error(reply)
            return reply
        finally:
            self._run_scope.leave()
            drain_descriptors()

    def _publish_error(self, reply: dict[str, Any]) -> None:
        told = {key: reply[key] for key in ("ename", "evalue", "traceback")}
        self.session.send(
            self.iopub_socket, "error", told, self.get_parent("shell"), ident=self._topic("error")
        )

    async def kernelagent_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Answer one question or order of the side channel."""
        try:
            content = self._answer(parent["content"])
        except ScopeError as error:
            content = failure(error)
        self.session.send(stream, "kernelagent_reply", content, parent, ident=ident)

    def raw_input(self, prompt: str = "") -> str:
        if not self._allow_stdin:
            raise StdinNotImplementedError(_NO_INPUT)
        answer: str = super().raw_input(prompt)
        return answer

    def getpass(self, prompt: str = "", stream: Any = None) -> str:
        if not self._allow_stdin:
            raise StdinNotImplementedError(_NO_INPUT)
        answer: str = super().getpass(prompt, stream)
        return answer

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        if self.shell_channel_thread:
            super()._abort_queues(subshell_id)
            return
        self._aborting = True
        # What has come lines up for its turn, and then the end of aborting behind it: stock code
        # ends it at once, which spares requests that came while the cell awaited something.
        self.shell_stream.flush()
        self.io_loop.add_callback(self._stop_aborting)

    async def _stop_aborting(self) -> None:
        await asyncio.sleep(self.stop_on_error_timeout)
        async with self._main_asyncio_lock:
            self._aborting = False

    def _answer(self, content: dict[str, Any]) -> dict[str, Any]:
        self._run_scope.leave()
        match content.get("op"):
            case "configure":
                configure(content.get("env") or {}, content.get("unset") or [], content.get("cwd"))
                return {"status": "ok"}
            case "variables":
                shell = self.shell
                listing = list_variables(
                    shell.user_ns, shell.user_ns_hidden, limit=content.get("limit", 500)
                )
                return {"status": "ok", **listing}
            case unknown:
                return {
                    "status": "error",
                    "ename": "ValueError",
                    "evalue": f"unknown operation {unknown!r}",
                }


class _NoShellChannelThread:
    """Stands where ipykernel looks for the thread that it would start, and asks only this."""

    parent_thread = threading.main_thread()

    def __bool__(self) -> bool:
        return False
