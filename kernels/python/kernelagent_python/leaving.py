"""exit() and quit() end the code that calls them, as in a script, and not the kernel."""

from __future__ import annotations

import warnings
from typing import Any

from ipykernel.zmqshell import ZMQExitAutocall


class ScriptExit(ZMQExitAutocall):  # type: ignore[misc,unused-ignore] # untyped base
    """`exit`, `quit`: raise SystemExit.

    IPython's own let the code go on and stop the kernel a moment later, so that the session's state
    is lost with the next run.
    """

    def __call__(self, code: Any = None, keep_kernel: bool = False) -> None:
        if keep_kernel:
            code = None
        raise SystemExit(code)


def install_exit(shell: Any) -> None:
    """Put ours in the place of IPython's, for good: %reset takes them from the shell too."""
    shell.exiter = ScriptExit(shell)
    for name in ("exit", "quit"):
        shell.user_ns[name] = shell.exiter
        shell.user_ns_hidden[name] = shell.exiter
    # Advice for people at a terminal; here it would stand in every answer.
    warnings.filterwarnings("ignore", "To exit: use", UserWarning)
