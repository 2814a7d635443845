"""The HTTP server: a listening socket, uvicorn, and the application's life."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI

# Seconds of a shutdown: what runs may finish; then the service ends it and says so to its client;
# whoever has not taken that answer is cut off.
_GRACE = 5
_LAST_GRACE = 5
# Longer than HTTP clients keep an idle connection: to one, a close just as it sends is an error.
_KEEP_ALIVE = 75
_WEBSOCKET_MESSAGE = 16 * 2**20
_WEBSOCKET_PING = 20.0
_BACKLOG = 2048


class Server(uvicorn.Server):
    """uvicorn, with the app's lifespan in our hands: why it failed is ours to tell."""

    def __init__(self, app: FastAPI, on_start: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="websockets-sansio",
                ws_max_size=_WEBSOCKET_MESSAGE,
                ws_ping_interval=_WEBSOCKET_PING,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=_KEEP_ALIVE,
                timeout_graceful_shutdown=_GRACE + _LAST_GRACE,
                backlog=_BACKLOG,
            )
        )
        self._app = app
        self._on_start = on_start
        self._stack = contextlib.AsyncExitStack()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        handle_ignored_signals()
        super().run(sockets=sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self._stack.enter_async_context(self._app.router.lifespan_context(self._app))
        if not gc.isenabled():
            # What was made until now stays: a collection that went through it would take 0.1 s, in
            # which nobody is answered.
            gc.freeze()
            gc.enable()
        try:
            await super().startup(sockets=sockets)
            self._on_start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(super().shutdown(sockets=sockets))
        await asyncio.wait([ending], timeout=_GRACE)
        try:
            await self._stack.aclose()
        finally:
            await ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        # uvicorn raises them again when it is done; to end on request is a success.
        self._captured_signals.clear()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises OSError. Known to be ours before anything else starts."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(host: str, listener: socket.socket) -> str:
    """Where the service is, with the port that the system chose."""
    port: int = listener.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def handle_ignored_signals() -> None:
    """Go on ignoring what `nohup` and shells have this process ignore, but not its children.

    They would inherit it, and shells in terminals outlive their line. A handler is not inherited.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
