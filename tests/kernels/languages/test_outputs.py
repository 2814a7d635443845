"""Output and input in every language alike."""

from __future__ import annotations

from typing import Any

from tests.kernels.languages.snippets import Snippets
from tests.runs import all_messages, client_of, messages, run, streamed
from tests.servers import Server
from tests.waiting import PATIENCE


async def test_stdout_and_stderr_are_apart(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.both, **own)
    assert (answer["stdout"], answer["stderr"]) == ("out\n", "err\n")


async def test_output_is_streamed_as_it_comes(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    seen = []
    go = server.workspace / "go"
    try:
        async with streamed(server, snippets.slowly, **own) as it:
            async for item in messages(it):
                if item["type"] == "stdout":
                    seen.append(item["data"])
                    go.touch()
    finally:
        go.unlink()
    assert seen == ["a\n", "b\n"]


async def test_a_flood_is_complete(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    answer = await run(server, snippets.flood, **own)
    assert answer["stdout"] == "".join(f"{number}\n" for number in range(100_000))


async def test_excess_output_is_spilled_with_true_counts(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.flood, max_output_bytes=10_000, **own)
    whole = "".join(f"{number}\n" for number in range(100_000))
    assert len(answer["stdout"]) < 20_000
    assert answer["truncation"]["stdout_bytes"] == len(whole)


async def test_rich_output_is_in_order(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    items = await all_messages(server, snippets.html, **own)
    shown = [
        item["data"] if item["type"] == "stdout" else "html"
        for item in items
        if item["type"] in ("stdout", "rich")
    ]
    assert list(dict.fromkeys(shown)) == ["one\n", "html", "two\n"]
    answer = await run(server, snippets.html, path="/execute/rich", **own)
    assert "<b>bold</b>" in str(answer["rich_outputs"])


async def test_input_is_asked_for(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    text = ""
    async with client_of(server) as client, streamed(server, snippets.ask, **own) as it:
        async for item in messages(it):
            if item["type"] == "input_request":
                response = await client.post(
                    f"/sessions/{own['session_id']}/input", json={"value": "sesame é"}
                )
                assert response.is_success, response.text
            elif item["type"] == "stdout":
                text += item["data"]
    assert text == "[sesame é]\n"


async def test_input_that_nobody_can_give_is_at_its_end(
    server: Server, snippets: Snippets, own: dict[str, Any]
) -> None:
    answer = await run(server, snippets.ask, **own | {"timeout": PATIENCE})
    assert answer["outcome"] in ("ok", "error")
    assert "sesame" not in answer["stdout"]


async def test_text_of_all_scripts(server: Server, snippets: Snippets, own: dict[str, Any]) -> None:
    assert (await run(server, snippets.unicode, **own))["stdout"] == "žluť 日本 🎉\n"
