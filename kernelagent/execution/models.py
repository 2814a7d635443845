"""Shapes of the wire for everything that runs code."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kernelagent.outcome import Outcome
from kernelagent.web.bodies import WORKDIR, Body, Seconds, Text, check_environment


class ExecuteRequest(Body):
    """A run; durations are seconds. Unknown fields are accepted, null means absent."""

    code: Text = Field(description="What to run.")
    language: Text | None = Field(
        None, description="python (default), or a name or alias that /info lists."
    )
    session_id: Text | None = Field(
        None, description="Session to run in; default: the language's own default session."
    )
    isolated: bool | None = Field(
        None, description="Run on a fresh kernel that ends afterwards; excludes session_id."
    )
    timeout: Seconds | None = Field(
        None, description="Limit of the run itself; default 60. Larger values are lowered."
    )
    queue_timeout: Seconds | None = Field(
        None, description="Limit of the wait for the session; then 409, and nothing was run."
    )
    request_timeout: Seconds | None = Field(
        None,
        description="Limit of queue and run together; default: timeout plus 25, which is before "
        "published clients give up and send again.",
    )
    workdir: Text | None = Field(
        None,
        validation_alias=WORKDIR,
        description="Directory for this run; the session's own comes back afterwards. Relative "
        "paths start at the workspace. Also accepted as working_dir and cwd.",
    )
    env: dict[Text, Text] | None = Field(
        None, description="Variables for this run only; undone exactly afterwards."
    )
    max_output_bytes: int | None = Field(
        None, ge=1024, description="Output kept in the answer; the rest goes to files."
    )
    on_disconnect: Literal["interrupt", "continue"] | None = Field(
        None, description="What happens to the run if its caller leaves; default interrupt."
    )
    stdin: bool | None = Field(
        None, description="Streams only: whether input() may ask the client; default true."
    )
    cache: bool | None = Field(
        None,
        description="Isolated runs only: answer with the result of an equal run if there is one, "
        "and keep this one's.",
    )
    cache_ttl: Seconds | None = Field(
        None,
        description="As cache: true, for results that are not older than this. Larger values are "
        "lowered.",
    )
    input_files: list[Text] | None = Field(
        None,
        max_length=1000,
        description="With cache: files that the code reads, relative to the run's directory; a "
        "result is used only while they have the same content.",
    )

    _check_env = field_validator("env")(check_environment)

    @property
    def names_cache(self) -> bool:
        """Whether any field is about the cache."""
        return self.cache is not None or self.cache_ttl is not None or self.input_files is not None

    @property
    def asks_cache(self) -> bool:
        """Whether a cached result will do."""
        return self.cache_ttl is not None if self.cache is None else self.cache


class RichMetadata(BaseModel):
    """Where a rich output comes from."""

    model_config = ConfigDict(extra="allow")

    source: str = Field(description="matplotlib, pandas, plotly, altair, bokeh, pil, ... or other")
    size: int = Field(description="Bytes of data as it is sent")


class RichOutput(BaseModel):
    """One thing that was shown, in the form that shows most of it."""

    type: str = Field(description="MIME type of data")
    format: str = Field(description="base64, html, json or text: how to read data")
    data: Any
    metadata: RichMetadata
    alternatives: dict[str, Any] = Field(description="The same thing in its other MIME types")
    execution_count: int | None = Field(None, description="Set for the value of the last line")


class ErrorInfo(BaseModel):
    """The exception that ended the code."""

    ename: str
    evalue: str
    traceback: list[str] = Field(description="Lines with terminal colours, as the kernel sent them")


class TruncationInfo(BaseModel):
    """What was cut, in true numbers; files hold the rest."""

    truncated: bool
    total_bytes: int
    kept_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    displays: int
    kept_displays: int
    lost_bytes: int = Field(description="Neither kept nor in a file")
    files: list[dict[str, Any]]


class DisplayUpdate(BaseModel):
    """New data for what an earlier run has shown under this id."""

    display_id: str
    data: dict[str, Any]
    metadata: dict[str, Any]


class ExecuteResponse(BaseModel):
    """What a run came to. Failing code is an answer like any other: success is false."""

    success: bool
    outcome: Outcome
    exit_code: int = Field(description="0, 1, what sys.exit was given, 124 after a timeout, ...")
    stdout: str
    stderr: str = Field(description="stderr, then the traceback or the reason of an early end")
    execution_time: float = Field(description="Seconds of the run itself")
    queue_time: float = Field(description="Seconds of waiting for the session")
    language: str
    timestamp: str
    execution_id: str
    session_id: str
    execution_count: int | None = None
    message: str = Field("", description="Why a run ended early; empty for ok and error")
    state_lost: bool = Field(description="The session has a fresh kernel now")
    truncated: bool
    truncation: TruncationInfo
    timed_out: bool = False
    code: str | None = Field(None, description="EXECUTION_TIMEOUT after a timeout")
    error: ErrorInfo | None = None
    result: str | None = Field(None, description="Text of the value of the last line")
    png: str | None = Field(None, description="The last PNG, base64")
    html: str | None = None
    svg: str | None = None
    markdown: str | None = None
    json_: Any = Field(None, alias="json", description="The last application/json")
    dataframe: Any = Field(None, description="The last table as data")
    chart: Any = Field(None, description="The last matplotlib figure as data")
    rich_outputs: list[RichOutput]
    late_outputs: list[dict[str, Any]] = Field(
        description="What threads of earlier runs printed since, in nbformat shape"
    )
    notes: list[str] = Field(description="What else the caller should know")
    cached: bool | None = Field(
        None, description="If the request asked for it: whether this is the result of another run"
    )
    age: float | None = Field(None, description="If cached: seconds since that run ended")


class RichResponse(ExecuteResponse):
    """As /execute, with all outputs in nbformat shape."""

    outputs: list[dict[str, Any]] = Field(
        description="Streams, displays, results and errors in order, in nbformat shape"
    )
    display_updates: list[DisplayUpdate]
