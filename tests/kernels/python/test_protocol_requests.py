"""Requests to every kind of Python kernel: order, counts, errors, and questions of editors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.python.protocol import Client, Variant, blocking_until


def test_a_kernel_is_of_the_kind_that_was_asked_for(client: Client, variant: Variant) -> None:
    code = "print(type(get_ipython().kernel).__name__)"
    assert client.run(code).text() == ("LeanKernel\n" if variant.lean else "KernelagentKernel\n")


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info_tells_the_language_and_the_protocol(client: Client, channel: str) -> None:
    answer = client.ask("kernel_info_request", channel=channel)
    content = answer.reply.content
    assert answer.reply.type == "kernel_info_reply"
    assert content["status"] == "ok"
    assert content["protocol_version"].startswith("5.")
    assert content["implementation"] == "ipython"
    assert content["language_info"]["name"] == "python"
    assert "IPython" in content["banner"]
    assert answer.labels == ["busy", "idle"]


def test_everything_a_cell_does_arrives_in_order(client: Client) -> None:
    cell = client.run(
        "import sys\n"
        "for number in range(3):\n"
        "    print(number)\n"
        "    print('-', number, file=sys.stderr)\n"
        "    display(number)\n"
        "print('end', end='')\n"
        "'value'"
    )
    one_round = ["stdout: {}\n", "stderr: - {}\n", "display_data"]
    assert cell.labels[:2] == ["busy", "execute_input"]
    assert cell.outputs == [
        *(label.format(number) for number in range(3) for label in one_round),
        "stdout: end",
        "execute_result",
    ]
    assert cell.labels[-1] == "idle"


def test_the_reply_and_the_outputs_tell_the_same_count(client: Client) -> None:
    first = client.run("'one'")
    second = client.run("'two'")
    count = first.reply.content["execution_count"]
    assert first.reply.type == "execute_reply"
    assert first.reply.content == {
        "status": "ok",
        "execution_count": count,
        "payload": [],
        "user_expressions": {},
    }
    assert first.one("execute_input").content == {"code": "'one'", "execution_count": count}
    assert first.one("execute_result").content == {
        "execution_count": count,
        "data": {"text/plain": "'one'"},
        "metadata": {},
    }
    assert second.reply.content["execution_count"] == count + 1


def test_expressions_are_evaluated_after_the_code(client: Client) -> None:
    reply = client.run("x = 20", user_expressions={"sum": "x + 1", "bad": "x / 0"}).reply
    expressions = reply.content["user_expressions"]
    assert expressions["sum"] == {"status": "ok", "data": {"text/plain": "21"}, "metadata": {}}
    assert expressions["bad"]["status"] == "error"
    assert expressions["bad"]["ename"] == "ZeroDivisionError"
    assert reply.content["status"] == "ok"


def test_expressions_are_not_evaluated_after_an_error(client: Client) -> None:
    reply = client.run("x = 1 / 0", user_expressions={"x": "1"}, stop_on_error=False).reply
    assert reply.content["status"] == "error"
    assert reply.content["user_expressions"] == {}


def test_a_payload_is_in_one_reply_only(client: Client) -> None:
    code = "get_ipython().set_next_input('next', replace=True)"
    (payload,) = client.run(code).reply.content["payload"]
    assert payload == {"source": "set_next_input", "text": "next", "replace": True}
    assert client.run("pass").reply.content["payload"] == []


def test_silent_code_shows_no_value_and_is_not_counted(client: Client) -> None:
    count = client.run("pass").reply.content["execution_count"]
    silent = client.run("print('said'); 'value'", silent=True)
    assert silent.labels == ["busy", "stdout: said\n", "idle"]
    assert silent.reply.content["status"] == "ok"
    assert client.run("pass").reply.content["execution_count"] == count + 1


def test_code_that_is_not_stored_is_not_counted(client: Client) -> None:
    count = client.run("pass").reply.content["execution_count"]
    unstored = client.run("'value'", store_history=False)
    assert unstored.labels == ["busy", "execute_input", "execute_result", "idle"]
    after = client.run("print(In[-2])")
    assert after.reply.content["execution_count"] == count + 1
    assert after.text() == "pass\n"


def test_an_error_is_told_by_an_output_and_by_the_reply(client: Client) -> None:
    cell = client.run("print('before')\n{}['key']", stop_on_error=False)
    error, reply = cell.one("error").content, cell.reply.content
    assert cell.labels == ["busy", "execute_input", "stdout: before\n", "error", "idle"]
    assert (error["ename"], error["evalue"]) == ("KeyError", "'key'")
    assert "KeyError" in error["traceback"][-1]
    assert reply["status"] == "error"
    assert {name: reply[name] for name in error} == error


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("1 +", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise BaseException", "BaseException"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("import asyncio; await asyncio.sleep(0); raise ValueError", "ValueError"),
        ("class Bad:\n    def __repr__(self): raise LookupError('bad')\nBad()", "LookupError"),
        ("%nosuchmagic", None),
    ],
)
def test_whatever_ends_a_cell_the_kernel_goes_on(
    client: Client, code: str, name: str | None
) -> None:
    cell = client.run(code, stop_on_error=False)
    if name is None:
        assert "not found" in cell.text("stderr")
    else:
        assert cell.one("error").content["ename"] == name
    assert client.run("print('alive')").text() == "alive\n"


@pytest.mark.parametrize("failing", ["1 / 0", "import asyncio; await asyncio.sleep(0); 1 / 0"])
def test_what_is_queued_behind_an_error_is_aborted(
    client: Client, tmp_path: Path, failing: str
) -> None:
    first = client.execute(blocking_until(tmp_path / "go") + failing)
    queued = [client.execute(f"print({number})") for number in range(3)]
    info = client.send("kernel_info_request")
    # What was sent before has arrived when this is answered.
    client.ask("kernel_info_request", channel="control")
    (tmp_path / "go").touch()
    assert client.finish(first).reply.content["status"] == "error"
    for msg_id in queued:
        cell = client.finish(msg_id)
        assert cell.reply.type == "execute_reply"
        assert cell.reply.content == {"status": "aborted"}
        assert cell.labels == ["busy", "idle"]
    assert client.finish(info).reply.content["status"] == "ok"
    assert client.run("print('next')").text() == "next\n"


def test_what_is_queued_behind_an_error_runs_if_that_is_wished(
    client: Client, tmp_path: Path
) -> None:
    first = client.execute(blocking_until(tmp_path / "go") + "1 / 0", stop_on_error=False)
    queued = [client.execute(f"print({number})") for number in range(3)]
    client.ask("kernel_info_request", channel="control")
    (tmp_path / "go").touch()
    assert client.finish(first).reply.content["status"] == "error"
    assert [client.finish(msg_id).text() for msg_id in queued] == ["0\n", "1\n", "2\n"]


def test_requests_are_answered_in_their_order(client: Client, tmp_path: Path) -> None:
    first = client.execute(blocking_until(tmp_path / "go"))
    sent = [
        client.execute("order = [1]"),
        client.send("is_complete_request", {"code": "1"}),
        client.execute("order.append(2); print(order)"),
    ]
    (tmp_path / "go").touch()
    client.finish(first)
    replies = [client.receive("shell") for _ in sent]
    assert [reply.parent_id for reply in replies] == sent
    client.until_idle(sent[-1])
    of_sent = [message.parent_id for message in client.iopub if message.parent_id in sent]
    assert of_sent == sorted(of_sent, key=sent.index)


def test_a_display_can_be_updated_and_cleared(client: Client) -> None:
    cell = client.run(
        "from IPython.display import HTML, clear_output\n"
        "handle = display(HTML('<b>1</b>'), display_id='mine', metadata={'a': 1})\n"
        "handle.update(HTML('<b>2</b>'))\n"
        "clear_output(wait=True)\n"
        "print('cleared')"
    )
    shown, updated = cell.one("display_data").content, cell.one("update_display_data").content
    assert cell.outputs == [
        "display_data",
        "update_display_data",
        "clear_output",
        "stdout: cleared\n",
    ]
    assert shown["data"]["text/html"] == "<b>1</b>"
    assert shown["metadata"] == {"a": 1}
    assert updated["data"]["text/html"] == "<b>2</b>"
    assert shown["transient"] == updated["transient"] == {"display_id": "mine"}
    assert cell.one("clear_output").content == {"wait": True}


def test_names_are_completed(client: Client) -> None:
    client.run("some_long_name = 1")
    answer = client.ask("complete_request", {"code": "x = some_lo", "cursor_pos": 11})
    content = answer.reply.content
    assert answer.reply.type == "complete_reply"
    assert content["status"] == "ok"
    assert content["matches"] == ["some_long_name"]
    assert (content["cursor_start"], content["cursor_end"]) == (4, 11)
    assert answer.labels == ["busy", "idle"]


def test_names_are_explained(client: Client) -> None:
    found = client.ask("inspect_request", {"code": "print(", "cursor_pos": 6, "detail_level": 0})
    assert found.reply.type == "inspect_reply"
    assert found.reply.content["found"]
    assert "Prints the values" in found.reply.content["data"]["text/plain"]
    nothing = client.ask("inspect_request", {"code": "nosuchname", "cursor_pos": 3})
    assert nothing.reply.content == {"status": "ok", "found": False, "data": {}, "metadata": {}}


@pytest.mark.parametrize(
    ("code", "status"),
    [("1 + 1", "complete"), ("for x in y:", "incomplete"), ("1 = 2", "invalid")],
)
def test_code_is_known_to_be_complete_or_not(client: Client, code: str, status: str) -> None:
    content = client.ask("is_complete_request", {"code": code}).reply.content
    assert content["status"] == status
    assert content.get("indent") == ("    " if status == "incomplete" else None)


def test_the_session_remembers_what_was_run(client: Client) -> None:
    count = client.run("'remembered'").reply.content["execution_count"]
    wanted = {
        "hist_access_type": "range",
        "session": 0,
        "start": count,
        "stop": count + 1,
        "raw": True,
        "output": False,
    }
    answer = client.ask("history_request", wanted)
    ((_, number, code),) = answer.reply.content["history"]
    assert (number, code) == (count, "'remembered'")


def test_magics_and_shell_commands_work(client: Client) -> None:
    cell = client.run("%env KERNELAGENT_TEST=7\n!echo from the shell")
    assert cell.text().splitlines() == ["env: KERNELAGENT_TEST=7", "from the shell"]
    assert client.run("lines = !printf 'a\\nb\\n'\nprint(list(lines))").text() == "['a', 'b']\n"
