"""Lines, areas and scatters."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.kernels.python.charts.reading import chart_of, plt


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
