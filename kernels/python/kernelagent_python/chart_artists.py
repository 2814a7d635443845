"""What was drawn on one matplotlib axes: lines, points, areas, bars and slices.

Every artist is read from its own data, never from what it looks like on the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kernelagent_python.chart_axes import AxisReader, label_or_none, numbers_list

# How unlabelled elements are called: "Line 0", "Line 1", ...
NOUNS = {"line": "Line", "stem": "Line", "scatter": "Points", "area": "Area"}

NO_LINE = frozenset({"None", "none", " ", ""})
NO_MARKER = frozenset({"None", "none", " ", ""})


@dataclass
class Series:
    """Points that belong together. All arrays have the same length."""

    kind: str
    label: str | None
    x: Any
    y: Any
    extra: dict[str, Any] = field(default_factory=dict)  # further arrays, one entry per point


class DrawnAxes:
    """The artists of one axes; each is told once, however many parts it is made of."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        self.x = AxisReader(axes, "x")
        self.y = AxisReader(axes, "y")
        self._used: set[int] = set()

    def use(self, artist: Any) -> None:
        """Mark an artist as told."""
        self._used.add(id(artist))

    def fresh(self, artists: Any) -> Iterator[Any]:
        """Visible artists that nothing has told yet."""
        for artist in artists:
            if id(artist) not in self._used and artist.get_visible():
                yield artist

    def on_data(self, transform: Any) -> tuple[bool, bool]:
        """Whether a transform takes data coordinates along x and along y."""
        x, y = transform.contains_branch_seperately(self.axes.transData)
        return bool(x), bool(y)

    def fresh_containers(self, name: str) -> list[Any]:
        """Those of them that nothing has told yet."""
        return [one for one in self.containers(name) if id(one) not in self._used]

    def containers(self, name: str) -> list[Any]:
        """Containers by the name of their class ("BarContainer")."""
        return [
            container
            for container in self.axes.containers
            if name in {base.__name__ for base in type(container).__mro__}
        ]


def slices(axes: DrawnAxes) -> list[dict[str, Any]]:
    """Wedges of a pie: label, angle in degrees, radius."""
    found = []
    for wedge in axes.fresh(axes.axes.patches):
        if type(wedge).__name__ == "Wedge":
            axes.use(wedge)
            # matplotlib keeps the angles of a pie in single precision: 323.99998 for 324.
            angle = round(float(wedge.theta2) - float(wedge.theta1), 4)
            found.append(
                {"label": label_or_none(wedge.get_label()), "angle": angle, "radius": wedge.r}
            )
    legend = _legend_texts(axes.axes)
    for place, element in enumerate(found):
        if element["label"] is None:
            fits = len(legend) == len(found)
            element["label"] = legend[place] if fits else f"Slice {place}"
        element["radius"] = float(element["radius"])
    return found


def series(axes: DrawnAxes) -> list[Series]:
    """Lines, scatters, areas, stems and error bars, in order of their kind."""
    found = [*_error_bars(axes), *_stems(axes), *_lines(axes), *_collections(axes)]
    found = _without_edges(found)
    found += _outlines(axes)
    _name(found, _legend_texts(axes.axes))
    return found


def reference_lines(axes: DrawnAxes) -> list[dict[str, Any]]:
    """Lines across the whole axes (axhline, axvline): no data, but a value worth telling."""
    found = []
    for line in axes.fresh(axes.axes.lines):
        on_x, on_y = axes.on_data(line.get_transform())
        if on_x == on_y:
            continue
        axes.use(line)
        points = _plain(line.get_xydata())
        if len(points):
            reader, column = (axes.x, 0) if on_x else (axes.y, 1)
            value = reader.values(points[:1, column])[0]
            label = label_or_none(line.get_label())
            found.append({"axis": reader.name, "value": value, "label": label})
    return found


def series_3d(axes: Any) -> list[dict[str, Any]]:
    """Lines and scatters of 3-D axes: label and the three data columns."""
    import numpy as np

    found = []
    for artist in [*axes.lines, *axes.collections]:
        name = type(artist).__name__
        if name == "Line3D":
            columns = artist.get_data_3d()
        elif name == "Path3DCollection":
            columns = getattr(artist, "_offsets3d", None)
        else:
            continue
        if columns is not None and artist.get_visible():
            arrays = [_plain(column) for column in columns]
            points = np.column_stack(np.broadcast_arrays(*arrays))
            found.append({"label": label_or_none(artist.get_label()), "points": points})
    return found


def _error_bars(axes: DrawnAxes) -> Iterator[Series]:
    for container in axes.fresh_containers("ErrorbarContainer"):
        line, caps, bars = container.lines
        for part in (*caps, *bars):
            axes.use(part)
        if line is not None:
            axes.use(line)
        if not any(part.get_visible() for part in (*bars, *([line] if line else []))):
            continue
        directions = ["x"] * bool(container.has_xerr) + ["y"] * bool(container.has_yerr)
        segments = {
            direction: _segments(bar) for direction, bar in zip(directions, bars, strict=False)
        }
        label = label_or_none(container.get_label())
        if line is not None:
            label = label or label_or_none(line.get_label())
            points = _plain(line.get_xydata())
            kind = _line_kind(line)
        else:
            points = _middles(segments)
            kind = "scatter"
        extra = {
            f"error_{direction}": _error_range(points, ends, 0 if direction == "x" else 1)
            for direction, ends in segments.items()
        }
        yield Series(kind, label, points[:, 0], points[:, 1], extra)


def error_ranges(container: Any, column: int, count: int) -> list[list[float | None]] | None:
    """[low, high] for each bar of a bar chart; None if bars and errors do not pair up."""
    if container is None or not container.lines[2]:
        return None
    ends = _segments(container.lines[2][-column])  # x before y, where there are both
    return [numbers_list(end) for end in ends[:, :, column]] if len(ends) == count else None


def _segments(collection: Any) -> Any:
    """The two ends of each line of a collection, as an array (lines, 2, xy)."""
    import numpy as np

    ends = np.full((len(collection.get_paths()), 2, 2), np.nan)
    for place, path in enumerate(collection.get_paths()):
        if len(path.vertices):
            ends[place, 0] = path.vertices[0]
            ends[place, 1] = path.vertices[-1]
    return ends


def _middles(segments: dict[str, Any]) -> Any:
    import numpy as np

    parts = list(segments.values())
    return np.mean(parts[-1], axis=1) if parts else np.empty((0, 2))


def _error_range(points: Any, ends: Any, column: int) -> Any:
    """Low and high end for each point; with `errorevery` some points have none."""
    import numpy as np

    if len(ends) == len(points):
        return ends[:, :, column]
    ranges = np.full((len(points), 2), np.nan)
    other = 1 - column
    at = {float(end[0, other]): end[:, column] for end in ends}
    for place, point in enumerate(points):
        found = at.get(float(point[other]))
        if found is not None and found[0] <= point[column] <= found[1]:
            ranges[place] = found
    return ranges


def _stems(axes: DrawnAxes) -> Iterator[Series]:
    for container in axes.containers("StemContainer"):
        stems = container.stemlines
        for part in (container.markerline, container.baseline):
            axes.use(part)
        for part in stems if isinstance(stems, list | tuple) else [stems]:
            axes.use(part)
        points = _plain(container.markerline.get_xydata())
        label = label_or_none(container.get_label())
        label = label or label_or_none(container.markerline.get_label())
        yield Series("stem", label, points[:, 0], points[:, 1])


def _lines(axes: DrawnAxes) -> Iterator[Series]:
    for line in axes.fresh(axes.axes.lines):
        # AxLine has a slope through a point and no data of its own.
        if type(line).__name__ == "AxLine" or axes.on_data(line.get_transform()) != (True, True):
            continue
        axes.use(line)
        points = _plain(line.get_xydata())
        if len(points):
            label = label_or_none(line.get_label())
            yield Series(_line_kind(line), label, points[:, 0], points[:, 1])


def _line_kind(line: Any) -> str:
    marker = line.get_marker()  # a name, or a shape of the user's own
    marked = marker is not None and not (isinstance(marker, str) and marker in NO_MARKER)
    return "scatter" if marked and line.get_linestyle() in NO_LINE else "line"


def _collections(axes: DrawnAxes) -> Iterator[Series]:
    for collection in axes.fresh(axes.axes.collections):
        names = {base.__name__ for base in type(collection).__mro__}
        label = label_or_none(collection.get_label())
        if "PathCollection" in names:
            transform = collection.get_offset_transform()
            read: Callable[[Any, str | None], Series | None] = _scatter
        elif names & {"PolyCollection", "LineCollection"} and collection.get_array() is None:
            transform = collection.get_transform()
            read = _area if "PolyCollection" in names else _line_segments
        elif "LineCollection" in names:
            transform = collection.get_transform()
            read = _line_segments
        else:
            continue
        if axes.on_data(transform) == (True, True):
            found = read(collection, label)
            if found is not None:
                axes.use(collection)
                yield found


def _scatter(collection: Any, label: str | None) -> Series:
    import numpy as np

    points = _plain(collection.get_offsets())
    extra = {}
    for name, column in (("values", collection.get_array()), ("sizes", collection.get_sizes())):
        if column is not None and np.shape(column) == (len(points),) and len(points) > 1:
            extra[name] = _plain(column)
    return Series("scatter", label, points[:, 0], points[:, 1], extra)


def _area(collection: Any, label: str | None) -> Series | None:
    """The curve of a fill_between, with the other edge of the area as its base."""
    import numpy as np

    parts = [_area_edges(path.vertices) for path in collection.get_paths()]
    if not parts or any(part is None for part in parts):
        outlines = [path.vertices for path in collection.get_paths() if len(path.vertices)]
        if not outlines or np.shape(collection.get_offsets()) != (1, 2):
            return None
        points = np.concatenate(outlines)
        return Series("area", label, points[:, 0], points[:, 1])
    x, y, base = np.concatenate([part for part in parts if part is not None]).T
    # Either edge may come first; the curve is the one further from zero.
    if np.nansum(np.abs(base)) > np.nansum(np.abs(y)):
        y, base = base, y
    return Series("area", label, x, y, {"base": base})


def _area_edges(vertices: Any) -> Any:
    """Split a fill_between polygon into rows (x, y, base); None if it is another polygon."""
    import numpy as np

    half = (len(vertices) - 3) // 2
    if half < 1 or len(vertices) != 2 * half + 3:
        return None
    there = vertices[1 : half + 1]
    back = vertices[half + 2 : 2 * half + 2][::-1]
    if not np.array_equal(there[:, 0], back[:, 0]):
        return None
    return np.column_stack([there[:, 0], there[:, 1], back[:, 1]])


def _line_segments(collection: Any, label: str | None) -> Series | None:
    """Separate lines (vlines, hlines, events) as one series with gaps between them."""
    import numpy as np

    gap = np.full((1, 2), np.nan)
    parts: list[Any] = []
    for path in collection.get_paths():
        if len(path.vertices):
            parts += [path.vertices, gap]
    if not parts:
        return None
    points = np.concatenate(parts[:-1])
    return Series("line", label, points[:, 0], points[:, 1], {})


def _outlines(axes: DrawnAxes) -> Iterator[Series]:
    """Histograms drawn as one outline (`histtype="step"`), and stairs."""
    import numpy as np

    for patch in axes.fresh(axes.axes.patches):
        if axes.on_data(patch.get_transform()) != (True, True):
            continue
        label = label_or_none(patch.get_label())
        if type(patch).__name__ == "StepPatch":
            values, edges, _ = patch.get_data()
            x = np.repeat(_plain(edges), 2)[1:-1]
            y = np.repeat(_plain(values), 2)
            axes.use(patch)
            yield Series("line", label, x, y)
        elif type(patch).__name__ == "Polygon":
            points = _plain(patch.get_xy())
            moves = np.diff(points, axis=0)
            if len(points) >= 6 and (moves == 0).any(axis=1).all():
                axes.use(patch)
                yield Series("line", label, points[:, 0], points[:, 1])


def _without_edges(found: list[Series]) -> list[Series]:
    """Drop unlabelled lines that are just the edge of a labelled area (pandas draws both)."""
    import numpy as np

    areas = [one for one in found if one.kind == "area" and one.label is not None]
    return [
        one
        for one in found
        if one.kind != "line"
        or one.label is not None
        or one.extra
        or not any(
            np.array_equal(one.x, area.x) and np.array_equal(one.y, area.y) for area in areas
        )
    ]


def _name(found: list[Series], legend: list[str]) -> None:
    if legend and len(legend) == len(found) and all(one.label is None for one in found):
        for one, text in zip(found, legend, strict=True):
            one.label = text
    counts: dict[str, int] = {}
    for one in found:
        noun = NOUNS[one.kind]
        number = counts.get(noun, 0)
        counts[noun] = number + 1
        if one.label is None:
            one.label = f"{noun} {number}"


def _legend_texts(axes: Any) -> list[str]:
    """Labels given to the legend alone, as in `ax.legend(["a", "b"])`."""
    legend = axes.get_legend()
    if legend is None:
        return []
    return [label_or_none(text.get_text()) or "" for text in legend.get_texts()]


def _plain(values: Any) -> Any:
    """A float array; what is masked becomes NaN."""
    import numpy as np

    return np.ma.filled(np.ma.asarray(values, dtype=float), np.nan)
