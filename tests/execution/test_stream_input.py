"""Code in a stream that asks for input."""

from __future__ import annotations

from tests.runs import all_messages, client_of, messages, session, streamed, text_of, types
from tests.servers import Server


async def test_input_asks_the_client_and_takes_the_answer(server: Server) -> None:
    code = "name = input('name? ')\nprint(f'hello {name}')"
    async with (
        session(server) as session_id,
        client_of(server) as client,
        streamed(server, code, session_id=session_id) as response,
    ):
        items = []
        async for item in messages(response):
            items.append(item)
            if item["type"] == "input_request":
                body = {"value": "Ädä\u2028", "execution_id": item["execution_id"]}
                answer = await client.post(f"/sessions/{session_id}/input", json=body)
                assert answer.status_code == 200, answer.text

    (request,) = [item for item in items if item["type"] == "input_request"]
    assert request["prompt"] == "name? "
    assert request["password"] is False
    assert text_of(items) == "hello Ädä\u2028\n"
    assert items[-1]["success"] is True


async def test_password_prompt_is_marked(server: Server) -> None:
    code = "import getpass\nprint(len(getpass.getpass('secret: ')))"
    async with (
        session(server) as session_id,
        client_of(server) as client,
        streamed(server, code, session_id=session_id) as response,
    ):
        items = []
        async for item in messages(response):
            items.append(item)
            if item["type"] == "input_request":
                assert item["password"] is True
                await client.post(f"/sessions/{session_id}/input", json={"value": "1234"})

    assert text_of(items) == "4\n"


async def test_input_is_not_asked_if_the_client_says_so(server: Server) -> None:
    items = await all_messages(server, "input('name? ')", stdin=False)

    assert "input_request" not in types(items)
    assert [item["ename"] for item in items if item["type"] == "error"] == [
        "StdinNotImplementedError"
    ]


async def test_input_that_nobody_asked_for_is_refused(server: Server) -> None:
    async with session(server) as session_id, client_of(server) as client:
        answer = await client.post(f"/sessions/{session_id}/input", json={"value": "x"})

    assert answer.status_code == 409
    assert answer.json()["code"] == "NO_INPUT_AWAITED"


async def test_time_limit_holds_while_input_is_awaited(server: Server) -> None:
    items = await all_messages(server, "input('name? ')", timeout=0.3)

    assert items[-2]["outcome"] == "timeout"
    assert items[-2]["state_lost"] is False
