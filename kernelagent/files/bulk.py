"""Large JSON, read and made in pieces: none of them keeps the other threads waiting for long."""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Iterator

import orjson

from kernelagent.errors import InvalidRequest
from kernelagent.text import incomplete

PIECE = 512 * 1024

_space = re.compile(rb"[ \t\r\n]*+")
_structure = re.compile(rb'[^"{}\[\],]*+')
_half_pair = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_LONGEST_ESCAPE = 6
_BACKSLASH = ord("\\")


class NotFlat(ValueError):
    """The body is not what is looked for; a complete parser says why, or takes it."""


def cut_string(body: bytes | bytearray, key: bytes) -> tuple[bytes | bytearray, tuple[int, int]]:
    """`body` with an empty string for that of `key` at the top, and where the string was.

    Raises NotFlat.
    """
    found: tuple[int, int] | None = None
    at = _expect(body, _skip(body, 0), b"{")
    while True:
        at = _expect(body, _skip(body, at), b'"')
        end = _string_end(body, at)
        name = body[at:end]
        at = _skip(body, _expect(body, _skip(body, end + 1), b":"))
        if body[at : at + 1] == b'"':
            end = _string_end(body, at + 1)
            if name == key:
                found = (at + 1, end)
            elif b"\\" in name:
                raise NotFlat
            at = end + 1
        else:
            at = _value_end(body, at)
        at = _skip(body, at)
        if body[at : at + 1] != b",":
            break
        at += 1
    if found is None:
        raise NotFlat
    return body[: found[0]] + body[found[1] :], found


def string_pieces(body: bytes | bytearray, place: tuple[int, int]) -> Iterator[str]:
    """What the string at that place says; raises ValueError if it is no JSON."""
    at, end = place
    while at < end:
        stop = _piece_end(body, at, end)
        text: str = orjson.loads(b'"' + body[at:stop] + b'"')
        yield text
        at = stop


def _piece_end(body: bytes | bytearray, at: int, end: int) -> int:
    """Where a piece from `at` on may end: no escape and no character is divided."""
    stop = at + PIECE
    if stop >= end:
        return end
    mark = body.rfind(b"\\", stop - _LONGEST_ESCAPE, stop)
    if mark >= 0:
        # The second one of a pair, or the beginning of an escape.
        stop = mark if _begins_escape(body, mark, at) else mark + 1
    elif rest := incomplete(bytes(body[stop - 3 : stop])):
        stop -= rest
    # A character may take two escapes.
    half = stop - _LONGEST_ESCAPE
    if _half_pair.match(body, half) and _begins_escape(body, half, at):
        stop = half
    return stop


def _begins_escape(body: bytes | bytearray, mark: int, start: int) -> bool:
    """Whether the backslash at `mark` in a string from `start` on is itself not escaped."""
    return _backslashes_before(body, mark, start) % 2 == 0


def _backslashes_before(body: bytes | bytearray, at: int, start: int) -> int:
    count = 0
    while True:
        begin = max(start, at - count - PIECE)
        piece = body[max(begin, at - count - 64) : at - count]
        run = len(piece) - len(piece.rstrip(b"\\"))
        if run and run == len(piece):
            piece = body[begin : at - count]
            run = len(piece) - len(piece.rstrip(b"\\"))
        count += run
        if not run or run < len(piece) or at - count <= start:
            return count


def _string_end(body: bytes | bytearray, start: int) -> int:
    """Where the quote is that ends the string whose contents begin at `start`."""
    at = start
    while True:
        quote = body.find(b'"', at)
        if quote < 0:
            raise NotFlat
        if body[quote - 1] != _BACKSLASH or quote == start:
            return quote
        # There may be millions of these, and one backslash is the usual case.
        if body[quote - 2] == _BACKSLASH and _backslashes_before(body, quote, start) % 2 == 0:
            return quote
        at = quote + 1


def _value_end(body: bytes | bytearray, at: int) -> int:
    depth = 0
    while True:
        match = _structure.match(body, at, at + PIECE)
        at = match.end() if match else at
        mark = body[at : at + 1]
        if not mark:
            raise NotFlat
        if depth == 0 and mark in b",}":
            return at
        if mark == b'"':
            at = _string_end(body, at + 1)
        elif mark in b"{[":
            depth += 1
        elif mark in b"}]":
            depth -= 1
        at += mark in b'"{}[],'


def _skip(body: bytes | bytearray, at: int) -> int:
    match = _space.match(body, at)
    return match.end() if match else at


def _expect(body: bytes | bytearray, at: int, mark: bytes) -> int:
    if body[at : at + 1] != mark:
        raise NotFlat
    return at + 1


def encoded(pieces: Iterator[str]) -> Iterator[bytes]:
    """Text as UTF-8."""
    for piece in pieces:
        for start in range(0, len(piece), PIECE):
            yield piece[start : start + PIECE].encode()


def decoded_base64(pieces: Iterator[str]) -> Iterator[bytes]:
    """What Base64 says, white space in it not counted; raises InvalidRequest."""
    rest = b""
    ended = False
    try:
        for piece in pieces:
            for start in range(0, len(piece), PIECE):
                data = rest + b"".join(piece[start : start + PIECE].encode("ascii").split())
                if data and ended:
                    raise InvalidRequest("content: this is no Base64: data after its end")
                usable = len(data) - len(data) % 4
                data, rest = data[:usable], data[usable:]
                ended = data.endswith(b"=")
                yield binascii.a2b_base64(data, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        reason = str(error) if isinstance(error, binascii.Error) else "not ASCII"
        raise InvalidRequest(f"content: this is no Base64: {reason}") from None
    if rest:
        raise InvalidRequest("content: this is no Base64: it is cut off")


def json_text(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The inside of a JSON string that says what UTF-8 says, what is none replaced."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        yield orjson.dumps(decoder.decode(piece))[1:-1]
    yield orjson.dumps(decoder.decode(b"", final=True))[1:-1]


def json_base64(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The inside of a JSON string that is Base64."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        usable = len(data) - len(data) % 3
        rest = data[usable:]
        yield binascii.b2a_base64(data[:usable], newline=False)
    yield binascii.b2a_base64(rest, newline=False)
