"""Bars and histograms."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from tests.kernels.python.charts.reading import bars_of, chart_of, plt


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
