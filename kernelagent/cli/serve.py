"""`kernelagent serve`: the service itself."""

from __future__ import annotations

import contextlib
import errno
import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import socket

    from kernelagent.settings import Settings


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 picks a free one.", show_default="7777")
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            help="Directory in which everything starts; made if missing.", show_default="/workspace"
        ),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="Directory for the generated key and what must survive a restart.",
            show_default="~/.local/state/kernelagent",
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve without tokens; on a loopback address only.")
    ] = False,
    print_token: Annotated[
        bool,
        typer.Option("--print-token", help="Print a token; the first start does so anyway."),
    ] = False,
    log_level: Annotated[
        str | None,
        typer.Option(help="debug, info, warning or error.", show_default="info"),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="json or text.", show_default="json")
    ] = None,
) -> None:
    """Serve the API until SIGTERM or Ctrl-C.

    Without a key in its settings the service makes one, keeps it in the state directory and
    prints a token once. Later: kernelagent token.
    """
    # Hardly anything that is made from here on until it listens is garbage.
    gc.disable()
    from kernelagent.app import create_app
    from kernelagent.auth.tokens import Authenticator
    from kernelagent.cli.server import Server, url_of
    from kernelagent.isolation.secrets import forget
    from kernelagent.logs import configure_logging
    from kernelagent.settings import SECRET_VARIABLES, load_settings

    settings = load_settings(
        host=host,
        port=port,
        workspace=workspace,
        state_dir=state_dir,
        no_auth=no_auth or None,
        log_level=log_level,
        log_format=log_format,
    )
    forget(SECRET_VARIABLES)
    configure_logging(settings.log_level, settings.log_format)
    with _listen(settings.host, settings.port) as listener:
        token = None
        if print_token or _is_first_start(settings):
            token, _ = Authenticator.from_settings(settings).issue()
        url = url_of(settings.host, listener)
        server = Server(create_app(settings), lambda: _announce(url, token))
        try:
            server.run(sockets=[listener])
        except OSError as error:
            raise _failure(f"the service cannot start: {error}") from error


def _is_first_start(settings: Settings) -> bool:
    from kernelagent.auth.secret import SECRET_FILE

    if settings.no_auth or settings.jwt_secret or settings.jwt_public_key:
        return False
    try:
        return not (settings.state_dir / SECRET_FILE).exists()
    except OSError:  # what is wrong with the directory is told when the key is read
        return False


def _listen(host: str, port: int) -> socket.socket:
    from kernelagent.cli.server import listen

    try:
        return listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            reason = f"port {port} on {host} is taken: choose another with --port, or 0 for any"
        else:
            reason = f"cannot listen on {host}, port {port}: {error.strerror}"
        raise _failure(reason) from error


def _announce(url: str, token: str | None) -> None:
    from kernelagent import __version__

    # Whoever started the service may have closed its output.
    with contextlib.suppress(OSError):
        # In one piece: who reads the address finds the token too.
        line = f"kernelagent {__version__} listens on {url}"
        typer.echo(line if token is None else f"{line}\ntoken: {token}")


def _failure(message: str) -> typer.Exit:
    typer.echo(f"kernelagent: {message}", err=True)
    return typer.Exit(1)
