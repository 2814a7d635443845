"""The lean kernel: cells run by IPython's shell with little around them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from inspect import signature
from threading import current_thread, main_thread
from typing import Any

from kernelagent_python.kernel import KernelagentKernel
from kernelagent_python.lean.failures import Failures
from kernelagent_python.lean.serving import LeanServing, Message
from kernelagent_python.lean.streams import drain_all, flush_all
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
        for stream in (sys.stdout, sys.stderr):
            # Perhaps the user's own, or none: no reason to owe the reply.
            with contextlib.suppress(Exception):
                stream.flush()
        flush_all()

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
        result = await self._run_code(content, silent, metadata)
        self._call_back(result, silent)
        interrupts.leave()
        if self.iopub_thread.forked:
            # A child that user code forked and that came back here: the kernel is its parent.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        self._restore_input()
        self._run_scope.leave()
        return self._reply(content)

    async def _run_code(self, content: Message, silent: bool, metadata: Message) -> Any:
        """What the shell says of the cell; None if an interrupt hit IPython's code around it."""
        interrupts = self.interrupts
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
        if broken is None:
            before = result.error_before_exec
            broken = before if before is not None else result.error_in_exec
        self._settle(broken)
        return result

    def _call_back(self, result: Any, silent: bool) -> None:
        """Call what waits for the end of a cell; each call can be interrupted by itself."""
        self._settle(self._interruption_of("post_execute"))
        if not silent:
            self._settle(self._interruption_of("post_run_cell", result))

    def _settle(self, error: BaseException | None) -> None:
        if error is not None and not self.iopub_thread.forked:
            self.failures.settle(error)

    def _interruption_of(self, event: str, *args: Any) -> BaseException | None:
        try:
            self.shell.events.trigger(event, *args)
        except BaseException as error:
            return error
        return None

    async def _run_cell(self, content: Message, silent: bool, metadata: Message) -> Any:
        shell, code = self.shell, content["code"]
        refused = None
        try:
            transformed = shell.transform_cell(code)
        except Exception:
            transformed, refused = code, sys.exc_info()
        cell = shell.run_cell_async(
            code,
            store_history=content.get("store_history", not silent),
            silent=silent,
            transformed_cell=transformed,
            preprocessing_exc_tuple=refused,
            cell_id=metadata.get("cellId"),
            **({"cell_meta": metadata} if self._takes_cell_meta else {}),
        )
        self.failures.cell = cell
        # Parsing once more to find out is cheap only where there can be an await.
        if refused is None and "a" in transformed and _may_await(transformed):
            run_async = shell.should_run_async(
                code, transformed_cell=transformed, preprocessing_exc_tuple=refused
            )
        else:
            run_async = False
        if run_async and shell.loop_runner is not _asyncio_runner():
            return shell.loop_runner(cell)
        if run_async:
            return await self._await_cell(cell)
        try:
            cell.send(None)
        except StopIteration as finished:
            return finished.value
        return None

    async def _await_cell(self, cell: Any) -> Any:
        """The result of a cell that runs as a task, which an interrupt can cancel."""
        assert self._loop is not None  # noqa: S101 - we run in it
        task = asyncio.ensure_future(cell)
        with self.interrupts.cancelling(task, self._loop):
            # What it waits for may have come already.
            self._loop.call_soon(self._receive)
            return await task

    def _trigger(self, event: str, *args: Any, **kwargs: Any) -> None:
        if event.startswith("pre_"):
            # It would take an interrupt for a failure of the callback, and the cell would run.
            with self.interrupts.deferred():
                self._trigger_event(event, *args, **kwargs)
        elif event.startswith("post_") and current_thread() is main_thread():
            self._trigger_each(event, args, kwargs)
        else:
            self._trigger_event(event, *args, **kwargs)

    def _trigger_each(self, event: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Call every callback, and only then raise what has interrupted one."""
        interrupts = self.interrupts
        before = interrupts.entered
        interrupted: BaseException | None = None
        for callback in list(self.shell.events.callbacks[event]):
            try:
                try:
                    interrupts.entered = True
                    self._call(callback, event, args, kwargs)
                    interrupts.entered = before
                except KeyboardInterrupt as error:
                    interrupts.entered = before
                    interrupted = error
            except KeyboardInterrupt as error:
                # A second signal, in the moment before the line above.
                interrupts.entered = before
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _call(
        self, callback: Any, event: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        # As IPython, which however would take an interrupt for a failure of the callback.
        try:
            callback(*args, **kwargs)
        except Exception:
            if self.shell.events.print_on_error:
                print(  # noqa: T201 - an output of the run
                    f"Error in callback {callback} (for {event}), "
                    f"with arguments args {args},kwargs {kwargs}:"
                )
            self.shell.showtraceback()

    def _reply(self, content: Message) -> Message:
        shell = self.shell
        reply: Message = {"status": "ok", "execution_count": shell.execution_count - 1}
        failure = self.failures.reply()
        if failure is not None:
            reply |= failure
            reply["user_expressions"] = {}
        else:
            wanted = content.get("user_expressions")
            reply["user_expressions"] = shell.user_expressions(wanted) if wanted else {}
        reply["payload"] = shell.payload_manager.read_payload()
        shell.payload_manager.clear_payload()
        return reply


def _may_await(code: str) -> bool:
    return "await" in code or "async" in code


def _asyncio_runner() -> Any:
    from IPython.core.async_helpers import _asyncio_runner as runner

    return runner
