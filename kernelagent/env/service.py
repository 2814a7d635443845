"""The sandbox's variables: set, kept over restarts, handed to everything that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import orjson

from kernelagent.database import Database, get_fact, set_fact
from kernelagent.errors import InvalidRequest
from kernelagent.processes.environment import RESERVED, Environment

# Shown instead of each value if that is wished.
MASK = "********"

_FACT = "env"
_MOST = 1000
# The system refuses to start a program with a longer variable.
_LONGEST = 128 * 1024 - 1
# And leaves room for arguments beside all of them.
_ROOM = 1024 * 1024


class EnvironmentService:
    """Changes the sandbox's part of the environment, one change after the other, each whole."""

    def __init__(self, environment: Environment, database: Database) -> None:
        self._environment = environment
        self._database = database
        self._changing = asyncio.Lock()

    async def open(self) -> None:
        """Take up what was set before the last restart."""
        kept = await self._database.run(lambda connection: get_fact(connection, _FACT))
        if kept is not None:
            self._environment.set(orjson.loads(kept))

    async def close(self) -> None:
        """Nothing is left to do: each change is on disk when it holds."""

    @property
    def variables(self) -> Mapping[str, str]:
        """All of them."""
        return self._environment.variables

    async def replace(self, variables: Mapping[str, str]) -> Mapping[str, str]:
        """Have these and no others; raises InvalidRequest, and then nothing has changed."""
        return await self._change(lambda before: _unmasked(variables, before))

    async def merge(self, variables: Mapping[str, str]) -> Mapping[str, str]:
        """Set these and keep the others; raises InvalidRequest, and then nothing has changed."""
        return await self._change(lambda before: {**before, **_unmasked(variables, before)})

    async def remove(self, name: str) -> Mapping[str, str]:
        """Unset one, if it is set."""
        return await self._change(
            lambda before: {other: value for other, value in before.items() if other != name}
        )

    async def _change(
        self, change: Callable[[Mapping[str, str]], dict[str, str]]
    ) -> Mapping[str, str]:
        async with self._changing:
            wanted = change(self.variables)
            _check(wanted)
            if wanted != self.variables:
                content = orjson.dumps(wanted).decode()
                await self._database.run(lambda connection: set_fact(connection, _FACT, content))
                self._environment.set(wanted)
            return self.variables


def _unmasked(variables: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    # Whoever sends back what was shown masked wants it kept.
    return {
        name: before.get(name, value) if value == MASK else value
        for name, value in variables.items()
    }


def _check(variables: Mapping[str, str]) -> None:
    if len(variables) > _MOST:
        raise InvalidRequest(f"at most {_MOST} variables can be set")
    total = 0
    for name, value in variables.items():
        if name.startswith(RESERVED):
            raise InvalidRequest(f"names that begin with {RESERVED} are the service's own")
        size = len(name.encode()) + len(value.encode()) + 2
        if size > _LONGEST:
            raise InvalidRequest(f"a variable may take {_LONGEST} bytes, its name included")
        total += size
    if total > _ROOM:
        raise InvalidRequest(f"all variables together may take {_ROOM} bytes")
