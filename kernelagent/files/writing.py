"""Files whose contents come in a JSON body, however large it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from orjson import JSONDecodeError
from pydantic import ValidationError

from kernelagent.errors import InvalidJson, MissingParameter
from kernelagent.files import bulk
from kernelagent.files.fs import names
from kernelagent.files.models import WriteRequest
from kernelagent.files.service import FileService
from kernelagent.web.errors import validation_error


async def write(service: FileService, body: bytearray) -> tuple[str, int]:
    """Write the file that a body asks for; return its path and its size, raise ApiError."""
    # As any other long work, a large body keeps no short work waiting.
    is_large = len(body) > bulk.PIECE
    return await service.threads.run(partial(_write, service, body), long=is_large)


def _write(service: FileService, body: bytearray) -> tuple[str, int]:
    request, pieces = _read(body)
    path = names.real(request.path)
    mode = None if request.mode is None else int(request.mode, 8)
    return path, service.write_now(path, pieces, mode, overwrite=request.overwrite is not False)


def _read(body: bytearray) -> tuple[WriteRequest, Iterator[bytes]]:
    """Return the request, and the pieces of what is to be written; raise ApiError."""
    if not body:
        raise MissingParameter("a JSON body is required")
    place = None
    small: bytes | bytearray = body
    if len(body) > bulk.PIECE:
        try:
            small, place = bulk.cut_string(body, b"content")
        except bulk.NotFlat:
            small = body
    try:
        request = WriteRequest.model_validate_json(small)
    except ValidationError as error:
        raise validation_error(error.errors()) from None
    text = iter((request.content,)) if place is None else _text_pieces(body, place)
    if request.encoding == "base64":
        return request, bulk.decoded_base64(text)
    return request, bulk.encoded(text)


def _text_pieces(body: bytearray, place: tuple[int, int]) -> Iterator[str]:
    try:
        yield from bulk.string_pieces(body, place)
    except JSONDecodeError as error:
        raise InvalidJson(f"the body is not valid JSON: {error.msg} in content") from None
