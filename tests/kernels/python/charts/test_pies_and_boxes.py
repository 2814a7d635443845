"""Pies and box plots."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tests.kernels.python.charts.reading import chart_of, plt


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
