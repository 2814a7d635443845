"""Files as what they show: pictures, pages, tables."""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import json
import mimetypes
from pathlib import Path
from typing import Any

_BINARY = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp", "application/pdf"}
)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"<svg", "image/svg+xml"),
)
_TABLES = {"text/csv": ",", "text/tab-separated-values": "\t"}
_MOST_ROWS = 1000

for _type, _suffix in (("text/markdown", ".md"), ("text/csv", ".csv"), ("image/webp", ".webp")):
    mimetypes.add_type(_type, _suffix)


class Unshowable(Exception):
    """A file that cannot be shown as what it should be; the reason is for people."""


def mime_bundle(content: bytes, name: str, wanted: str) -> dict[str, Any]:
    """`content` of the file `name` as `wanted`, or by its name and its first bytes.

    Raises Unshowable.
    """
    kind = wanted or _kind(content, name)
    if kind in _BINARY:
        return {kind: base64.b64encode(content).decode(), "text/plain": f"<{kind}: {name}>"}
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Unshowable(f"{name} is no {kind}: it is not UTF-8 ({error.reason})") from None
    if kind in _TABLES:
        try:
            return _table(text, _TABLES[kind])
        except csv.Error as error:
            raise Unshowable(f"{name} is no table: {error}") from None
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return {kind: json.loads(text, parse_constant=_refuse), "text/plain": text}
        except (ValueError, RecursionError) as error:
            raise Unshowable(f"{name} is no JSON: {error}") from None
    return {kind: text} if kind == "text/plain" else {kind: text, "text/plain": text}


def _kind(content: bytes, name: str) -> str:
    for signature, kind in _SIGNATURES:
        if content.startswith(signature):
            return kind
    guessed, _ = mimetypes.guess_type(Path(name).name)
    return guessed or "text/plain"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _table(text: str, delimiter: str) -> dict[str, Any]:
    rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    shown = list(itertools.islice(rows, _MOST_ROWS + 1))
    more = sum(1 for _ in rows)
    if not shown:
        return {"text/plain": ""}
    head, *body = ("".join(map(_cell, row)) for row in shown)
    head = head.replace("<td>", "<th>").replace("</td>", "</th>")
    lines = "\n".join(f"<tr>{row}</tr>" for row in body)
    note = f"\n<p>{more} more rows</p>" if more else ""
    page = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table>{note}"
    return {"text/html": page, "text/plain": text}


def _cell(value: str) -> str:
    return f"<td>{html.escape(value)}</td>"
