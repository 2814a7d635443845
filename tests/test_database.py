"""The service's SQLite file: transactions, its lock, its migrations."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from kernelagent.database import FILE, Database
from kernelagent.errors import ConfigurationError


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Database]:
    database = Database(directory)
    try:
        await database.open()
        yield database
    finally:
        await database.close()
        await database.close()


def add(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO facts SELECT 'name ' || count(*), '1' FROM facts")


def add_and_fail(connection: sqlite3.Connection) -> None:
    add(connection)
    raise LookupError


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM facts").fetchone()[0])


def test_it_is_private_and_keeps_what_was_written(tmp_path: Path) -> None:
    async def go() -> int:
        async with opened(tmp_path / "state") as database:
            await database.run(add)
            modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
            assert modes == {0o600}
        async with opened(tmp_path / "state") as database:
            return await database.run(count)

    assert asyncio.run(go()) == 1
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_transaction_is_whole_or_undone(tmp_path: Path) -> None:
    async def go() -> int:
        async with opened(tmp_path) as database:
            await asyncio.gather(*(database.run(add) for _ in range(20)))
            with pytest.raises(LookupError):
                await database.run(add_and_fail)
            return await database.run(count)

    assert asyncio.run(go()) == 20


def test_one_server_at_a_time_has_a_state_directory(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path):
            with pytest.raises(ConfigurationError, match="another server"):
                async with opened(tmp_path):
                    pass
        async with opened(tmp_path):
            pass

    asyncio.run(go())


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    async def go() -> None:
        async with opened(tmp_path):
            pass
        with closing(sqlite3.connect(tmp_path / FILE)) as connection:
            connection.execute("PRAGMA user_version=1000")
        with pytest.raises(ConfigurationError, match="newer version"):
            async with opened(tmp_path):
                pass

    asyncio.run(go())


def test_what_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database, but long enough to be taken for one" * 100)

    async def go() -> None:
        with pytest.raises(ConfigurationError, match="cannot be used"):
            async with opened(tmp_path):
                pass

    asyncio.run(go())


def test_what_was_erased_leaves_the_disk(tmp_path: Path) -> None:
    secret = "a-secret-that-is-used-once"

    def keep(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO facts VALUES ('secret', ?)", (secret,))

    def erase(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM facts")

    def on_disk() -> bool:
        return any(secret.encode() in path.read_bytes() for path in tmp_path.iterdir())

    async def go() -> None:
        async with opened(tmp_path) as database:
            await database.run(keep)
            assert on_disk()
            await database.run(erase)
            await database.tidy()
            assert not on_disk()

    asyncio.run(go())
