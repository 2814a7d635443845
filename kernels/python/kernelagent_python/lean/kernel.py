"""The lean kernel: cells run by IPython's shell with little around them."""

from __future__ import annotations

import asyncio
import os
import sys
from inspect import signature
from typing import Any

from kernelagent_python.kernel import KernelagentKernel
from kernelagent_python.lean.failures import Failures
from kernelagent_python.lean.serving import LeanServing, Message
from kernelagent_python.lean.streams import drain_all
from kernelagent_python.scope import ScopeError
from kernelagent_python.sidechannel import failure, scope_of


class LeanKernel(LeanServing, KernelagentKernel):
    """KernelagentKernel that takes its requests as a lean kernel does."""

    failures: Failures

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._trigger_event = self.shell.events.trigger
        self.shell.events.trigger = self._trigger
        self._takes_cell_meta = "cell_meta" in signature(self.shell.run_cell_async).parameters

    def start(self) -> None:
        self.shell.exit_now = False
        super().start()

    def _settle_output(self) -> None:
        drain_all()
        self.iopub_thread.take_relayed()
        sys.stdout.flush()
        sys.stderr.flush()

    async def _run(self, content: Message, silent: bool, metadata: Message) -> Message:
        """The reply to a request; user code runs between `enter` and `leave`, and nowhere else."""
        interrupts = self.interrupts
        request = scope_of(metadata)
        try:
            self._run_scope.enter(request.get("env") or {}, request.get("cwd"))
        except ScopeError as error:
            interrupts.leave()
            return failure(error) | {"execution_count": self.execution_count, "payload": []}
        self._forward_input(bool(content.get("allow_stdin", False)))
        self.failures.begin()
        result: Any = None
        broken: BaseException | None = None
        try:
            try:
                interrupts.enter()
                result = await self._run_cell(content, silent, metadata)
                interrupts.entered = False
            except BaseException as error:
                interrupts.entered = False
                broken = error
        except BaseException as error:
            # A second signal, in the moment before the line above.
            interrupts.entered = False
            broken = error
        interrupts.leave()
        if self.iopub_thread.forked:
            # A child that user code forked and that came back here: the kernel is its parent.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        self._restore_input()
        self._run_scope.leave()
        reply = self._reply(result, content) if broken is None else self._broken_reply(broken)
        if reply["status"] == "error":
            self.failures.publish_missing(reply)
        return reply

    async def _run_cell(self, content: Message, silent: bool, metadata: Message) -> Any:
        shell, code = self.shell, content["code"]
        refused = None
        try:
            transformed = shell.transform_cell(code)
        except Exception:
            transformed, refused = code, sys.exc_info()
        shell._last_traceback = None
        shell._last_traceback_during_displayhook = False
        cell = shell.run_cell_async(
            code,
            store_history=content.get("store_history", not silent),
            silent=silent,
            transformed_cell=transformed,
            preprocessing_exc_tuple=refused,
            cell_id=metadata.get("cellId"),
            **({"cell_meta": metadata} if self._takes_cell_meta else {}),
        )
        result = None
        try:
            # Parsing once more to find out is cheap only where there can be an await.
            if refused is None and "a" in transformed and _may_await(transformed):
                run_async = shell.should_run_async(
                    code, transformed_cell=transformed, preprocessing_exc_tuple=refused
                )
            else:
                run_async = False
            if run_async and shell.loop_runner is not _asyncio_runner():
                result = shell.loop_runner(cell)
            elif run_async:
                assert self._loop is not None  # noqa: S101 - we run in it
                task = asyncio.ensure_future(cell)
                with self.interrupts.cancelling(task, self._loop):
                    # What it waits for may have come already.
                    self._loop.call_soon(self._receive)
                    result = await task
            else:
                try:
                    cell.send(None)
                except StopIteration as finished:
                    result = finished.value
        finally:
            shell.events.trigger("post_execute")
            if not silent:
                shell.events.trigger("post_run_cell", result)
        return result

    def _trigger(self, event: str, *args: Any, **kwargs: Any) -> None:
        if not event.startswith("pre_"):
            self._trigger_event(event, *args, **kwargs)
            return
        # It would take an interrupt for a failure of the callback, and the cell would run.
        with self.interrupts.deferred():
            self._trigger_event(event, *args, **kwargs)

    def _reply(self, result: Any, content: Message) -> Message:
        shell = self.shell
        reply: Message = {"status": "ok", "execution_count": shell.execution_count - 1}
        error = result.error_before_exec or result.error_in_exec
        if error is not None or getattr(shell, "_last_traceback_during_displayhook", False):
            reply |= self.failures.told_by_reply(error)
            reply["user_expressions"] = {}
        else:
            wanted = content.get("user_expressions")
            reply["user_expressions"] = shell.user_expressions(wanted) if wanted else {}
        reply["payload"] = shell.payload_manager.read_payload()
        shell.payload_manager.clear_payload()
        return reply

    def _broken_reply(self, error: BaseException) -> Message:
        """The reply when an interrupt hit IPython's own code around the cell."""
        return self.failures.told_by_reply(error, late=True) | {
            "execution_count": self.shell.execution_count - 1,
            "user_expressions": {},
            "payload": [],
        }


def _may_await(code: str) -> bool:
    return "await" in code or "async" in code


def _asyncio_runner() -> Any:
    from IPython.core.async_helpers import _asyncio_runner as runner

    return runner
