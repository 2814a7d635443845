"""Shapes of the wire for jobs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kernelagent.commands.models import CommandRequest
from kernelagent.web.bodies import WORKDIR, Body, Seconds, Text, check_environment


class _JobRequest(Body):
    """What all jobs can be asked with."""

    timeout: Seconds | None = Field(None, description="Limit of the run itself, in seconds")
    workdir: Text | None = Field(
        None, validation_alias=WORKDIR, description="Where it starts; the workspace if absent"
    )
    env: dict[Text, Text] | None = Field(None, description="Variables of this job only")
    name: Text | None = Field(None, max_length=200, description="A label for people")

    _check_env = field_validator("env")(check_environment)


class BackgroundRequest(_JobRequest):
    """Code to be run in the background."""

    code: Text = Field(description="What to run")
    language: Text | None = Field(None, description="python if absent")


class AsyncRequest(BackgroundRequest):
    """Code whose result is sent to a URL."""

    callback_url: Text = Field(description="Where the result is sent to with POST")
    callback_headers: dict[Text, Text] | None = Field(None, description="Sent along")
    callback_signature_secret: Text | None = Field(
        None, max_length=4096, description="Key of the signature; unsigned if absent"
    )


class BackgroundCommand(CommandRequest):
    """A command to be run in the background."""

    name: Text | None = Field(None, max_length=200, description="A label for people")


class BackgroundResponse(BaseModel):
    """A job that was taken."""

    process_id: str = Field(description="The job's id")
    execution_id: str
    status: str = Field(description="running, or queued if as many run as the settings allow")
    name: str
    language: str
    start_time: str
    message: str


class AsyncResponse(BaseModel):
    """A job that was taken, whose result will be sent."""

    execution_id: str = Field(description="The job's id")
    process_id: str
    status: str = Field(description="queued")
    callback_url: str
    message: str
    timestamp: str


class CommandResponse(BackgroundResponse):
    """A command that was taken; in the shape of a finished one too, as published clients read."""

    pid: int = Field(description="0 while it waits")
    command: str
    started_at: str
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    success: bool = True
    execution_time: float = 0.0


class ProcessItem(BaseModel):
    """A job in a list."""

    process_id: str
    execution_id: str
    name: str
    status: str = Field(description="queued, running, completed, failed or killed")
    language: str
    command: str = Field(description="The beginning of what it runs")
    pid: int
    start_time: str
    started_at: str
    end_time: str | None = None
    completed_at: str | None = None
    exit_code: int = Field(description="124 after a time-out, 137 or 143 when it was killed")
    duration: float
    execution_time: float
    stdout: str = Field(description="The last 4 KiB")
    stderr: str = Field(description="The last 4 KiB")
    cpu_percent: float
    memory_percent: float


class ProcessList(BaseModel):
    """All jobs, oldest first."""

    processes: list[ProcessItem]
    count: int
    timestamp: str


class LogFactsInfo(BaseModel):
    """True numbers of what a job has printed."""

    bytes: int
    stdout_bytes: int
    stderr_bytes: int
    cut_bytes: int = Field(description="What the kept log lacks")
    error: str = Field(description="Why the log could not be written, if so")


class WebhookInfo(BaseModel):
    """How the delivery of a job's result stands."""

    id: str = Field(description="Sent as Idempotency-Key with every attempt")
    url: str
    state: str = Field(description="waiting (for the job), pending, delivered or failed")
    attempts: int
    last_status: int = Field(description="0 if no answer came")
    last_error: str
    next_attempt_at: str
    ended_at: str


class JobInfo(ProcessItem):
    """A job with all that is known of it."""

    id: str
    kind: str = Field(description="code or command")
    outcome: str = Field(description="As for a run; empty until it has ended")
    message: str = Field(description="Why it ended, where that is not plain")
    timeout: float
    submitted_at: str
    queue_position: int = Field(description="From 1; 0 if it does not wait")
    cpu_seconds: float
    memory_bytes: int
    peak_memory_bytes: int
    log: LogFactsInfo
    webhook: WebhookInfo | None


class JobList(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobInfo]
    count: int
    total: int = Field(description="Jobs that match, shown or not")


class KillResponse(BaseModel):
    """A job that has ended, now or before."""

    process_id: str
    status: str
    message: str
    success: bool = True


class LogPage(BaseModel):
    """A part of a job's log."""

    messages: list[dict[str, Any]] = Field(
        description="log: stream, data, offset, next_offset, timestamp; gap: offset, next_offset"
    )
    next_offset: int = Field(description="Where to go on")
    complete: bool = Field(description="The job has ended and nothing follows")
    status: str


class JobOutputs(BaseModel):
    """What a job has shown; of code that has ended, its whole /execute/rich answer."""

    model_config = ConfigDict(extra="allow")

    process_id: str
    status: str
    complete: bool
    outputs: list[dict[str, Any]]
    rich_outputs: list[dict[str, Any]]
