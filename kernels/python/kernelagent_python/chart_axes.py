"""One axis of a matplotlib chart: its scale, its ticks and what its numbers mean.

matplotlib keeps every position as a float. Whether 19723.0 is a day, a period of a pandas
time series, a category or just a number is known by the axis alone.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from datetime import UTC
from functools import cached_property
from typing import Any

from kernelagent_python.jsonsafe import clean_text, safe_text

MAX_LABEL = 500
MAX_TICKS = 1000

# Days from the epoch that are in the years 1 to 9999, as far as ISO 8601 goes.
FIRST_DAY, LAST_DAY = -719_162, 2_932_896

Value = float | str | None


class AxisReader:
    """Reads one `matplotlib.axis.Axis` without drawing it."""

    def __init__(self, axes: Any, name: str) -> None:
        self.axes = axes
        self.axis = getattr(axes, f"{name}axis")
        self.name = name

    @cached_property
    def kind(self) -> str:
        """ "date", "period" (pandas time series), "category" or "number"."""
        converter = _converter(self.axis)
        formatter = self.axis.get_major_formatter()
        names = {base.__name__ for thing in (converter, formatter) for base in type(thing).__mro__}
        modules = {
            base.__module__ for thing in (converter, formatter) for base in type(thing).__mro__
        }
        if names & {"PeriodConverter", "TimeSeries_DateFormatter"} and self._frequency is not None:
            return "period"
        if "StrCategoryConverter" in names or "StrCategoryFormatter" in names:
            return "category"
        if "matplotlib.dates" in modules or names & {
            "DatetimeConverter",
            "PandasAutoDateFormatter",
        }:
            return "date"
        return "number"

    @cached_property
    def _frequency(self) -> Any:
        if self.name != "x":
            return None
        formatter = self.axis.get_major_formatter()
        for holder in (self.axis, formatter, self.axes):
            frequency = getattr(holder, "freq", None)
            if frequency is not None:
                return frequency
        return None

    @cached_property
    def _categories(self) -> dict[int, str]:
        units = getattr(self.axis.units, "_mapping", None)
        if units is None:
            units = getattr(self.axis.get_major_formatter(), "_units", None) or {}
        return {int(place): safe_text(name, MAX_LABEL) for name, place in units.items()}

    @property
    def scale(self) -> str:
        """ "linear", "log" and so on, or "datetime" or "categorical"."""
        if self.kind in {"date", "period"}:
            return "datetime"
        return "categorical" if self.kind == "category" else str(self.axis.get_scale())

    def values(self, numbers: Any) -> list[Value]:
        """Positions on this axis (a float array) as JSON values."""
        if self.kind == "date":
            return _date_values(numbers, self.axis.units)
        if self.kind == "period":
            return _period_values(numbers, self._frequency)
        plain = numbers_list(numbers)
        if self.kind == "category":
            names = self._categories
            return [
                names.get(int(value), value) if value is not None and value.is_integer() else value
                for value in plain
            ]
        return list(plain)

    def ticks(self) -> tuple[list[Value], list[str]]:
        """Major ticks in view and their labels, as a draw would show them."""
        import numpy as np

        locations, labels = self._all_ticks
        if not len(locations):
            return [], []
        low, high = sorted(float(edge) for edge in self.axis.get_view_interval())
        slack = (high - low) * 1e-9
        shown = np.flatnonzero((locations >= low - slack) & (locations <= high + slack))
        shown = shown[:MAX_TICKS]
        numbers = locations[shown]
        values: list[Value] = (
            [*numbers_list(numbers)] if self.kind == "category" else self.values(numbers)
        )
        return values, [labels[place] for place in shown]

    @cached_property
    def _all_ticks(self) -> tuple[Any, list[str]]:
        """Every major tick with its label: a formatter may need them all to label one."""
        import numpy as np

        locations = np.asarray(self.axis.get_majorticklocs(), dtype=float).ravel()
        try:
            # All at once: a list of labels goes by the number of the tick, not by its place.
            texts = self.axis.get_major_formatter().format_ticks(locations.tolist())
            labels = [safe_text(text, MAX_LABEL) for text in texts]
        except Exception:
            labels = []
        if len(labels) != len(locations):
            labels = [f"{location:g}" for location in locations]
        return locations, labels

    @cached_property
    def names(self) -> list[tuple[float, str]]:
        """Sorted ticks that name things, as "a" under a bar; none where ticks are numbers."""
        if self.kind == "category":
            return sorted((float(place), name) for place, name in self._categories.items())
        formatter = type(self.axis.get_major_formatter()).__name__
        fixed = "FixedLocator" in {base.__name__ for base in type(self._locator).__mro__}
        if formatter == "FixedFormatter" or (formatter == "FuncFormatter" and fixed):
            locations, labels = self._all_ticks
            pairs = zip(locations.tolist(), labels, strict=True)
            return sorted((place, label) for place, label in pairs if label)
        return []

    @property
    def _locator(self) -> Any:
        return self.axis.get_major_locator()

    def name_at(self, position: float, reach: float) -> str | None:
        """The name of the tick nearest to `position`, if within `reach` of it."""
        here = bisect_left(self.names, (position, ""))
        near = self.names[max(0, here - 1) : here + 1]
        distance, name = min(((abs(at - position), name) for at, name in near), default=(0.0, None))
        return name if distance <= reach + 1e-9 else None

    def text_at(self, position: float) -> str:
        """A position itself as text."""
        import numpy as np

        value = self.values(np.array([position]))[0]
        if isinstance(value, str):
            return value.removesuffix("T00:00:00")
        return "" if value is None else f"{value:.10g}"


def numbers_list(numbers: Any) -> list[float | None]:
    """A float array as a list, None for what JSON has no number for."""
    import numpy as np

    plain: list[float | None] = numbers.tolist()
    if np.isfinite(numbers).all():
        return plain
    return [value if value is not None and math.isfinite(value) else None for value in plain]


def label_or_none(text: Any) -> str | None:
    """Text of a label; None if empty or one of matplotlib's private ones ("_child0")."""
    if not isinstance(text, str) or not text.strip() or text.startswith("_"):
        return None
    return clean_text(text, MAX_LABEL)


def title_or_none(text: str) -> str | None:
    return clean_text(text, MAX_LABEL) if text else None


def unit_of(label: str | None) -> str | None:
    """The unit in "Time (s)" or "Force [N]"."""
    match = re.search(r"\S\s*[(\[]\s*([^()\[\]]+?)\s*[)\]]\s*$", label or "")
    return match[1] if match else None


def _converter(axis: Any) -> Any:
    # `converter` as an attribute is deprecated from matplotlib 3.10 on.
    return axis.get_converter() if hasattr(axis, "get_converter") else axis.converter


def _date_values(numbers: Any, zone: Any) -> list[Value]:
    import numpy as np
    from matplotlib import dates as matplotlib_dates

    dates: Any = matplotlib_dates
    usable = np.isfinite(numbers) & (numbers > FIRST_DAY) & (numbers < LAST_DAY)
    microseconds = np.round(np.where(usable, numbers, 0.0) * 86_400e6).astype("int64")
    instants = np.datetime64(dates.get_epoch(), "us") + microseconds.astype("timedelta64[us]")
    if hasattr(zone, "utcoffset"):
        texts = [
            instant.replace(tzinfo=UTC).astimezone(zone).isoformat()
            for instant in instants.tolist()
        ]
    else:
        texts = _iso(instants)
    return [text if good else None for text, good in zip(texts, usable.tolist(), strict=True)]


def _period_values(numbers: Any, frequency: Any) -> list[Value]:
    import numpy as np
    import pandas as pd

    usable = np.isfinite(numbers)
    ordinals = np.round(np.where(usable, numbers, 0.0)).astype("int64")
    try:
        if hasattr(pd.PeriodIndex, "from_ordinals"):
            periods = pd.PeriodIndex.from_ordinals(ordinals, freq=frequency)
        else:
            one = [pd.Period(ordinal=int(ordinal), freq=frequency) for ordinal in ordinals]
            periods = pd.PeriodIndex(one)
        texts = _iso(periods.to_timestamp(how="start").to_numpy().astype("datetime64[us]"))
    except Exception:
        return list(numbers_list(numbers))
    return [text if good else None for text, good in zip(texts, usable.tolist(), strict=True)]


def _iso(instants: Any) -> list[str]:
    import numpy as np

    seconds = instants.astype("datetime64[s]")
    texts: list[str] = np.datetime_as_string(
        seconds if (seconds == instants).all() else instants
    ).tolist()
    return texts
