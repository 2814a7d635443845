"""Strict JSON out of any Python value: no NaN, no lone surrogates, bounded in size.

Nothing here imports numpy or pandas: their objects are known by the module of their type,
so a kernel that never loads them never pays for them.
"""

from __future__ import annotations

import base64
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any

# orjson, like most readers of JSON, has no integers outside the 64-bit range.
MIN_INT = -(2**63)
MAX_INT = 2**64 - 1

# Each `str()` of a foreign object runs foreign code, so a large list of them must not.
MAX_TEXT_CALLS = 1_000


def json_safe(
    value: object,
    *,
    depth: int = 32,
    max_items: int = 100_000,
    max_string: int = 100_000,
    max_size: int = 8_000_000,
) -> Any:
    """Turn `value` into something every strict JSON encoder accepts.

    Missing values and infinities become None, dates ISO 8601, durations ISO 8601 ("P1DT2S"),
    bytes base64, decimals and complex numbers their exact text, integers beyond 64 bit text,
    sets and tuples lists, mappings objects with unique string keys. Anything else becomes its
    `str()`, or a description if that fails. Never raises, never changes `value`.

    Parameters:
        depth: containers nested deeper than this become a description.
        max_items: entries kept per container; a last entry tells how many are missing.
        max_string: characters kept per string; a marker tells how many are missing.
        max_size: rough number of characters of the whole answer.
    """
    try:
        return _Converter(depth, max_items, max_string, max_size).convert(value)
    except Exception:
        return describe(value)


def clean_text(text: str, limit: int = 100_000) -> str:
    """`text` without lone surrogates, cut to about `limit` characters with a marker."""
    if type(text) is not str:
        text = str.__str__(text)  # a subclass may lie about its length and its slices
    if len(text) > limit:
        text = f"{text[:limit]}\u2026 (+{len(text) - limit} characters)"
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        # The round trip also joins surrogates which are a pair into the character they mean.
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def safe_text(value: object, limit: int = 10_000) -> str:
    """`str(value)`, cleaned and cut; a description if the object cannot be printed."""
    try:
        return clean_text(str(value), limit)
    except Exception:
        return describe(value)


def describe(value: object) -> str:
    """Name an object without running any of its code: "<Thing object>"."""
    name = type.__getattribute__(type(value), "__name__")
    return f"<{clean_text(name, 200)} object>"


def unique_names(labels: Iterable[str]) -> list[str]:
    """Make labels distinct: a, a, b -> "a", "a (2)", "b"."""
    labels = list(labels)
    taken = set(labels)
    seen: dict[str, int] = {}
    names = []
    for label in labels:
        count = seen.get(label, 0) + 1
        name = label
        while count > 1:
            name = f"{label} ({count})"
            if name not in taken:
                break
            count += 1
        seen[label] = count
        taken.add(name)
        names.append(name)
    return names


def duration_text(value: timedelta) -> str:
    """ISO 8601 text of a duration, e.g. "P1DT2H0.5S" or "-PT1S"; pandas' nanoseconds kept."""
    sign = "-" if value.days < 0 else ""
    value = abs(value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    nanoseconds = value.microseconds * 1000 + int(getattr(value, "nanoseconds", 0))
    fraction = f".{nanoseconds:09d}".rstrip("0") if nanoseconds else ""
    clock = f"{hours}H" * bool(hours) + f"{minutes}M" * bool(minutes)
    if seconds or fraction:
        clock += f"{seconds}{fraction}S"
    if not (value.days or clock):
        return "PT0S"
    return f"{sign}P" + f"{value.days}D" * bool(value.days) + f"T{clock}" * bool(clock)


class _Converter:
    """One conversion: carries what is left of the size and which containers are open."""

    def __init__(self, depth: int, max_items: int, max_string: int, max_size: int) -> None:
        self.depth = depth
        self.max_items = max_items
        self.max_string = max_string
        self.size_left = max_size
        self.text_calls_left = MAX_TEXT_CALLS
        self.open: set[int] = set()

    def convert(self, value: Any) -> Any:
        kind = type(value)
        self.size_left -= 8
        if value is None or kind is bool:
            return value
        if kind is float:
            return value if math.isfinite(value) else None
        try:
            return self._foreign(value)
        except RecursionError:
            return describe(value)
        except Exception:
            return self._printed(value)

    def _foreign(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return _integer(value)
        if isinstance(value, float):
            plain = float.__float__(value)
            return plain if math.isfinite(plain) else None
        if isinstance(value, Decimal):
            return str(value) if value.is_finite() else None
        if isinstance(value, complex):
            return str(value)
        module = type(value).__module__
        library = module.partition(".")[0] if type(module) is str else ""
        if library == "pandas" and type(value).__name__ in {"NaTType", "NAType"}:
            return None
        if isinstance(value, date | time):
            return value.isoformat()
        if isinstance(value, timedelta):
            return duration_text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._binary(value)
        if library == "numpy":
            return self._numpy(value)
        if library == "pandas":
            return self._pandas(value)
        return self._container(value)

    def _text(self, value: str) -> str:
        text = clean_text(value, max(0, min(self.max_string, self.size_left)))
        self.size_left -= len(text)
        return text

    def _printed(self, value: object) -> str:
        self.text_calls_left -= 1
        if self.text_calls_left < 0:
            return describe(value)
        return self._text(safe_text(value, min(self.max_string, 10_000)))

    def _binary(self, value: bytes | bytearray | memoryview) -> str:
        view = memoryview(value)
        if not view.contiguous:
            view = memoryview(view.tobytes())
        view = view.cast("B")
        limit = max(0, min(self.max_string, self.size_left)) // 4 * 3
        text = base64.b64encode(view[:limit]).decode("ascii")
        self.size_left -= len(text)
        missing = view.nbytes - limit
        return f"{text}\u2026 (+{missing} bytes)" if missing > 0 else text

    def _container(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self._nested(value, self._mapping)
        if isinstance(value, list | tuple | Set | deque | range):
            return self._nested(value, self._items)
        return self._printed(value)

    def _nested(self, value: Any, convert: Callable[[Any], Any]) -> Any:
        if id(value) in self.open or len(self.open) >= self.depth:
            return describe(value)
        self.open.add(id(value))
        try:
            return convert(value)
        finally:
            self.open.discard(id(value))

    def _items(self, value: Any) -> list[Any]:
        if isinstance(value, set | frozenset) and len(value) <= 1000:
            # The order of a set of strings differs from run to run.
            with suppress(TypeError):
                value = sorted(value)
        return self._sequence(value, len(value))

    def _sequence(self, values: Iterable[Any], length: int) -> list[Any]:
        result: list[Any] = []
        for item in islice(values, self.max_items):
            if self.size_left <= 0:
                break
            result.append(self.convert(item))
        if length > len(result):
            result.append(f"\u2026 (+{length - len(result)} items)")
        return result

    def _mapping(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        keys: list[str] = []
        items: list[Any] = []
        for key, item in islice(value.items(), self.max_items):
            if self.size_left <= 0:
                break
            keys.append(self._key(key))
            items.append(self.convert(item))
        missing = len(value) - len(keys)
        if missing > 0:
            keys.append("\u2026")
            items.append(f"(+{missing} items)")
        if len(set(keys)) < len(keys):
            keys = unique_names(keys)
        return dict(zip(keys, items, strict=True))

    def _key(self, key: Any) -> str:
        self.size_left -= 8
        if isinstance(key, str):
            text = clean_text(key, min(self.max_string, 1_000))
            self.size_left -= len(text)
            return text
        if key is None:
            return "null"
        if isinstance(key, bool):
            return "true" if key else "false"
        if isinstance(key, float):
            return repr(float.__float__(key))
        if isinstance(key, tuple):
            return self._printed(key)
        simple = self.convert(key)
        if simple is None:
            return "null"
        return simple if isinstance(simple, str) else str(simple)

    def _numpy(self, value: Any) -> Any:
        name = type(value).__name__
        if name == "MaskedConstant":
            return None
        if name == "datetime64":
            text = str(value)
            return None if text == "NaT" else text
        if name == "timedelta64":
            return _numpy_duration(value)
        if name in {"longdouble", "float128", "float96"}:
            return self.convert(float(value))
        if hasattr(value, "tolist") and hasattr(value, "ndim"):
            if value.ndim == 0:
                return self._numpy_scalar(value)
            return self._nested(value, self._array)
        return self._container(value)

    def _numpy_scalar(self, value: Any) -> Any:
        kind = value.dtype.kind
        if kind in "mM" and hasattr(value, "reshape"):
            value = value.reshape(1)[0]
            return self._numpy(value)
        if kind == "V" and value.dtype.names:
            return self._mapping({name: value[name] for name in value.dtype.names})
        plain = value.item()
        return self._printed(value) if type(plain) is type(value) else self.convert(plain)

    def _array(self, value: Any) -> list[Any]:
        head = value[: self.max_items]
        if value.ndim == 1 and value.dtype.kind in "fiub":
            head = head[: max(1, self.size_left // 8)].tolist()
        return self._sequence(head, len(value))

    def _pandas(self, value: Any) -> Any:
        if hasattr(value, "columns") and hasattr(value, "iloc"):
            names = unique_names(self._key(label) for label in value.columns[: self.max_items])
            head = value.iloc[: self.max_items]
            return self._nested(
                value,
                lambda _: {
                    name: self._sequence(_pandas_items(head.iloc[:, place]), len(value))
                    for place, name in enumerate(names)
                    if self.size_left > 0
                },
            )
        if hasattr(value, "dtype") and hasattr(value, "__len__"):
            head = value.iloc if hasattr(value, "iloc") else value
            items = _pandas_items(head[: self.max_items])
            return self._nested(value, lambda _: self._sequence(items, len(value)))
        return self._container(value)


def _integer(value: int) -> int | str:
    value = int.__int__(value)
    if MIN_INT <= value <= MAX_INT:
        return value
    try:
        return str(value)
    except ValueError:  # Python refuses to print integers of more than some thousand digits
        return f"<int of {value.bit_length()} bits>"


def _numpy_duration(value: Any) -> str | None:
    plain = value.item()
    if plain is None or str(value) == "NaT":
        return None
    if isinstance(plain, timedelta):
        return duration_text(plain)
    if value.dtype.str.endswith("[ns]"):
        whole, rest = divmod(abs(int(plain)), 1000)
        sign = "-" if plain < 0 else ""
        if not rest:
            return sign + duration_text(timedelta(microseconds=whole))
    return str(value)


def _pandas_items(values: Any) -> Iterable[Any]:
    items: Iterable[Any] = values.tolist()
    return items
