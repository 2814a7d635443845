"""DataFrames and Series as bounded JSON tables."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest

from kernelagent_python.frames import frame_data, series_data


def table_of(data: Any, **limits: int) -> dict[str, Any]:
    """The table of a frame or series, after both encoders have accepted it."""
    make = series_data if isinstance(data, pd.Series) else frame_data
    table = make(data, **limits)
    json.dumps(table, allow_nan=False)
    orjson.dumps(table)
    return table


def column_of(values: Any, dtype: Any = None) -> list[Any]:
    table = table_of(pd.DataFrame({"c": pd.Series(values, dtype=dtype)}))
    return [row[0] for row in table["rows"]]


def test_a_simple_frame() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, None]}, index=["x", "y"])
    table = table_of(frame)
    assert table == {
        "kind": "dataframe",
        "columns": [
            {"name": "a", "key": "a", "dtype": "int64"},
            {"name": "b", "key": "b", "dtype": "float64"},
        ],
        "index": {"names": [None], "dtype": str(frame.index.dtype), "values": ["x", "y"]},
        "rows": [[1, 0.5], [2, None]],
        "shape": [2, 2],
        "truncated": False,
    }


def test_a_series_has_one_column() -> None:
    table = table_of(pd.Series([1.0, np.inf], name=("a", 1)))
    assert table["kind"] == "series"
    assert table["columns"] == [{"name": "a / 1", "key": ["a", 1], "dtype": "float64"}]
    assert (table["rows"], table["shape"], table["truncated"]) == ([[1.0], [None]], [2], False)


def test_a_series_without_a_name() -> None:
    assert table_of(pd.Series([1]))["columns"][0] == {
        "name": "value",
        "key": None,
        "dtype": "int64",
    }


def test_missing_values_are_null() -> None:
    assert column_of([np.nan, 1.0, -np.inf]) == [None, 1.0, None]
    assert column_of([pd.NaT, pd.Timestamp("2024-01-02")]) == [None, "2024-01-02T00:00:00"]
    assert column_of([1, None], "Int64") == [1, None]
    assert column_of([True, None], "boolean") == [True, None]
    assert column_of(["a", None], "string") == ["a", None]
    assert column_of(["a", None], "str") == ["a", None]


def test_dates_with_zone_and_nanoseconds_keep_both() -> None:
    zoned = pd.to_datetime(["2024-01-31", "NaT", "2024-07-31"]).tz_localize("Europe/Paris")
    assert column_of(zoned) == ["2024-01-31T00:00:00+01:00", None, "2024-07-31T00:00:00+02:00"]
    west = pd.to_datetime(["2024-01-31 12:00"]).tz_localize("America/St_Johns")
    assert column_of(west) == ["2024-01-31T12:00:00-03:30"]
    fine = pd.Series(np.array(["2024-01-01T00:00:00.000000001", "NaT"], dtype="datetime64[ns]"))
    assert column_of(fine) == ["2024-01-01T00:00:00.000000001", None]
    assert column_of(np.array(["20000-01-01"], dtype="datetime64[s]")) == ["20000-01-01T00:00:00"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Decimal("1.10"), "1.10"),
        (pd.Timedelta("1 days 00:00:02"), "P1DT2S"),
        (pd.Period("2024-01", freq="M"), "2024-01"),
        (pd.Interval(0, 1), "(0, 1]"),
        (1 + 2j, "(1+2j)"),
        (date(2024, 1, 2), "2024-01-02"),
        (b"ab", "YWI="),
        (2**70, str(2**70)),
        ({"k": [np.int64(1), np.nan]}, {"k": [1, None]}),
        ("\ud800", "\ufffd"),
    ],
)
def test_cells_of_every_kind(value: Any, expected: Any) -> None:
    assert column_of([value], object) == [expected]
    table = table_of(pd.Series([1], index=pd.Index([value], dtype=object)))
    assert table["index"]["values"] == [expected]


def test_typed_columns_of_every_kind() -> None:
    assert column_of(pd.timedelta_range("1D", periods=2)) == ["P1D", "P2D"]
    assert column_of(pd.period_range("2024", periods=2, freq="Y")) == ["2024", "2025"]
    assert column_of(pd.interval_range(0, 2)) == ["(0, 1]", "(1, 2]"]
    assert column_of(pd.Categorical(["a", None, "a"])) == ["a", None, "a"]
    assert column_of([1 + 2j, np.nan])[0] == "(1+2j)"
    assert column_of(pd.arrays.SparseArray([0, 1])) == [0, 1]
    assert column_of(np.array([2**64 - 1], dtype="uint64")) == [2**64 - 1]
    assert column_of(np.array([0.5], dtype="float16")) == [0.5]


def test_labels_that_are_no_strings_keep_their_value_as_key() -> None:
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=[0, None, pd.Timestamp("2024-01-02"), 1.5])
    columns = table_of(frame)["columns"]
    assert [column["key"] for column in columns] == [0, None, "2024-01-02T00:00:00", 1.5]
    assert len({column["name"] for column in columns}) == 4
    assert columns[0]["name"] == "0"


def test_duplicate_columns_are_all_there() -> None:
    frame = pd.DataFrame([[1, 2.5, "x"]], columns=["a", "a", "a (2)"])
    table = table_of(frame)
    assert [column["name"] for column in table["columns"]] == ["a", "a (3)", "a (2)"]
    assert [column["key"] for column in table["columns"]] == ["a", "a", "a (2)"]
    assert table["rows"] == [[1, 2.5, "x"]]


def test_multi_index_rows_and_columns() -> None:
    frame = pd.DataFrame(
        [[1, 2]],
        index=pd.MultiIndex.from_tuples([("r", pd.NaT)], names=["one", 2]),
        columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]),
    )
    table = table_of(frame)
    assert [column["key"] for column in table["columns"]] == [["a", 1], ["a", 2]]
    assert [column["name"] for column in table["columns"]] == ["a / 1", "a / 2"]
    assert table["index"]["names"] == ["one", 2]
    assert table["index"]["values"] == [["r", None]]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame(),
        pd.DataFrame(columns=["a"]),
        pd.DataFrame(index=[1, 2]),
        pd.Series(dtype=float),
    ],
)
def test_empty_frames(frame: Any) -> None:
    table = table_of(frame)
    assert table["shape"] == list(frame.shape)
    assert not table["truncated"]
    assert len(table["rows"]) == len(table["index"]["values"]) == frame.shape[0]


def test_rows_beyond_the_limit_are_left_out() -> None:
    table = table_of(pd.DataFrame({"a": range(10)}), max_rows=3)
    assert table["rows"] == [[0], [1], [2]]
    assert table["index"]["values"] == [0, 1, 2]
    assert (table["shape"], table["truncated"]) == ([10, 1], True)


def test_columns_beyond_the_limit_are_left_out() -> None:
    table = table_of(pd.DataFrame(np.zeros((2, 100_000))))
    assert len(table["columns"]) == 500
    assert [len(row) for row in table["rows"]] == [500, 500]
    assert (table["shape"], table["truncated"]) == ([2, 100_000], True)


@pytest.mark.parametrize("max_bytes", [600, 2_000, 20_000, 1_000_000])
@pytest.mark.parametrize("text", ["plain", "\x01\u00e4\U0001f600" * 30, "x" * 50_000])
def test_the_json_stays_below_the_limit(max_bytes: int, text: str) -> None:
    frame = pd.DataFrame({f"{text[:50]}{i}": [text] * 500 for i in range(20)}, index=[text] * 500)
    table = table_of(frame, max_bytes=max_bytes)
    assert len(json.dumps(table)) <= max_bytes
    assert len(table["rows"]) == len(table["index"]["values"])
    assert table["truncated"] == (len(table["rows"]) < 500 or len(table["columns"]) < 20)


def test_the_byte_limit_is_used_well() -> None:
    frame = pd.DataFrame(np.random.default_rng(1).normal(size=(5_000, 20)))
    size = len(orjson.dumps(table_of(frame, max_rows=5_000, max_bytes=500_000)))
    assert 300_000 < size <= 500_000


def test_long_cells_are_cut() -> None:
    [cell] = column_of(["x" * 1_000_000])
    assert len(cell) < 11_000
    assert cell.endswith("characters)")


def test_only_the_shown_head_is_converted() -> None:
    class Counted:
        calls = 0

        def __str__(self) -> str:
            Counted.calls += 1
            return "c"

    objects = np.array([Counted() for _ in range(5_000)], dtype=object)
    table = table_of(pd.DataFrame({"a": objects}), max_rows=7)
    assert len(table["rows"]) == Counted.calls == 7


def test_a_heavy_frame_is_not_converted_beyond_the_byte_limit() -> None:
    class Counted:
        calls = 0

        def __str__(self) -> str:
            Counted.calls += 1
            return "c" * 5_000

    objects = np.array([Counted() for _ in range(20_000)], dtype=object)
    table_of(pd.DataFrame({"a": objects}), max_rows=20_000, max_bytes=100_000)
    assert Counted.calls <= 1_000


def test_cells_that_cannot_be_printed_are_described() -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError

        __repr__ = __str__

    assert column_of([Broken()], object) == ["<Broken object>"]


def test_what_is_no_frame_gives_an_empty_table() -> None:
    table = table_of(object())
    assert (table["columns"], table["rows"], table["truncated"]) == ([], [], True)


def test_the_frame_is_not_changed() -> None:
    frame = pd.DataFrame({"a": [1.0, np.nan], "b": pd.Categorical(["x", "y"])})
    before = frame.copy(deep=True)
    table_of(frame)
    pd.testing.assert_frame_equal(frame, before)
