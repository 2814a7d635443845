"""A Python kernel on its own: lean where this interpreter can run that, else of stock classes."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

# No history file: it is shared between kernels, and each one would add a thread.
ARGUMENTS = ["--HistoryManager.enabled=False"]
# matplotlib reads it once; the shell of a stock kernel sets it too late.
PLOTS = "module://matplotlib_inline.backend_inline"


@contextlib.contextmanager
def without_debugger() -> Iterator[None]:
    """Import ipykernel without debugpy, which costs 110 ms and 8 MiB and is never used here."""
    if "debugpy" in sys.modules:
        yield
        return
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        # User code that imports debugpy itself must find it.
        del sys.modules["debugpy"]


def launch(argv: list[str], *, stock: bool = False) -> None:
    """Run a kernel until it is shut down; does not return."""
    from kernelagent_python.lean.support import unsupported

    if stock or unsupported() is not None:
        launch_stock(argv, {})
        return
    app = prepare_lean(argv)
    with open(app.abs_connection_file, encoding="utf-8") as file:  # noqa: PTH123 - no pathlib yet
        info = json.load(file)
    app.attach(info, {})
    app.run()
    leave(app)


def prepare_lean(argv: list[str]) -> Any:
    """A lean application without sockets."""
    with without_debugger():
        from kernelagent_python.lean.app import LeanApplication

        app: Any = LeanApplication.instance()
        app.prepare([*ARGUMENTS, *argv])
    _equip(app)
    return app


def launch_stock(argv: list[str], listeners: Mapping[str, int]) -> None:
    """Run a kernel of stock classes until it is shut down."""
    # A crash report must reach the server's pipe even after the kernel has taken over fd 2.
    crash_report = os.fdopen(os.dup(2), "w")
    faulthandler.enable(file=crash_report, all_threads=False)
    with without_debugger():
        from kernelagent_python.stock import StockApplication

        app: Any = StockApplication.instance()
        app.listeners = dict(listeners)
        app.initialize([*ARGUMENTS, *argv])
    _equip(app)
    app.serve()


def leave(app: Any) -> None:
    """End the process as the interpreter would, but without taking its memory apart."""
    import atexit
    import threading

    from kernelagent_python.streams import real_exit

    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined] # joins the user's threads
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    app.close()
    real_exit(0)


def _equip(app: Any) -> None:
    """Add what is ours to a kernel that is built."""
    from kernelagent_python.leaving import install_exit
    from kernelagent_python.packing import pack_any_text
    from kernelagent_python.rich import install_formatters
    from kernelagent_python.streams import flush_before_exit

    pack_any_text(app.session)
    install_exit(app.shell)
    install_formatters(app.shell)
    flush_before_exit()
    # The first cell of a process costs twice as much as the second one: not the user's.
    app.shell.run_cell("None", silent=True)
    app.shell.display_formatter.format(1)
