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


# What has no other form than text, unless somebody registers one for the type itself.
_SCALARS = frozenset({int, float, complex, bool, str, bytes})


def install_formatters(shell: Any) -> None:
    """Register the formatters with IPython; what they add can be read in `outputs`."""
    formatter = shell.display_formatter
    for mime in _CONVERTERS:
        formatter.formatters[mime] = _DataFormatter(parent=formatter, format_type=mime)
    _shorten_for_scalars(formatter)


def _shorten_for_scalars(formatter: Any) -> None:
    """Do not ask a dozen formatters about a number: it takes longer than the rest of the cell."""
    ask_all = formatter.format
    others = [one for mime, one in formatter.formatters.items() if mime != "text/plain"]
    others += [formatter.ipython_display_formatter, formatter.mimebundle_formatter]
    plain = formatter.formatters["text/plain"]

    def format_quickly(obj: Any, include: Any = None, exclude: Any = None) -> Any:
        kind = type(obj)
        if (
            kind not in _SCALARS
            or include
            or exclude
            or len(formatter.formatters) != known
            or any(kind in one.type_printers or object in one.type_printers for one in others)
        ):
            return ask_all(obj, include=include, exclude=exclude)
        return {"text/plain": plain(obj)}, {}

    known = len(formatter.formatters)
    formatter.format = format_quickly
