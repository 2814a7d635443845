"""Data beside the picture: chart and table data as further MIME types of what is displayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.formatters import BaseFormatter
from traitlets import Unicode

from kernelagent_python.charts import figure_chart
from kernelagent_python.frames import frame_data, series_data

CHART_MIME = "application/vnd.kernelagent.chart+json"
TABLE_MIME = "application/vnd.dataframe+json"

# By name, so that no library is imported: an object can only exist if its library is loaded.
_CONVERTERS: dict[str, dict[tuple[str, str], Callable[[Any], Any]]] = {
    CHART_MIME: {("matplotlib.figure", "Figure"): figure_chart},
    TABLE_MIME: {
        ("pandas", "DataFrame"): frame_data,
        ("pandas.core.frame", "DataFrame"): frame_data,
        ("pandas", "Series"): series_data,
        ("pandas.core.series", "Series"): series_data,
    },
}


class _DataFormatter(BaseFormatter):  # type: ignore[misc,unused-ignore] # untyped base
    """Finds the converter by the names of an object's classes.

    IPython's own registration by type is no use here: when the inline backend sets itself up, it
    removes Figure from every registered formatter.
    """

    format_type = Unicode()

    def __call__(self, obj: Any) -> Any:
        converters = _CONVERTERS[self.format_type]
        for cls in type(obj).__mro__:
            convert = converters.get((cls.__module__, cls.__qualname__))
            if convert is not None:
                return convert(obj)
        return None


def install_formatters(shell: Any) -> None:
    """Register the formatters with IPython; what they add can be read in `outputs`."""
    formatter = shell.display_formatter
    for mime in _CONVERTERS:
        formatter.formatters[mime] = _DataFormatter(parent=formatter, format_type=mime)
