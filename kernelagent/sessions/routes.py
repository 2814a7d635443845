"""Routes of sessions: make, list, end, restart, interrupt, ask."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request

from kernelagent.auth.tokens import SESSIONS
from kernelagent.errors import InvalidRequest
from kernelagent.sessions.checkpoint import Checkpoint
from kernelagent.sessions.engine import Engine
from kernelagent.sessions.models import (
    BranchRequest,
    CheckpointInfo,
    CheckpointList,
    CheckpointRequest,
    CodePosition,
    CompleteResponse,
    CreateSession,
    InputRequest,
    InspectPosition,
    InspectResponse,
    InterruptResponse,
    JupyterSession,
    JupyterSessionList,
    RestoreRequest,
    SessionDetail,
    SessionInfo,
    SessionList,
    SessionMessage,
    TranscriptItem,
    VariableList,
)
from kernelagent.sessions.session import Session
from kernelagent.text import utc_timestamp
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of

router = feature_router("sessions", SESSIONS)


def _engine(request: Request) -> Engine:
    return service_of(request, Engine)


def _info(session: Session, engine: Engine) -> dict[str, Any]:
    kernel = session.kernel
    facts = session.facts
    return {
        "id": session.id,
        "language": facts.language.name,
        "name": facts.name,
        "is_default": facts.is_default,
        "state": session.state,
        "kernel_id": kernel.id if kernel else None,
        "pid": kernel.pid if kernel else None,
        "generation": session.generation,
        "parent": facts.parent,
        "checkpoints": len(engine.checkpoints.of(session.id)),
        "workdir": str(facts.cwd or engine.sandbox.workspace),
        "queued": session.queued,
        "queue_limit": engine.settings.queue_limit,
        "executions": session.transcript.runs,
        "idle_timeout": facts.idle_timeout,
        "created_at": utc_timestamp(session.created_at),
        "last_activity": utc_timestamp(session.last_activity),
    }


def _detail(session: Session, engine: Engine) -> SessionDetail:
    transcript = [
        TranscriptItem(
            execution_id=entry.execution_id,
            execution_count=entry.execution_count,
            outcome=entry.outcome,
            submitted_at=utc_timestamp(entry.submitted_at),
            execution_time=round(entry.seconds, 6),
        )
        for entry in session.transcript
    ]
    return SessionDetail(**_info(session, engine), transcript=transcript)


@router.post("/sessions", status_code=201)
async def create_session(request: Request, wanted: CreateSession | None = None) -> SessionDetail:
    """Make a session; it is answered when its kernel is ready. No body is a Python session."""
    engine = _engine(request)
    wanted = wanted or CreateSession()
    session = await engine.create_session(
        language=wanted.language,
        session_id=wanted.id,
        name=wanted.name or "",
        workdir=wanted.workdir,
        env=wanted.env,
        idle_timeout=wanted.idle_timeout,
    )
    return _detail(session, engine)


@router.get("/sessions")
async def list_sessions(request: Request) -> SessionList:
    """All sessions, oldest first."""
    engine = _engine(request)
    sessions = [SessionInfo(**_info(session, engine)) for session in engine.sessions]
    return SessionList(sessions=sessions, count=len(sessions))


@router.get("/sessions/{session_id}")
async def get_session(request: Request, session_id: str) -> SessionDetail:
    """One session with its last runs."""
    engine = _engine(request)
    return _detail(engine.find(session_id), engine)


@router.delete("/sessions/{session_id}")
async def delete_session(request: Request, session_id: str) -> SessionMessage:
    """End a session: what runs is stopped, what waits is cancelled, its processes are ended."""
    session = _engine(request).find(session_id)
    await _engine(request).close_session(session.id)
    return SessionMessage(id=session.id, message="the session was closed")


@router.post("/sessions/{session_id}/restart")
async def restart_session(request: Request, session_id: str) -> SessionDetail:
    """Give a session a fresh kernel; what runs or waits is cancelled."""
    engine = _engine(request)
    session = engine.find(session_id)
    await session.restart()
    return _detail(session, engine)


@router.post("/sessions/{session_id}/branch", status_code=201)
async def branch_session(
    request: Request, session_id: str, wanted: BranchRequest | None = None
) -> SessionDetail:
    """Make a new session with all the state of this one; both go on independently."""
    engine = _engine(request)
    wanted = wanted or BranchRequest()
    branch = await engine.branch_session(
        _session(request, session_id),
        session_id=wanted.id,
        name=wanted.name or "",
        force=wanted.force,
        wait=wanted.wait,
    )
    return _detail(branch, engine)


@router.post("/sessions/{session_id}/checkpoints", status_code=201)
async def make_checkpoint(
    request: Request, session_id: str, wanted: CheckpointRequest | None = None
) -> CheckpointInfo:
    """Keep the session's state, to go back to as often as wanted."""
    wanted = wanted or CheckpointRequest()
    checkpoint = await _engine(request).make_checkpoint(
        _session(request, session_id),
        name=wanted.name or "",
        force=wanted.force,
        wait=wanted.wait,
    )
    return _checkpoint(checkpoint)


@router.get("/sessions/{session_id}/checkpoints")
async def list_checkpoints(request: Request, session_id: str) -> CheckpointList:
    """The kept states of a session, oldest first, with the memory that they take now."""
    kept = _engine(request).checkpoints.of(_session(request, session_id).id)
    for checkpoint in kept:
        await checkpoint.measure()
    return CheckpointList(checkpoints=[_checkpoint(one) for one in kept], count=len(kept))


@router.delete("/sessions/{session_id}/checkpoints/{checkpoint_id}")
async def delete_checkpoint(
    request: Request, session_id: str, checkpoint_id: str
) -> SessionMessage:
    """Give a kept state up; sessions that were restored to it keep theirs."""
    session = _session(request, session_id)
    await _engine(request).checkpoints.delete(session.id, checkpoint_id)
    return SessionMessage(id=session.id, message="the checkpoint was deleted")


@router.post("/sessions/{session_id}/restore")
async def restore_session(
    request: Request, session_id: str, wanted: RestoreRequest
) -> SessionDetail:
    """Take the session back to a kept state; what runs or waits is cancelled."""
    engine = _engine(request)
    session = _session(request, session_id)
    await engine.restore_session(session, wanted.checkpoint_id)
    return _detail(session, engine)


@router.post("/sessions/{session_id}/interrupt")
async def interrupt_session(request: Request, session_id: str) -> InterruptResponse:
    """Interrupt what runs; the session keeps its state unless the code ignores it."""
    session = _engine(request).find(session_id)
    interrupted = session.interrupt()
    message = "the run was interrupted" if interrupted else "nothing was running"
    return InterruptResponse(id=session.id, interrupted=interrupted, message=message)


@router.post("/sessions/{session_id}/input")
async def send_input(request: Request, session_id: str, answer: InputRequest) -> SessionMessage:
    """Answer a prompt of a run that is streamed over HTTP."""
    session = _engine(request).find(session_id)
    session.answer_input(answer.value, execution_id=answer.execution_id)
    return SessionMessage(id=session.id, message="the answer was passed on")


@router.post("/sessions/{session_id}/complete")
async def complete_code(
    request: Request, session_id: str, position: CodePosition
) -> CompleteResponse:
    """What could stand at the cursor; touches neither execution count nor history."""
    content = {"code": position.code, "cursor_pos": _cursor(position)}
    reply = await _ask(request, session_id, "complete_request", content, position.limit)
    return CompleteResponse(
        matches=reply.get("matches", []),
        cursor_start=reply.get("cursor_start", content["cursor_pos"]),
        cursor_end=reply.get("cursor_end", content["cursor_pos"]),
        metadata=reply.get("metadata", {}),
    )


@router.post("/sessions/{session_id}/inspect")
async def inspect_code(
    request: Request, session_id: str, position: InspectPosition
) -> InspectResponse:
    """What is known about the thing at the cursor; touches neither count nor history."""
    content = {
        "code": position.code,
        "cursor_pos": _cursor(position),
        "detail_level": position.detail_level or 0,
    }
    reply = await _ask(request, session_id, "inspect_request", content, position.limit)
    return InspectResponse(
        found=bool(reply.get("found")),
        data=reply.get("data", {}),
        metadata=reply.get("metadata", {}),
    )


@router.get("/sessions/{session_id}/variables")
async def list_variables(
    request: Request,
    session_id: str,
    limit: Annotated[int, Query(ge=1, le=5000)] = 500,
    timeout: Annotated[float, Query(gt=0, le=60)] = 10.0,
) -> VariableList:
    """Name, type, shape, size and a preview of each variable; runs no user code."""
    session = _session(request, session_id)
    if not session.facts.language.has_side_channel:
        raise InvalidRequest(f"{session.facts.language.name} sessions cannot list variables")
    content = {"op": "variables", "limit": limit}
    reply = await session.ask("kernelagent_request", content, timeout)
    return VariableList.model_validate(reply)


@router.get("/jupyter/sessions")
async def list_jupyter_sessions(request: Request) -> JupyterSessionList:
    """All sessions, in the words of Jupyter."""
    sessions = [
        JupyterSession(
            id=session.id,
            kernel_id=session.kernel.id if session.kernel else "",
            execution_state=session.state,
            connections=session.queued + (session.state == "busy"),
            last_activity=utc_timestamp(session.last_activity),
            language=session.facts.language.name,
            path=str(session.facts.cwd or _engine(request).sandbox.workspace),
            name=session.facts.name or session.id,
            parent=session.facts.parent,
            checkpoints=len(_engine(request).checkpoints.of(session.id)),
        )
        for session in _engine(request).sessions
    ]
    return JupyterSessionList(sessions=sessions, count=len(sessions))


def _checkpoint(checkpoint: Checkpoint) -> CheckpointInfo:
    return CheckpointInfo(
        id=checkpoint.id,
        session_id=checkpoint.session_id,
        name=checkpoint.name,
        execution_count=checkpoint.execution_count,
        memory=checkpoint.memory,
        created_at=utc_timestamp(checkpoint.created_at),
    )


def _session(request: Request, session_id: str) -> Session:
    """An existing session, or a language's default one, which is made by the first use."""
    return _engine(request).session(session_id)


def _cursor(position: CodePosition) -> int:
    if position.cursor_pos is None:
        return len(position.code)
    if position.cursor_pos > len(position.code):
        raise InvalidRequest("cursor_pos is beyond the end of code")
    return position.cursor_pos


async def _ask(
    request: Request, session_id: str, msg_type: str, content: dict[str, Any], timeout: float
) -> dict[str, Any]:
    return await _session(request, session_id).ask(msg_type, content, timeout)
