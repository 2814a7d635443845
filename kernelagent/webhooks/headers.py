"""The headers of a delivery: which of them a caller may set, and what we add."""

from __future__ import annotations

import re
from collections.abc import Mapping

from kernelagent import __version__
from kernelagent.errors import WebhookRefused

MOST_HEADERS = 32
MOST_BYTES = 16 * 1024

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = frozenset(
    "host content-length transfer-encoding connection expect te trailer upgrade keep-alive "
    "idempotency-key".split()
)
_OUR_PREFIXES = ("proxy-", "x-hopx-")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises WebhookRefused; its sentence names a header, never a value."""
    if len(headers) > MOST_HEADERS:
        raise WebhookRefused(f"callback_headers has more than {MOST_HEADERS} headers")
    seen = set()
    size = 0
    for name, value in headers.items():
        lowered = name.lower()
        if not _NAME.fullmatch(name):
            raise WebhookRefused(f"callback_headers: {name[:100]!r} is no name of a header")
        if lowered in _OURS or lowered.startswith(_OUR_PREFIXES):
            raise WebhookRefused(f"callback_headers: {name[:100]} is set by this service")
        if lowered in seen:
            raise WebhookRefused(f"callback_headers has {name[:100]} twice")
        if not _VALUE.fullmatch(value):
            raise WebhookRefused(
                f"callback_headers: the value of {name[:100]} has line breaks, control characters "
                "or characters beyond Latin-1"
            )
        seen.add(lowered)
        size += len(name) + len(value)
    if size > MOST_BYTES:
        raise WebhookRefused(f"callback_headers are larger than {MOST_BYTES} bytes")


def build_headers(given: Mapping[str, str], ours: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """All headers of one attempt: `ours`, and those of the caller, which replace defaults."""
    defaults = {"Content-Type": "application/json", "User-Agent": f"kernelagent/{__version__}"}
    replaced = {name.lower() for name in given}
    headers = {
        **ours,
        **{name: value for name, value in defaults.items() if name.lower() not in replaced},
        **given,
    }
    return [
        (name.encode("ascii"), value.strip(" \t").encode("latin-1"))
        for name, value in headers.items()
    ]
