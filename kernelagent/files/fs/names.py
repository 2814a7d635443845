"""File names as text: bytes that are no UTF-8 become characters that every client can send back."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl

# Byte b is shown as U+EF00 + b, characters for private use; what Python makes of such bytes, lone
# surrogates, cannot be written in UTF-8 and many clients cannot send it.
_SHOWN = 0xEF00
_PYTHON = 0xDC00

_unusual = re.compile("[\udc80-\udcff\uef80-\uefff]")
_escaped = re.compile("[\uef80-\uefff]")


def shown(name: str) -> str:
    """A name of the file system as clients see it."""
    return name if name.isascii() else _unusual.sub(_show, name)


def real(name: str) -> str:
    """A name that a client has sent as the file system has it; undoes `shown`."""
    return name if name.isascii() else _escaped.sub(_restore, name)


def from_query(query: bytes, parameter: str) -> str | None:
    """A parameter's value as the file system has it, with bytes as they were sent, `%FF` too."""
    text = query.decode("utf-8", "surrogateescape")
    for name, value in parse_qsl(text, keep_blank_values=True, errors="surrogateescape"):
        if name == parameter:
            return real(value)
    return None


def _show(match: re.Match[str]) -> str:
    # A character that is one of ours by itself is shown byte by byte, so that none is ambiguous.
    return "".join(chr(_SHOWN + byte) for byte in os.fsencode(match.group()))


def _restore(match: re.Match[str]) -> str:
    return chr(ord(match.group()) - _SHOWN + _PYTHON)
