"""`kernelagent jobs`: which jobs there are, and all about one."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kernelagent.cli.connection import DEFAULT_URL, Token, Url, complete, own_token
from kernelagent.outcome import JobStatus

if TYPE_CHECKING:
    from kernelagent.client import AsyncClient

_WATCH_INTERVAL = 1.0

Answer = dict[str, Any]


def jobs(
    job: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Id of one job, or its beginning.", show_default=False),
    ] = None,
    url: Url = DEFAULT_URL,
    token: Token = None,
    status: Annotated[
        JobStatus | None, typer.Option(help="Only those.", show_default="all")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="So many of the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Draw anew every second until Ctrl-C.")
    ] = False,
) -> None:
    """List jobs, the newest first, or tell all about one.

    Where stdout is no terminal: lines with fields that tabs separate, and whole ids.
    """
    if watch and as_json:
        raise typer.BadParameter("give --watch or --json, not both")
    if watch and not sys.stdout.isatty():
        raise typer.BadParameter("--watch draws on a terminal, and stdout is none")
    if job is not None and status is not None:
        raise typer.BadParameter("--status chooses from the list; one job needs none")

    async def ask(client: AsyncClient) -> Answer:
        if job is None:
            return await client.jobs(status=status and status.value, limit=limit)
        from kernelagent.cli.selection import find_job

        return await client.job(await find_job(client, job))

    complete(_jobs(url, token or own_token(url), ask, as_json=as_json, watch=watch))


async def _jobs(
    url: str,
    token: str | None,
    ask: Callable[[AsyncClient], Awaitable[Answer]],
    *,
    as_json: bool,
    watch: bool,
) -> int:
    from kernelagent.client import AsyncClient

    async with AsyncClient(url, token=token) as client:
        if watch:
            await _watch(lambda: ask(client))
        answer = await ask(client)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    elif sys.stdout.isatty():
        from rich.console import Console

        from kernelagent.cli.tables import drawn

        console = Console(highlight=False)
        console.print(drawn(answer, console))
    else:
        from kernelagent.cli.tables import plain

        typer.echo(plain(answer))
    return 0


async def _watch(ask: Callable[[], Awaitable[Answer]]) -> None:
    """Draw until it is cancelled."""
    from rich.console import Console
    from rich.live import Live

    from kernelagent.cli.tables import drawn

    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            live.update(drawn(await ask(), console), refresh=True)
            await asyncio.sleep(_WATCH_INTERVAL)
