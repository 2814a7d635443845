"""`kernelagent token`: a token for the service of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def token(
    state_dir: Annotated[
        Path | None, typer.Option(help="Where the service keeps its key.", show_default=False)
    ] = None,
    sandbox_id: Annotated[
        str | None,
        typer.Option(help="The sandbox that the token opens.", show_default="local"),
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(help="Seconds until it expires.", show_default="seven days"),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it opens: execute, sessions, files, ... or * for everything; "
            "may be repeated.",
            show_default="*",
        ),
    ] = None,
    subject: Annotated[str, typer.Option(help="Who it is for; appears in logs.")] = "cli",
) -> None:
    """Print a new token, and nothing else.

    It is signed with the key of the service, which is made if there is none yet:

        curl -H "Authorization: Bearer $(kernelagent token)" http://127.0.0.1:7777/sessions
    """
    from kernelagent.auth.tokens import EVERYTHING, Authenticator
    from kernelagent.settings import load_settings

    settings = load_settings(state_dir=state_dir, sandbox_id=sandbox_id)
    authenticator = Authenticator.from_settings(settings)
    issued, _ = authenticator.issue(subject=subject, scopes=scope or [EVERYTHING], ttl=ttl)
    typer.echo(issued)
