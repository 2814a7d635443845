"""Figures as a whole: which charts they are, their titles, labels and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from kernelagent_python.charts import figure_chart
from tests.kernels.python.charts.reading import LABELS, chart_of, plt


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
