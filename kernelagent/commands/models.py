"""Shapes of the wire for commands."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, field_validator

from kernelagent.web.bodies import (
    WORKDIR,
    Body,
    Seconds,
    Text,
    check_environment,
    check_words,
)


class CommandRequest(Body):
    """A command: an argument vector with `args`, else a line for the shell.

    Unknown fields are accepted, null means absent.
    """

    command: Text = Field(min_length=1, description="The program, or a line for the shell")
    args: list[Text] | None = Field(None, max_length=10_000)
    timeout: Seconds | None = Field(None, description="Limit in seconds; 30 if absent")
    workdir: Text | None = Field(
        None,
        validation_alias=WORKDIR,
        description="Where it starts; the workspace if absent",
    )
    env: dict[Text, Text] | None = Field(None, description="Variables of this command only")

    _check_env = field_validator("env")(check_environment)

    _check_words = field_validator("command", "args")(check_words)


class RunRequest(CommandRequest):
    """A command whose end is waited for."""

    stdin: Text | None = Field(None, description="What it reads; nothing if absent")
    max_output_bytes: int | None = Field(
        None, ge=1024, description="Output kept in the answer; the rest goes to files"
    )


class CommandTruncation(BaseModel):
    """What was cut, in true numbers; files hold the rest."""

    truncated: bool
    total_bytes: int
    kept_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    lost_bytes: int
    files: list[dict[str, Any]]


class RunResponse(BaseModel):
    """What a command came to, whatever its exit code."""

    stdout: str
    stderr: str = Field(description="stderr, then why it ended early, if so")
    stdout_base64: str | None = Field(None, description="Exactly what stdout had, if no UTF-8")
    stderr_base64: str | None = Field(None, description="Exactly what stderr had, if no UTF-8")
    command_id: str = Field(description="As in the log and in the names of spilled files")
    exit_code: int = Field(description="124 after a time-out, 126 and 127 if it did not start")
    success: bool
    outcome: str
    execution_time: float
    command: str
    pid: int = Field(description="0 if it did not start")
    message: str
    timed_out: bool = False
    code: str | None = Field(None, description="EXECUTION_TIMEOUT after a time-out")
    truncated: bool
    truncation: CommandTruncation
    timestamp: str
