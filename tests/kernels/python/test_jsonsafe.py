"""Values of every kind as strict JSON."""

from __future__ import annotations

import json
import uuid
from collections import OrderedDict, deque
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import orjson
import pandas as pd
import pytest

from kernelagent_python.jsonsafe import clean_text, describe, json_safe, safe_text, unique_names


def dumped(value: Any, **limits: int) -> Any:
    """json_safe(value), after both encoders have accepted it."""
    result = json_safe(value, **limits)
    json.dumps(result, allow_nan=False)
    orjson.dumps(result)
    return result


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), np.float64("nan")])
def test_numbers_that_json_lacks_become_null(number: float) -> None:
    assert dumped([number, {"a": number}]) == [None, {"a": None}]


def test_decimals_keep_every_digit() -> None:
    assert dumped(Decimal("0.10000000000000000000001")) == "0.10000000000000000000001"
    assert dumped([Decimal("NaN"), Decimal("Infinity")]) == [None, None]


def test_integers_stay_integers_up_to_64_bits() -> None:
    assert dumped([2**53 + 1, 2**64 - 1, -(2**63)]) == [2**53 + 1, 2**64 - 1, -(2**63)]
    assert dumped([2**64, -(2**63) - 1]) == [str(2**64), str(-(2**63) - 1)]


def test_an_integer_too_long_to_print_is_described() -> None:
    assert dumped(10**10_000) == f"<int of {(10**10_000).bit_length()} bits>"


def test_dates_and_times_are_iso_8601() -> None:
    zone = timezone(timedelta(hours=2))
    assert dumped(datetime(2024, 1, 2, 3, 4, tzinfo=zone)) == "2024-01-02T03:04:00+02:00"
    assert dumped(date(2024, 1, 2)) == "2024-01-02"
    assert dumped(time(3, 4, tzinfo=UTC)) == "03:04:00+00:00"


def test_durations_are_iso_8601() -> None:
    assert dumped(timedelta(days=1, hours=2, seconds=0.5)) == "P1DT2H0.5S"
    assert dumped(timedelta(seconds=-1)) == "-PT1S"
    assert dumped(timedelta()) == "PT0S"
    assert dumped(pd.Timedelta("1 days 00:00:00.000000001")) == "P1DT0.000000001S"


def test_pandas_scalars() -> None:
    assert dumped(pd.Timestamp("2024-01-02", tz="Europe/Paris")) == "2024-01-02T00:00:00+01:00"
    assert dumped([pd.NaT, pd.NA]) == [None, None]
    assert dumped(pd.Period("2024-03", freq="M")) == "2024-03"
    assert dumped(pd.Interval(0, 1)) == "(0, 1]"


def test_pandas_collections_become_lists_and_objects() -> None:
    frame = pd.DataFrame({"a": [1.0, None], "b": ["x", "y"]})
    assert dumped([frame]) == [{"a": [1.0, None], "b": ["x", "y"]}]
    assert dumped(pd.Series([1, 2])) == [1, 2]
    assert dumped(pd.Index(["a"])) == ["a"]


def test_numpy_scalars_become_plain_ones() -> None:
    values = [np.int64(3), np.float32(0.5), np.bool_(True), np.str_("s"), np.uint64(2**64 - 1)]
    result = dumped(values)
    assert result == [3, 0.5, True, "s", 2**64 - 1]
    assert [type(value) for value in result] == [int, float, bool, str, int]
    assert dumped([np.longdouble(0.5), np.clongdouble(1)]) == [0.5, "(1+0j)"]


def test_numpy_dates_become_text() -> None:
    assert dumped(np.datetime64("2024-01-02T03:04")) == "2024-01-02T03:04"
    assert dumped([np.datetime64("NaT", "s"), np.timedelta64("NaT", "s")]) == [None, None]
    assert dumped(np.timedelta64(90, "s")) == "PT1M30S"
    assert dumped(np.timedelta64(1_000, "ns")) == "PT0.000001S"


def test_numpy_arrays_become_nested_lists() -> None:
    assert dumped(np.array([[1.0, np.nan], [np.inf, 2.0]])) == [[1.0, None], [None, 2.0]]
    assert dumped(np.array(5)) == 5
    assert dumped(np.ma.masked_array([1, 2], mask=[False, True])) == [1, None]
    assert dumped(np.array([(1, 2.0)], dtype=[("a", int), ("b", float)])) == [{"a": 1, "b": 2.0}]
    assert dumped(np.array([1 + 2j])) == ["(1+2j)"]


def test_an_array_is_read_only_as_far_as_it_is_shown() -> None:
    result = dumped(np.arange(1_000_000), max_items=3)
    assert result == [0, 1, 2, "\u2026 (+999997 items)"]


def test_complex_numbers_and_other_objects_become_text() -> None:
    some_id = uuid.UUID(int=1)
    assert dumped([1 + 2j, Fraction(1, 3), some_id]) == ["(1+2j)", "1/3", str(some_id)]


def test_bytes_become_base64() -> None:
    assert dumped([b"\x00\xff", bytearray(b"a"), memoryview(b"abc")[::2]]) == [
        "AP8=",
        "YQ==",
        "YWM=",
    ]
    assert dumped(b"a" * 100, max_string=8) == "YWFhYWFh\u2026 (+94 bytes)"


def test_other_containers_become_lists() -> None:
    assert dumped([(1, 2), {3, 1, 2}, frozenset("a"), deque([1]), range(2)]) == [
        [1, 2],
        [1, 2, 3],
        ["a"],
        [1],
        [0, 1],
    ]
    assert dumped(OrderedDict(a=1)) == {"a": 1}


def test_keys_become_distinct_strings() -> None:
    value = {1: "int", "1": "text", None: 0, False: 1, (1, "a"): 2, date(2024, 1, 2): 3, np.nan: 4}
    assert dumped(value) == {
        "1": "int",
        "1 (2)": "text",
        "null": 0,
        "false": 1,
        "(1, 'a')": 2,
        "2024-01-02": 3,
        "nan": 4,
    }


def test_lone_surrogates_are_replaced_and_pairs_joined() -> None:
    assert dumped({"\ud800": "a\udfffb", "pair": "\ud83d\ude00"}) == {
        "\ufffd": "a\ufffdb",
        "pair": "\U0001f600",
    }


def test_long_strings_are_cut_with_a_marker() -> None:
    assert dumped("x" * 12, max_string=10) == "x" * 10 + "\u2026 (+2 characters)"


def test_subclasses_of_builtins_become_plain() -> None:
    class Text(str):
        def __len__(self) -> int:
            raise RuntimeError

    class Number(int):
        def __repr__(self) -> str:
            raise RuntimeError

    result = dumped([Text("a"), Number(2)])
    assert result == ["a", 2]
    assert [type(value) for value in result] == [str, int]


def test_a_value_that_contains_itself_ends() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert dumped(loop) == [1, "<list object>"]


def test_deep_nesting_ends_in_a_description() -> None:
    value: Any = "bottom"
    for _ in range(100_000):
        value = [value]
    assert dumped(value, depth=3) == [[["<list object>"]]]


def test_the_whole_answer_is_bounded() -> None:
    wide = [["x" * 1000] * 1000] * 1000
    assert len(orjson.dumps(dumped(wide, max_size=50_000))) < 200_000


def test_large_containers_tell_what_is_missing() -> None:
    assert dumped(range(5), max_items=2) == [0, 1, "\u2026 (+3 items)"]
    assert dumped({"a": 1, "b": 2}, max_items=1) == {"a": 1, "\u2026": "(+1 items)"}


def test_objects_that_cannot_be_printed_are_described() -> None:
    class Broken:
        def __str__(self) -> str:
            raise ValueError("no")

    class Wrong:
        def __str__(self) -> str:
            return cast(str, 3)

    assert dumped([Broken(), Wrong()]) == ["<Broken object>", "<Wrong object>"]


def test_the_text_of_an_object_is_bounded() -> None:
    class Huge:
        def __str__(self) -> str:
            return "x" * 1_000_000

    assert len(dumped(Huge())) < 11_000


def test_objects_of_a_long_list_are_not_all_printed() -> None:
    class Counted:
        calls = 0

        def __str__(self) -> str:
            Counted.calls += 1
            return "c"

    result = dumped([Counted() for _ in range(20_000)])
    assert Counted.calls <= 1_000
    assert (result[0], result[-1]) == ("c", "<Counted object>")


def test_objects_that_pretend_to_be_others_are_survived() -> None:
    assert isinstance(dumped(Mock(spec=int)), str)
    assert isinstance(dumped(Mock(spec=dict)), str)
    assert isinstance(dumped(Mock()), str)


def test_a_mapping_whose_items_raise_is_survived() -> None:
    class Closed(dict[str, int]):
        def items(self) -> Any:
            raise OSError("closed")

    assert dumped([Closed(a=1)]) == ["{'a': 1}"]


def test_values_are_not_changed() -> None:
    array = np.array([np.nan, 1.0])
    value = {"a": [1, {2, 3}], "b": array}
    dumped(value)
    assert value["a"] == [1, {2, 3}]
    assert np.isnan(array[0])


def test_unique_names_do_not_collide_with_given_ones() -> None:
    assert unique_names(["a", "a", "a (2)", "a"]) == ["a", "a (3)", "a (2)", "a (4)"]


def test_text_helpers() -> None:
    assert clean_text("abc", 2) == "ab\u2026 (+1 characters)"
    assert safe_text(12) == "12"
    assert describe(object()) == "<object object>"
