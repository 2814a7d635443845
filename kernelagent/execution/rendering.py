"""From a run's result to the fields of an answer."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from kernelagent.jupyter.events import MimeBundle, Output
from kernelagent.jupyter.outputs import Truncation, data_size
from kernelagent.outcome import Outcome
from kernelagent.sessions.execution import Result
from kernelagent.text import utc_timestamp

CHART = "application/vnd.kernelagent.chart+json"
TABLE = "application/vnd.dataframe+json"

# The name of the error when code has ended with a status other than 0 and raised nothing.
EXIT_STATUS = "ExitStatus"

# Colours and movements of the cursor, and the marks of links and titles.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")

# Which of an object's forms shows most of it.
_PREFERENCE = (
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
)

_SOURCES = (
    (CHART, "matplotlib"),
    (TABLE, "pandas"),
    ("application/vnd.plotly", "plotly"),
    ("application/vnd.vega", "altair"),
    ("application/vnd.bokeh", "bokeh"),
    ("application/vnd.holoviews", "holoviews"),
    ("application/vnd.jupyter.widget-view", "ipywidgets"),
)

# What the HTML of libraries that send nothing else begins with.
_HTML_MARKS = (("plotly", "plotly"), ("altair-viz", "altair"), ("data-root-id", "bokeh"))

_TRUNCATION_FIELDS = tuple(field.name for field in dataclasses.fields(Truncation))

# field of the answer: MIME type
_TEXT_SLOTS = {
    "png": "image/png",
    "html": "text/html",
    "svg": "image/svg+xml",
    "markdown": "text/markdown",
}
_DATA_SLOTS = {
    "json": "application/json",
    "dataframe": TABLE,
    "chart": CHART,
}


def plain_text(text: str) -> str:
    """`text` without terminal colours."""
    return _ANSI.sub("", text)


def traceback_text(error: Output) -> str:
    """A traceback as a terminal would show it, without colours."""
    if error["ename"] == EXIT_STATUS:
        # A shell says nothing either when a command has failed.
        return ""
    lines = error["traceback"] or [f"{error['ename']}: {error['evalue']}"]
    return plain_text("\n".join(lines)).rstrip("\n") + "\n"


def facts(result: Result) -> dict[str, Any]:
    """The fields that every answer and every stream's result carry."""
    answer: dict[str, Any] = {
        "success": result.success,
        "outcome": result.outcome.value,
        "exit_code": result.exit_code,
        "execution_time": round(result.seconds, 6),
        "queue_time": round(result.queued_seconds, 6),
        "language": result.language,
        "timestamp": utc_timestamp(result.finished_at),
        "execution_id": result.execution_id,
        "session_id": result.session_id,
        "execution_count": result.execution_count,
        "message": result.message,
        "state_lost": result.state_lost,
        "truncated": result.truncation.truncated,
        "truncation": _truncation(result.truncation),
        "notes": result.notes,
    }
    if result.outcome is Outcome.TIMEOUT:
        answer |= {"timed_out": True, "code": "EXECUTION_TIMEOUT"}
    return answer


def slots(outputs: list[Output]) -> dict[str, Any]:
    """The last data of each MIME type that has a field of its own, and the result's text."""
    found: dict[str, Any] = {}
    for output in outputs:
        bundle = output.get("data") or {}
        for name, mime in _TEXT_SLOTS.items():
            # Code can show anything under any type; the field's type is promised.
            if isinstance(bundle.get(mime), str):
                found[name] = bundle[mime]
        for name, mime in _DATA_SLOTS.items():
            if mime in bundle:
                found[name] = bundle[mime]
        text = bundle.get("text/plain")
        if output["output_type"] == "execute_result" and isinstance(text, str):
            found["result"] = text
    return found


def rich_outputs(outputs: list[Output]) -> list[dict[str, Any]]:
    """Everything shown that is more than text, one item per object, in order."""
    return [
        rich_output(output)
        for output in outputs
        if "data" in output and set(output["data"]) - {"text/plain"}
    ]


def rich_output(output: Output) -> dict[str, Any]:
    """One item of `rich_outputs`."""
    bundle: MimeBundle = output["data"]
    primary = primary_type(bundle)
    data = bundle[primary]
    metadata = output["metadata"].get(primary)
    item: dict[str, Any] = {
        "type": primary,
        "format": _format(primary, data),
        "data": data,
        "metadata": {
            **(metadata if isinstance(metadata, dict) else {}),
            "source": source(bundle),
            "size": data_size(data),
        },
        "alternatives": {mime: value for mime, value in bundle.items() if mime != primary},
    }
    if output["output_type"] == "execute_result":
        item["execution_count"] = output.get("execution_count")
    return item


def primary_type(bundle: MimeBundle) -> str:
    """The MIME type of `bundle` that shows most."""
    for mime in _PREFERENCE:
        if mime in bundle:
            return mime
    others = [mime for mime in bundle if mime != "text/plain"]
    return others[0] if others else "text/plain"


def source(bundle: MimeBundle) -> str:
    """What kind of library made `bundle`, as far as it shows."""
    for mime in bundle:
        for prefix, name in _SOURCES:
            if mime.startswith(prefix):
                return name
    text = bundle.get("text/plain")
    if isinstance(text, str):
        if text.startswith("<Figure size"):
            return "matplotlib"
        if text.startswith("<PIL."):
            return "pil"
    html = bundle.get("text/html")
    if isinstance(html, str):
        if 'class="dataframe"' in html:
            return "pandas"
        head = html[:4096]
        for mark, name in _HTML_MARKS:
            if mark in head:
                return name
    return "other"


def answer(result: Result, *, with_outputs: bool) -> dict[str, Any]:
    """The body of /execute; with `with_outputs` that of /execute/rich."""
    outputs = result.outputs
    stdout, stderr = _streams(result)
    body = {
        **facts(result),
        "stdout": stdout,
        "stderr": stderr,
        **slots(outputs),
        "rich_outputs": rich_outputs(outputs),
        "late_outputs": result.late_outputs,
    }
    if result.error is not None:
        body["error"] = {key: result.error[key] for key in ("ename", "evalue", "traceback")}
    if with_outputs:
        body["outputs"] = outputs
        body["display_updates"] = [dataclasses.asdict(update) for update in result.updates]
    return body


def _streams(result: Result) -> tuple[str, str]:
    texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for output in result.outputs:
        if output["output_type"] == "stream":
            texts["stderr" if output["name"] == "stderr" else "stdout"].append(output["text"])
        elif output["output_type"] == "error":
            texts["stderr"].append(traceback_text(output))
    return "".join(texts["stdout"]), "".join(texts["stderr"])


def _format(mime: str, data: Any) -> str:
    if not isinstance(data, str):
        return "json"
    if mime == "text/html":
        return "html"
    if mime.startswith(("image/", "audio/", "video/", "application/pdf")):
        return "text" if mime == "image/svg+xml" else "base64"
    return "text"


def _truncation(truncation: Truncation) -> dict[str, Any]:
    # By hand: dataclasses.asdict copies deeply, which costs a tenth of a millisecond per answer.
    return {name: getattr(truncation, name) for name in _TRUNCATION_FIELDS}
