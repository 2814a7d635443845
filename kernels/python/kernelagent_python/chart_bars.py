"""Bars and boxes of one matplotlib axes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kernelagent_python.chart_artists import NO_LINE, DrawnAxes, error_ranges
from kernelagent_python.chart_axes import AxisReader, label_or_none


def bars(axes: DrawnAxes) -> list[dict[str, Any]]:
    """Bars of every bar container: label, group, value; `base` and `error` where there are any.

    The label is the tick's name under the bar, the range of a bin ("0-1.5") where bars touch each
    other, or else the position.
    """
    containers = [one for one in axes.containers("BarContainer") if len(one.patches)]
    elements: list[dict[str, Any]] = []
    for number, container in enumerate(containers):
        for patch in container.patches:
            axes.use(patch)
        upright = getattr(container, "orientation", None) != "horizontal"
        reader, measure = (axes.x, axes.y) if upright else (axes.y, axes.x)
        spans = [_Span.of(patch, upright) for patch in container.patches]
        labels = _bar_labels(reader, spans, side_by_side=len(containers))
        errors = error_ranges(container.errorbar, 1 if upright else 0, len(spans))
        if container.errorbar is not None:
            _use_error_bar(axes, container.errorbar)
        groups = _groups(container, f"Group {number}")
        for place, (patch, span) in enumerate(zip(container.patches, spans, strict=True)):
            if not patch.get_visible():
                continue
            element: dict[str, Any] = {
                "label": labels[place],
                "group": groups[place],
                "value": span.value if math.isfinite(span.value) else None,
            }
            if span.base and math.isfinite(span.base):
                element["base"] = _value(measure, span.base)
            if errors is not None:
                element["error"] = errors[place]
            elements.append(element)
    return elements


def _groups(container: Any, default: str) -> list[str]:
    """The group of each bar: a label may be on the container, on each bar or on the first one."""
    group = label_or_none(container.get_label())
    own = [label_or_none(patch.get_label()) for patch in container.patches]
    if group is None and not any(own[1:]):
        group = own[0]
    return [group or label or default for label in own]


@dataclass
class _Span:
    """A bar without its direction: where it stands and how long it is."""

    start: float
    stop: float
    base: float
    value: float

    @property
    def center(self) -> float:
        return (self.start + self.stop) / 2

    @classmethod
    def of(cls, patch: Any, upright: bool) -> _Span:
        x, y = float(patch.get_x()), float(patch.get_y())
        width, height = float(patch.get_width()), float(patch.get_height())
        if upright:
            return cls(min(x, x + width), max(x, x + width), y, height)
        return cls(min(y, y + height), max(y, y + height), x, width)


def _value(reader: AxisReader, number: float) -> float | str | None:
    import numpy as np

    return reader.values(np.array([number]))[0]


def _use_error_bar(axes: DrawnAxes, container: Any) -> None:
    axes.use(container)
    line, caps, lines = container.lines
    for part in (*caps, *lines, *([line] if line is not None else [])):
        axes.use(part)


def _bar_labels(reader: AxisReader, spans: list[_Span], side_by_side: int) -> list[str]:
    touching = len(spans) > 1 and all(
        math.isclose(left.stop, right.start, rel_tol=1e-9, abs_tol=1e-6 * (left.stop - left.start))
        for left, right in pairwise(spans)
    )
    ranges = iter(_ranges(reader, spans)) if touching else None
    labels = []
    for span in spans:
        width = span.stop - span.start
        # Under touching bars a tick may stand at an edge, which names neither neighbour.
        reach = width / 4 if touching else width / 2 * side_by_side
        name = reader.name_at(span.center, reach)
        bin_range = next(ranges) if ranges is not None else None
        labels.append(name or bin_range or reader.text_at(span.center))
    return labels


def _ranges(reader: AxisReader, spans: list[_Span]) -> list[str]:
    edges = [spans[0].start, *(span.stop for span in spans)]
    number = reader.kind == "number"
    texts = _short(edges) if number else [reader.text_at(edge) for edge in edges]
    return [f"{low}\u2013{high}" for low, high in pairwise(texts)]


def _short(edges: list[float]) -> list[str]:
    """Numbers in as few digits as tell them apart, off by less than 1 % of a bin."""
    width = min((b - a for a, b in pairwise(edges)), default=0.0)
    # Sums of widths miss zero by a rounding error.
    edges = [0.0 if abs(edge) < width * 1e-9 else edge for edge in edges]
    for digits in range(2, 17):
        texts = [f"{edge:.{digits}g}" for edge in edges]
        if all(
            abs(float(text) - edge) <= width / 100 for text, edge in zip(texts, edges, strict=True)
        ):
            return texts
    return [repr(edge) for edge in edges]


def boxes(axes: DrawnAxes) -> list[dict[str, Any]]:
    """Box plots, filled or not: label, quartiles, ends of the whiskers, outliers.

    matplotlib leaves no trace of a box plot but its lines, so a box is a closed rectangle from
    whose middle one line goes down and one up.
    """
    shapes = list(_rectangles(axes))
    if not shapes:
        return []
    found: list[tuple[Any, dict[str, Any]]] = []
    lines = list(axes.fresh(axes.axes.lines))
    for upright in (True, False):
        index = _LineIndex(lines, upright)
        for artist, (x, y) in shapes:
            across, along = (x, y) if upright else (y, x)
            notched = len(across) > 6  # a notch may reach beyond the quartiles
            ends = (along[0], along[5]) if notched else (min(along), max(along))
            box = _Box(min(across), max(across), *ends, notched)
            element = _box_element(axes, index, box, axes.x if upright else axes.y)
            if element is not None:
                axes.use(artist)
                if element not in (other for _, other in found):
                    found.append((artist, element))
    return [element for _, element in found]


def _rectangles(axes: DrawnAxes) -> Iterator[tuple[Any, tuple[list[float], list[float]]]]:
    """Closed outlines of 4 corners, or 10 with a notch, as they come in a box plot."""
    for artist in axes.fresh(axes.axes.lines):
        points = artist.get_xydata()
        if len(points) in {5, 11} and (points[0] == points[-1]).all():
            yield artist, (points[:, 0].tolist(), points[:, 1].tolist())
    for artist in axes.fresh(axes.axes.patches):
        if type(artist).__name__ == "PathPatch":
            points = artist.get_path().vertices
            if len(points) in {5, 6, 11, 12}:
                yield artist, (points[:, 0].tolist(), points[:, 1].tolist())


@dataclass
class _Box:
    left: float
    right: float
    first_quartile: float
    third_quartile: float
    notched: bool

    @property
    def center(self) -> float:
        return (self.left + self.right) / 2


class _LineIndex:
    """The lines that can be parts of boxes, by the place of the box which they belong to."""

    def __init__(self, lines: list[Any], upright: bool) -> None:
        self.whiskers: dict[str, list[tuple[Any, float, float]]] = defaultdict(list)
        self.levels: dict[str, list[tuple[Any, float, float]]] = defaultdict(list)
        self.markers: dict[str, list[tuple[Any, list[float]]]] = defaultdict(list)
        for line in lines:
            points = line.get_xydata()
            across, along = (points[:, 0], points[:, 1]) if upright else points[:, ::-1].T
            if line.get_linestyle() in NO_LINE:
                if len(points) and (across == across[0]).all():
                    self.markers[_place(float(across[0]))].append((line, along.tolist()))
            elif len(points) == 2:
                (a, b), (start, end) = across.tolist(), along.tolist()
                if a == b:
                    self.whiskers[_place(a)].append((line, start, end))
                if start == end:
                    self.levels[_place((a + b) / 2)].append((line, start, abs(b - a)))


def _place(position: float) -> str:
    return f"{position + 0.0:.9g}"


def _box_element(
    axes: DrawnAxes, index: _LineIndex, box: _Box, reader: AxisReader
) -> dict[str, Any] | None:
    place = _place(box.center)
    whiskers = index.whiskers[place]
    q1, q3 = box.first_quartile, box.third_quartile
    down = [one for one in whiskers if one[1] == q1 and one[2] <= q1]
    up = [one for one in whiskers if one[1] == q3 and one[2] >= q3]
    if not down or not up:
        return None
    low, high = down[0][2], up[-1][2]
    median = _median(index.levels[place], box, low, high)
    if median is None:
        return None
    for line, *_ in (*down, *up):
        axes.use(line)
    for line, level, _ in index.levels[place]:
        if level in {low, high} or q1 <= level <= q3:
            axes.use(line)
    outliers: list[float] = []
    mean = None
    markers = index.markers[place]
    for number, (line, values) in enumerate(markers):
        inside = len(values) == 1 and low <= values[0] <= high
        before_outliers = len(values) == 1 and any(
            other != values for _, other in markers[number + 1 :]
        )
        if inside or before_outliers:
            mean = values[0]
            axes.use(line)
        elif all(value < low or value > high for value in values):
            outliers = values
            axes.use(line)
    label = reader.name_at(box.center, (box.right - box.left) / 2)
    element = {
        "label": label or reader.text_at(box.center),
        "min": low,
        "first_quartile": q1,
        "median": median,
        "third_quartile": q3,
        "max": high,
        "outliers": outliers,
    }
    if mean is not None:
        element["mean"] = mean
    return element


def _median(
    levels: list[tuple[Any, float, float]], box: _Box, low: float, high: float
) -> float | None:
    """The level line inside a box which is not the cap of a whisker without length."""
    inside = [one for one in levels if box.first_quartile <= one[1] <= box.third_quartile]
    width = (box.right - box.left) / (2 if box.notched else 1)
    full = [level for _, level, size in inside if math.isclose(size, width, rel_tol=1e-6)]
    if full and not box.notched:
        return full[0]
    uncapped = [level for _, level, _ in inside if level not in {low, high}]
    candidates = uncapped or full or [level for _, level, _ in inside]
    return candidates[0] if candidates else None
