"""matplotlib figures as data: one chart object per figure, read without drawing it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from kernelagent_python.chart_artists import (
    DrawnAxes,
    Series,
    reference_lines,
    series,
    series_3d,
    slices,
)
from kernelagent_python.chart_axes import (
    AxisReader,
    label_or_none,
    numbers_list,
    title_or_none,
    unit_of,
)
from kernelagent_python.chart_bars import bars, boxes

MAX_ELEMENTS = 1_000
TOTAL_POINTS = 20  # a chart has at most this many times `max_points` points


def figure_chart(figure: Any, *, max_points: int = 2000) -> dict[str, Any] | None:
    """The data of a matplotlib figure; None if there is nothing on it, or it cannot be read.

    Every chart has `type`, `title` and `elements`. By type:

    - "line", "scatter": `x_label`, `x_unit`, `x_ticks`, `x_tick_labels`, `x_scale` and the same
      for y; elements `{"label", "points": [[x, y]]}`, where dates are ISO 8601 strings and
      missing values None. An element of another nature than its chart has a `kind`;
    - "bar": labels and units; elements `{"label", "group", "value"}`;
    - "box_and_whisker": labels and units; elements `{"label", "min", "first_quartile", "median",
      "third_quartile", "max", "outliers"}`;
    - "pie": elements `{"label", "angle", "radius"}`, angles in degrees;
    - "superchart": elements are the charts of the axes, in order;
    - "unknown": no elements; 3-D axes tell their data as `series_3d`.

    Of longer elements `max_points` evenly chosen points remain, and `total_points` tells how many
    there were; `total_elements` does so for elements. Further keys where they apply: `error`
    (low and high ends), `base`, `values`, `sizes` on elements; `overlays` (points drawn over
    bars, boxes or pies) and `reference_lines` on charts. Never draws, never raises.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _figure(figure, max(2, max_points))
    except Exception:
        return None


def _figure(figure: Any, max_points: int) -> dict[str, Any] | None:
    shown = list(_shown_axes(figure))
    if all(_blank(axes) for axes in shown):
        return None
    suptitle = getattr(figure, "_suptitle", None)
    title = title_or_none(suptitle.get_text()) if suptitle is not None else None
    charts = [_guarded(axes, max_points) for axes in shown]
    if len(charts) > 1:
        return {"type": "superchart", "title": title, "elements": charts}
    charts[0]["title"] = charts[0]["title"] or title
    return charts[0]


def _shown_axes(figure: Any) -> Iterator[Any]:
    for axes in figure.axes:
        colorbar = hasattr(axes, "_colorbar") or axes.get_label() == "<colorbar>"
        if colorbar or not axes.get_visible() or (not axes.axison and _blank(axes)):
            continue
        yield axes
        for inset in axes.child_axes:
            if inset.get_visible() and inset.has_data():
                yield inset


def _blank(axes: Any) -> bool:
    return not (axes.has_data() or axes.artists or axes.texts or _title(axes))


def _title(axes: Any) -> str | None:
    titles = (title_or_none(axes.get_title(loc=side)) for side in ("center", "left", "right"))
    return next((title for title in titles if title), None)


def _guarded(axes: Any, max_points: int) -> dict[str, Any]:
    try:
        return _chart(axes, max_points)
    except Exception:
        return {"type": "unknown", "title": _title(axes), "elements": []}


def _chart(axes: Any, max_points: int) -> dict[str, Any]:
    title = _title(axes)
    if axes.name == "3d":
        return _chart_3d(axes, title, max_points)
    drawn = DrawnAxes(axes)
    chart: dict[str, Any]
    if elements := slices(drawn):
        chart = {"type": "pie", "title": title}
    elif elements := boxes(drawn):
        chart = {"type": "box_and_whisker", "title": title, **_labels(axes)}
    elif elements := bars(drawn):
        chart = {"type": "bar", "title": title, **_labels(axes)}
    else:
        return _point_chart(drawn, title, max_points)
    chart["elements"] = _sample(elements, max_points)
    if len(elements) > max_points:
        chart["total_elements"] = len(elements)
    if overlays := series(drawn):
        chart["overlays"] = _elements(drawn, overlays, max_points, plain_kind=None)
    return chart | _references(drawn)


def _labels(axes: Any) -> dict[str, Any]:
    x_label = title_or_none(axes.get_xlabel())
    y_label = title_or_none(axes.get_ylabel())
    return {
        "x_label": x_label,
        "y_label": y_label,
        "x_unit": unit_of(x_label),
        "y_unit": unit_of(y_label),
    }


def _point_chart(drawn: DrawnAxes, title: str | None, max_points: int) -> dict[str, Any]:
    references = _references(drawn)
    found = series(drawn)
    if not found:
        return {"type": "unknown", "title": title, "elements": []} | references
    kind = _main_kind(found)
    chart = {"type": kind, "title": title, **_labels(drawn.axes)}
    chart |= _scale(drawn.x) | _scale(drawn.y)
    chart["elements"] = _elements(drawn, found, max_points, plain_kind=kind)
    if len(found) > MAX_ELEMENTS:
        chart["total_elements"] = len(found)
    return chart | references


def _main_kind(found: list[Series]) -> str:
    """What there is more of; between one scatter and one line, the points are the data."""
    scatters = [one for one in found if one.kind == "scatter"]
    others = [one for one in found if one.kind != "scatter"]
    if len(scatters) != len(others):
        return "scatter" if len(scatters) > len(others) else "line"
    points = sum(len(one.x) for one in scatters)
    return "scatter" if points >= sum(len(one.x) for one in others) else "line"


def _scale(reader: AxisReader) -> dict[str, Any]:
    ticks, labels = reader.ticks()
    name = reader.name
    return {f"{name}_ticks": ticks, f"{name}_tick_labels": labels, f"{name}_scale": reader.scale}


def _references(drawn: DrawnAxes) -> dict[str, Any]:
    lines = reference_lines(drawn)
    return {"reference_lines": lines[:MAX_ELEMENTS]} if lines else {}


def _elements(
    drawn: DrawnAxes, found: list[Series], max_points: int, plain_kind: str | None
) -> list[dict[str, Any]]:
    found = found[:MAX_ELEMENTS]
    limit = max(2, min(max_points, TOTAL_POINTS * max_points // len(found)))
    return [_element(drawn, one, limit, plain_kind) for one in found]


def _element(drawn: DrawnAxes, one: Series, limit: int, plain_kind: str | None) -> dict[str, Any]:
    x = drawn.x.values(_sample(one.x, limit))
    y = drawn.y.values(_sample(one.y, limit))
    points = [list(point) for point in zip(x, y, strict=True)]
    element: dict[str, Any] = {"label": one.label, "points": points}
    if one.kind != plain_kind:
        element["kind"] = one.kind
    if len(one.x) > limit:
        element["total_points"] = len(one.x)
    for name, column in one.extra.items():
        shown = _sample(column, limit)
        if name.startswith("error_"):
            reader = drawn.x if name == "error_x" else drawn.y
            ends = zip(reader.values(shown[:, 0]), reader.values(shown[:, 1]), strict=True)
            element.setdefault("error", {})[reader.name] = [list(pair) for pair in ends]
        elif name == "base":
            element[name] = drawn.y.values(shown)
        else:
            element[name] = numbers_list(shown)
    return element


def _sample(values: Any, limit: int) -> Any:
    """At most `limit` entries of an array or list, evenly spread, with the first and the last."""
    count = len(values)
    if count <= limit:
        return values
    places = [place * (count - 1) // (limit - 1) for place in range(limit)]
    return [values[place] for place in places] if isinstance(values, list) else values[places]


def _chart_3d(axes: Any, title: str | None, max_points: int) -> dict[str, Any]:
    chart: dict[str, Any] = {"type": "unknown", "title": title, "elements": []}
    found = series_3d(axes)[:MAX_ELEMENTS]
    if found:
        limit = max(2, min(max_points, TOTAL_POINTS * max_points // len(found)))
        chart["series_3d"] = []
        for number, one in enumerate(found):
            points = [numbers_list(point) for point in _sample(one["points"], limit)]
            element = {"label": one["label"] or f"Series {number}", "points": points}
            if len(one["points"]) > limit:
                element["total_points"] = len(one["points"])
            chart["series_3d"].append(element)
        for name in "xyz":
            label = getattr(axes, f"get_{name}label")()
            chart[f"{name}_label"] = label_or_none(label)
    return chart
