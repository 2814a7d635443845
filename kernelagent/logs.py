"""Structured logs: one line per event, as JSON or text, with the ids of what it belongs to.

Code and secrets are not logged anywhere in this package. The redaction here is a second line, for
what other libraries write: a server that logs a query, an error that quotes its input.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from kernelagent.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
session_id: ContextVar[str | None] = ContextVar("session_id", default=None)
execution_id: ContextVar[str | None] = ContextVar("execution_id", default=None)
command_id: ContextVar[str | None] = ContextVar("command_id", default=None)
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

# The ids that each line carries, where they are known.
CONTEXT = (request_id, trace_id, session_id, execution_id, command_id, job_id)
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# uvicorn repeats its message under this name with colour codes.
_STANDARD.add("color_message")

_REDACTED = "[redacted]"
_SECRETS = re.compile(
    r"eyJ[\w-]+\.[\w-]+\.[\w-]*"
    r"|(?<=token=)[^\s&\"'<>\\]+"
    r"|(?<=bearer )[\w.~+/=-]{16,}",
    re.IGNORECASE,
)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}
_MESSAGE_LIMIT = 1000


def redact(text: str) -> str:
    """`text` without anything that looks like a token."""
    lowered = text.lower()
    # Each line passes here; the expression alone takes as long as the rest of it.
    if "eyj" in lowered or "token=" in lowered or "bearer " in lowered:
        return _SECRETS.sub(_REDACTED, text)
    return text


def exception_text(error: BaseException) -> str:
    """The trace of `error` and its causes, without the input that some errors quote."""
    return redact("".join(_trace(error, set())).rstrip())


def _trace(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause = error.__cause__
    link = "The above exception was the direct cause of the following exception:"
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
        link = "During handling of the above exception, another exception occurred:"
    if cause is not None and id(cause) not in seen:
        yield from _trace(cause, seen)
        yield f"\n{link}\n\n"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    kind = type(error)
    yield f"{kind.__module__}.{kind.__qualname__}: {_message(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for number, member in enumerate(error.exceptions, 1):
            if id(member) not in seen:
                yield f"  --- {number} of {len(error.exceptions)} ---\n"
                for block in _trace(member, seen):
                    yield "".join(f"  {line}" for line in block.splitlines(keepends=True))


def _message(error: BaseException) -> str:
    # The validation errors of pydantic and FastAPI print what was sent: code, variables.
    errors = getattr(error, "errors", None)
    if callable(errors):
        try:
            return "; ".join(f"{_place(item['loc'])}: {item['type']}" for item in errors())
        except Exception:  # another library's idea of `errors`
            return "(not shown)"
    try:
        text = str(error)
    except Exception:
        return "(no text)"
    return text if len(text) <= _MESSAGE_LIMIT else text[:_MESSAGE_LIMIT] + "..."


def _place(loc: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in loc) or "(whole)"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    fields: dict[str, Any] = {
        "ts": moment.replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage().rstrip(),
    }
    for variable in CONTEXT:
        value = variable.get()
        if value is not None:
            fields[variable.name] = value
    for key, value in vars(record).items():
        if key not in _STANDARD:
            fields[key] = value
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = exception_text(record.exc_info[1])
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        try:
            line = orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate or a huge number
            line = json.dumps(fields, default=str, skipkeys=True)
        return redact(line)


class TextFormatter(logging.Formatter):
    """One line for people; traces follow on lines of their own."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        blocks = [fields.pop(name) for name in ("exception", "stack") if name in fields]
        head = (fields.pop("ts"), fields.pop("level").upper(), fields.pop("logger"))
        pairs = "".join(f" {key}={value}" for key, value in fields.items() if key != "event")
        # A path may hold anything, line ends and terminal codes included.
        line = f"{head[0]} {head[1]:<7} {head[2]}: {fields['event']}{pairs}".translate(_CONTROLS)
        return redact("\n".join([line, *blocks])).encode("utf-8", "replace").decode()


def configure_logging(level: str = "info", fmt: str = "json", stream: TextIO | None = None) -> None:
    """Send the logs of this package, uvicorn and everything else to `stream` (stderr).

    Run uvicorn with `log_config=None`, or it puts its own handlers back.
    """
    try:
        number = LEVELS[level.lower()]
    except KeyError:
        raise ConfigurationError(
            f"KERNELAGENT_LOG_LEVEL: {level!r} is none of {', '.join(LEVELS)}"
        ) from None
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if fmt == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # At debug, websockets writes frames (user code) and httpcore writes headers (tokens).
    root.setLevel(max(number, logging.INFO))
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.getLogger("kernelagent").setLevel(number)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    # RequestContext writes the access log; uvicorn's shows queries, and so tokens.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    access.disabled = True
