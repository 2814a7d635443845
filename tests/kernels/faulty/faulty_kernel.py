"""A Jupyter kernel that misbehaves on request.

The environment variable FAULT breaks its start (see `main`); each line of a cell is one command
(see `Kernel.command`). FAULT_NO_WELCOME makes it speak protocol 5.3, without `iopub_welcome`.
On plain pyzmq: it starts in milliseconds and can send what ipykernel never would.
"""

from __future__ import annotations

import binascii
import hmac
import json
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]
Socket = zmq.Socket[bytes]

DELIMITER = b"<IDS|MSG>"
TICK = 0.005  # how late a waiting cell may notice a signal or an answer
COMPLETIONS = ("display", "error", "flood", "print", "result", "sleep", "stderr")


class Request(NamedTuple):
    idents: list[bytes]
    header: Json
    metadata: Json
    content: Json


class CellError(Exception):
    def __init__(self, ename: str, evalue: str) -> None:
        super().__init__(ename, evalue)
        self.content = {"ename": ename, "evalue": evalue, "traceback": [f"{ename}: {evalue}"]}


class Wire:
    """Message frames and their signatures."""

    def __init__(self, key: str, *, version: str, forged: bool) -> None:
        self.key = key.encode()
        self.version = version
        self.forged = forged
        self.session = new_id()

    def sign(self, parts: list[bytes], *, forged: bool = False) -> bytes:
        key = b"wrong " + self.key if forged else self.key
        return hmac.digest(key, b"".join(parts), "sha256").hex().encode() if key else b""

    def header(self, msg_type: str) -> Json:
        return {
            "msg_id": new_id(),
            "session": self.session,
            "username": "faulty",
            "date": datetime.now(UTC).isoformat(),
            "msg_type": msg_type,
            "version": self.version,
        }

    def pack(
        self, msg_type: str, content: Json | bytes, parent: Json, *, forged: bool = False
    ) -> list[bytes]:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        header = json.dumps(self.header(msg_type)).encode()
        parts = [header, json.dumps(parent).encode(), b"{}", body]
        return [DELIMITER, self.sign(parts, forged=forged or self.forged), *parts]

    def unpack(self, frames: list[bytes]) -> Request | None:
        start = frames.index(DELIMITER)
        signature, *parts = frames[start + 1 : start + 6]
        if not hmac.compare_digest(signature, self.sign(parts)):
            sys.stderr.write("faulty kernel: request with a wrong signature\n")
            return None
        header, _, metadata, content = map(json.loads, parts)
        return Request(frames[:start], header, metadata, content)


class Kernel:
    def __init__(self, connection: Json, *, fault: str, welcome: bool) -> None:
        version = "5.4" if welcome else "5.3"
        self.wire = Wire(connection["key"], version=version, forged=fault == "bad_signature")
        self.deaf = fault == "deaf"
        self.connection = connection
        self.context: zmq.Context[Socket] = zmq.Context()
        self.shell = self.bind(zmq.ROUTER, "shell")
        self.control = self.bind(zmq.ROUTER, "control")
        self.stdin = self.bind(zmq.ROUTER, "stdin")
        self.iopub = self.bind(zmq.XPUB if welcome else zmq.PUB, "iopub")
        # Served while a cell waits: only the shell is blocked by a running cell.
        self.side = zmq.Poller()
        self.side.register(self.control, zmq.POLLIN)
        if welcome:
            self.side.register(self.iopub, zmq.POLLIN)
        # Shell last, so that a cell never leaves stale events of the others behind it.
        self.all = zmq.Poller()
        for socket, events in [*self.side.sockets, (self.shell, zmq.POLLIN)]:
            self.all.register(socket, events)
        # A context and thread of its own: the heart beats on while a cell blocks.
        heart = self.bind(zmq.REP, "hb", zmq.Context())
        threading.Thread(target=beat, args=(heart,), daemon=True).start()

        self.cell = Request([], {}, {}, {})
        self.ending, self.ending_text = "", ""
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.count = 0
        self.interrupted = False
        signal.signal(signal.SIGINT, self.interrupt)

    def bind(self, kind: int, channel: str, context: zmq.Context[Socket] | None = None) -> Socket:
        socket = (context or self.context).socket(kind)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a client may come back with its identity
        if kind == zmq.XPUB:
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # welcome every client, not only the first
        # A flood must arrive whole, else tests could not tell who lost a message.
        socket.setsockopt(zmq.SNDHWM, 0)
        separator = "-" if self.connection["transport"] == "ipc" else ":"
        port = self.connection[f"{channel}_port"]
        socket.bind(f"{self.connection['transport']}://{self.connection['ip']}{separator}{port}")
        return socket

    def run(self) -> None:
        while True:
            self.serve(self.all, TICK if self.timers else None)

    def serve(self, poller: zmq.Poller, seconds: float | None) -> None:
        for socket, _ in poller.poll(None if seconds is None else max(1, int(seconds * 1000))):
            if socket is self.iopub:
                self.welcome(self.iopub.recv())
            else:
                self.handle(socket)
        now = time.monotonic()
        due = [action for at, action in self.timers if at <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for action in due:
            action()

    def welcome(self, event: bytes) -> None:
        if event[:1] == b"\x01":
            content = {"subscription": event[1:].decode()}
            self.iopub.send_multipart([event[1:], *self.wire.pack("iopub_welcome", content, {})])

    def handle(self, socket: Socket) -> None:
        request = self.wire.unpack(socket.recv_multipart())
        if request is None:
            return
        match request.header["msg_type"]:
            case "execute_request":
                self.execute(request)
            case "complete_request":
                self.answer(socket, request, complete(request.content))
            case "kernel_info_request" if not self.deaf:
                self.answer(socket, request, kernel_info(self.wire.version))
            case "interrupt_request":
                self.interrupt()
                self.answer(socket, request, {"status": "ok"})
            case "shutdown_request":
                restart = request.content.get("restart", False)
                self.answer(socket, request, {"status": "ok", "restart": restart})
                self.exit(0)

    def interrupt(self, *_: object) -> None:
        # A flag and not an exception, which could hit between the frames of a message.
        self.interrupted = True

    def exit(self, code: int) -> None:
        self.flush()
        os._exit(code)

    def flush(self) -> None:
        """Close the sockets once all is sent, else the end of the process overtakes its output."""
        self.context.destroy(linger=1000)

    # Sending

    def publish(
        self,
        msg_type: str,
        content: Json | bytes,
        *,
        parent: Json | None = None,
        forged: bool = False,
    ) -> None:
        parent = self.cell.header if parent is None else parent
        frames = self.wire.pack(msg_type, content, parent, forged=forged)
        self.iopub.send_multipart([msg_type.encode(), *frames])

    def status(self, state: str, parent: Json) -> None:
        self.publish("status", {"execution_state": state}, parent=parent)

    def stream(self, text: str, *, name: str = "stdout", parent: Json | None = None) -> None:
        self.publish("stream", {"name": name, "text": text}, parent=parent)

    def display(self, data: Json, *, update: str = "", new: str = "") -> None:
        msg_type = "update_display_data" if update else "display_data"
        transient = {"display_id": update or new} if update or new else {}
        self.publish(msg_type, {"data": data, "metadata": {}, "transient": transient})

    def reply(self, socket: Socket, request: Request, content: Json) -> None:
        msg_type = request.header["msg_type"].replace("_request", "_reply")
        frames = self.wire.pack(msg_type, content, request.header)
        socket.send_multipart([*request.idents, *frames])

    def answer(self, socket: Socket, request: Request, content: Json) -> None:
        self.status("busy", request.header)
        self.reply(socket, request, content)
        self.status("idle", request.header)

    # Cells

    def execute(self, request: Request) -> None:
        code = request.content["code"]
        silent = request.content.get("silent", False)
        if not silent and request.content.get("store_history", True):
            self.count += 1
        self.cell = request
        self.ending, self.ending_text = "", ""
        self.interrupted = False
        self.status("busy", request.header)
        if not silent:
            self.publish("execute_input", {"code": code, "execution_count": self.count})
        outcome: Json = {"status": "ok", "payload": [], "user_expressions": {}}
        try:
            for line in code.splitlines():
                self.check_interrupt()
                name, _, text = line.partition(" ")
                self.command(name, text)
        except (CellError, ValueError) as error:  # a ValueError: the test misspelt a number
            failure = error if isinstance(error, CellError) else CellError("ValueError", str(error))
            self.publish("error", failure.content)
            outcome = {"status": "error", **failure.content}
        self.finish(request, {**outcome, "execution_count": self.count})

    def command(self, name: str, text: str) -> None:
        first, _, rest = text.partition(" ")
        match name:
            case "print":
                self.stream(text + "\n")
            case "stderr":
                self.stream(text + "\n", name="stderr")
            case "result":
                content = {"data": {"text/plain": text}, "metadata": {}}
                if not self.cell.content.get("silent", False):
                    self.publish("execute_result", {**content, "execution_count": self.count})
            case "png":
                image = (b"\x89PNG\r\n\x1a\n" + bytes(int(text)))[: int(text)]
                self.display({"image/png": binascii.b2a_base64(image, newline=False).decode()})
            case "display":
                self.display({"text/plain": rest}, new=first)
            case "update":
                self.display({"text/plain": rest}, update=first)
            case "clear":
                self.publish("clear_output", {"wait": text == "wait"})
            case "error":
                raise CellError(first, rest)
            case "flood":
                for _ in range(int(first)):
                    self.check_interrupt()
                    self.stream("x" * int(rest))
            case "sleep":
                self.wait(float(text))
            case "stubborn":
                time.sleep(float(text))
                self.interrupted = False
            case "exit":
                self.exit(int(text))
            case "kill":
                # Signals that a kernel survives find it with its sockets.
                if int(text) not in (signal.SIGINT, signal.SIGSTOP):
                    self.flush()
                os.kill(os.getpid(), int(text))
            case "input":
                self.stream(self.ask(text) + "\n")
            case "stray_idle":
                self.status("idle", self.wire.header("execute_request"))
            case "foreign":
                self.stream(text + "\n", parent=self.wire.header("execute_request"))
            case "bad_json":
                self.publish("stream", b'{"name": "stdout", "text": ')
            case "bad_sig_output":
                self.publish("stream", {"name": "stdout", "text": "forged\n"}, forged=True)
            case "binary":
                self.publish("stream", b'{"name":"stdout","text":"%b"}' % bytes.fromhex(text))
            case "nan":
                self.display({"application/json": {"value": float("nan")}})
            case "comm":
                comm = {"comm_id": new_id(), "data": {"value": 1}}
                self.publish("comm_open", {**comm, "target_name": "faulty"})
                self.publish("comm_msg", comm)
            case "fork" | "setsid":
                import subprocess  # late, for a quick start

                # Not on the kernel's pipes: a child left behind must not keep pytest waiting.
                child = subprocess.Popen(
                    ["sleep", "1000"],
                    start_new_session=name == "setsid",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                self.stream(f"{child.pid}\n")
            case "echo_meta":
                self.stream(json.dumps(self.cell.metadata) + "\n")
            case "reply_first" | "idle_first" | "no_reply" | "no_idle" | "never" | "late":
                self.ending, self.ending_text = name, text
            case "abort" | "abort_short":
                self.ending = name
            case _:
                raise CellError("UnknownCommand", name)

    def finish(self, request: Request, outcome: Json) -> None:
        """End the cell, once all its lines have run, in the way that one of them chose."""
        reply = partial(self.reply, self.shell, request)
        idle = partial(self.status, "idle", request.header)
        match self.ending:
            case "reply_first":
                reply(outcome)
                time.sleep(0.05)
                self.stream((self.ending_text or "after the reply") + "\n")
                idle()
            case "idle_first":
                idle()
                time.sleep(0.03)
                reply(outcome)
            case "no_reply":
                idle()
            case "no_idle":
                reply(outcome)
            case "never":
                pass
            case "late":
                reply(outcome)
                idle()
                late = partial(self.stream, self.ending_text + "\n", parent=request.header)
                self.timers.append((time.monotonic() + 0.05, late))
            case "abort" | "abort_short":
                reply({"status": "aborted" if self.ending == "abort" else "abort"})
                idle()
            case _:
                reply(outcome)
                idle()

    def check_interrupt(self) -> None:
        if self.interrupted:
            self.interrupted = False
            raise CellError("KeyboardInterrupt", "")

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.serve(self.side, min(left, TICK))
            self.check_interrupt()

    def ask(self, prompt: str) -> str:
        if not self.cell.content.get("allow_stdin", False):
            raise CellError("StdinNotImplementedError", "this client does not answer prompts")
        while self.stdin.poll(0):
            self.stdin.recv_multipart()  # the answer to an interrupted prompt is not for this one
        content = {"prompt": prompt, "password": False}
        frames = self.wire.pack("input_request", content, self.cell.header)
        self.stdin.send_multipart([*self.cell.idents, *frames])
        while True:
            self.wait(TICK)
            if self.stdin.poll(0) and (answer := self.wire.unpack(self.stdin.recv_multipart())):
                return str(answer.content["value"])


def new_id() -> str:
    return os.urandom(16).hex()


def beat(socket: Socket) -> None:
    while True:
        socket.send(socket.recv())


def complete(content: Json) -> Json:
    cursor = content["cursor_pos"]
    start = content["code"].rfind("\n", 0, cursor) + 1
    matches = [word for word in COMPLETIONS if word.startswith(content["code"][start:cursor])]
    ends: Json = {"cursor_start": start, "cursor_end": cursor}
    return {"status": "ok", "matches": matches, **ends, "metadata": {}}


def kernel_info(version: str) -> Json:
    language = {"name": "faulty", "version": "1.0", "mimetype": "text/plain"}
    language["file_extension"] = ".txt"
    return {
        "status": "ok",
        "protocol_version": version,
        "implementation": "faulty",
        "implementation_version": "1.0",
        "language_info": language,
        "banner": "A kernel that misbehaves on request",
        "help_links": [],
    }


def main() -> None:
    fault, _, argument = os.environ.get("FAULT", "").partition(" ")
    match fault:
        case "" | "die_after_bind" | "deaf" | "bad_signature":
            pass
        case "die_at_start":
            sys.stderr.write("faulty kernel: dying at start\n")
            sys.exit(7)
        case "hang_at_start":
            while True:
                time.sleep(3600)
        case "slow_start":
            time.sleep(float(argument))
        case _:
            sys.exit(f"faulty kernel: unknown FAULT {fault!r}")
    connection = json.loads(Path(sys.argv[sys.argv.index("-f") + 1]).read_text())
    welcome = not os.environ.get("FAULT_NO_WELCOME")
    kernel = Kernel(connection, fault=fault, welcome=welcome)
    if fault == "die_after_bind":
        kernel.exit(8)
    kernel.run()


if __name__ == "__main__":
    main()
