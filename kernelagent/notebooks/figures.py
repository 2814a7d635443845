"""Images among outputs: which MIME types are files, and their bytes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Any

# The first that an output has is the one to keep.
IMAGE_SUFFIXES = {
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
}


def image_bytes(mime: str, data: Any) -> bytes | None:
    """The file that `data` is; None if it is not what its MIME type says."""
    if not isinstance(data, str):
        return None
    if mime == "image/svg+xml":
        return data.encode("utf-8", "replace")
    try:
        return base64.b64decode(data)
    except binascii.Error:
        return None


def images(outputs: list[Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Suffix and bytes of each output that is an image, in order."""
    for output in outputs:
        bundle = output.get("data") or {}
        for mime, suffix in IMAGE_SUFFIXES.items():
            content = image_bytes(mime, bundle.get(mime))
            if content is not None:
                yield suffix, content
                break
