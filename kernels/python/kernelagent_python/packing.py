"""Messages that can always be sent, whatever text user code puts into them."""

from __future__ import annotations

import re
from typing import Any

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def pack_any_text(session: Any) -> None:
    """Let `session` send text with lone surrogates, each as U+FFFD.

    The stock packer raises, and then everything that was buffered with that text is lost.
    """
    pack = session.pack

    def pack_safely(content: Any) -> Any:
        try:
            return pack(content)
        except UnicodeEncodeError:
            return pack(_without_surrogates(content))

    session.pack = pack_safely


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value
