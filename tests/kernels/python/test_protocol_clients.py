"""Clients of every kind of Python kernel: several, forged ones, and those of Jupyter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.manager import KernelManager
from jupyter_client.session import Session
from jupyter_core.utils import ensure_event_loop

from tests.command_line import kernelagent
from tests.kernels.python.protocol import (
    LIMIT,
    VARIANTS,
    WAITS,
    Client,
    Host,
    Variant,
    answer_prompt,
    connected,
    labels_of,
)


def test_heartbeats_come_back(client: Client) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(client.kernel.endpoint.url("hb"))
        msg_id = client.start(WAITS["busy loop"], stop_on_error=False)
        for beat in (b"ping", b"", b"x" * 1000):
            sock.send(beat)
            assert sock.poll(int(LIMIT * 1000))
            assert sock.recv() == beat
        client.interrupt()
        client.finish(msg_id)


def test_two_clients_see_all_outputs_and_their_own_replies(client: Client, host: Host) -> None:
    with connected(host.shared(), careful=client.careful) as other:
        mine, others = client.execute("print('mine')"), other.execute("print('others')")
        client.finish(mine)
        other.finish(others)
        for each in (client, other):
            for msg_id, text in ((mine, "mine"), (others, "others")):
                each.until_idle(msg_id)
                labels = labels_of(each.about(msg_id))
                assert labels == ["busy", "execute_input", f"stdout: {text}\n", "idle"]
            assert each.silent_on("shell")


def test_a_question_reaches_the_one_whose_code_asks(client: Client, host: Host) -> None:
    with connected(host.shared(), careful=client.careful) as other:
        msg_id = other.execute("print(input('?'))")
        answer_prompt(other, msg_id, "the other one")
        assert other.finish(msg_id).text() == "the other one\n"
        assert client.silent_on("stdin")


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_what_is_not_signed_with_the_key_is_ignored(client: Client, channel: str) -> None:
    sock = getattr(client.jupyter, f"{channel}_channel").socket
    forger = Session(key=b"another key", session=client.session.session)
    forger.send(sock, "execute_request", {"code": "forged = True", "silent": False})
    good = client.session.serialize(client.session.msg("kernel_info_request", {}))
    sock.send_multipart([*good[:-1], b'{"forged": true}'])
    sock.send_multipart([b"<IDS|MSG>", b"", b"{}"])
    sock.send_multipart([b"no message at all"])
    answer = client.ask("kernel_info_request", channel=channel)
    assert answer.reply.content["status"] == "ok"
    assert client.silent_on(channel)
    assert client.run("print('forged' in globals())").text() == "False\n"


@pytest.mark.parametrize("restart", [False, True])
def test_a_kernel_that_is_shut_down_runs_its_exit_functions(
    host: Host, variant: Variant, tmp_path: Path, restart: bool
) -> None:
    kernel = host.start()
    with connected(kernel, careful=not variant.lean) as client:
        client.run(
            "import atexit, pathlib, threading, time\n"
            f"folder = pathlib.Path({str(tmp_path)!r})\n"
            "atexit.register((folder / 'atexit').touch)\n"
            "atexit.register(print, 'last words')\n"
            "def finish():\n"
            "    threading.main_thread().join(); (folder / 'thread').touch()\n"
            "threading.Thread(target=finish).start()"
        )
        msg_id = client.send("shutdown_request", {"restart": restart}, channel="control")
        reply = client.receive("control")
        assert (reply.type, reply.parent_id) == ("shutdown_reply", msg_id)
        assert reply.content == {"status": "ok", "restart": restart}
        told = client.until(lambda message: message.type == "shutdown_reply")
        assert told.content == reply.content
        assert host.wait_for_end(kernel) == 0
        assert (tmp_path / "atexit").exists()


@pytest.fixture
def kernelspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of our kernelspec, registered where only this test looks."""
    installed = kernelagent("kernelspec", "install", "--prefix", str(tmp_path), cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    return "kernelagent-python"


@pytest.mark.parametrize("kind", [each for each in VARIANTS if not each.forked], ids=str)
def test_jupyter_starts_our_kernel_by_its_kernelspec(
    kind: Variant, kernelspec: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # What jupyter_client's blocking methods run on; nobody else closes it.
    request.addfinalizer(ensure_event_loop().close)
    manager = KernelManager(kernel_name=kernelspec, connection_file=str(tmp_path / "kernel.json"))
    assert manager.kernel_spec is not None
    assert manager.kernel_spec.resource_dir.startswith(str(tmp_path))
    env = {**os.environ, "KERNELAGENT_STOCK_KERNEL": "" if kind.lean else "1"}
    manager.start_kernel(env=env, cwd=str(tmp_path))
    client = manager.blocking_client()
    try:
        assert manager.transport == "tcp"
        client.start_channels()
        client.wait_for_ready(timeout=LIMIT)
        spoken: list[dict[str, Any]] = []
        asked: list[str] = []

        def answer(message: dict[str, Any]) -> None:
            asked.append(message["content"]["prompt"])
            client.input("typed")

        reply = client.execute_interactive(
            "import os; print(type(get_ipython().kernel).__name__, os.getcwd())\n"
            "display(1); print(input('? ')); 2",
            timeout=LIMIT,
            output_hook=spoken.append,
            stdin_hook=answer,
        )
        assert reply["content"]["status"] == "ok"
        assert asked == ["? "]
        shown = [message for message in spoken if message["msg_type"] not in ("status", "stream")]
        assert [message["msg_type"] for message in shown] == [
            *("execute_input", "display_data", "execute_result"),
        ]
        text = "".join(
            message["content"]["text"] for message in spoken if message["msg_type"] == "stream"
        )
        kernel = "LeanKernel" if kind.lean else "KernelagentKernel"
        assert text == f"{kernel} {tmp_path}\ntyped\n"
        assert client.is_alive()
        completed = client.complete("impor", reply=True, timeout=LIMIT)
        assert "import" in completed["content"]["matches"]
        msg_id = client.execute("import time; print('sleeps'); time.sleep(1000)")
        while client.get_iopub_msg(timeout=LIMIT)["msg_type"] != "stream":
            pass
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=LIMIT)
        assert reply["parent_header"]["msg_id"] == msg_id
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        client.shutdown(reply=True, timeout=LIMIT)
        manager.finish_shutdown()
        assert not manager.is_alive()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(0)
