"""Shapes of the wire for sessions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kernelagent.outcome import Outcome
from kernelagent.web.bodies import WORKDIR, Body, Text, check_environment


class CreateSession(Body):
    """A session to be made; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    language: Text | None = Field(None, description="python if absent")
    id: Text | None = Field(None, description="Wished id: 1 to 64 of A-Z a-z 0-9 . _ -")
    name: Text | None = Field(None, max_length=200, description="A label for people")
    workdir: Text | None = Field(
        None,
        validation_alias=WORKDIR,
        description="Where the session starts; the workspace if absent",
    )
    env: dict[Text, Text] | None = Field(None, description="Variables of the whole session")
    idle_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="Seconds without a run after which it is closed; 0 keeps it"
    )

    _check_env = field_validator("env")(check_environment)


Wait = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class _Copy(BaseModel):
    """What every copy of a session's kernel can be asked with; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")

    name: Text | None = Field(None, max_length=200, description="A label for people")
    force: bool = Field(
        False,
        description="Copy a kernel with threads or tasks too; they do not exist in the copy",
    )
    timeout: Wait | None = Field(
        None, description="Seconds to wait for the runs that were submitted before; 60 if absent"
    )

    @property
    def wait(self) -> float:
        """Seconds to wait for the session's turn."""
        return 60.0 if self.timeout is None else self.timeout


class BranchRequest(_Copy):
    """A new session with all the state of another one."""

    id: Text | None = Field(None, description="Wished id: 1 to 64 of A-Z a-z 0-9 . _ -")


class CheckpointRequest(_Copy):
    """A state to be kept."""


class RestoreRequest(BaseModel):
    """A state to go back to."""

    model_config = ConfigDict(extra="forbid")

    checkpoint_id: Text


class CheckpointInfo(BaseModel):
    """A kept state."""

    id: str
    session_id: str
    name: str
    execution_count: int | None = Field(description="That of the last run before it")
    memory: int = Field(
        description="Bytes it takes, as last measured; what it shares counts in part"
    )
    created_at: str


class CheckpointList(BaseModel):
    """A session's checkpoints, oldest first."""

    checkpoints: list[CheckpointInfo]
    count: int


class TranscriptItem(BaseModel):
    """One finished run of a session."""

    execution_id: str
    execution_count: int | None
    outcome: Outcome
    submitted_at: str
    execution_time: float


class SessionInfo(BaseModel):
    """A session as it is now."""

    id: str
    language: str
    name: str
    is_default: bool
    state: str = Field(description="starting, idle, busy or closed")
    kernel_id: str | None
    pid: int | None
    generation: int = Field(description="Kernels it has had; more than 1 after a loss")
    parent: str = Field(description="Session that it was branched from, else empty")
    checkpoints: int
    workdir: str
    queued: int
    queue_limit: int
    executions: int
    idle_timeout: float
    created_at: str
    last_activity: str


class SessionDetail(SessionInfo):
    """A session with its last runs."""

    transcript: list[TranscriptItem]


class SessionList(BaseModel):
    """All sessions, oldest first."""

    sessions: list[SessionInfo]
    count: int


class SessionMessage(BaseModel):
    """What was done."""

    id: str
    message: str
    success: bool = True


class InterruptResponse(SessionMessage):
    """Whether there was something to interrupt."""

    interrupted: bool


class InputRequest(BaseModel):
    """An answer to a prompt of the running code."""

    model_config = ConfigDict(extra="forbid")

    value: Text
    execution_id: Text | None = None


class CodePosition(BaseModel):
    """A place in code; cursor_pos counts characters and is the end if absent."""

    model_config = ConfigDict(extra="forbid")

    code: Text
    cursor_pos: Annotated[int, Field(ge=0)] | None = None
    timeout: Annotated[float, Field(gt=0, le=60)] | None = Field(
        None, description="Seconds to wait for the kernel; 10 if absent"
    )

    @property
    def limit(self) -> float:
        """Seconds to wait for the kernel."""
        return 10.0 if self.timeout is None else self.timeout


class InspectPosition(CodePosition):
    """A place in code and how much to tell about what is there."""

    detail_level: Annotated[int, Field(ge=0, le=1)] | None = None


class CompleteResponse(BaseModel):
    """Texts that could stand between cursor_start and cursor_end."""

    matches: list[str]
    cursor_start: int
    cursor_end: int
    metadata: dict[str, Any]


class InspectResponse(BaseModel):
    """What is known about the thing at the cursor, as a MIME bundle."""

    found: bool
    data: dict[str, Any]
    metadata: dict[str, Any]


class Variable(BaseModel):
    """A variable of the session's namespace."""

    name: str
    type: str
    shape: list[int] | None = None
    size: int | None = Field(None, description="Bytes, as far as cheaply known")
    preview: str


class VariableList(BaseModel):
    """The session's variables; total counts those that were left out too."""

    variables: list[Variable]
    total: int
    truncated: bool


class JupyterSession(BaseModel):
    """A session as Jupyter's clients know one."""

    id: str
    kernel_id: str
    execution_state: str
    connections: int
    last_activity: str
    language: str
    path: str
    name: str
    parent: str = Field(description="Session that it was branched from, else empty")
    checkpoints: int


class JupyterSessionList(BaseModel):
    """All sessions."""

    sessions: list[JupyterSession]
    count: int
