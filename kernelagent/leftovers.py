"""What a killed server leaves: its successor ends and removes it before it starts anything."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import orjson

from kernelagent.database import Database, get_fact, set_fact
from kernelagent.processes.cgroup import remove_groups
from kernelagent.processes.process import SERVER, kill_marked

log = logging.getLogger(__name__)

RUNTIME_PREFIX, GROUPS_PREFIX = "ka-", "kernelagent-"
_SERVER_FACT, _PLACES_FACT = "server", "places"


async def end_leftovers(database: Database, server_id: str) -> None:
    """End the processes and remove the directories of the server before this one.

    From then on the state directory knows this server, so that the next one can do the same.
    """
    previous, places = await database.run(_predecessor)
    if previous is not None:
        killed = await asyncio.to_thread(kill_marked, previous, SERVER)
        if killed:
            log.warning("%d processes of the server before this one were ended", killed)
        await asyncio.to_thread(_remove_places, places)

    def introduce(connection: sqlite3.Connection) -> None:
        set_fact(connection, _SERVER_FACT, server_id)
        set_fact(connection, _PLACES_FACT, "[]")

    await database.run(introduce)


async def remember_places(database: Database, places: Sequence[str]) -> None:
    """Keep which directories outside the state this server would leave."""
    value = orjson.dumps(list(places)).decode()
    await database.run(lambda connection: set_fact(connection, _PLACES_FACT, value))


def _predecessor(connection: sqlite3.Connection) -> tuple[str | None, list[str]]:
    places: list[str] = orjson.loads(get_fact(connection, _PLACES_FACT) or "[]")
    return get_fact(connection, _SERVER_FACT), places


def _remove_places(places: Sequence[str]) -> None:
    """Remove what is left of `places`, whose processes have ended; blocks."""
    for place in map(Path, places):
        try:
            # Where everybody can make directories, another's may have its name by now.
            if place.lstat().st_uid != os.getuid():
                continue
            if place.name.startswith(GROUPS_PREFIX):
                remove_groups(place)
            elif place.name.startswith(RUNTIME_PREFIX):
                shutil.rmtree(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            log.warning("%s of the server before this one is left: %s", place, error)
