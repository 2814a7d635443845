"""DataFrames and Series as bounded JSON tables. Only the shown head is ever converted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from kernelagent_python.jsonsafe import clean_text, json_safe, safe_text, unique_names

MAX_NAME = 200
MAX_CELL = 10_000
FIRST_CELLS = 1_000

# No JSON number, null or boolean of ours is longer: "-1.7976931348623157e+308, ".
NUMBER_BYTES = 27
PLAIN_TYPES = frozenset({float, int, bool, type(None)})


def frame_data(
    frame: Any, *, max_rows: int = 1000, max_bytes: int = 1_000_000, max_columns: int = 500
) -> dict[str, Any]:
    """The head of a pandas DataFrame as a JSON-safe table.

    Returns `{"kind": "dataframe", "columns": [{"name", "key", "dtype"}],
    "index": {"names", "dtype", "values"}, "rows": [[cell]], "shape": [rows, columns],
    "truncated": bool}`. A column's `name` is a unique string, its `key` the label as JSON (a list
    for a MultiIndex); `values` has one entry per shown row. Missing cells are None. `shape` is
    that of the whole frame. The table as JSON has at most `max_bytes` bytes (rows are left out
    from the end, then columns; below some 500 bytes nothing fits). Never raises: a frame that
    cannot be read gives an empty, truncated table.
    """
    return _guarded("dataframe", frame, max_rows, max_bytes, max_columns)


def series_data(series: Any, *, max_rows: int = 1000, max_bytes: int = 1_000_000) -> dict[str, Any]:
    """The head of a pandas Series, laid out as `frame_data` with one column; `shape` is [rows].

    A series without a name has the column name "value" and the key None.
    """
    return _guarded("series", series, max_rows, max_bytes, 1)


def _guarded(
    kind: str, data: Any, max_rows: int, max_bytes: int, max_columns: int
) -> dict[str, Any]:
    try:
        return _table(kind, data, max_rows, max_bytes, max_columns)
    except Exception:
        return {
            "kind": kind,
            "columns": [],
            "index": {"names": [], "dtype": "", "values": []},
            "rows": [],
            "shape": _shape(data),
            "truncated": True,
        }


def _table(kind: str, data: Any, max_rows: int, max_bytes: int, max_columns: int) -> dict[str, Any]:
    shape = _shape(data)
    rows_wanted = max(0, min(shape[0], max_rows))
    if kind == "series":
        head = data.iloc[:rows_wanted]
        labels, columns = [data.name], [head]
    else:
        head = data.iloc[:rows_wanted, : max(0, max_columns)]
        labels = list(head.columns)
        columns = [head.iloc[:, place] for place in range(len(labels))]
    described = _described(kind, labels, columns)
    index = {"names": _index_names(head.index), "dtype": _dtype(head.index), "values": []}
    table: dict[str, Any] = {
        "kind": kind,
        "columns": described,
        "index": index,
        "rows": [],
        "shape": shape,
        "truncated": True,
    }
    budget = max_bytes - _json_bytes({**table, "columns": []})
    kept = _fitting(described, budget // 2 if rows_wanted else budget)
    table["columns"] = described[:kept]
    budget -= _json_bytes(table["columns"])
    readers = [_reader(column) for column in columns[:kept]]
    rows, values = _rows(_index_reader(head.index), readers, rows_wanted, budget)
    table["rows"], index["values"] = rows, values
    table["truncated"] = len(rows) < shape[0] or kept < (shape[1] if len(shape) > 1 else 1)
    return table


def _shape(data: Any) -> list[int]:
    try:
        return [int(size) for size in data.shape]
    except Exception:
        return []


def _described(kind: str, labels: list[Any], columns: list[Any]) -> list[dict[str, Any]]:
    unnamed = kind == "series" and labels[0] is None
    names = unique_names("value" if unnamed else _label_text(label) for label in labels)
    return [
        {
            "name": name,
            "key": json_safe(label, depth=4, max_items=50, max_string=MAX_NAME),
            "dtype": _dtype(column),
        }
        for name, label, column in zip(names, labels, columns, strict=True)
    ]


def _label_text(label: Any) -> str:
    if isinstance(label, str):
        return clean_text(label, MAX_NAME)
    if isinstance(label, tuple):
        return clean_text(" / ".join(_label_text(part) for part in label), MAX_NAME)
    return safe_text(label, MAX_NAME)


def _dtype(column: Any) -> str:
    return safe_text(getattr(column, "dtype", "object"), MAX_NAME)


def _index_names(index: Any) -> list[Any]:
    return [json_safe(name, depth=4, max_items=50, max_string=MAX_NAME) for name in index.names]


def _fitting(described: list[dict[str, Any]], budget: int) -> int:
    for place, column in enumerate(described):
        budget -= _json_bytes(column) + 2
        if budget < 0:
            return place
    return len(described)


def _rows(
    read_index: Callable[[int, int], list[Any]],
    readers: list[Callable[[int, int], list[Any]]],
    wanted: int,
    budget: int,
) -> tuple[list[list[Any]], list[Any]]:
    """Convert rows in growing chunks, so that wide or heavy tables stop early."""
    rows: list[list[Any]] = []
    values: list[Any] = []
    width = len(readers) + 1
    step = max(1, FIRST_CELLS // width)
    start = 0
    while start < wanted:
        stop = min(wanted, start + step)
        labels = read_index(start, stop)
        cells = [read(start, stop) for read in readers]
        chunk = [list(row) for row in zip(*cells, strict=True)] or [[] for _ in labels]
        upper = sum(_upper_bound(column) for column in (labels, *cells)) + 6 * len(labels)
        if upper > budget:
            fit, used = _exact_fit(chunk, labels, budget)
            rows += chunk[:fit]
            values += labels[:fit]
            if fit < len(labels):
                break
            budget -= used
        else:
            rows += chunk
            values += labels
            budget -= upper
        start = stop
        step *= 4
    return rows, values


def _upper_bound(column: list[Any]) -> int:
    if {type(cell) for cell in column} <= PLAIN_TYPES:
        return NUMBER_BYTES * len(column)  # printing floats costs more than converting them
    return _json_bytes(column)


def _exact_fit(chunk: list[list[Any]], labels: list[Any], budget: int) -> tuple[int, int]:
    used = 0
    for place, (row, label) in enumerate(zip(chunk, labels, strict=True)):
        cost = _json_bytes(row) + _json_bytes(label) + 4
        if used + cost > budget:
            return place, used
        used += cost
    return len(labels), used


def _json_bytes(value: Any) -> int:
    # With ASCII escapes and spaces this is at least as long as any encoding we send.
    return len(json.dumps(value, allow_nan=False))


def _index_reader(index: Any) -> Callable[[int, int], list[Any]]:
    if getattr(index, "nlevels", 1) > 1:
        return lambda start, stop: [_cell(label) for label in index[start:stop].tolist()]
    return _reader(index)


def _reader(column: Any) -> Callable[[int, int], list[Any]]:
    """A function (start, stop) -> JSON cells, chosen once per column by its type."""
    array = column.array
    dtype = type(column.dtype)
    kind = column.dtype.kind if dtype.__module__.partition(".")[0] == "numpy" else "O"
    if kind == "f":
        values = column.to_numpy()
        return lambda start, stop: _floats(values[start:stop].tolist())
    if kind in "iub":
        values = column.to_numpy()
        return lambda start, stop: values[start:stop].tolist()
    if kind == "M":
        return lambda start, stop: _instants(array[start:stop])
    if dtype.__name__ == "DatetimeTZDtype":
        return lambda start, stop: _zoned_instants(array[start:stop])
    return lambda start, stop: _objects(array[start:stop])


def _floats(values: list[Any]) -> list[Any]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _instants(array: Any) -> list[Any]:
    import numpy as np

    values = np.asarray(array)
    coarse = values.astype("datetime64[us]")
    plain = coarse.tolist()
    lossy = ((coarse != values) & ~np.isnat(values)).any()
    if lossy or any(type(value) is int for value in plain):
        # Nanoseconds, or years beyond 9999: more than a datetime can hold.
        return _objects(array)
    return [None if value is None else value.isoformat() for value in plain]


def _zoned_instants(array: Any) -> list[Any]:
    """Local times and their offsets, apart: a Timestamp for each would take ten times as long."""
    import numpy as np

    local = array.tz_localize(None)
    offsets = (np.asarray(local) - np.asarray(array.tz_convert(None))).astype("timedelta64[s]")
    texts = {offset: _offset_text(offset) for offset in set(offsets.tolist())}
    return [
        None if instant is None else instant + texts[offset]
        for instant, offset in zip(_instants(local), offsets.tolist(), strict=True)
    ]


def _offset_text(offset: timedelta | None) -> str:
    if offset is None:
        return ""
    sign = "-" if offset.days < 0 else "+"
    minutes, seconds = divmod(int(abs(offset).total_seconds()), 60)
    text = f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    return f"{text}:{seconds:02d}" if seconds else text


def _objects(array: Any) -> list[Any]:
    try:
        values = array.tolist()
    except Exception:
        values = list(array)
    return [_cell(value) for value in values]


def _cell(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return clean_text(value, MAX_CELL)
    if value is None or kind is bool:
        return value
    return json_safe(value, depth=8, max_items=1000, max_string=MAX_CELL, max_size=MAX_CELL * 2)
