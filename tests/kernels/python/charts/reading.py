"""Charts that are read from figures, and what must hold for each."""

from __future__ import annotations

import json
from typing import Any

import matplotlib as mpl
import orjson

mpl.use("Agg")

from matplotlib import dates, pyplot

from kernelagent_python.charts import figure_chart

# The stubs know neither dates as positions nor what a backend adds.
plt: Any = pyplot
mdates: Any = dates
LABELS = {"x_label", "y_label", "x_unit", "y_unit"}
SCALES = {f"{axis}_{name}" for axis in "xy" for name in ("ticks", "tick_labels", "scale")}
KEYS = {
    "line": LABELS | SCALES,
    "scatter": LABELS | SCALES,
    "bar": LABELS,
    "box_and_whisker": LABELS,
    "pie": set(),
    "superchart": set(),
    "unknown": set(),
}
ELEMENT_KEYS = {
    "line": {"label", "points"},
    "scatter": {"label", "points"},
    "bar": {"label", "group", "value"},
    "box_and_whisker": {
        "label",
        "min",
        "first_quartile",
        "median",
        "third_quartile",
        "max",
        "outliers",
    },
    "pie": {"label", "angle", "radius"},
}


def chart_of(figure: Any = None, **limits: int) -> dict[str, Any]:
    """The chart of a figure or of the current one, complete and accepted by both encoders."""
    chart = figure_chart(figure or plt.gcf(), **limits)
    assert chart is not None
    json.dumps(chart, allow_nan=False)
    orjson.dumps(chart)
    check(chart)
    return chart


def check(chart: dict[str, Any]) -> None:
    """All keys that the clients insist on, and their types."""
    kind = chart["type"]
    assert chart.keys() >= KEYS[kind] | {"type", "title", "elements"}
    for element in chart["elements"]:
        if kind == "superchart":
            check(element)
        else:
            assert element.keys() >= ELEMENT_KEYS[kind]
            assert isinstance(element["label"], str)
    for name in ("x", "y") if chart.keys() >= SCALES else ():
        assert len(chart[f"{name}_ticks"]) == len(chart[f"{name}_tick_labels"])
        assert all(isinstance(tick, float | str) for tick in chart[f"{name}_ticks"])
        assert all(isinstance(label, str) for label in chart[f"{name}_tick_labels"])


def bars_of(chart: dict[str, Any]) -> list[tuple[str, str, float | None]]:
    assert chart["type"] == "bar"
    return [(bar["label"], bar["group"], bar["value"]) for bar in chart["elements"]]
