"""Input of every kind of Python kernel."""

from __future__ import annotations

import pytest

from tests.kernels.python.protocol import Client, answer_prompt


def test_a_question_is_put_to_whoever_runs_the_code(client: Client) -> None:
    msg_id = client.execute("print(input('Name? ')); print(input())")
    assert answer_prompt(client, msg_id, "Ada").content == {"prompt": "Name? ", "password": False}
    assert answer_prompt(client, msg_id, "").content == {"prompt": "", "password": False}
    assert client.finish(msg_id).text() == "Ada\n\n"


def test_what_was_printed_before_a_question_is_seen_first(client: Client) -> None:
    msg_id = client.execute("print('no line end', end=''); x = input()")
    question = client.receive("stdin")
    client.until_printed("no line end", msg_id)
    client.jupyter.input("")
    assert question.type == "input_request"
    assert client.finish(msg_id).reply.content["status"] == "ok"


def test_a_password_is_asked_for_as_such(client: Client) -> None:
    msg_id = client.execute("import getpass; print(getpass.getpass('Secret: ')[::-1])")
    question = answer_prompt(client, msg_id, "abc")
    assert question.content == {"prompt": "Secret: ", "password": True}
    assert client.finish(msg_id).text() == "cba\n"


@pytest.mark.parametrize("code", ["input()", "import getpass; getpass.getpass()"])
def test_without_anybody_to_ask_a_question_is_an_error(client: Client, code: str) -> None:
    cell = client.run(code, allow_stdin=False, stop_on_error=False)
    assert cell.reply.content["ename"] == "StdinNotImplementedError"
    assert client.silent_on("stdin")


def test_a_question_in_async_code_is_answered(client: Client) -> None:
    msg_id = client.execute("import asyncio; await asyncio.sleep(0); print(input('?'))")
    answer_prompt(client, msg_id, "async")
    assert client.finish(msg_id).text() == "async\n"


def test_the_end_of_input_is_told(client: Client) -> None:
    msg_id = client.execute("try:\n    input()\nexcept EOFError:\n    print('ended')")
    answer_prompt(client, msg_id, "\x04")
    assert client.finish(msg_id).text() == "ended\n"


def test_a_question_can_be_interrupted_and_a_late_answer_is_not_the_next_ones(
    client: Client,
) -> None:
    msg_id = client.execute("input('first ')", stop_on_error=False)
    assert client.receive("stdin").content["prompt"] == "first "
    client.interrupt()
    assert client.finish(msg_id).reply.content["ename"] == "KeyboardInterrupt"
    client.jupyter.input("late")
    client.ask("kernel_info_request")
    msg_id = client.execute("print(input('second '))")
    assert answer_prompt(client, msg_id, "right").content["prompt"] == "second "
    assert client.finish(msg_id).text() == "right\n"
