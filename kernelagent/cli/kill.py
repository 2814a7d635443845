"""`kernelagent kill`: end jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from kernelagent.cli.connection import (
    DEFAULT_URL,
    CommandFailed,
    Token,
    Url,
    complete,
    own_token,
)

if TYPE_CHECKING:
    from kernelagent.client import AsyncClient


def kill(
    jobs: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids of jobs, or their beginnings.")
    ],
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """End jobs with all their processes: asked to terminate, then killed.

    Says what each has become. Exits with 1 if one does not exist; the others are ended all the
    same.
    """
    complete(_kill(url, token or own_token(url), jobs))


async def _kill(url: str, token: str | None, texts: list[str]) -> int:
    from kernelagent.client import AsyncClient

    async with AsyncClient(url, token=token) as client:
        ended = await asyncio.gather(*(_kill_one(client, text) for text in dict.fromkeys(texts)))
    return 0 if all(ended) else 1


async def _kill_one(client: AsyncClient, text: str) -> bool:
    from kernelagent.cli.selection import find_job
    from kernelagent.client import ServiceError

    try:
        answer = await client.kill_job(await find_job(client, text))
    except CommandFailed as error:
        typer.echo(f"kernelagent: {error}", err=True)
        return False
    except ServiceError as error:
        if error.code != "PROCESS_NOT_FOUND":
            raise
        typer.echo(f"kernelagent: {error.message}: {text}", err=True)
        return False
    typer.echo(f"{answer['process_id']}: {answer['message']}")
    return True
