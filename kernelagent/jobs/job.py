"""A job: code or a command that runs in the background; what is asked for and what is known."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from kernelagent.auth.tokens import COMMANDS, EXECUTE
from kernelagent.outcome import JobStatus, Outcome

_SHOWN_COMMAND = 500


class JobKind(StrEnum):
    """What a job runs."""

    CODE = "code"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What is to be run: `code` in a language, or `command` (a shell line unless it has `args`)."""

    kind: JobKind
    language: str
    timeout: float
    code: str = ""
    command: str = ""
    args: tuple[str, ...] | None = None
    workdir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """As JSON, from which `load` makes it again."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> JobRequest:
        args = data["args"]
        kind = JobKind(data["kind"])
        return cls(**{**data, "kind": kind, "args": None if args is None else tuple(args)})

    @property
    def shown(self) -> str:
        """What it runs, short, for lists."""
        text = self.code or " ".join([self.command, *(self.args or ())])
        text = text.strip()
        return text if len(text) <= _SHOWN_COMMAND else f"{text[:_SHOWN_COMMAND]} ..."


@dataclass(slots=True)
class Usage:
    """What a job's processes have used; seconds and bytes."""

    cpu_seconds: float = 0.0
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    peak_memory_bytes: int = 0


@dataclass(slots=True)
class LogFacts:
    """True numbers of what a job has printed, kept or not."""

    stdout_bytes: int = 0
    stderr_bytes: int = 0
    # What the kept log lacks in its middle, and what could not be written.
    cut_bytes: int = 0
    error: str = ""

    @property
    def bytes(self) -> int:
        return self.stdout_bytes + self.stderr_bytes


@dataclass(slots=True)
class Job:
    """All that is known of a job; moments are Unix time, durations seconds."""

    id: str
    execution_id: str
    kind: JobKind
    name: str
    language: str
    command: str
    timeout: float
    submitted_at: float
    number: int = 0
    status: JobStatus = JobStatus.QUEUED
    outcome: Outcome | None = None
    exit_code: int = 0
    message: str = ""
    pid: int = 0
    started_at: float | None = None
    ended_at: float | None = None
    seconds: float = 0.0
    # The end of what it has printed.
    stdout: str = ""
    stderr: str = ""
    log: LogFacts = field(default_factory=LogFacts)
    usage: Usage = field(default_factory=Usage)
    has_outputs: bool = False
    disk_bytes: int = 0
    request_digest: str = ""

    @property
    def scope(self) -> str:
        """What a token must allow to see it and to end it."""
        return COMMANDS if self.kind is JobKind.COMMAND else EXECUTE

    def dump(self) -> dict[str, Any]:
        """As JSON, from which `load` makes it again."""
        return dataclasses.asdict(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Job:
        outcome = data["outcome"]
        return cls(
            **{
                **data,
                "kind": JobKind(data["kind"]),
                "status": JobStatus(data["status"]),
                "outcome": None if outcome is None else Outcome(outcome),
                "log": LogFacts(**data["log"]),
                "usage": Usage(**data["usage"]),
            }
        )


@dataclass(frozen=True, slots=True)
class JobEnding:
    """How a job ended, as far as its own run knows."""

    outcome: Outcome
    exit_code: int
    message: str = ""
    # The body of an /execute/rich answer, of code that was run.
    answer: dict[str, Any] | None = None
    # CPU seconds and bytes of memory at their highest, where they are known exactly.
    usage: tuple[float, int] | None = None


def new_job(request: JobRequest, prefix: str, *, name: str = "", digest: str = "") -> Job:
    """A job for `request`, whose id begins with `prefix`, such as `proc_`."""
    unique = secrets.token_hex(10)
    return Job(
        id=f"{prefix}{unique}",
        # With the prefix `exec_` both are one.
        execution_id=f"exec_{unique}",
        kind=request.kind,
        # Published examples look for the language in it.
        name=name or f"{request.language}-{unique[:6]}",
        language=request.language,
        command=request.shown,
        timeout=request.timeout,
        submitted_at=time.time(),
        request_digest=digest,
    )
