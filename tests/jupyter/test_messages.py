"""Messages of the Jupyter protocol: what we send is understood, what we get is checked."""

from __future__ import annotations

import hmac
import json
from typing import Any

import orjson
import pytest
from jupyter_client.session import Session

from kernelagent.jupyter.messages import BadMessage, Message, Wire

KEY = b"a key that only the two of us know"
DELIMITER = b"<IDS|MSG>"


def frames_of(
    content: bytes,
    *,
    header: bytes = b'{"msg_id":"1","msg_type":"stream"}',
    parent: bytes = b"{}",
    key: bytes = KEY,
) -> list[bytes]:
    """The frames of a signed message whose parts are given as bytes."""
    body = [header, parent, b"{}", content]
    signature = hmac.new(key, b"".join(body), "sha256").hexdigest().encode()
    return [DELIMITER, signature, *body]


def unpacked(content: bytes) -> dict[str, Any]:
    """The content that is read from `content`; it can be written as JSON again."""
    read = Wire(KEY).unpack(frames_of(content)).content
    assert orjson.loads(orjson.dumps(read)) == read
    return read


def test_a_packed_message_is_unpacked_unchanged() -> None:
    wire = Wire(KEY)
    content = {"code": "print('ä ☃ 🎈')\n", "silent": False, "n": [1, 2.5, None]}
    msg_id, frames = wire.pack("execute_request", content, metadata={"a": {"b": "c"}})
    message = wire.unpack(frames)
    assert message == Message("execute_request", msg_id, "", content, {"a": {"b": "c"}}, [])


def test_each_message_has_an_id_of_its_own() -> None:
    wire = Wire(KEY)
    assert len({wire.pack("kernel_info_request", {})[0] for _ in range(100)}) == 100
    assert not {Wire(KEY).session for _ in range(100)} & {wire.session}


def test_the_parent_is_named_by_its_id() -> None:
    wire = Wire(KEY)
    request_id, request = wire.pack("execute_request", {})
    _, reply = wire.pack("execute_reply", {}, parent_header=request[2])
    assert wire.unpack(reply).parent_id == request_id


def test_jupyter_client_understands_what_we_pack() -> None:
    msg_id, frames = Wire(KEY).pack("execute_request", {"code": "1 + 1"}, metadata={"x": "ü"})
    session = Session(key=KEY)
    _, parts = session.feed_identities(frames)
    message = session.deserialize(parts)
    assert message["header"]["msg_id"] == msg_id
    assert message["header"]["msg_type"] == "execute_request"
    assert message["content"] == {"code": "1 + 1"}
    assert message["metadata"] == {"x": "ü"}


def test_we_understand_what_jupyter_client_packs() -> None:
    session = Session(key=KEY)
    parent = session.msg_header("execute_request")
    sent = session.msg("stream", {"name": "stdout", "text": "grüß"}, parent=parent)
    frames = session.serialize(sent, ident=[b"kernel", b"topic"])
    message = Wire(KEY).unpack([*frames, b"buffer one", b"buffer two"])
    assert (message.type, message.id) == ("stream", sent["header"]["msg_id"])
    assert message.parent_id == parent["msg_id"]
    assert message.content == {"name": "stdout", "text": "grüß"}
    assert message.buffers == [b"buffer one", b"buffer two"]


def test_messages_without_a_key_are_not_signed() -> None:
    _, frames = Wire(b"").pack("kernel_info_request", {})
    assert frames[1] == b""
    assert Wire(b"").unpack(frames).type == "kernel_info_request"


def test_a_signature_of_another_key_is_refused() -> None:
    with pytest.raises(BadMessage, match="signature"):
        Wire(KEY).unpack(frames_of(b"{}", key=b"another key"))


@pytest.mark.parametrize("part", [2, 3, 4, 5])
def test_a_part_that_was_changed_on_the_way_is_refused(part: int) -> None:
    frames = frames_of(b'{"a":1}')
    frames[part] = frames[part].replace(b"{", b'{"x":0,' if part in (2, 5) else b'{"x":0')
    with pytest.raises(BadMessage, match="signature"):
        Wire(KEY).unpack(frames)


def test_a_message_without_a_signature_is_refused() -> None:
    frames = frames_of(b"{}")
    frames[1] = b""
    with pytest.raises(BadMessage, match="signature"):
        Wire(KEY).unpack(frames)


@pytest.mark.parametrize("count", range(6))
def test_truncated_frames_are_refused(count: int) -> None:
    with pytest.raises(BadMessage, match="incomplete"):
        Wire(KEY).unpack(frames_of(b"{}")[:count])


def test_frames_without_a_delimiter_are_refused() -> None:
    with pytest.raises(BadMessage, match="incomplete"):
        Wire(KEY).unpack([b"a", b"b", b"c", b"d", b"e", b"f", b"g"])


@pytest.mark.parametrize("content", [b"", b"no json", b"[1]", b'"text"', b"1", b"{", b"\xff"])
def test_content_that_is_no_object_is_refused(content: bytes) -> None:
    with pytest.raises(BadMessage, match="JSON"):
        Wire(KEY).unpack(frames_of(content))


@pytest.mark.parametrize(
    "header", [b"{}", b'{"msg_id":"1"}', b'{"msg_type":"x"}', b'{"msg_id":[],"msg_type":"x"}']
)
def test_a_header_without_type_or_id_is_refused(header: bytes) -> None:
    with pytest.raises(BadMessage, match="header"):
        Wire(KEY).unpack(frames_of(b"{}", header=header))


@pytest.mark.parametrize("parent", [b"{}", b'{"msg_id":null}', b'{"msg_id":["x"]}'])
def test_a_parent_without_a_usable_id_is_none(parent: bytes) -> None:
    assert Wire(KEY).unpack(frames_of(b"{}", parent=parent)).parent_id == ""


def test_numbers_that_json_lacks_become_null() -> None:
    content = unpacked(b'{"a":NaN,"b":[Infinity,-Infinity],"c":1e999,"d":-1e999,"e":1.5,"f":3}')
    assert content == {"a": None, "b": [None, None], "c": None, "d": None, "e": 1.5, "f": 3}


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    assert unpacked(b'{"text":"a\xffb"}') == {"text": "a\ufffdb"}


def test_lone_surrogates_are_replaced_everywhere() -> None:
    content = unpacked(rb'{"\ud800":["\udfff x",{"k":"a\ud83d"}],"pair":"\ud83c\udf88"}')
    assert content == {"\ufffd": ["\ufffd x", {"k": "a\ufffd"}], "pair": "🎈"}


def test_lone_surrogates_that_we_send_are_replaced() -> None:
    wire = Wire(KEY)
    _, frames = wire.pack("input_reply", {"value": "a\ud800b"}, metadata={"x": "\udc00"})
    assert wire.unpack(frames).content == {"value": "a\ufffdb"}


@pytest.mark.parametrize("beside", [b"1", b"NaN"], ids=["strict", "loose"])
def test_integers_beyond_64_bits_become_floats(beside: bytes) -> None:
    content = unpacked(
        b'{"beside":%b,"n":[9223372036854775807,-9223372036854775808,%d,%d]}'
        % (beside, 2**64, -(10**30))
    )
    assert content["n"] == [2**63 - 1, -(2**63), float(2**64), -1e30]


def test_an_integer_of_thousands_of_digits_disturbs_nothing() -> None:
    assert unpacked(b'{"n":' + b"9" * 10_000 + b',"text":"x"}') == {"n": None, "text": "x"}


def test_what_is_nested_deeper_than_an_answer_may_be_is_cut() -> None:
    read = unpacked(b'{"text":"x","deep":' + b"[" * 1000 + b"]" * 1000 + b"}")
    assert read["text"] == "x"
    json.dumps(read)


def test_what_no_parser_can_read_is_refused() -> None:
    with pytest.raises(BadMessage):
        Wire(KEY).unpack(frames_of(b'{"deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}"))


def test_many_brackets_side_by_side_are_kept() -> None:
    rows = b",".join([b"[1,2]"] * 1000)
    assert unpacked(b'{"rows":[' + rows + b"]}") == {"rows": [[1, 2]] * 1000}
