"""JSON answers; what JSON cannot hold is replaced."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_DEPTH = 200


def json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`content` as JSON; what JSON cannot hold is replaced, so that this never fails."""
    return Response(dump_json(content), status, headers, "application/json")


def dump_json(content: Any) -> bytes:
    """`content` as JSON bytes; lone surrogates become U+FFFD."""
    try:
        return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        clean = _clean(content, 0)
        return json.dumps(clean, ensure_ascii=False, separators=(",", ":")).encode()


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        # Through UTF-16 a pair of surrogates becomes the character that it means.
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None
    if depth == _MAX_DEPTH:
        return "(nested too deeply)"
    if isinstance(value, dict):
        return {
            key if isinstance(key, bool | int | None) else _clean(str(key), 0): _clean(
                item, depth + 1
            )
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_clean(item, depth + 1) for item in value]
    try:
        return orjson.loads(orjson.dumps(value))  # dates, dataclasses, enumerations
    except TypeError:
        return _clean(str(value), depth)
