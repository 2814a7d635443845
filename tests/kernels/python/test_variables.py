"""The list of a kernel's variables."""

from __future__ import annotations

import json
import types
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import orjson
import pandas as pd
import pytest

from kernelagent_python.variables import list_variables


def listed(value: Any) -> dict[str, Any]:
    """The one entry for a variable, after both encoders have accepted the listing."""
    listing = list_variables({"v": value}, ())
    json.dumps(listing, allow_nan=False)
    orjson.dumps(listing)
    [entry] = listing["variables"]
    assert entry["name"] == "v"
    assert len(entry["preview"]) <= 120
    return dict(entry)


class Hostile:
    """Fails wherever code of its own is run."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    def __len__(self) -> int:
        raise RuntimeError("len")

    def __sizeof__(self) -> int:
        raise RuntimeError("sizeof")


def test_names_come_in_order_without_private_and_hidden_ones() -> None:
    namespace = {"b": 1, "_a": 2, "__x": 3, "In": [], "quit": quit, "a": 4}
    listing = list_variables(namespace, {"In", "quit"})
    assert [entry["name"] for entry in listing["variables"]] == ["b", "a"]
    assert (listing["total"], listing["truncated"]) == (2, False)


def test_a_hidden_name_with_a_new_value_is_shown() -> None:
    hidden = {"open": open, "In": []}
    listing = list_variables({"open": 5, "In": hidden["In"]}, hidden)
    assert [entry["name"] for entry in listing["variables"]] == ["open"]


def test_a_long_list_is_cut_but_counted() -> None:
    listing = list_variables({f"v{i}": i for i in range(10)}, (), limit=3)
    assert [entry["name"] for entry in listing["variables"]] == ["v0", "v1", "v2"]
    assert (listing["total"], listing["truncated"]) == (10, True)


@pytest.mark.parametrize(
    ("value", "kind", "shape", "preview"),
    [
        (None, "NoneType", None, "None"),
        (True, "bool", None, "True"),
        (3, "int", None, "3"),
        (2**300, "int", None, "int of 301 bits"),
        (1.5, "float", None, "1.5"),
        ("a\nb", "str", None, r"'a\nb'"),
        (b"ab", "bytes", None, "b'ab'"),
        ([1, [2, [3, [4]]]], "list", [2], "[1, [2, list of 2]]"),
        ((1,), "tuple", [1], "(1,)"),
        ({"k": 1}, "dict", [1], "{'k': 1}"),
        ({1}, "set", [1], "{1}"),
        (set(), "set", [0], "set()"),
        (range(3), "range", None, "range(0, 3)"),
        (Decimal("1.5"), "decimal.Decimal", None, "Decimal('1.5')"),
        (date(2024, 1, 2), "datetime.date", None, "datetime.date(2024, 1, 2)"),
        (OrderedDict(a=1), "collections.OrderedDict", [1], "{'a': 1}"),
        (defaultdict(list, a=[1]), "collections.defaultdict", [1], "{'a': [1]}"),
        (json, "module", None, "module json"),
        (Path, "type", None, "class Path"),
        (len, "builtin_function_or_method", None, "function len"),
    ],
)
def test_builtins(value: Any, kind: str, shape: list[int] | None, preview: str) -> None:
    entry = listed(value)
    assert (entry["type"], entry["shape"], entry["preview"]) == (kind, shape, preview)


def test_numpy_arrays_and_scalars() -> None:
    entry = listed(np.zeros((1000, 10)))
    assert entry == {
        "name": "v",
        "type": "numpy.ndarray",
        "shape": [1000, 10],
        "size": 80_000,
        "preview": "float64 array 1000x10",
    }
    assert listed(np.float64(1.5))["preview"] == "1.5"
    assert listed(np.array(7))["preview"] == "7"
    assert listed(np.longdouble(0.5))["preview"] == "0.5"


def test_pandas_objects() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5]})
    entry = listed(frame)
    assert entry["type"].endswith("DataFrame")
    assert entry["shape"] == [2, 2]
    assert entry["size"] == 32 + frame.index.nbytes
    assert entry["preview"] == "DataFrame 2x2: 'a', 'b'"
    assert listed(frame["a"])["preview"] == "int64 Series 2"
    assert listed(frame.index)["shape"] == [2]
    assert listed(pd.Timestamp("2024-01-02"))["preview"] == "Timestamp('2024-01-02 00:00:00')"
    assert listed(frame.groupby("a"))["shape"] is None


def test_the_cells_of_object_columns_are_not_visited() -> None:
    cells = np.empty(3, dtype=object)
    frame = pd.DataFrame({"a": cells})
    for place in range(3):
        cells[place] = Hostile()  # past the constructor, which looks at them
    entry = listed(frame)
    assert entry["shape"] == [3, 1]
    assert entry["size"] > 0


def test_objects_that_fail_at_everything_are_listed() -> None:
    for value in (Hostile(), [Hostile()], {"k": Hostile()}):
        assert "Hostile" in listed(value)["preview"]


def test_no_repr_of_the_user_is_called() -> None:
    class Slow:
        def __init__(self) -> None:
            self.width = 3
            self.inner = [1, 2]

        def __repr__(self) -> str:
            raise AssertionError("called")

    name = Slow.__qualname__
    assert listed(Slow())["preview"] == f"{name}(width=3, inner=list of 2)"
    assert name[:30] in listed([Slow()])["preview"]


def test_no_property_of_the_user_is_called() -> None:
    class Lazy:
        @property
        def shape(self) -> tuple[int]:
            raise AssertionError("called")

        nbytes = shape

    entry = listed(Lazy())
    assert entry["shape"] is None
    assert entry["size"] > 0


def test_containers_with_code_of_the_user_are_not_entered() -> None:
    class Endless(list[int]):
        def __iter__(self) -> Any:
            raise AssertionError("called")

    assert listed(Endless([1]))["shape"] is None
    assert "object" in listed(Endless([1]))["preview"]


def test_instances_dataclasses_enums_and_named_tuples() -> None:
    @dataclass
    class Point:
        x: int
        y: str

    class Color(Enum):
        RED = 1

    Pair = namedtuple("Pair", "a b")
    assert listed(Point(1, "b"))["preview"].endswith("Point(x=1, y='b')")
    assert listed(Color.RED)["preview"].endswith("Color.RED")
    assert listed(Pair(1, 2))["preview"] == "(1, 2)"
    assert listed(Mock())["shape"] is None


def test_types_are_qualified() -> None:
    assert listed(Path("/tmp"))["type"].startswith("pathlib.")
    main = types.new_class("Thing")
    main.__module__ = "__main__"
    assert listed(main())["type"] == "Thing"


def test_previews_are_short_whatever_the_size() -> None:
    for value in ("x" * 10_000_000, list(range(1_000_000)), dict.fromkeys(range(1000), "y" * 500)):
        assert listed(value)["preview"].endswith(("\u2026", "]", "}"))


def test_lone_surrogates_in_names_and_values() -> None:
    listing = list_variables({"a\ud800": "\udfff"}, ())
    orjson.dumps(listing)
    assert listing["variables"][0]["name"] == "a\ufffd"


def test_names_that_are_no_strings_are_left_out() -> None:
    namespace: dict[Any, object] = {1: 2, "a": 3}
    assert [entry["name"] for entry in list_variables(namespace, ())["variables"]] == ["a"]


def test_a_namespace_that_fails_gives_an_empty_list() -> None:
    class Failing(dict[str, object]):
        def __iter__(self) -> Any:
            raise OSError

    assert list_variables(Failing(a=1), ()) == {"variables": [], "total": 0, "truncated": False}
