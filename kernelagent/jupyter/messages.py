"""Messages of the Jupyter protocol: signed, packed and unpacked."""

from __future__ import annotations

import hmac
import json
import math
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

PROTOCOL_VERSION = "5.4"
_DELIMITER = b"<IDS|MSG>"
_EMPTY = b"{}"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# orjson reads values that are nested more deeply than it can write them.
_MAX_DEPTH = 200


class BadMessage(Exception):
    """Frames that are not a message, or not one signed with our key."""


@dataclass(slots=True)
class Message:
    """One received message; `parent_id` is "" if it answers nothing."""

    type: str
    id: str
    parent_id: str
    content: dict[str, Any]
    metadata: dict[str, Any] = field(default_factory=dict)
    buffers: list[bytes] = field(default_factory=list)


class Wire:
    """Packs requests and unpacks what comes back, for one kernel and its key."""

    def __init__(self, key: bytes) -> None:
        self._mac = hmac.new(key, digestmod="sha256") if key else None
        self.session = uuid.uuid4().hex
        self._count = 0

    def pack(
        self,
        msg_type: str,
        content: dict[str, Any],
        *,
        metadata: dict[str, Any] | None = None,
        parent_header: bytes = _EMPTY,
    ) -> tuple[str, list[bytes]]:
        """The id and the frames of a new message."""
        self._count += 1
        msg_id = f"{self.session}_{self._count}"
        header = orjson.dumps(
            {
                "msg_id": msg_id,
                "msg_type": msg_type,
                "username": "kernelagent",
                "session": self.session,
                "date": datetime.now(UTC).isoformat(),
                "version": PROTOCOL_VERSION,
            }
        )
        body = [
            header,
            parent_header,
            _dump(metadata) if metadata else _EMPTY,
            _dump(content),
        ]
        return msg_id, [_DELIMITER, self._sign(body), *body]

    def unpack(self, frames: list[bytes]) -> Message:
        """The message in `frames`; raises BadMessage."""
        try:
            start = frames.index(_DELIMITER)
            signature, *body = frames[start + 1 : start + 6]
            header, parent, metadata, content = body
        except ValueError:
            raise BadMessage("incomplete frames") from None
        if not hmac.compare_digest(signature, self._sign(body)):
            raise BadMessage("wrong signature")
        head, parent_id = _load(header), _load(parent).get("msg_id")
        return Message(
            type=_text(head.get("msg_type")),
            id=_text(head.get("msg_id")),
            parent_id=parent_id if isinstance(parent_id, str) else "",
            content=_load(content),
            metadata=_load(metadata),
            buffers=frames[start + 6 :],
        )

    def _sign(self, body: list[bytes]) -> bytes:
        if self._mac is None:
            return b""
        mac = self._mac.copy()
        mac.update(b"".join(body))
        return mac.hexdigest().encode()


def _dump(content: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(content)
    except TypeError:
        return orjson.dumps(_writable(content))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise BadMessage("a header without its type or id")
    return value


def _load(frame: bytes) -> dict[str, Any]:
    if frame == _EMPTY:
        return {}
    try:
        value = orjson.loads(frame)
    except orjson.JSONDecodeError:
        value = _load_loosely(frame)
    else:
        if frame.count(b"[") + frame.count(b"{") > _MAX_DEPTH:
            value = _shallow(value)
    if not isinstance(value, dict):
        raise BadMessage("a frame that is no JSON object")
    return value


def _load_loosely(frame: bytes) -> Any:
    """Kernels may send NaN, lone surrogates, bytes that are no UTF-8: keep the rest of it."""
    try:
        value = json.loads(
            frame.decode("utf-8", "replace"),
            # What exceeds 64 bits becomes a float, as in orjson.
            parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits),
            parse_constant=lambda _: None,
        )
    except (ValueError, RecursionError):
        raise BadMessage("a frame that is no JSON") from None
    return _writable(value)


def _shallow(value: Any) -> Any:
    try:
        orjson.dumps(value)
    except TypeError:
        return _writable(value)
    return value


def _writable(value: Any, depth: int = 0) -> Any:
    """`value` without what no answer could carry."""
    if depth > _MAX_DEPTH:
        return None
    match value:
        case str():
            return _LONE_SURROGATE.sub("\ufffd", value)
        case float():
            return value if math.isfinite(value) else None
        case list():
            return [_writable(item, depth + 1) for item in value]
        case dict():
            return {_writable(key): _writable(item, depth + 1) for key, item in value.items()}
    return value
