"""What keeps the service from what it runs: chosen when it opens, told to whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernelagent
from kernelagent.errors import ConfigurationError
from kernelagent.isolation import privileges
from kernelagent.isolation.hidden import Hidden, find_hidden
from kernelagent.isolation.spawner import ACTIVE, MISSING, Layer, Orders
from kernelagent.isolation.spawning import Spawner, SpawnerLost, request_of
from kernelagent.processes.environment import Environment
from kernelagent.processes.process import PLAIN, Program, Starter
from kernelagent.settings import Settings
from kernelagent.workspace.beneath import make_beneath

log = logging.getLogger(__name__)

OFF, AUTO, REQUIRE = "off", "auto", "require"

# A user of nobody's: above those that systems give to people, below those of containers.
UNUSED_ID = 61184
_USUAL_NAMES = ("sandbox", "user")
_HOME = (".kernelagent", "home")
_PROBE_TIMEOUT = 20.0
_LAYERS = ("privileges", "user", "capabilities", "cover", "landlock", "seccomp")

# Run as the other user, by the interpreter of the kernels.
_PROBE = """
import importlib.util, os, sys
workspace, *files = sys.argv[1:]
if not os.access(workspace, os.R_OK | os.W_OK | os.X_OK):
    sys.exit(f"the workspace {workspace} belongs to user {os.stat(workspace).st_uid}; chown it")
for path in files:
    if not os.access(path, os.R_OK | os.X_OK):
        sys.exit(f"{path} cannot be read")
if importlib.util.find_spec("ipykernel") is None:
    sys.exit(f"{sys.executable} finds no ipykernel")
"""


class Confinement:
    """Starts everything that runs, away from the service. `open` first, `close` in any case.

    Where the system refuses a layer the others hold; `layers` tells which are in force.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spawner: Spawner | None = None
        self._orders: Orders | None = None
        self._marks: Mapping[str, str] = {}
        self._closed = False
        self._layers = [Layer(name, MISSING, "not opened") for name in _LAYERS]
        self.restarts = 0

    @property
    def owner(self) -> tuple[int, int] | None:
        """Another user and group that everything runs as, and that its files shall belong to."""
        return None if self._orders is None else self._orders.user

    @property
    def layers(self) -> list[Layer]:
        """Each layer, whether it is in force, and why it is not."""
        if privileges.memory_is_hidden():
            memory = Layer("memory", ACTIVE, "the service's memory cannot be read by its user")
        else:
            memory = Layer("memory", MISSING, "isolation is off")
        return [memory, *self._layers]

    @property
    def facts(self) -> dict[str, Any]:
        """For /info."""
        return {
            "mode": self._settings.isolation,
            "user": None if self.owner is None else self.owner[0],
            "layers": [layer._asdict() for layer in self.layers],
        }

    @property
    def starter(self) -> Starter:
        """What starts processes; there is one before `open` too, which knows no layer."""
        return PLAIN if self._orders is None else self

    @property
    def floor(self) -> int:
        """See `Starter`."""
        return PLAIN.floor if self._spawner is None else self._spawner.floor

    async def open(self, needs: Needs, environment: Environment) -> None:
        """Choose the layers and start the spawner; raises ConfigurationError if some are required.

        `environment` becomes that of another user, if there is one. Called on the loop's thread.
        """
        mode = self._settings.isolation
        if mode == OFF:
            self._layers = [Layer(name, MISSING, "isolation is off") for name in _LAYERS]
            log.warning("what runs can reach the service itself: KERNELAGENT_ISOLATION is off")
            return
        privileges.hide_memory()
        self._refuse_overlaps()
        self._marks = environment.marks
        user, no_user = await asyncio.to_thread(self._choose_user, needs, environment)
        hidden = await asyncio.to_thread(self._find_hidden, needs, user)
        orders = Orders(hidden.paths, user, no_user, hidden.secrets, hidden.bare)
        try:
            spawner = Spawner(orders, self._marks)
        except OSError as error:
            self._give_up(f"the process that starts others cannot be started: {error}")
            return
        try:
            layers = await asyncio.to_thread(spawner.wait_until_ready)
        except BaseException as error:
            await asyncio.to_thread(spawner.close)
            if not isinstance(error, SpawnerLost):
                raise
            self._give_up(f"the process that starts others is lost: {error}")
            return
        self._orders, self._spawner, self._layers = orders, spawner, layers
        self._tell()
        for path in hidden.bare:
            log.warning("what runs may read %s once it is replaced: give keys a directory", path)
        if user is not None:
            home = await asyncio.to_thread(_make_home, self._settings.workspace, user)
            environment.belong_to(_name_of(user[0]), home)

    async def close(self) -> None:
        """End the spawner; what it has started is ended by others. May be repeated."""
        self._closed = True
        spawner, self._spawner = self._spawner, None
        if spawner is not None:
            await asyncio.to_thread(spawner.close)

    def start(self, program: Program) -> int:
        """See `Starter`. A spawner that is lost is replaced, and asked once more."""
        descriptors, terminal = program.descriptors, program.terminal
        index = -1
        numbers, given = list(descriptors), list(descriptors.values())
        if terminal is not None:
            index = len(given)
            # It needs a number in the child too; that of its stdin or so says which.
            numbers.append(next((n for n, d in descriptors.items() if d == terminal), terminal))
            given.append(terminal)
            if self.owner is not None:
                os.fchown(terminal, *self.owner)
        request = request_of(program, numbers, index)
        if self._spawner is not None:
            try:
                return self._spawner.start(request, given)
            except SpawnerLost as error:
                log.warning("the process that starts others is replaced: %s", error)
        try:
            return self._replace().start(request, given)
        except SpawnerLost as error:
            raise OSError(f"nothing can be started: {error}") from error

    def _replace(self) -> Spawner:
        if self._orders is None or self._closed:
            raise SpawnerLost("the service is shutting down")
        if self._spawner is not None:
            self._spawner.close()
            self._spawner = None
        self.restarts += 1
        spawner = Spawner(self._orders, self._marks)
        try:
            layers = spawner.wait_until_ready()
            lost = _active(self._layers) - _active(layers)
            if lost:
                raise SpawnerLost(f"its successor lacks {', '.join(sorted(lost))}")
        except BaseException:
            spawner.close()
            raise
        self._spawner, self._layers = spawner, layers
        return spawner

    def _find_hidden(self, needs: Needs, user: tuple[int, int] | None) -> Hidden:
        """The state directory and the keys; not with what anything that runs needs."""
        needed: list[str | Path] = [
            self._settings.workspace,
            self._settings.runtime_parent,
            sys.prefix,
            sys.base_prefix,
            Path(kernelagent.__file__).parent,
            needs.interpreter,
            *needs.files,
            *os.get_exec_path(),
            *_homes_of({os.getuid(), *(user or ())[:1]}),
        ]
        return find_hidden(self._settings.state_dir, self._settings.secret_files, needed)

    def _refuse_overlaps(self) -> None:
        state = self._settings.state_dir.resolve()
        for name, path in (
            ("workspace", self._settings.workspace),
            ("runtime directory", self._settings.runtime_parent),
        ):
            if path.resolve().is_relative_to(state):
                raise ConfigurationError(
                    f"the {name} {path} is in the state directory, which what runs must not see: "
                    "choose another, or set KERNELAGENT_ISOLATION=off"
                )

    def _choose_user(
        self, needs: Needs, environment: Environment
    ) -> tuple[tuple[int, int] | None, str]:
        """Another user for what runs, or why there is none."""
        wish = self._settings.sandbox_user
        if os.getuid() != 0:
            return None, "the service is not root and has this user only"
        if wish == "root":
            return None, "KERNELAGENT_SANDBOX_USER is root"
        if not all(privileges.has(number) for number in privileges.SWITCHING):
            return None, "the service has not the capabilities SETUID and SETGID"
        user = find_user(wish)
        workspace = self._settings.workspace
        facts = workspace.stat()
        is_nobodys = facts.st_uid != user[0] and not any(workspace.iterdir())
        try:
            if is_nobodys:
                os.chown(workspace, *user)
            reason = problem_of(user, needs, workspace, environment.of_kernel())
        except OSError as error:
            # In a container that has a few users only, this one does not exist.
            reason = f"user {user[0]} cannot be given the workspace: {error.strerror}"
        if not reason:
            return user, ""
        if is_nobodys:
            os.chown(workspace, facts.st_uid, facts.st_gid)
        return None, reason

    def _give_up(self, reason: str) -> None:
        self._layers = [Layer(name, MISSING, reason) for name in _LAYERS]
        self._tell()

    def _tell(self) -> None:
        missing = [layer for layer in self.layers if layer.state == MISSING]
        active = ", ".join(layer.name for layer in self.layers if layer.state == ACTIVE)
        if missing and self._settings.isolation == REQUIRE:
            reasons = "; ".join(f"{layer.name}: {layer.detail}" for layer in missing)
            raise ConfigurationError(f"KERNELAGENT_ISOLATION=require, but {reasons}")
        log.info("layers of isolation in force: %s", active or "none")
        for layer in missing:
            log.warning("a layer of isolation is missing: %s: %s", layer.name, layer.detail)


@dataclass(frozen=True, slots=True)
class Needs:
    """What another user must be able to use, or nothing can run as that user."""

    interpreter: str
    # To be read, and executed where it is a program.
    files: Sequence[Path]


def find_user(wish: str | None) -> tuple[int, int]:
    """The ids of the user and group that `sandbox_user` means; raises ConfigurationError."""
    for name in _USUAL_NAMES if wish is None else (wish,):
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        if found.pw_uid != 0:
            return found.pw_uid, found.pw_gid
    if wish is None:
        return UNUSED_ID, UNUSED_ID
    uid, _, gid = wish.partition(":")
    try:
        numbers = int(uid), int(gid or uid)
    except ValueError:
        raise ConfigurationError(f"KERNELAGENT_SANDBOX_USER: there is no user {wish!r}") from None
    if 0 in numbers:
        raise ConfigurationError("KERNELAGENT_SANDBOX_USER: neither id may be 0")
    return numbers


def problem_of(user: tuple[int, int], needs: Needs, workspace: Path, env: Mapping[str, str]) -> str:
    """Why `user` cannot use what it must, and write in `workspace`; "" if it can."""
    program = needs.interpreter
    try:
        done = subprocess.run(
            [program, "-c", _PROBE, str(workspace), *map(str, needs.files)],
            env={**env, "HOME": "/"},
            cwd="/",
            user=user[0],
            group=user[1],
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_PROBE_TIMEOUT,
            check=False,
        )
    except OSError as error:
        return f"user {user[0]} cannot execute {os.path.realpath(program)}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"user {user[0]} cannot use {program}: it does not end"
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"user {user[0]} cannot use {program}: {said[-1][:500] if said else done.returncode}"


def _homes_of(uids: set[int]) -> list[str]:
    homes = [os.path.expanduser("~")]  # noqa: PTH111 - a Path raises where there is none
    for uid in uids:
        with contextlib.suppress(KeyError):
            homes.append(pwd.getpwuid(uid).pw_dir)
    return homes


def _make_home(workspace: Path, user: tuple[int, int]) -> str:
    """Where programs keep what is theirs: the user's own home, else a folder in the workspace.

    The workspace itself, where something else has that folder's name.
    """
    with contextlib.suppress(KeyError):
        home = Path(pwd.getpwuid(user[0]).pw_dir)
        if home.is_dir() and home.stat().st_uid == user[0]:
            return str(home)
    folder = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in _HOME:
            above, folder = folder, make_beneath(folder, name)
            os.close(above)
    except OSError as error:
        path, why = workspace.joinpath(*_HOME), error.strerror
        log.warning("the home of what runs is the workspace; %s cannot be made: %s", path, why)
        return str(workspace)
    finally:
        os.close(folder)
    return str(workspace.joinpath(*_HOME))


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _active(layers: Sequence[Layer]) -> set[str]:
    return {layer.name for layer in layers if layer.state == ACTIVE}
