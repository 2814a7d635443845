"""Figures as data, on real figures that are never drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import matplotlib as mpl
import numpy as np
import orjson
import pandas as pd
import pytest

mpl.use("Agg")

from matplotlib import dates, pyplot
from matplotlib.figure import Figure

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


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


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


# Figures as a whole


def test_nothing_to_tell_gives_none() -> None:
    assert figure_chart(plt.figure()) is None
    assert figure_chart(plt.subplots()[0]) is None
    assert figure_chart(object()) is None


def test_a_figure_without_pyplot() -> None:
    figure = Figure()
    figure.add_subplot().plot([1, 2], [3, 4])
    assert chart_of(figure)["type"] == "line"


def test_the_figure_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    figure, axes = plt.subplots()
    axes.plot([1, 2], [3, 4], label="a")

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(type(figure.canvas), "draw", forbidden)
    monkeypatch.setattr(Figure, "draw", forbidden)
    assert chart_of(figure)["x_tick_labels"]


def test_ticks_are_those_of_the_drawn_figure() -> None:
    figure, axes = plt.subplots()
    axes.plot([-3, 10], [1, 10_000])
    axes.set_yscale("log")
    chart = chart_of(figure)
    figure.canvas.draw()
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        low, high = axis.get_view_interval()
        shown = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
        assert chart[f"{name}_ticks"] == [tick.get_loc() for tick in shown]
        assert chart[f"{name}_tick_labels"] == [tick.label1.get_text() for tick in shown]


def test_labels_and_units() -> None:
    plt.plot([1, 2])
    plt.xlabel("Time (s)")
    plt.ylabel("Force [N]")
    plt.title("Push")
    chart = chart_of()
    assert (chart["title"], chart["x_label"], chart["y_label"]) == ("Push", "Time (s)", "Force [N]")
    assert (chart["x_unit"], chart["y_unit"]) == ("s", "N")


def test_missing_labels_are_null() -> None:
    plt.plot([1, 2])
    chart = chart_of()
    assert chart["title"] is None
    assert all(chart[name] is None for name in LABELS)


def test_several_axes_are_a_superchart_in_order() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    figure.suptitle("Both")
    left.plot([1, 2])
    left.set_title("Left")
    left.grid(True)
    right.scatter([1], [2])
    chart = chart_of(figure)
    assert (chart["type"], chart["title"]) == ("superchart", "Both")
    assert [(one["type"], one["title"]) for one in chart["elements"]] == [
        ("line", "Left"),
        ("scatter", None),
    ]


def test_the_suptitle_stands_in_for_the_title_of_a_single_axes() -> None:
    plt.plot([1, 2])
    plt.suptitle("Over all")
    assert chart_of()["title"] == "Over all"


def test_unused_axes_that_are_switched_off_are_no_charts() -> None:
    figure, axes = plt.subplots(1, 3)
    axes[0].plot([1, 2])
    axes[1].axis("off")
    axes[2].set_visible(False)
    assert chart_of(figure)["type"] == "line"


def test_twin_axes_are_two_charts() -> None:
    figure, axes = plt.subplots()
    axes.bar(["a", "b"], [1, 2])
    axes.twinx().plot(["a", "b"], [10, 20])
    chart = chart_of(figure)
    assert [one["type"] for one in chart["elements"]] == ["bar", "line"]
    assert chart["elements"][1]["elements"][0]["points"] == [["a", 10.0], ["b", 20.0]]


def test_a_colorbar_is_no_chart() -> None:
    figure, axes = plt.subplots()
    figure.colorbar(axes.scatter([1, 2], [3, 4], c=[5.0, 6.0]))
    chart = chart_of(figure)
    assert chart["type"] == "scatter"
    assert chart["elements"][0]["values"] == [5.0, 6.0]


def test_insets_are_charts() -> None:
    figure, axes = plt.subplots()
    axes.plot([1, 2])
    axes.inset_axes((0.5, 0.5, 0.4, 0.4)).plot([3, 4])
    assert len(chart_of(figure)["elements"]) == 2


def test_an_axes_that_cannot_be_read_is_unknown_and_hurts_no_other() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    left.plot([1, 2])
    right.plot([1, 2])
    right.set_title("Broken")
    del right.lines[0].__dict__["_xy"]
    right.lines[0]._invalidx = right.lines[0]._invalidy = False
    assert [(one["type"], one["title"]) for one in chart_of(figure)["elements"]] == [
        ("line", None),
        ("unknown", "Broken"),
    ]


# Lines


def test_lines_and_their_names() -> None:
    plt.plot([0, 1], [2, 3], label="named")
    plt.plot([0, 1], [4, 5])
    plt.plot([0, 1], [6, 7], label="_hidden")
    chart = chart_of()
    assert [one["label"] for one in chart["elements"]] == ["named", "Line 1", "Line 2"]
    assert chart["elements"][0]["points"] == [[0.0, 2.0], [1.0, 3.0]]
    assert (chart["x_scale"], chart["y_scale"]) == ("linear", "linear")


def test_names_given_to_the_legend_alone() -> None:
    plt.plot([1, 2])
    plt.plot([3, 4])
    assert [one["label"] for one in chart_of()["elements"]] == ["Line 0", "Line 1"]
    plt.legend(["a", "b"])
    assert [one["label"] for one in chart_of()["elements"]] == ["a", "b"]


def test_flat_two_point_lines_stay_and_grid_lines_are_none() -> None:
    plt.plot([0, 1], [2, 2])
    plt.plot([3, 3], [0, 1])
    plt.grid(True, which="both")
    points = [one["points"] for one in chart_of()["elements"]]
    assert points == [[[0.0, 2.0], [1.0, 2.0]], [[3.0, 0.0], [3.0, 1.0]]]


def test_lines_across_the_axes_are_references_not_data() -> None:
    plt.plot([0, 1], [2, 3])
    plt.axhline(2.5, label="limit")
    plt.axvline(0.5)
    plt.axline((0, 0), slope=1)
    plt.axvspan(0.1, 0.2)
    chart = chart_of()
    assert len(chart["elements"]) == 1
    assert chart["reference_lines"] == [
        {"axis": "y", "value": 2.5, "label": "limit"},
        {"axis": "x", "value": 0.5, "label": None},
    ]


def test_missing_numbers_are_null_and_numpy_ones_plain() -> None:
    plt.plot(np.array([1, 2, 3]), np.array([np.nan, np.inf, 5]))
    plt.plot(np.ma.masked_array([1, 2], mask=[False, True]), np.array([1, 2], dtype=np.int8))
    first, second = chart_of()["elements"]
    assert first["points"] == [[1.0, None], [2.0, None], [3.0, 5.0]]
    assert second["points"] == [[1.0, 1.0], [None, 2.0]]


def test_steps_keep_their_points() -> None:
    plt.step([1, 2, 3], [4, 5, 6], where="mid")
    assert chart_of()["elements"][0]["points"] == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]


def test_stems_are_their_tips() -> None:
    plt.stem([1, 2], [3, 4], label="s")
    [element] = chart_of()["elements"]
    assert element == {"label": "s", "points": [[1.0, 3.0], [2.0, 4.0]], "kind": "stem"}


def test_error_bars_keep_the_line_once() -> None:
    plt.errorbar([1, 2], [3, 4], yerr=[[1, 1], [2, 2]], xerr=0.5, capsize=2, label="e")
    [element] = chart_of()["elements"]
    assert (element["label"], element["points"]) == ("e", [[1.0, 3.0], [2.0, 4.0]])
    assert element["error"] == {
        "y": [[2.0, 5.0], [3.0, 6.0]],
        "x": [[0.5, 1.5], [1.5, 2.5]],
    }


def test_error_bars_on_some_points_or_without_a_line() -> None:
    plt.errorbar([1, 2, 3], [4, 5, 6], yerr=1, errorevery=2)
    plt.errorbar([1, 2], [7, 8], yerr=[1, np.nan], fmt="none")
    some, alone = chart_of()["elements"]
    assert some["error"]["y"] == [[3.0, 5.0], [None, None], [5.0, 7.0]]
    assert alone["points"][0] == [1.0, 7.0]
    assert alone["error"]["y"] == [[6.0, 8.0], [None, None]]


def test_areas_keep_their_curve_and_their_base() -> None:
    plt.fill_between([1, 2], [3, 4], label="f")
    plt.stackplot([1, 2], [1, 1], [2, 2], labels=["a", "b"])
    chart = chart_of()
    assert chart["type"] == "line"
    assert [(one["label"], one["base"]) for one in chart["elements"]] == [
        ("f", [0.0, 0.0]),
        ("a", [0.0, 0.0]),
        ("b", [1.0, 1.0]),
    ]
    assert chart["elements"][2]["points"] == [[1.0, 3.0], [2.0, 3.0]]
    assert chart["elements"][0]["kind"] == "area"


def test_sideways_areas_and_separate_lines_keep_their_data() -> None:
    plt.fill_betweenx([1, 2], [3, 4])
    plt.vlines([5, 6], 0, [7, 8])
    area, lines = sorted(chart_of()["elements"], key=lambda one: str(one.get("kind", "line")))
    assert [3.0, 1.0] in area["points"]
    assert [4.0, 2.0] in area["points"]
    assert lines["points"] == [[5.0, 0.0], [5.0, 7.0], [None, None], [6.0, 0.0], [6.0, 8.0]]


def test_a_line_with_an_area_below_it_stays() -> None:
    plt.plot([1, 2], [3, 4])
    plt.fill_between([1, 2], [3, 4], alpha=0.2)
    assert [one["label"] for one in chart_of()["elements"]] == ["Line 0", "Area 0"]


def test_an_area_plot_of_pandas_has_no_doubles() -> None:
    pd.DataFrame({"u": [1, 2], "v": [3, 4]}).plot.area()
    elements = chart_of()["elements"]
    assert [one["label"] for one in elements] == ["u", "v"]
    assert elements[1]["points"] == [[0.0, 4.0], [1.0, 6.0]]


# Scatters


def test_scatters() -> None:
    plt.scatter([1, 2], [3, 4], label="Dataset 1")
    plt.scatter([1, 2], [3, np.nan], s=[10, 20])
    chart = chart_of()
    assert chart["type"] == "scatter"
    first, second = chart["elements"]
    assert first == {"label": "Dataset 1", "points": [[1.0, 3.0], [2.0, 4.0]]}
    assert second["points"] == [[1.0, 3.0], [None, None]]
    assert second["sizes"] == [10.0, 20.0]


def test_markers_without_a_line_are_a_scatter() -> None:
    plt.plot([1, 2], [3, 4], "o")
    plt.plot([1, 2], [3, 4], linestyle="", marker=np.array([[0, 0], [1, 1], [1, 0]]))
    chart = chart_of()
    assert (chart["type"], len(chart["elements"])) == ("scatter", 2)


def test_line_and_scatter_on_one_axes_keep_all_data() -> None:
    plt.scatter([1, 2, 3], [4, 5, 6], label="data")
    plt.plot([1, 3], [4, 6], label="fit")
    chart = chart_of()
    assert chart["type"] == "scatter"
    assert {one["label"]: len(one["points"]) for one in chart["elements"]} == {"data": 3, "fit": 2}
    assert {one["label"]: one.get("kind") for one in chart["elements"]} == {
        "data": None,
        "fit": "line",
    }
    plt.plot([1, 3], [5, 6])
    assert chart_of()["type"] == "line"


# Scales


def test_date_axes() -> None:
    days = [date(2023, 9, 1) + timedelta(days=step) for step in range(3)]
    plt.plot(days, [1, 2, 3])
    chart = chart_of()
    assert (chart["x_scale"], chart["y_scale"]) == ("datetime", "linear")
    assert chart["elements"][0]["points"][0] == ["2023-09-01T00:00:00", 1.0]
    assert chart["x_ticks"][0].startswith("2023-09-01")


def test_dates_keep_their_zone_and_their_fractions() -> None:
    plt.plot([datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)], [1], "o")
    [[x, _]] = chart_of()["elements"][0]["points"]
    assert x == "2024-01-02T03:04:05.678901+00:00"


def test_missing_dates_are_null() -> None:
    plt.plot(np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"), [1, 2])
    points = chart_of()["elements"][0]["points"]
    assert points == [["2024-01-01T00:00:00", 1.0], [None, 2.0]]


def test_numbers_that_are_formatted_as_dates_are_dates() -> None:
    plt.plot([19723, 19724], [1, 2])
    plt.gca().xaxis.set_major_formatter(mdates.DateFormatter("%d"))
    assert chart_of()["elements"][0]["points"][0][0] == "2024-01-01T00:00:00"


@pytest.mark.parametrize(
    ("frequency", "first", "last"),
    [
        ("D", "2024-01-31T00:00:00", "2024-02-02T00:00:00"),
        ("B", "2024-01-31T00:00:00", "2024-02-02T00:00:00"),
        ("ME", "2024-01-01T00:00:00", "2024-03-01T00:00:00"),
        ("QE", "2024-01-01T00:00:00", "2024-07-01T00:00:00"),
        ("15min", "2024-01-31T00:00:00", "2024-01-31T00:30:00"),
    ],
)
@pytest.mark.filterwarnings("ignore:Period with BDay:FutureWarning", "ignore:PeriodDtype")
def test_time_series_of_pandas(frequency: str, first: str, last: str) -> None:
    index = pd.date_range("2024-01-31", periods=3, freq=frequency)
    pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, np.nan]}, index=index).plot()
    chart = chart_of()
    assert (chart["type"], chart["x_scale"]) == ("line", "datetime")
    assert [one["label"] for one in chart["elements"]] == ["a", "b"]
    points = chart["elements"][1]["points"]
    assert (points[0], points[-1]) == ([first, 4.0], [last, None])
    assert all(isinstance(tick, str) for tick in chart["x_ticks"])


def test_periods_and_irregular_times_of_pandas() -> None:
    figure, (left, right) = plt.subplots(1, 2)
    pd.Series([1, 2], index=pd.period_range("2024-01", periods=2, freq="M")).plot(ax=left)
    times = pd.to_datetime(["2024-01-01", "2024-01-05", "2024-01-06"]).tz_localize("Europe/Paris")
    pd.Series([1, 2, 3], index=times).plot(ax=right)
    periods, irregular = chart_of(figure)["elements"]
    assert periods["elements"][0]["points"][1] == ["2024-02-01T00:00:00", 2.0]
    assert irregular["elements"][0]["points"][1] == ["2024-01-05T00:00:00+01:00", 2.0]


def test_durations_of_pandas_stay_numbers() -> None:
    pd.Series([1, 2, 3], index=pd.timedelta_range("1D", periods=3)).plot()
    chart = chart_of()
    assert chart["x_scale"] == "linear"
    assert isinstance(chart["elements"][0]["points"][0][0], float)


def test_categories() -> None:
    plt.plot([1, 2], ["A", "B"])
    chart = chart_of()
    assert (chart["x_scale"], chart["y_scale"]) == ("linear", "categorical")
    assert chart["elements"][0]["points"] == [[1.0, "A"], [2.0, "B"]]
    assert (chart["y_ticks"], chart["y_tick_labels"]) == ([0.0, 1.0], ["A", "B"])


@pytest.mark.parametrize("scale", ["log", "symlog", "asinh"])
def test_other_scales_have_their_own_names(scale: str) -> None:
    plt.plot([1, 10, 100], [1, 10, 100])
    plt.yscale(scale)
    plt.ylabel("Y-axis (log scale)")
    chart = chart_of()
    assert (chart["x_scale"], chart["y_scale"]) == ("linear", scale)
    assert chart["y_unit"] == "log scale"


# Bars


def test_bars() -> None:
    plt.bar(["A", "B"], [100, 200], label="Books")
    assert bars_of(chart_of()) == [("A", "Books", 100.0), ("B", "Books", 200.0)]


def test_bars_of_equal_height() -> None:
    plt.bar(["A", "B", "C"], [5, 5, 5])
    assert bars_of(chart_of()) == [(name, "Group 0", 5.0) for name in "ABC"]


def test_a_single_bar() -> None:
    plt.bar(["only"], [7])
    assert bars_of(chart_of()) == [("only", "Group 0", 7.0)]


def test_bars_at_numbers_are_all_there_under_their_numbers() -> None:
    plt.bar([2, 3.5, 11, 40], [1, 2, 3, 4])
    labels = [label for label, _, _ in bars_of(chart_of())]
    assert labels == ["2", "3.5", "11", "40"]


def test_horizontal_bars() -> None:
    plt.barh(["A", "B"], [1, -2])
    assert bars_of(chart_of()) == [("A", "Group 0", 1.0), ("B", "Group 0", -2.0)]


def test_equal_horizontal_bars_with_errors() -> None:
    plt.barh(["A", "B"], [2, 2], xerr=[0.5, 1])
    chart = chart_of()
    assert bars_of(chart) == [("A", "Group 0", 2.0), ("B", "Group 0", 2.0)]
    assert [bar["error"] for bar in chart["elements"]] == [[1.5, 2.5], [1.0, 3.0]]
    assert "overlays" not in chart


def test_grouped_bars_belong_to_their_tick() -> None:
    x = np.arange(3)
    plt.bar(x - 0.2, [1, 2, 3], 0.4, label="men")
    plt.bar(x + 0.2, [4, 5, 6], 0.4)
    plt.xticks(x, ["p", "q", "r"])
    assert bars_of(chart_of()) == [
        ("p", "men", 1.0),
        ("q", "men", 2.0),
        ("r", "men", 3.0),
        ("p", "Group 1", 4.0),
        ("q", "Group 1", 5.0),
        ("r", "Group 1", 6.0),
    ]


def test_bars_beside_a_named_tick_do_not_take_its_name() -> None:
    plt.bar(range(5), [1, 2, 3, 4, 5])
    plt.xticks([0, 4], ["first", "last"])
    labels = [label for label, _, _ in bars_of(chart_of())]
    assert labels == ["first", "1", "2", "3", "last"]


def test_stacked_bars_keep_their_own_value() -> None:
    pd.DataFrame({"u": [1, 2], "v": [3, 4]}, index=["k", "l"]).plot.bar(stacked=True)
    chart = chart_of()
    assert bars_of(chart) == [
        ("k", "u", 1.0),
        ("l", "u", 2.0),
        ("k", "v", 3.0),
        ("l", "v", 4.0),
    ]
    assert [bar.get("base") for bar in chart["elements"]] == [None, None, 1.0, 2.0]


def test_bars_with_a_label_each() -> None:
    plt.bar(["a", "b"], [1, 2], label=["red", "blue"])
    assert [group for _, group, _ in bars_of(chart_of())] == ["red", "blue"]


def test_touching_bars_with_names_keep_the_names() -> None:
    plt.bar(["a", "b"], [1, 2], width=1)
    assert [label for label, _, _ in bars_of(chart_of())] == ["a", "b"]


def test_bars_without_number_are_null() -> None:
    plt.bar(["a", "b"], [np.nan, 1])
    assert bars_of(chart_of()) == [("a", "Group 0", None), ("b", "Group 0", 1.0)]


def test_bars_at_dates() -> None:
    plt.bar(pd.date_range("2024-01-01", periods=2).to_numpy(), [1, 2])
    assert [label for label, _, _ in bars_of(chart_of())] == ["2024-01-01", "2024-01-02"]


def test_spans_of_time_tell_their_start() -> None:
    starts = [datetime(2024, 1, 1), datetime(2024, 1, 3)]  # noqa: DTZ001
    plt.barh(["a", "b"], [timedelta(days=2)] * 2, left=starts)
    chart = chart_of()
    assert bars_of(chart) == [("a", "Group 0", 2.0), ("b", "Group 0", 2.0)]
    assert chart["elements"][1]["base"] == "2024-01-03T00:00:00"


def test_histograms_have_all_bins_under_their_ranges() -> None:
    plt.hist([0, 1, 1.5, 2, 3], bins=2)
    assert bars_of(chart_of()) == [
        ("0\u20131.5", "Group 0", 2.0),
        ("1.5\u20133", "Group 0", 3.0),
    ]


def test_ranges_tell_narrow_bins_apart() -> None:
    plt.hist(1000 + np.linspace(0, 1, 50), bins=10)
    labels = [label for label, _, _ in bars_of(chart_of())]
    assert labels[:2] == ["1000\u20131000.1", "1000.1\u20131000.2"]
    assert len(set(labels)) == 10


def test_ticks_at_the_edges_of_bins_name_no_bin() -> None:
    plt.hist([0.5, 1.5], bins=[0, 1, 2])
    plt.xticks([0, 1, 2], ["low", "middle", "high"])
    assert [label for label, _, _ in bars_of(chart_of())] == ["0\u20131", "1\u20132"]


def test_stacked_histograms_have_groups() -> None:
    plt.hist([[1, 2], [2, 3]], bins=2, stacked=True, label=["a", "b"])
    assert bars_of(chart_of()) == [
        ("1\u20132", "a", 1.0),
        ("2\u20133", "a", 1.0),
        ("1\u20132", "b", 0.0),
        ("2\u20133", "b", 2.0),
    ]


def test_outlined_histograms_and_stairs_keep_their_data() -> None:
    plt.hist([1, 2, 2, 3], bins=2, histtype="step")
    plt.stairs([4, 5], [0, 1, 2])
    outline, stairs = chart_of()["elements"]
    assert [2.0, 1.0] in outline["points"]
    assert [3.0, 3.0] in outline["points"]
    assert stairs["points"] == [[0.0, 4.0], [1.0, 4.0], [1.0, 5.0], [2.0, 5.0]]


def test_lines_over_bars_are_kept_beside_them() -> None:
    plt.hist([1, 2, 3], bins=3)
    plt.plot([1, 3], [0.5, 1], label="density")
    plt.axvline(2, label="mean")
    chart = chart_of()
    assert len(bars_of(chart)) == 3
    assert chart["overlays"] == [
        {"label": "density", "points": [[1.0, 0.5], [3.0, 1.0]], "kind": "line"}
    ]
    assert chart["reference_lines"] == [{"axis": "x", "value": 2.0, "label": "mean"}]


# Pies


def test_pies() -> None:
    plt.pie([90, 10], labels=["No", "Yes"], startangle=90, autopct="%1.1f%%")
    plt.title("Early?")
    assert chart_of() == {
        "type": "pie",
        "title": "Early?",
        "elements": [
            {"label": "No", "angle": 324.0, "radius": 1.0},
            {"label": "Yes", "angle": 36.0, "radius": 1.0},
        ],
    }


def test_pies_without_labels() -> None:
    plt.pie([1, 3], radius=2)
    chart = chart_of()
    assert [one["label"] for one in chart["elements"]] == ["Slice 0", "Slice 1"]
    assert [one["angle"] for one in chart["elements"]] == [90.0, 270.0]
    assert chart["elements"][0]["radius"] == 2.0
    plt.legend(["a", "b"])
    assert [one["label"] for one in chart_of()["elements"]] == ["a", "b"]


# Box plots

SCORES = {
    "Class A": [85, 90, 78, 92, 88],
    "Class B": [95, 89, 76, 91, 84, 87],
    "Class C": [75, 82, 88, 79, 86],
}


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("notched", [False, True])
@pytest.mark.parametrize("orientation", ["vertical", "horizontal"])
def test_boxes(filled: bool, notched: bool, orientation: Any) -> None:
    plt.boxplot(
        list(SCORES.values()),
        tick_labels=list(SCORES),
        patch_artist=filled,
        notch=notched,
        orientation=orientation,
    )
    chart = chart_of()
    assert chart["type"] == "box_and_whisker"
    assert [list(box.values()) for box in chart["elements"]] == [
        ["Class A", 78, 85, 88, 90, 92, []],
        ["Class B", 84, 84.75, 88, 90.5, 95, [76]],
        ["Class C", 75, 79, 82, 86, 88, []],
    ]
    assert "overlays" not in chart


def test_boxes_drawn_twice_are_told_once() -> None:
    for filled in (False, True):
        plt.boxplot(list(SCORES.values()), tick_labels=list(SCORES), patch_artist=filled)
    chart = chart_of()
    assert [box["label"] for box in chart["elements"]] == list(SCORES)
    assert [box["outliers"] for box in chart["elements"]] == [[], [76.0], []]
    assert "overlays" not in chart


@pytest.mark.parametrize("data", [[[1, 2, 3]], [[1, 2, 3], [11, 12, 13], [21, 22, 23]]])
@pytest.mark.parametrize("filled", [False, True])
def test_a_single_box_and_boxes_of_equal_height(data: list[list[int]], filled: bool) -> None:
    plt.boxplot(data, patch_artist=filled)
    boxes = chart_of()["elements"]
    assert [box["median"] for box in boxes] == [float(values[1]) for values in data]
    assert [box["label"] for box in boxes] == [str(place + 1) for place in range(len(data))]


def test_boxes_without_height_and_with_means() -> None:
    plt.boxplot([[2, 2, 2], [1, 2, 3, 4, 20]], showmeans=True)
    flat, skewed = chart_of()["elements"]
    assert (flat["min"], flat["median"], flat["max"], flat["mean"]) == (2.0, 2.0, 2.0, 2.0)
    assert (skewed["mean"], skewed["outliers"]) == (6.0, [20.0])


def test_boxes_of_pandas() -> None:
    frame = pd.DataFrame({"value": [1, 2, 5, 6], "kind": list("aabb")})
    frame.boxplot(by="kind", column="value")
    boxes = chart_of()["elements"]
    assert [(box["label"], box["median"]) for box in boxes] == [("a", 1.5), ("b", 5.5)]


def test_points_over_boxes_are_kept_beside_them() -> None:
    plt.boxplot([[1, 2, 3]])
    plt.scatter([1, 1, 1], [1, 2, 3])
    chart = chart_of()
    assert chart["type"] == "box_and_whisker"
    assert [len(one["points"]) for one in chart["overlays"]] == [3]


def test_a_rectangle_of_lines_is_no_box() -> None:
    plt.plot([0, 1, 1, 0, 0], [0, 0, 1, 1, 0])
    assert chart_of()["type"] == "line"


# What has no layout of its own


def test_plain_artists_are_unknown() -> None:
    axes = plt.gca()
    axes.add_artist(plt.Circle((0, 0), 1))
    axes.add_artist(plt.Circle((0, 0), 2))
    axes.grid(True)
    axes.set_title("Two Circles")
    assert chart_of() == {"type": "unknown", "title": "Two Circles", "elements": []}


def test_images_and_fields_are_unknown_with_their_title() -> None:
    figure, axes = plt.subplots(2, 2)
    axes[0, 0].imshow([[1, 2], [3, 4]])
    axes[0, 1].pcolormesh([[1, 2], [3, 4]])
    axes[1, 0].contourf([[1, 2], [3, 4]])
    axes[1, 1].hexbin([1, 2, 3], [1, 2, 3])
    for place, one in enumerate(axes.flat):
        one.set_title(f"T{place}")
    charts = chart_of(figure)["elements"]
    assert [(one["type"], one["title"]) for one in charts] == [
        ("unknown", f"T{place}") for place in range(4)
    ]


def test_3d_charts_tell_the_data_not_its_projection() -> None:
    axes: Any = plt.figure().add_subplot(projection="3d")
    axes.scatter([1, 2], [3, 4], [5, 6], label="cloud")
    axes.plot([1, 2], [3, 4], [5, np.nan])
    axes.set_title("Space")
    chart = chart_of()
    assert (chart["type"], chart["title"], chart["elements"]) == ("unknown", "Space", [])
    assert {one["label"]: one["points"] for one in chart["series_3d"]} == {
        "Series 0": [[1.0, 3.0, 5.0], [2.0, 4.0, None]],
        "cloud": [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]],
    }


def test_surfaces_are_unknown() -> None:
    axes: Any = plt.figure().add_subplot(projection="3d")
    axes.plot_surface(*np.meshgrid([1, 2], [1, 2]), np.ones((2, 2)))
    assert chart_of()["type"] == "unknown"


def test_hidden_artists_are_not_told() -> None:
    plt.plot([1, 2], label="seen")
    plt.plot([3, 4], label="unseen")[0].set_visible(False)
    assert [one["label"] for one in chart_of()["elements"]] == ["seen"]


# Limits


def test_long_lines_keep_evenly_chosen_points() -> None:
    plt.plot(np.arange(1_000_000))
    [element] = chart_of(max_points=11)["elements"]
    assert element["total_points"] == 1_000_000
    assert [x for x, _ in element["points"]] == pytest.approx(np.linspace(0, 999_999, 11), abs=1)
    assert len(chart_of()["elements"][0]["points"]) == 2000


def test_errors_and_bases_are_thinned_with_their_points() -> None:
    plt.errorbar(range(100), range(100), yerr=1)
    plt.fill_between(range(100), range(100))
    line, area = chart_of(max_points=5)["elements"]
    assert line["error"]["y"] == [[y - 1, y + 1] for _, y in line["points"]]
    assert len(area["base"]) == len(area["points"]) == 5


def test_many_lines_share_the_points_of_a_chart() -> None:
    for place in range(100):
        plt.plot(np.arange(1000) + place)
    elements = chart_of(max_points=100)["elements"]
    assert len(elements) == 100
    assert sum(len(one["points"]) for one in elements) <= 20 * 100


def test_many_bars_tell_how_many_there_were() -> None:
    plt.hist(range(100), bins=100)
    chart = chart_of(max_points=10)
    assert (len(chart["elements"]), chart["total_elements"]) == (10, 100)


def test_labels_are_clean_and_bounded() -> None:
    plt.plot([1, 2], label="x" * 10_000)
    plt.title("a\ud800")
    chart = chart_of()
    assert len(chart["elements"][0]["label"]) < 600
    assert chart["title"] == "a\ufffd"


def test_the_figure_looks_the_same_afterwards() -> None:
    figure, axes = plt.subplots()
    axes.plot(pd.date_range("2024", periods=3).to_numpy(), [1, 2, 3], label="a")
    axes.bar([19725], [3])
    figure.canvas.draw()
    before = np.asarray(figure.canvas.buffer_rgba()).copy()
    chart_of(figure)
    figure.canvas.draw()
    after = np.asarray(figure.canvas.buffer_rgba())
    assert (before == after).all()
