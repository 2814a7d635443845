"""Comms of every kind of Python kernel."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kernels.python.protocol import Client, Variant, blocking_until, labels_of

COMMS = """
import asyncio
heard, answered = [], asyncio.Event()

def on_open(comm, message):
    global opened
    opened = comm
    print("opened with", message["content"]["data"])

    def on_message(message):
        print("heard", message["content"]["data"])
        heard.append(bytes(message["buffers"][0]) if message["buffers"] else None)
        comm.send({"echo": message["content"]["data"]}, buffers=[b"\\0back"])
        answered.set()

    comm.on_msg(on_message)
    comm.on_close(lambda message: print("closed"))

get_ipython().kernel.comm_manager.register_target("echo", on_open)
"""


def open_comm(client: Client) -> str:
    """Register a target and open a comm to it; its id."""
    assert client.run(COMMS).reply.content["status"] == "ok"
    comm_id = os.urandom(8).hex()
    content = {"comm_id": comm_id, "target_name": "echo", "data": {"a": 1}}
    msg_id = client.send("comm_open", content)
    client.until_idle(msg_id)
    assert labels_of(client.about(msg_id)) == ["busy", "stdout: opened with {'a': 1}\n", "idle"]
    return comm_id


def test_a_front_end_opens_a_comm_talks_and_closes_it(client: Client) -> None:
    comm_id = open_comm(client)
    listed = client.ask("comm_info_request", {"target_name": "echo"}).reply.content["comms"]
    assert listed == {comm_id: {"target_name": "echo"}}
    msg_id = client.send("comm_msg", {"comm_id": comm_id, "data": "hi"}, buffers=[b"\0there"])
    echo = client.until(lambda message: message.type == "comm_msg")
    assert echo.parent_id == msg_id
    assert echo.content == {"comm_id": comm_id, "data": {"echo": "hi"}}
    assert echo.buffers == [b"\0back"]
    assert client.run("heard").one("execute_result").content["data"]["text/plain"] == (
        "[b'\\x00there']"
    )
    client.until_idle(client.send("comm_close", {"comm_id": comm_id, "data": {}}))
    assert client.ask("comm_info_request").reply.content["comms"] == {}
    assert client.silent_on("shell")


def test_a_kernel_opens_a_comm(client: Client) -> None:
    cell = client.run(
        "import comm\n"
        "mine = comm.create_comm(target_name='front', data={'x': 1}, buffers=[b'raw'])\n"
        "mine.send({'y': 2}); mine.close()"
    )
    opened = cell.one("comm_open")
    assert opened.content["target_name"] == "front"
    assert opened.content["data"] == {"x": 1}
    assert opened.buffers == [b"raw"]
    assert cell.outputs == ["comm_open", "comm_msg", "comm_close"]


def test_a_cell_can_wait_for_the_answer_of_a_front_end(client: Client) -> None:
    comm_id = open_comm(client)
    waiting = client.start(
        "answered.clear(); print('ready'); await answered.wait(); print('answered')"
    )
    msg_id = client.send("comm_msg", {"comm_id": comm_id, "data": 5})
    cell = client.finish(waiting)
    assert cell.reply.content["status"] == "ok"
    assert cell.text() == "ready\nanswered\n"
    assert labels_of(client.about(msg_id)) == ["stdout: heard 5\n", "comm_msg"]


def test_an_answer_that_comes_before_a_cell_waits_for_it_is_not_missed(
    client: Client, tmp_path: Path
) -> None:
    comm_id = open_comm(client)
    first = client.execute(blocking_until(tmp_path / "go"))
    waiting = client.execute("answered.clear(); await answered.wait(); print('answered')")
    client.send("comm_msg", {"comm_id": comm_id, "data": 5})
    client.ask("kernel_info_request", channel="control")
    (tmp_path / "go").touch()
    client.finish(first)
    assert client.finish(waiting).text() == "answered\n"


def test_an_answer_that_a_cell_waits_for_does_not_take_its_output_away(
    client: Client, variant: Variant
) -> None:
    comm_id = open_comm(client)
    msg_id = client.start(
        "import os, sys, threading\nanswered.clear()\nprint('ready')\nawait answered.wait()\n"
        # Stock code lets the cell go on before it has put the cell's parent back.
        + ("" if variant.lean else "await asyncio.sleep(0.01)\n")
        + "print('line'); display(1); os.system('echo system')\n"
        "thread = threading.Thread(target=sys.stdout.write, args=['thread\\n'])\n"
        "thread.start(); thread.join()"
    )
    client.send("comm_msg", {"comm_id": comm_id, "data": 5})
    cell = client.finish(msg_id)
    assert cell.reply.content["status"] == "ok"
    assert sorted(cell.text().split()) == ["line", "ready", "system", "thread"]
    assert len(cell.all("display_data")) == 1
