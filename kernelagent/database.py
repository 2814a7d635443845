"""The service's SQLite file in the state directory, used from one thread of its own."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from kernelagent.errors import ConfigurationError

FILE = "kernelagent.db"
_LOCK = "kernelagent.lock"
_BUSY_TIMEOUT = 10.0

T = TypeVar("T")

# Statements that take the file from one version to the next; never changed, only added to.
_MIGRATIONS = (
    """
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        idempotency_key TEXT UNIQUE,
        request TEXT,
        record TEXT NOT NULL
    ) STRICT;
    CREATE INDEX jobs_by_status ON jobs (status);
    CREATE TABLE webhooks (
        id TEXT PRIMARY KEY,
        job_id TEXT NOT NULL UNIQUE,
        url TEXT NOT NULL,
        headers TEXT NOT NULL,
        secret TEXT,
        body BLOB,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        due_at REAL,
        give_up_at REAL,
        ended_at REAL,
        last_status INTEGER,
        last_error TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX webhooks_by_state ON webhooks (state, due_at);
    """,
)


class Database:
    """What must survive a restart. `open` first, `close` in any case.

    One server at a time holds a state directory: another would take the first one's running jobs
    for those of a server that has crashed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None
        self._lock = -1

    async def open(self) -> None:
        """Open or make the file; raises ConfigurationError."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        await self._call(self._open)

    async def close(self) -> None:
        """Write everything to the file itself and let go of it; may be repeated."""
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns; all that it does is one transaction, undone if it raises.

        A caller that is cancelled does not undo it.
        """
        return await self._call(partial(self._transact, work))

    async def tidy(self) -> None:
        """Write what has gathered to the file itself, so that nothing erased stays on the disk."""
        await self._call(self._tidy)

    async def _call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise RuntimeError("the database is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        if connection is None:
            raise RuntimeError("the database is not open")
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = work(connection)
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
        return result

    def _tidy(self) -> None:
        if self._connection is not None:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _open(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
            self._connection = _connect(self._directory / FILE)
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(
                f"{self._directory / FILE} cannot be used: {error}. Make it writable to this "
                "user, or set KERNELAGENT_STATE_DIR."
            ) from error

    def _take_lock(self) -> None:
        self._lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Gone with the process, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another server uses the state directory {self._directory}: give this one its "
                "own with KERNELAGENT_STATE_DIR"
            ) from None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def get_fact(connection: sqlite3.Connection, name: str) -> str | None:
    """What was kept under `name`."""
    row = connection.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def set_fact(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Keep `value` under `name`."""
    connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def _connect(path: Path) -> sqlite3.Connection:
    # It holds callers' secrets until they have been used.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        # NORMAL: a crash of the service loses nothing, one of the machine perhaps the last moment.
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(_MIGRATIONS):
        raise ConfigurationError(
            f"{path} was written by a newer version of the service: install that, or set "
            "KERNELAGENT_STATE_DIR"
        )
    for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
        connection.executescript(f"BEGIN;{statements};PRAGMA user_version={number};COMMIT;")
