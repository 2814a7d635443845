"""Axes of dates, times, categories, and other scales."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tests.kernels.python.charts.reading import chart_of, mdates, plt


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
