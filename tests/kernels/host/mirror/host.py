"""A host that does what each line of a cell says. Interrupts end `sleep`."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

requests = os.fdopen(int(sys.argv[1]), encoding="utf-8")
messages = os.fdopen(int(sys.argv[2]), "w", buffering=1, encoding="utf-8")
state: dict[str, str] = {}


def say(op: str, **content: Any) -> None:
    messages.write(json.dumps({"op": op, **content}) + "\n")
    messages.flush()


def pause(seconds: float) -> None:
    """Wait; raises KeyboardInterrupt."""
    if "deaf" in state:
        time.sleep(seconds)
    elif signal.sigtimedwait([signal.SIGINT], seconds) is not None:
        raise KeyboardInterrupt


def run(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to a run."""
    for line in request["code"].splitlines():
        word, _, rest = line.partition(" ")
        match word:
            case "print" | "warn":
                say("stream", name="stdout" if word == "print" else "stderr", text=rest + "\n")
            case "write":
                os.write(int(rest[0]), rest[1:].encode())
            case "bytes":
                os.write(1, bytes.fromhex(rest))
            case "show":
                say("display", data={"text/html": rest}, metadata={"a": 1}, display_id="d")
            case "update":
                say("display", data={"text/html": rest}, display_id="d", update=True)
            case "clear":
                say("clear", wait=True)
            case "value":
                say("result", data={"text/plain": rest})
            case "set":
                name, _, value = rest.partition("=")
                state[name] = value
            case "get":
                say("result", data={"text/plain": state.get(rest, "nothing")})
            case "env":
                value = {**os.environ, **request["env"]}.get(rest, "nothing")
                say("result", data={"text/plain": value})
            case "cwd":
                say("result", data={"text/plain": request["cwd"] or str(Path.cwd())})
            case "ask":
                say("ask", prompt=rest, password=rest == "secret")
                while not select.select([requests], [], [], 0.005)[0]:
                    pause(0)
                answered = json.loads(requests.readline())["line"]
                say("stream", name="stdout", text=f"{answered!r}\n")
            case "sleep":
                pause(float(rest))
            case "fail":
                trace = ["Cell In[1]:1", f"Oops: {rest}"]
                return {"failure": {"name": "Oops", "value": rest, "traceback": trace}}
            case "status":
                return {"exit_code": int(rest)}
            case "note":
                return {"note": rest}
            case "exit":
                os.write(1, b"last words")
                os._exit(int(rest))
            case "kill":
                os.write(2, b"last words\n")
                os.kill(os.getpid(), int(rest))
            case "later":
                if os.fork() == 0:
                    time.sleep(float(rest))
                    os.write(1, b"late\n")
                    os._exit(0)
            case "later-than":
                if os.fork() == 0:
                    while not Path(rest).exists():
                        time.sleep(0.01)
                    os.write(1, b"late\n")
                    os._exit(0)
            case "die-later":
                if os.fork() == 0:
                    parent = os.getppid()
                    time.sleep(float(rest))
                    os.kill(parent, signal.SIGTERM)
                    os._exit(0)
            case "break":
                messages.write("no JSON\n")
                messages.flush()
                time.sleep(60)
            case "ignore":
                state["deaf"] = "yes"
            case "flood":
                for number in range(int(rest)):
                    os.write(1, f"{number}\n".encode())
            case _:
                return {"failure": {"name": "Unknown", "value": word}}
    return {}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to any other request."""
    match request["op"]:
        case "configure":
            os.environ.update(request["env"])
            for name in request["unset"]:
                os.environ.pop(name, None)
            if request["cwd"] is not None:
                os.chdir(request["cwd"])
            return {}
        case "complete":
            return {"matches": [request["code"] + "!"], "start": 0, "end": request["cursor"]}
        case "inspect":
            return {"data": {"text/plain": request["code"]} if request["code"] else None}
        case "is_complete":
            return {"status": "incomplete" if request["code"].endswith("\\") else "complete"}
        case "variables":
            kept = [
                {"name": name, "type": "str", "shape": None, "size": None, "preview": value}
                for name, value in state.items()
            ]
            return {"variables": kept, "total": len(kept), "truncated": False}
    return {}


def main() -> None:
    # Taken where it may come, and nowhere else.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    say("ready")
    for line in requests:
        request = json.loads(line)
        try:
            reply = run(request) if request["op"] == "run" else answer(request)
        except KeyboardInterrupt:
            reply = {"failure": {"name": "KeyboardInterrupt", "value": ""}, "exit_code": 130}
        # What came too late is not for the next run.
        signal.sigtimedwait([signal.SIGINT], 0)
        say("reply", id=request["id"], **reply)


main()
