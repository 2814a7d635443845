"""Clients that cost little, and the same for every server that is measured.

An HTTP library of the usual kind takes about a millisecond for each request, which would hide much
of what is measured here. These send a request in one piece over one kept connection.
"""

from __future__ import annotations

import base64
import os
import socket
import struct
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

_CHUNK = 256 * 1024
_TIMEOUT = 120


@dataclass(frozen=True, slots=True)
class Shown:
    """What a run showed, as far as the benchmarks check it."""

    text: str
    result: str
    images: int


class Runner(Protocol):
    """Runs code on one warm kernel of one server."""

    def execute(self, code: str) -> Shown: ...
    def close(self) -> None: ...


class HttpError(RuntimeError):
    """An answer with another status than 2xx."""

    def __init__(self, asked: str, status: int, answer: bytes) -> None:
        super().__init__(f"{asked}: {status} {answer[:500].decode(errors='replace')}")
        self.status = status


class HttpClient:
    """One keep-alive connection."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self._port = port
        self._socket = _connect(port)
        self._buffer = bytearray()
        self._asked = ""
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._headers = f"Host: 127.0.0.1:{port}\r\n{authorization}"

    def request(self, method: str, path: str, content: Any = None) -> Any:
        """The JSON of the answer; None if it has no body. Raises HttpError unless it is 2xx."""
        self.send(method, path, content)
        return self.receive()

    def send(
        self, method: str, path: str, content: Any = None, *, accept: str = "application/json"
    ) -> None:
        """Send a request, whose answer is then to be received."""
        self._asked = f"{method} {path}"
        body = b"" if content is None else orjson.dumps(content)
        head = (
            f"{method} {path} HTTP/1.1\r\n{self._headers}Accept: {accept}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        if self._was_closed():
            self._socket.close()
            self._socket = _connect(self._port)
        self._socket.sendall(head.encode() + body)

    def receive(self) -> Any:
        """The answer to what was sent, as `request` gives it."""
        status, answer = self._read()
        if not 200 <= status < 300:
            raise HttpError(self._asked, status, answer)
        return orjson.loads(answer) if answer else None

    def receive_stream(self) -> int:
        """Bytes of the body of an answer in chunks, which is read to its end and thrown away.

        The connection is closed: what is measured is the server, not a parser of chunks.
        """
        total = 0
        while data := self._socket.recv(2**20):
            total += len(data)
            if data.endswith(b"\r\n0\r\n\r\n") or data == b"0\r\n\r\n":
                break
        self._socket.close()
        return total

    def close(self) -> None:
        self._socket.close()

    def _was_closed(self) -> bool:
        # Servers close a connection that was idle for some seconds, as ours was between its turns.
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    def _read(self) -> tuple[int, bytes]:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._receive()
        head = bytes(self._buffer[:end]).lower()
        status = int(head[9:12])
        start = head.find(b"\r\ncontent-length:")
        length = int(head[start + 17 :].split(b"\r\n", 1)[0]) if start >= 0 else 0
        if start < 0 and status != 204:
            raise RuntimeError("an answer without a length")
        end += 4
        while len(self._buffer) < end + length:
            self._receive()
        body = bytes(self._buffer[end : end + length])
        del self._buffer[: end + length]
        return status, body

    def _receive(self) -> None:
        data = self._socket.recv(_CHUNK)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data


class OurRunner:
    """`POST /execute` with a token."""

    def __init__(self, client: HttpClient, session: str | None = None) -> None:
        self.client = client
        # The usual budget of 8 MiB would cut what the others send whole.
        self._extra: dict[str, Any] = {"max_output_bytes": 64 * 2**20}
        if session is not None:
            self._extra["session_id"] = session

    def execute(self, code: str) -> Shown:
        answer = self.client.request("POST", "/execute", {"code": code, **self._extra})
        images = sum(item["type"] == "image/png" for item in answer["rich_outputs"])
        return Shown(answer["stdout"], answer.get("result", ""), images)

    def close(self) -> None:
        self.client.close()


class NaiveRunner:
    """`POST /execute` of the naive application."""

    def __init__(self, client: HttpClient, session: str = "main") -> None:
        self.client = client
        self._session = session

    def execute(self, code: str) -> Shown:
        answer = self.client.request("POST", "/execute", {"code": code, "session": self._session})
        return shown(answer["outputs"])

    def close(self) -> None:
        self.client.close()


class WebSocket:
    """A WebSocket without compression.

    With `quick_ack` the client asks its system to acknowledge at once. The system forgets the wish,
    so it is repeated.
    """

    def __init__(
        self, port: int, path: str, *, token: str | None = None, quick_ack: bool = False
    ) -> None:
        self._socket = _connect(port)
        self._quick_ack = quick_ack
        self._buffer = bytearray()
        self._shake_hands(port, path, token)

    def close(self) -> None:
        self._socket.close()

    def _shake_hands(self, port: int, path: str, token: str | None) -> None:
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            f"Sec-WebSocket-Version: 13\r\n{authorization}\r\n".encode()
        )
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            self._receive()
        head = bytes(self._buffer[:end])
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"no websocket: {head.decode(errors='replace')}")
        del self._buffer[: end + 4]

    def send(self, payload: bytes, opcode: int = 1) -> None:
        """Send a message, text unless `opcode` is 2."""
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 65536:
            length = b"\xfe" + struct.pack("!H", size)
        else:
            length = b"\xff" + struct.pack("!Q", size)
        mask = os.urandom(4)
        stream = int.from_bytes(mask * (size // 4 + 1), "big") >> 8 * (4 - size % 4)
        masked = (int.from_bytes(payload, "big") ^ stream).to_bytes(size, "big")
        self._socket.sendall(bytes([0x80 | opcode]) + length + mask + masked)

    def receive(self) -> bytes:
        """The next message, text or not."""
        parts = []
        while True:
            final, opcode, payload = self._read_frame()
            if opcode == 8:
                raise ConnectionError("the server closed the websocket")
            if opcode == 9:
                self.send(payload, opcode=10)
            elif opcode in (0, 1, 2):
                parts.append(payload)
                if final:
                    return b"".join(parts)

    def _read_frame(self) -> tuple[bool, int, bytes]:
        self._fill(2)
        first, size = self._buffer[0], self._buffer[1] & 0x7F
        start = 2
        if size == 126:
            self._fill(4)
            size = int.from_bytes(self._buffer[2:4], "big")
            start = 4
        elif size == 127:
            self._fill(10)
            size = int.from_bytes(self._buffer[2:10], "big")
            start = 10
        self._fill(start + size)
        payload = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return bool(first & 0x80), first & 0x0F, payload

    def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            self._receive()

    def _receive(self) -> None:
        self._acknowledge()
        data = self._socket.recv(_CHUNK)
        self._acknowledge()
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data

    def _acknowledge(self) -> None:
        if self._quick_ack:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


class GatewayRunner:
    """A kernel's websocket on a Jupyter kernel gateway.

    The gateway leaves Nagle's algorithm on, so its second message waits until the client's system
    has acknowledged the first, and that may delay it by 40 ms. With `quick_ack` it does so at once.
    """

    def __init__(self, port: int, kernel_id: str, *, quick_ack: bool) -> None:
        self._session = uuid.uuid4().hex
        path = f"/api/kernels/{kernel_id}/channels?session_id={self._session}"
        self._socket = WebSocket(port, path, quick_ack=quick_ack)

    def execute(self, code: str) -> Shown:
        msg_id = uuid.uuid4().hex
        self._socket.send(orjson.dumps(self._request(msg_id, code)))
        outputs: list[dict[str, Any]] = []
        idle = replied = False
        while not (idle and replied):
            message = orjson.loads(self._socket.receive())
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "execute_reply":
                replied = True
            elif kind == "status":
                idle = content["execution_state"] == "idle"
            elif kind in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"output_type": kind, **content})
        return shown(outputs)

    def close(self) -> None:
        self._socket.close()

    def _request(self, msg_id: str, code: str) -> dict[str, Any]:
        return {
            "channel": "shell",
            "header": {
                "msg_id": msg_id,
                "msg_type": "execute_request",
                "username": "bench",
                "session": self._session,
                "date": "",
                "version": "5.3",
            },
            "parent_header": {},
            "metadata": {},
            "content": {
                "code": code,
                "silent": False,
                "store_history": True,
                "user_expressions": {},
                "allow_stdin": False,
                "stop_on_error": False,
            },
            "buffers": [],
        }


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The system's own limit: Python's makes each call to receive two.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _TIMEOUT, 0))
    return connection


def shown(outputs: Iterable[Mapping[str, Any]]) -> Shown:
    """What outputs in the shape of Jupyter's messages come to."""
    text, result, images = [], "", 0
    for output in outputs:
        data = output.get("data", {})
        if output["output_type"] == "stream":
            text.append(output["text"])
        elif output["output_type"] == "execute_result":
            result = data.get("text/plain", "")
        images += "image/png" in data
    return Shown("".join(text), result, images)
