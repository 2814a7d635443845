"""How a command reaches its server: URL, token, and what to say when that fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from kernelagent.errors import KernelagentError

if TYPE_CHECKING:
    from kernelagent.client import AsyncClient

DEFAULT_URL = "http://127.0.0.1:7777"

Url = Annotated[str, typer.Option("--url", envvar="KERNELAGENT_URL", help="The server's address.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="KERNELAGENT_TOKEN",
        show_envvar=True,
        help="Token for the server; default: one made with this machine's own key.",
        show_default=False,
    ),
]


class CommandFailed(KernelagentError):
    """What a command was asked for cannot be done; the message says why."""


def own_token(url: str) -> str | None:
    """A token signed with this machine's key, if it has one and the server is on this machine."""
    from kernelagent.auth.secret import SECRET_FILE
    from kernelagent.auth.tokens import Authenticator
    from kernelagent.client.shared import is_loopback
    from kernelagent.errors import ConfigurationError
    from kernelagent.settings import load_settings

    if not is_loopback(url):
        # It would let the other machine in here.
        return None
    try:
        settings = load_settings()
        secret = settings.state_dir / SECRET_FILE
        if settings.jwt_secret is None and not os.access(secret, os.R_OK):
            return None
        return Authenticator.from_settings(settings).issue(ttl=86400.0)[0]
    except ConfigurationError:
        return None


@contextlib.asynccontextmanager
async def fresh_session(client: AsyncClient, language: str | None) -> AsyncIterator[str]:
    """The id of a session that is closed in the end, whatever happens."""
    from kernelagent.client import ServiceError, ServiceUnreachable

    session_id = await client.create_session(language=language)
    try:
        yield session_id
    finally:
        # It may be gone already, or the server; neither is what the user should read about.
        with contextlib.suppress(ServiceError, ServiceUnreachable):
            await client.close_session(session_id)


def complete(work: Coroutine[Any, Any, int]) -> NoReturn:
    """Do `work` and exit with its code; Ctrl-C and SIGTERM cancel it so that it can clean up."""
    from kernelagent.client import ServiceError, ServiceUnreachable

    try:
        code = asyncio.run(_until_terminated(work))
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except asyncio.CancelledError:
        code = 128 + signal.SIGTERM
    except CommandFailed as error:
        typer.echo(f"kernelagent: {error}", err=True)
        code = 1
    except ServiceUnreachable as error:
        typer.echo(f"kernelagent: {error}", err=True)
        if "nothing answers" in str(error):
            typer.echo("start the server with: kernelagent serve", err=True)
        code = 1
    except ServiceError as error:
        typer.echo(f"kernelagent: {error.message} ({error.code})", err=True)
        if error.status == 401:
            typer.echo(
                "pass a token with --token or KERNELAGENT_TOKEN; on the server's machine "
                "`kernelagent token` prints one",
                err=True,
            )
        code = 1
    raise typer.Exit(code)


async def _until_terminated(work: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task
