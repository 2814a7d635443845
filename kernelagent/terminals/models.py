"""Shapes of the wire for terminals."""

from __future__ import annotations

import signal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from kernelagent.web.bodies import Body, Text, check_environment, check_words

LARGEST_SIZE = 1000

# What a client may send to the program in the foreground.
SIGNALS = {
    name: signal.Signals[f"SIG{name}"]
    for name in ("HUP", "INT", "QUIT", "KILL", "TERM", "TSTP", "CONT", "USR1", "USR2", "WINCH")
}

Cells = Annotated[int, Field(strict=True, ge=1, le=LARGEST_SIZE)]


class CreateTerminal(Body):
    """A terminal that outlives its clients' connections."""

    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] | None = Field(
        None, description="Its name in URLs; made up if absent"
    )
    command: Text | None = Field(
        None, min_length=1, description="The program, or without args a line for the shell"
    )
    args: list[Text] | None = Field(
        None, max_length=10_000, description="The program's arguments, exactly as they are"
    )
    workdir: Text | None = Field(None, description="Where it starts; the workspace if absent")
    env: dict[Text, Text] | None = Field(None, description="Variables of this terminal only")
    cols: Cells = Field(80, description="Columns")
    rows: Cells = Field(24, description="Rows")

    _check_env = field_validator("env")(check_environment)

    _check_words = field_validator("command", "args")(check_words)

    @model_validator(mode="after")
    def _check_args(self) -> CreateTerminal:
        if self.args is not None and self.command is None:
            raise ValueError("args need a command")
        return self


class TerminalInfo(BaseModel):
    """A named terminal."""

    id: str
    status: Literal["running", "ended"]
    exit_code: int | None = Field(description="null while it runs; 128 + n if signal n ended it")
    pid: int
    command: str
    workdir: str
    cols: int
    rows: int
    attached: bool = Field(description="Whether a client is at it")
    oldest_offset: int = Field(description="Where the output that is kept begins, in bytes")
    end_offset: int = Field(description="Bytes printed so far")
    created_at: str
    ended_at: str | None


class TerminalList(BaseModel):
    """All named terminals, oldest first."""

    terminals: list[TerminalInfo]
    count: int


class TerminalDeleted(BaseModel):
    """The last that is known of a terminal."""

    id: str
    exit_code: int
    message: str


class Input(BaseModel):
    """Keys, exactly as they are pressed or pasted."""

    type: Literal["input"]
    data: Text


class Resize(BaseModel):
    """Another size."""

    type: Literal["resize"]
    cols: Cells
    rows: Cells


class Signal(BaseModel):
    """A signal to the program in the foreground, by its name with or without SIG."""

    type: Literal["signal"]
    signal: Text

    @field_validator("signal")
    @classmethod
    def _check_signal(cls, value: str) -> str:
        name = value.upper().removeprefix("SIG")
        if name not in SIGNALS:
            raise ValueError(f"must be one of {', '.join(SIGNALS)}")
        return name


ClientMessage = Annotated[Input | Resize | Signal, Field(discriminator="type")]
CLIENT_MESSAGE: TypeAdapter[Input | Resize | Signal] = TypeAdapter(ClientMessage)
