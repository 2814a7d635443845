"""Log lines: their fields, their two formats, and what never shows in them."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from pydantic import BaseModel, TypeAdapter

from kernelagent import logs
from kernelagent.errors import ConfigurationError
from kernelagent.logs import configure_logging, exception_text, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = jwt.encode({"sub": "x"}, "0123456789abcdef0123456789abcdef", algorithm="HS256")
NAMES = ("", "kernelagent", "uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore")

SENT = "my secret code"

log = logging.getLogger("kernelagent.example")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(it.handlers[:], it.level, it.propagate, it.disabled) for it in loggers]
    yield
    for logger, (handlers, level, propagate, disabled) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


def configured(level: str = "info", fmt: str = "json") -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, fmt, stream)
    return stream


def only(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    fields: dict[str, Any] = json.loads(line)
    return fields


def test_an_event_is_one_json_line() -> None:
    stream = configured()
    log.info("kernel %s", "started", extra={"language": "python", "seconds": 0.5})
    fields = only(stream)
    assert fields.pop("ts").endswith("Z")
    assert fields == {
        "level": "info",
        "logger": "kernelagent.example",
        "event": "kernel started",
        "language": "python",
        "seconds": 0.5,
    }


def test_lines_carry_the_ids_that_are_set() -> None:
    stream = configured()
    tokens = [
        (variable, variable.set(variable.name[0] * 3))
        for variable in (logs.request_id, logs.session_id, logs.execution_id)
    ]
    log.info("x")
    for variable, token in tokens:
        variable.reset(token)
    fields = only(stream)
    assert (fields["request_id"], fields["session_id"], fields["execution_id"]) == (
        "rrr",
        "sss",
        "eee",
    )


def test_text_lines_are_for_people() -> None:
    stream = configured(fmt="text")
    log.warning("pool is empty", extra={"language": "go"})
    assert stream.getvalue().endswith("Z WARNING kernelagent.example: pool is empty language=go\n")


def test_text_lines_cannot_be_forged_by_a_path() -> None:
    stream = configured(fmt="text")
    log.info("request", extra={"path": "/x\n2025 INFO root: all is well\x1b[2J\x9b"})
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("fmt", ["json", "text"])
@pytest.mark.parametrize(
    "value", ["\udcff", 2**100, {1: object()}, {("a",): 1}, b"x", float("nan")]
)
def test_any_value_can_be_logged(fmt: str, value: Any) -> None:
    stream = configured(fmt=fmt)
    log.info("%s", value, extra={"value": value})
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("fmt", ["json", "text"])
@pytest.mark.parametrize(
    "text",
    [
        f"got {TOKEN} from someone",
        f'127.0.0.1 - "WebSocket /terminal?x=1&token={TOKEN}&y=2" [accepted]',
        "GET /execute/stream?token=opaque-secret-value",
        "GET /execute/stream?auth_TOKEN=opaque-secret-value&a=1",
        "Authorization: Bearer opaque-secret-value",
        TOKEN.rsplit(".", 1)[0] + ".",
    ],
)
def test_tokens_are_redacted_everywhere(fmt: str, text: str) -> None:
    stream = configured(fmt=fmt)
    log.info(text)
    log.info("%s", text)
    log.info("x", extra={"url": text, "deep": {"list": [text]}})
    try:
        raise ValueError(text)
    except ValueError as error:
        log.exception("failed")
        assert "[redacted]" in exception_text(error)
    logged = stream.getvalue()
    assert "[redacted]" in logged
    assert "opaque-secret-value" not in logged
    assert TOKEN.split(".")[1] not in logged


def test_other_text_is_left_alone() -> None:
    text = "a token is required: Bearer <token>; token count=3; eyJust.a.word?"
    assert redact(text) == text.replace("eyJust.a.word", "[redacted]")
    assert redact("send a bearer token=") == "send a bearer token="


def test_exceptions_are_text_with_their_causes() -> None:
    stream = configured()
    try:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        log.exception("failed")
    trace = only(stream)["exception"]
    assert trace.index("KeyError: 'inner'") < trace.index("direct cause")
    assert trace.endswith("RuntimeError: outer")
    assert "Traceback (most recent call last)" in trace


def test_exception_groups_show_their_members() -> None:
    error = ExceptionGroup("two", [ValueError("one"), ExceptionGroup("more", [OSError("two")])])
    text = exception_text(error)
    assert "ValueError: one" in text
    assert "OSError: two" in text


def test_an_endless_chain_of_causes_ends() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert exception_text(first).count("ValueError") == 2


class Secretive(BaseModel):
    code: int


def test_validation_errors_do_not_show_what_was_sent() -> None:
    sent = [{"code": SENT}]
    with pytest.raises(ValueError, match=SENT) as caught:
        TypeAdapter(list[Secretive]).validate_python(sent)
    text = exception_text(caught.value)
    assert SENT not in text
    assert "0.code: int_parsing" in text


def test_the_source_in_a_syntax_error_is_not_shown() -> None:
    with pytest.raises(SyntaxError) as caught:
        compile(SENT, "<cell>", "exec")
    assert SENT not in exception_text(caught.value)


def test_long_messages_are_cut() -> None:
    assert len(exception_text(ValueError("x" * 10_000))) < 1100


def test_an_exception_that_cannot_be_printed_is_logged() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

        def errors(self) -> int:
            return 3

    class Odder(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert exception_text(Odd()).endswith("Odd: (not shown)")
    assert exception_text(Odder()).endswith("Odder: (no text)")


def test_the_stack_can_be_asked_for() -> None:
    stream = configured()
    log.info("here", stack_info=True)
    assert "test_the_stack_can_be_asked_for" in only(stream)["stack"]


def test_uvicorn_writes_through_the_same_handler() -> None:
    logging.getLogger("uvicorn.error").handlers.append(logging.StreamHandler())
    stream = configured()
    logging.getLogger("uvicorn.error").info(
        "Started %s", "server", extra={"color_message": "Started \x1b[36m%s"}
    )
    logging.getLogger("uvicorn.access").info("GET /x?token=abc")
    fields = only(stream)
    assert (fields["logger"], fields["event"]) == ("uvicorn.error", "Started server")
    assert "color_message" not in fields


def test_debug_does_not_open_the_libraries() -> None:
    stream = configured("debug")
    log.debug("ours")
    # websockets writes whole frames at this level, httpcore headers.
    logging.getLogger("websockets.server").debug("> TEXT 'code'")
    logging.getLogger("httpcore.http11").debug("headers")
    logging.getLogger("httpx").info("HTTP Request: GET http://x?key=1")
    assert only(stream)["event"] == "ours"


@pytest.mark.parametrize(("level", "expected"), [("warning", 2), ("ERROR", 1), ("info", 3)])
def test_levels(level: str, expected: int) -> None:
    stream = configured(level)
    log.info("a")
    log.warning("b")
    log.error("c")
    assert len(stream.getvalue().splitlines()) == expected


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="KERNELAGENT_LOG_LEVEL"):
        configure_logging("loud")


def test_configuring_twice_does_not_double_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    configure_logging()
    log.info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
