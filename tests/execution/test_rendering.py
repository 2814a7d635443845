"""From a result to an answer: fields of their own, one item per object, plain text."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from kernelagent.execution.models import RichResponse
from kernelagent.execution.rendering import (
    CHART,
    TABLE,
    answer,
    facts,
    plain_text,
    primary_type,
    rich_output,
    rich_outputs,
    slots,
    source,
    traceback_text,
)
from kernelagent.jupyter.events import MimeBundle, Update
from kernelagent.outcome import Outcome
from tests.execution.results import display, error, result, stream, value


def test_an_answer_says_what_the_run_came_to() -> None:
    assert facts(result()) == {
        "success": True,
        "outcome": "ok",
        "exit_code": 0,
        "execution_time": 1.234568,
        "queue_time": 0.123457,
        "language": "python",
        "timestamp": "2024-02-29T12:00:00.000500Z",
        "execution_id": "exec_1",
        "session_id": "default-python",
        "execution_count": 3,
        "message": "",
        "state_lost": False,
        "truncated": False,
        "truncation": {
            "truncated": False,
            "total_bytes": 0,
            "kept_bytes": 0,
            "stdout_bytes": 0,
            "stderr_bytes": 0,
            "displays": 0,
            "kept_displays": 0,
            "lost_bytes": 0,
            "files": [],
        },
        "notes": [],
    }


def test_a_timeout_is_told_in_the_words_of_older_clients_too() -> None:
    told = facts(result(outcome=Outcome.TIMEOUT, exit_code=124))
    assert (told["success"], told["timed_out"], told["code"]) == (False, True, "EXECUTION_TIMEOUT")


def test_an_exit_code_other_than_zero_is_no_success() -> None:
    assert not facts(result(outcome=Outcome.OK, exit_code=3))["success"]


def test_an_answer_has_the_shape_that_is_documented() -> None:
    run = result(
        stream("x\n"),
        display({"image/png": "aGk=", CHART: {"type": "line"}}, {"image/png": {"width": 3}}),
        value({"text/html": "<b>", "text/plain": "b", TABLE: {"rows": []}}),
        error("line"),
        updates=[Update("id", {"text/plain": "new"}, {})],
    )
    body = answer(run, with_outputs=True)
    documented = RichResponse.model_validate_json(orjson.dumps(body))
    read_back = documented.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert read_back == orjson.loads(orjson.dumps(body))


def test_streams_are_joined_and_tracebacks_are_on_stderr() -> None:
    body = answer(
        result(stream("a\n"), stream("w\n", "stderr"), stream("b\n"), error("\x1b[31mone", "two")),
        with_outputs=False,
    )
    assert (body["stdout"], body["stderr"]) == ("a\nb\n", "w\none\ntwo\n")
    assert body["error"] == {
        "ename": "ValueError",
        "evalue": "wrong",
        "traceback": ["\x1b[31mone", "two"],
    }


def test_the_outputs_come_only_where_they_are_asked_for() -> None:
    run = result(stream("a"), updates=[Update("id", {"text/plain": "x"}, {"m": 1})])
    brief, full = answer(run, with_outputs=False), answer(run, with_outputs=True)
    assert full["outputs"] == [stream("a")]
    assert full["display_updates"] == [
        {"display_id": "id", "data": {"text/plain": "x"}, "metadata": {"m": 1}}
    ]
    assert full.keys() - brief.keys() == {"outputs", "display_updates"}


def test_a_run_that_shows_nothing_has_neither_slots_nor_error() -> None:
    body = answer(result(), with_outputs=False)
    assert (body["stdout"], body["stderr"], body["rich_outputs"]) == ("", "", [])
    assert not body.keys() & {"png", "html", "svg", "markdown", "json", "result", "error", "chart"}


def test_each_slot_has_the_last_data_of_its_type() -> None:
    assert slots(
        [
            display({"image/png": "first", "text/html": "<i>"}),
            display({"image/png": "second", "image/svg+xml": "<svg>", "text/markdown": "*m*"}),
            display({"application/json": {"a": 1}, TABLE: {"rows": 1}, CHART: {"type": "bar"}}),
            value({"text/plain": "42"}),
        ]
    ) == {
        "png": "second",
        "html": "<i>",
        "svg": "<svg>",
        "markdown": "*m*",
        "json": {"a": 1},
        "dataframe": {"rows": 1},
        "chart": {"type": "bar"},
        "result": "42",
    }


def test_only_the_value_of_the_last_line_is_a_result() -> None:
    assert slots([display({"text/plain": "shown"})]) == {}


def test_json_that_is_null_or_empty_is_there() -> None:
    assert slots([display({"application/json": None})]) == {"json": None}
    assert slots([display({"application/json": []})]) == {"json": []}


def test_a_slot_for_text_holds_nothing_else() -> None:
    outputs = [display({"image/png": {"not": "text"}, "text/html": 5}), value({"text/plain": 5})]
    assert slots(outputs) == {}


def test_each_object_is_one_rich_output_in_order() -> None:
    items = rich_outputs(
        [
            display({"text/plain": "only text"}),
            display({"image/png": "aGk=", "text/plain": "<Figure size 1x1>"}),
            stream("x"),
            value({"text/html": "<table>", "text/plain": "t"}, count=7),
            error("x"),
        ]
    )
    assert [(item["type"], item["format"]) for item in items] == [
        ("image/png", "base64"),
        ("text/html", "html"),
    ]
    assert items[0]["alternatives"] == {"text/plain": "<Figure size 1x1>"}
    assert "execution_count" not in items[0]
    assert items[1]["execution_count"] == 7


@pytest.mark.parametrize(
    ("mime", "data", "form"),
    [
        ("image/png", "aGk=", "base64"),
        ("image/svg+xml", "<svg>", "text"),
        ("application/pdf", "aGk=", "base64"),
        ("audio/wav", "aGk=", "base64"),
        ("text/html", "<b>", "html"),
        ("text/latex", "$x$", "text"),
        ("application/json", {"a": 1}, "json"),
        ("application/json", [1], "json"),
        ("application/vnd.x+json", {"a": 1}, "json"),
        ("text/x-unheard-of", "x", "text"),
    ],
)
def test_a_rich_output_says_how_to_read_its_data(mime: str, data: Any, form: str) -> None:
    item = rich_output(display({mime: data, "text/plain": "x"}))
    assert (item["type"], item["format"], item["data"]) == (mime, form, data)


@pytest.mark.parametrize(
    ("data", "size"), [("abcd", 4), ("ä☃", 5), ({"ä": [1, 2]}, len('{"ä":[1,2]}'.encode()))]
)
def test_the_size_of_a_rich_output_is_in_bytes_as_sent(data: Any, size: int) -> None:
    assert rich_output(display({"application/json": data}))["metadata"]["size"] == size


def test_the_metadata_of_the_shown_type_is_kept() -> None:
    metadata = {"image/png": {"width": 640, "size": "forged"}, "text/html": {"isolated": True}}
    item = rich_output(display({"image/png": "aGk="}, metadata))
    assert item["metadata"] == {"width": 640, "source": "other", "size": 4}


@pytest.mark.parametrize("wrong", [None, 5, "text", [1]])
def test_metadata_of_any_shape_disturbs_nothing(wrong: Any) -> None:
    item = rich_output(display({"image/png": "aGk="}, {"image/png": wrong}))
    assert item["metadata"] == {"source": "other", "size": 4}


def test_the_type_that_shows_most_comes_first() -> None:
    order = [
        "image/png",
        "image/jpeg",
        "image/svg+xml",
        "image/gif",
        "image/webp",
        "application/vnd.plotly.v1+json",
        "text/html",
        "text/markdown",
        "text/latex",
        "application/pdf",
        "application/json",
    ]
    for number, mime in enumerate(order):
        bundle = dict.fromkeys(["text/plain", CHART, *reversed(order[number:])], "x")
        assert primary_type(bundle) == mime
    assert primary_type({"text/plain": "x", "application/x-unknown": "y"}) == (
        "application/x-unknown"
    )
    assert primary_type({"text/plain": "x"}) == "text/plain"


@pytest.mark.parametrize(
    ("bundle", "library"),
    [
        ({"image/png": "x", CHART: {}}, "matplotlib"),
        ({"image/png": "x", "text/plain": "<Figure size 640x480 with 1 Axes>"}, "matplotlib"),
        ({"text/html": "x", TABLE: {}}, "pandas"),
        ({"text/html": '<table border="1" class="dataframe">'}, "pandas"),
        ({"application/vnd.plotly.v1+json": {}, "text/html": "x"}, "plotly"),
        ({"text/html": "<script>Plotly.newPlot; plotly.js</script>"}, "plotly"),
        ({"application/vnd.vegalite.v5+json": {}, "text/plain": "alt.Chart(...)"}, "altair"),
        ({"application/vnd.bokehjs_exec.v0+json": ""}, "bokeh"),
        ({"application/vnd.holoviews_exec.v0+json": ""}, "holoviews"),
        ({"application/vnd.jupyter.widget-view+json": {}}, "ipywidgets"),
        ({"image/png": "x", "text/plain": "<PIL.Image.Image image mode=RGB size=1x1>"}, "pil"),
        ({"text/html": "<b>bold</b>", "text/plain": "<IPython.core.display.HTML object>"}, "other"),
        ({"text/plain": 5, "text/html": ["x"]}, "other"),
        ({}, "other"),
    ],
)
def test_the_library_that_made_an_output_is_named(bundle: MimeBundle, library: str) -> None:
    assert source(bundle) == library


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\x1b[0;31mred\x1b[0m", "red"),
        ("\x1b[1;38;5;208mx\x1b[38;2;1;2;3my\x1b[38:2::1:2:3mz\x1b[m", "xyz"),
        ("\x1b[2K\x1b[1A\x1b[?25lbar", "bar"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;title\x07text", "text"),
        ("array[0] \x1b half", "array[0] \x1b half"),
        ("ä☃\n", "ä☃\n"),
    ],
)
def test_colours_and_other_orders_to_a_terminal_are_removed(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.parametrize(
    ("traceback", "text"),
    [
        (["one", "two"], "one\ntwo\n"),
        (["one\n"], "one\n"),
        (["\x1b[31mone\x1b[0m"], "one\n"),
        ([], "ValueError: wrong\n"),
    ],
)
def test_a_traceback_is_text_that_ends_with_one_line_end(traceback: list[str], text: str) -> None:
    assert traceback_text(error(*traceback)) == text
