"""What a kernel's namespace holds, told without running the code of the objects in it."""

from __future__ import annotations

import sys
import types
import warnings
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from itertools import islice
from pathlib import PurePath
from typing import Any
from uuid import UUID

from kernelagent_python.jsonsafe import clean_text, describe

MAX_PREVIEW = 120
MAX_INNER = 40

# Their `shape` and `nbytes` are stored numbers; anywhere else they may be code of the user.
ARRAY_LIBRARIES = frozenset(
    {"cudf", "cupy", "dask", "geopandas", "jax", "jaxlib", "numpy", "pandas", "polars"}
    | {"pyarrow", "scipy", "sparse", "tensorflow", "torch", "xarray"}
)
PRINTABLE = (bool, float, complex, date, time, timedelta, tzinfo, Decimal, Fraction, UUID, range)
PANDAS_SCALARS = frozenset({"Timestamp", "Timedelta", "Period", "Interval", "NaTType", "NAType"})
SIZED = (list, tuple, dict, set, frozenset, deque)


def list_variables(
    namespace: Mapping[str, object], hidden: Container[str], *, limit: int = 500
) -> dict[str, Any]:
    """List the user's variables in the order of their definition.

    Names that start with "_" and names in `hidden` are left out; where `hidden` is a mapping, as
    IPython's own, a name which the user has since given another value is shown. Returns
    `{"variables": [{"name", "type", "shape", "size", "preview"}], "total": n, "truncated": bool}`:
    `type` is qualified ("pandas.DataFrame", plain for builtins, "module" for modules), `shape` a
    list of lengths or None, `size` the bytes of the object itself or None, `preview` at most 120
    characters. Never raises and never calls the `repr` of a user's class.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _listing(namespace, hidden, max(0, limit))


def _listing(namespace: Mapping[str, object], hidden: Container[str], limit: int) -> dict[str, Any]:
    names = [name for name in _snapshot(namespace) if _shown(name, namespace, hidden)]
    variables = []
    for name in names[:limit]:
        try:
            value = namespace[name]
        except Exception:  # noqa: S112 - deleted by another thread since the snapshot
            continue
        variables.append(_variable(name, value))
    return {"variables": variables, "total": len(names), "truncated": len(names) > limit}


def _shown(name: str, namespace: Mapping[str, object], hidden: Container[str]) -> bool:
    if name.startswith("_"):
        return False
    if name not in hidden:
        return True
    if not isinstance(hidden, Mapping):
        return False
    return _attempt(lambda: namespace[name] is not hidden[name], False) is True


def _snapshot(namespace: Mapping[Any, object]) -> list[str]:
    for _ in range(5):
        try:
            return [name for name in list(namespace) if isinstance(name, str)]
        except RuntimeError:  # a thread of the user added a name meanwhile
            continue
        except Exception:
            break
    return []


def _variable(name: str, value: object) -> dict[str, Any]:
    return {
        "name": clean_text(name, 500),
        "type": _attempt(lambda: _type_name(value), "object"),
        "shape": _attempt(lambda: _shape(value), None),
        "size": _attempt(lambda: _size(value), None),
        "preview": _attempt(lambda: preview(value), describe(value)),
    }


def _attempt(read: Callable[[], Any], default: Any) -> Any:
    try:
        return read()
    except Exception:
        return default


def _type_name(value: object) -> str:
    kind = type(value)
    if issubclass(kind, types.ModuleType):
        return "module"
    name = kind.__qualname__
    module: Any = kind.__module__  # a class body can set it to anything
    if not isinstance(module, str) or module in {"builtins", "__main__"}:
        return clean_text(name, 200)
    return clean_text(f"{module}.{name}", 200)


def _library(value: object) -> str:
    """The array library that a type, or the nearest of its bases, comes from; else ""."""
    for base in type(value).__mro__:
        root = str(getattr(base, "__module__", "")).partition(".")[0]
        if root in ARRAY_LIBRARIES:
            return root
    return ""


def _shape(value: Any) -> list[int] | None:
    if _library(value):
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple | list) and all(hasattr(size, "__index__") for size in shape):
            return [int(size) for size in shape]
        return None
    return [len(value)] if _is_plain_container(value) else None


def _size(value: Any) -> int | None:
    if isinstance(value, types.ModuleType):
        return None
    library = _library(value)
    if library == "pandas":
        size = _pandas_size(value)
        if size is not None:
            return size
    elif library:
        size = getattr(value, "nbytes", None)
        if type(size) is int:
            return size
    return sys.getsizeof(value)


def _pandas_size(value: Any) -> int | None:
    """Bytes of the blocks and the index, without looking into object columns."""
    manager = getattr(value, "_mgr", None)
    if manager is not None:
        blocks = sum(int(block.values.nbytes) for block in manager.blocks)
        return blocks + int(value.index.nbytes)
    size = getattr(value, "nbytes", None)
    return int(size) if size is not None else None


def preview(value: object) -> str:
    """One line about a value, at most 120 characters."""
    text = " ".join(_preview(value, 2).split())
    if len(text) > MAX_PREVIEW:
        text = text[: MAX_PREVIEW - 1] + "\u2026"
    return clean_text(text, MAX_PREVIEW)


def _preview(value: Any, depth: int) -> str:
    kind = type(value)
    if value is None or value is Ellipsis or value is NotImplemented:
        return str(value)
    if kind is int:
        return str(value) if value.bit_length() <= 256 else f"int of {value.bit_length()} bits"
    if kind is str or kind is bytes or kind is bytearray:
        head = value[:MAX_PREVIEW]
        return repr(head) + "\u2026" * (len(value) > MAX_PREVIEW)
    if kind in PRINTABLE or (isinstance(value, PurePath) and _standard(kind)):
        return repr(value)[: MAX_PREVIEW * 2]
    if _is_plain_container(value):
        return _container_preview(value, depth)
    if issubclass(kind, types.ModuleType):
        return f"module {_plain_name(value)}"
    if isinstance(value, type):
        return f"class {type.__getattribute__(value, '__qualname__')}"
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return f"function {_plain_name(value)}"
    library = _library(value)
    if library:
        return _array_preview(value, library)
    return _instance_preview(value, depth)


def _is_plain_container(value: object) -> bool:
    """Whether a container, or one derived from it, is read by code of the standard library."""
    kind: Any = type(value)
    if kind in SIZED or not issubclass(kind, SIZED):
        return kind in SIZED
    base: Any = next(base for base in kind.__mro__ if base in SIZED or _standard(base))
    readers = ("__iter__", "__len__", "items")
    return all(getattr(kind, name, None) is getattr(base, name, None) for name in readers)


def _standard(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in sys.stdlib_module_names


def _plain_name(value: Any) -> str:
    name: object = getattr(value, "__qualname__", None) or getattr(value, "__name__", "?")
    return name if isinstance(name, str) else "?"


def _container_preview(value: Any, depth: int) -> str:
    name = type(value).__name__
    if depth <= 0:
        return f"{name} of {len(value)}"
    if isinstance(value, dict):
        pairs = islice(value.items(), 5)
        parts = [f"{_inner(key, depth)}: {_inner(item, depth)}" for key, item in pairs]
    else:
        parts = [_inner(item, depth) for item in islice(value, 8)]
    text = ", ".join(parts) + ", \u2026" * (len(value) > len(parts))
    if isinstance(value, dict):
        return "{" + text + "}"
    if isinstance(value, list):
        return f"[{text}]"
    if isinstance(value, tuple):
        return f"({text},)" if len(value) == 1 else f"({text})"
    if isinstance(value, set) and value:
        return "{" + text + "}"
    return f"{name}([{text}])" if value else f"{name}()"


def _inner(value: object, depth: int) -> str:
    text: str = _attempt(lambda: _preview(value, depth - 1), describe(value))
    return text if len(text) <= MAX_INNER else text[: MAX_INNER - 1] + "\u2026"


def _array_preview(value: Any, library: str) -> str:
    name = type(value).__name__
    shape = _shape(value)
    if library == "numpy" and shape == []:
        item = value.item()
        return str(item) if type(item) is type(value) else _preview(item, 0)
    if library == "pandas" and name in PANDAS_SCALARS:
        return repr(value)
    if shape is None:
        return f"{name} object"
    size = "x".join(str(length) for length in shape)
    columns = getattr(value, "column_names", None)
    if columns is None:
        columns = getattr(value, "columns", None)
    if columns is not None and len(shape) == 2:
        text = ", ".join(_inner(label, 1) for label in islice(columns, 6))
        return f"{name} {size}: {text}" + ", \u2026" * (shape[1] > 6)
    dtype = clean_text(str(getattr(value, "dtype", "")), 60)
    return f"{dtype} {'array' if name == 'ndarray' else name} {size}".strip()


def _instance_preview(value: Any, depth: int) -> str:
    """An instance by its own attributes, read past any `__getattr__` and `__repr__`."""
    name = type(value).__qualname__
    if isinstance(value, Enum):
        return f"{name}.{value._name_}"
    fields = _attempt(lambda: object.__getattribute__(value, "__dict__"), None)
    if type(fields) is not dict or not fields or depth <= 0:
        return f"{name} object"
    shown: Iterable[tuple[Any, Any]] = islice(fields.items(), 4)
    parts = [f"{key}={_inner(item, depth - 1)}" for key, item in shown if isinstance(key, str)]
    return f"{name}({', '.join(parts)}" + ", \u2026" * (len(fields) > 4) + ")"
