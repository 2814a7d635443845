"""What the first cells of nearly everybody do, done once before the fork."""

from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any

_DRAW = """
import matplotlib.pyplot as plt
_figure, _axes = plt.subplots()
_axes.plot([0, 1, 2], [0, 1, 0], label="a")
_axes.set(title="t", xlabel="x", ylabel="y")
_axes.legend()
get_ipython().display_formatter.format(_figure)
plt.show()
plt.close("all")
"""

_TABULATE = """
import pandas as pd
_frame = pd.DataFrame({"a": range(3), "b": list("xyz"), "c": [1.5, 2.5, None]})
get_ipython().display_formatter.format(_frame)
_frame.describe()
"""


def warm(app: Any) -> None:
    """Run cells, draw a figure and a table; leaves nothing in the namespace."""
    shell = app.shell
    before = dict(shell.user_ns)
    cells = ["1", "print(1)", "raise ValueError", "'text'.format"]
    if "matplotlib.pyplot" in sys.modules:
        cells.append(_DRAW)
    if "pandas" in sys.modules:
        cells.append(_TABULATE)
    with warnings.catch_warnings():
        for cell in cells:
            shell.run_cell(cell, silent=True)
    shell.display_formatter.format("1")
    shell.user_ns.clear()
    shell.user_ns.update(before)
    for name in ("last_type", "last_value", "last_traceback", "last_exc"):
        with contextlib.suppress(AttributeError):
            delattr(sys, name)
    shell.last_execution_result = None
    shell.last_execution_succeeded = True
    shell._last_traceback = None
