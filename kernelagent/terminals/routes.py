"""Routes of terminals: the WebSocket /terminal, and named ones that outlive their connections."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, WebSocket

from kernelagent.auth.tokens import TERMINAL
from kernelagent.errors import InvalidRequest
from kernelagent.terminals.models import (
    LARGEST_SIZE,
    CreateTerminal,
    TerminalDeleted,
    TerminalInfo,
    TerminalList,
)
from kernelagent.terminals.service import TerminalService
from kernelagent.terminals.socket import TerminalSocket
from kernelagent.terminals.terminal import Terminal
from kernelagent.text import utc_timestamp
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of

router = feature_router("terminals", TERMINAL)

_Cells = Annotated[int | None, Query(ge=1, le=LARGEST_SIZE)]


@router.websocket("/terminal")
async def open_terminal(
    websocket: WebSocket, cols: _Cells = None, rows: _Cells = None, binary: bool = False
) -> None:
    """A shell on a terminal, which ends when its client leaves."""
    service = service_of(websocket, TerminalService)
    # Before the connection is accepted: what is wrong is then told as an HTTP answer.
    terminal = await service.start(cols or 80, rows or 24)
    try:
        view = terminal.attach(0)
        await websocket.accept()
        await TerminalSocket(websocket, terminal, view, named=False, binary=binary).serve()
    finally:
        await terminal.close()


@router.post("/terminals", status_code=201)
async def create_terminal(request: Request, wanted: CreateTerminal | None = None) -> TerminalInfo:
    """Start a terminal that outlives its clients' connections; no body is a shell."""
    service = _service(request)
    return _info(await service.create(wanted or CreateTerminal()))


@router.get("/terminals")
async def list_terminals(request: Request) -> TerminalList:
    """All named terminals, oldest first, those that ended not long ago too."""
    terminals = [_info(terminal) for terminal in _service(request).named]
    return TerminalList(terminals=terminals, count=len(terminals))


@router.get("/terminals/{terminal_id}")
async def get_terminal(request: Request, terminal_id: str) -> TerminalInfo:
    """One named terminal; its output and input are on the WebSocket of the same path."""
    return _info(_service(request).find(terminal_id))


@router.delete("/terminals/{terminal_id}")
async def delete_terminal(request: Request, terminal_id: str) -> TerminalDeleted:
    """Hang up a terminal, end all that runs in it, and forget it."""
    terminal = await _service(request).delete(terminal_id)
    return TerminalDeleted(
        id=terminal_id, exit_code=terminal.exit_code or 0, message="the terminal was removed"
    )


@router.websocket("/terminals/{terminal_id}")
async def attach_terminal(
    websocket: WebSocket,
    terminal_id: str,
    offset: Annotated[int | None, Query(ge=0)] = None,
    takeover: bool = True,
    binary: bool = False,
    cols: _Cells = None,
    rows: _Cells = None,
) -> None:
    """Look at a named terminal, from an offset on; whoever was there before is sent away."""
    service = service_of(websocket, TerminalService)
    terminal = service.find(terminal_id)
    output = terminal.output
    if not takeover:
        service.check_free(terminal)
    if offset is not None and offset > output.end:
        raise InvalidRequest(
            f"offset: so much was not printed yet: {output.end} bytes",
            details={"oldest_offset": output.start, "end_offset": output.end},
        )
    await websocket.accept()
    if offset is None or offset < output.start:
        position = output.character_at(output.start) if output.start > 0 else 0
    else:
        position = offset
    view = terminal.attach(position)
    try:
        if cols is not None or rows is not None:
            now = terminal.size
            terminal.resize(cols or now[0], rows or now[1])
        socket = TerminalSocket(websocket, terminal, view, named=True, binary=binary)
        await socket.greet(offset)
        await socket.serve()
    finally:
        terminal.detach(view)


def _service(request: Request) -> TerminalService:
    return service_of(request, TerminalService)


def _info(terminal: Terminal) -> TerminalInfo:
    cols, rows = terminal.size
    ended = terminal.ended.is_set()
    return TerminalInfo(
        id=terminal.spec.name,
        status="ended" if ended else "running",
        exit_code=terminal.exit_code,
        pid=terminal.pid,
        command=" ".join(terminal.spec.program.argv),
        workdir=str(terminal.spec.program.cwd),
        cols=cols,
        rows=rows,
        attached=terminal.view is not None,
        oldest_offset=terminal.output.start,
        end_offset=terminal.output.end,
        created_at=utc_timestamp(terminal.created_at),
        ended_at=utc_timestamp(terminal.ended_at) if terminal.ended_at else None,
    )
