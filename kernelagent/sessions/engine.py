"""The kernel engine: languages, pools and sessions, opened and closed as one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kernelagent.concurrency import Loop
from kernelagent.errors import (
    BranchRefused,
    ConfigurationError,
    InvalidRequest,
    ServiceClosing,
    SessionExists,
    SessionLimit,
    SessionNotFound,
)
from kernelagent.jupyter.forking import ForkSource
from kernelagent.jupyter.kernel import Kernel
from kernelagent.jupyter.languages import Language, Languages
from kernelagent.jupyter.launcher import Launcher, Parked
from kernelagent.jupyter.pool import Pool
from kernelagent.jupyter.provisioner import ForkProvisioner
from kernelagent.processes.process import raise_descriptor_limit
from kernelagent.sandbox import Sandbox
from kernelagent.sessions.checkpoint import Checkpoint, Checkpoints
from kernelagent.sessions.lease import SessionFacts
from kernelagent.sessions.session import Session, SessionPolicy
from kernelagent.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_SESSION = "default"
_LANGUAGE = "python"
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SWEEP_INTERVAL = 5.0
_KERNEL_DESCRIPTORS = 12
_OTHER_DESCRIPTORS = 512


class Engine:
    """Everything that runs code. `open` first, `close` in any case."""

    def __init__(
        self,
        sandbox: Sandbox,
        languages: Languages,
    ) -> None:
        self.sandbox = sandbox
        self.settings = settings = sandbox.settings
        self.languages = languages
        self._policy = SessionPolicy(
            workspace=settings.workspace,
            queue_limit=settings.queue_limit,
            interrupt_grace=settings.interrupt_grace,
            spill_bytes=settings.spill_bytes,
        )
        self._sessions: dict[str, Session] = {}
        self._pools: dict[str, Pool] = {}
        self._launcher = Launcher(sandbox)
        self.checkpoints = Checkpoints(
            limit=settings.max_checkpoints,
            memory=settings.checkpoint_memory or self._launcher.memory_limit // 3,
            on_loss=self._on_checkpoint_lost,
        )
        self._sweepers = (
            Loop("session expiry", self.expire_sessions, _SWEEP_INTERVAL),
            Loop("memory of checkpoints", self.checkpoints.keep_within_memory, _SWEEP_INTERVAL),
        )
        self._opened = False
        self._closing = False

    async def open(self) -> None:
        """Start fork servers and pools in the open sandbox; `close` must follow in any case."""
        wanted = _OTHER_DESCRIPTORS + self.settings.max_kernels * _KERNEL_DESCRIPTORS
        allowed = raise_descriptor_limit(wanted)
        if allowed < wanted:
            log.warning(
                "%d open files are allowed, %d kernels may need %d: raise the limit (ulimit "
                "-n) or lower KERNELAGENT_MAX_KERNELS",
                allowed,
                self.settings.max_kernels,
                wanted,
            )
        for name in self.settings.pools:
            try:
                self.languages.find(name)
            except InvalidRequest as error:
                raise ConfigurationError(f"KERNELAGENT_POOLS: {error}") from None
        await self._launcher.open(self.languages)
        for language in self.languages:
            if language.available:
                self._pool(language).fill()
        for sweeper in self._sweepers:
            sweeper.open()
        self._opened = True

    async def close(self) -> None:
        """End all sessions and kernels; nothing is left behind."""
        self._closing = True
        await asyncio.gather(*(sweeper.close() for sweeper in self._sweepers))
        sessions = list(self._sessions.values())
        self._sessions.clear()
        reason = "the service is shutting down"
        await asyncio.gather(*(session.close(reason) for session in sessions))
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))
        await self.checkpoints.delete_all()
        await self._launcher.close()

    @property
    def sessions(self) -> Iterator[Session]:
        """All sessions, oldest first."""
        return iter(list(self._sessions.values()))

    @property
    def ready(self) -> bool:
        """Whether the default language's pool is warm; without one, whether the service is up.

        A pool that a lease has just emptied stays warm while it is refilled.
        """
        if not self._opened or self._closing:
            return False
        language = next((known for known in self.languages if known.name == _LANGUAGE), None)
        if language is None or not self.settings.pool_size(language.name, *language.aliases):
            return True
        pool = self._pools.get(_LANGUAGE)
        return pool is not None and pool.warm

    @property
    def pool_facts(self) -> dict[str, dict[str, Any]]:
        """The state of each pool, by language."""
        return {name: pool.facts for name, pool in self._pools.items()}

    @property
    def runtime_dir(self) -> Path | None:
        """The directory of the kernels' sockets and keys, once the engine is open."""
        return self._launcher.runtime_dir

    @property
    def places(self) -> list[str]:
        """Directories outside the state directory that are left if the service is killed."""
        return self._launcher.places

    @property
    def fork_server_facts(self) -> dict[str, dict[str, Any]]:
        """The state of each fork server, by language."""
        return self._launcher.fork_server_facts

    @property
    def memory_facts(self) -> dict[str, Any]:
        """How the memory of kernels is limited, and what checkpoints take of it."""
        return {**self._launcher.memory_facts, "checkpoints": self.checkpoints.facts}

    @property
    def kernels(self) -> list[Kernel]:
        """All kernels that have started."""
        return [kernel for pool in self._pools.values() for kernel in pool.kernels]

    def idle_kernels(self, language: str) -> list[Kernel]:
        """The warm kernels of a language that nobody has leased."""
        pool = self._pools.get(language)
        return pool.idle_kernels if pool is not None else []

    def session(self, session_id: str, language: str | None = None) -> Session:
        """The session `session_id`; `default` is the language's own. Raises SessionNotFound.

        A default session that does not exist yet is made; its kernel comes with the first run.
        """
        if self._closing:
            raise ServiceClosing("the service is shutting down")
        wanted = self.languages.find(language)
        default_id = f"{DEFAULT_SESSION}-{wanted.name}"
        if session_id in (DEFAULT_SESSION, default_id):
            session = self._sessions.get(default_id)
            if session is None:
                session = self._add(SessionFacts(default_id, wanted, is_default=True))
            return session
        if session_id not in self._sessions:
            # The default of another language, named by its id.
            prefix, _, name = session_id.partition("-")
            if prefix == DEFAULT_SESSION and name in {known.name for known in self.languages}:
                return self.session(DEFAULT_SESSION, name)
            raise _not_found(session_id)
        return self._sessions[session_id]

    def find(self, session_id: str) -> Session:
        """The existing session `session_id`; raises SessionNotFound."""
        if session_id == DEFAULT_SESSION:
            session_id = f"{DEFAULT_SESSION}-python"
        session = self._sessions.get(session_id)
        if session is None:
            raise _not_found(session_id)
        return session

    async def create_session(
        self,
        *,
        language: str | None = None,
        session_id: str | None = None,
        name: str = "",
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        idle_timeout: float | None = None,
    ) -> Session:
        """A new session with its kernel ready; nothing of it is left if that fails."""
        wanted = self.languages.find(language)
        wanted.kernelspec  # noqa: B018 - raises LanguageNotAvailable before anything is made
        cwd = await self.sandbox.directory(workdir)
        facts = SessionFacts(
            # Nothing is awaited between this and its entry into the table.
            self._new_id(session_id),
            wanted,
            name=name,
            cwd=cwd,
            env=dict(env or {}),
            idle_timeout=(
                self.settings.session_idle_timeout if idle_timeout is None else idle_timeout
            ),
        )
        session = self._add(facts)
        try:
            await session.open()
        except BaseException:
            await self._remove(session)
            raise
        return session

    async def branch_session(
        self,
        session: Session,
        *,
        session_id: str | None = None,
        name: str = "",
        force: bool = False,
        wait: float,
    ) -> Session:
        """A new session with all the state of `session`; nothing of it is left if that fails.

        It is made in the turn of `session`, for which `wait` seconds are waited at most. Raises
        BranchRefused and what a turn can raise.
        """
        facts = replace(
            session.facts,
            id=self._new_id(session_id),
            name=name,
            is_default=False,
            parent=session.id,
            # A default session stays, which is no wish of anybody's for its branches.
            idle_timeout=(
                self.settings.session_idle_timeout
                if session.facts.is_default
                else session.facts.idle_timeout
            ),
        )
        branch = self._add(facts)
        try:
            async with session.turn(wait) as kernel:
                source = _source(kernel)
                env = kernel.sandbox_env
                await branch.begin(
                    lambda: self._copy(facts.language, source, env, force=force),
                    session.execution_count,
                )
        except BaseException:
            await self._remove(branch)
            raise
        return branch

    async def make_checkpoint(
        self, session: Session, *, name: str = "", force: bool = False, wait: float
    ) -> Checkpoint:
        """Keep the state that `session` has in its turn; raises BranchRefused, CheckpointLimit."""
        async with session.turn(wait) as kernel:
            source, env = _source(kernel), kernel.sandbox_env

            async def park() -> Parked:
                parked = await self._launcher.park(source, force=force)
                parked.sandbox_env = env
                return parked

            return await self.checkpoints.make(session.id, name, session.execution_count, park)

    async def restore_session(self, session: Session, checkpoint_id: str) -> None:
        """Take `session` back to a checkpoint of its; what runs or waits is cancelled.

        The checkpoint stays. Raises CheckpointNotFound.
        """
        checkpoint = self.checkpoints.find(session.id, checkpoint_id)
        source, env = checkpoint.parked.source, checkpoint.parked.sandbox_env
        await session.restore(
            lambda: self._copy(session.facts.language, source, env), checkpoint.execution_count
        )

    async def close_session(self, session_id: str) -> None:
        """End a session; raises SessionNotFound."""
        await self._remove(self.find(session_id))

    @contextlib.asynccontextmanager
    async def isolated_session(
        self,
        language: str | None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> AsyncIterator[Session]:
        """A session with a fresh kernel for one run, ended afterwards."""
        wanted = self.languages.find(language)
        session_id = f"isolated-{uuid.uuid4().hex[:12]}"
        facts = SessionFacts(session_id, wanted, isolated=True, cwd=cwd, env=dict(env or {}))
        session = self._add(facts)
        try:
            yield session
        finally:
            await asyncio.shield(self._remove(session))

    async def _copy(
        self,
        language: Language,
        source: ForkSource,
        sandbox_env: Mapping[str, str],
        *,
        force: bool = False,
    ) -> Kernel:
        kernel = await self._launcher.copy(language, source, force=force)
        kernel.sandbox_env = sandbox_env
        return kernel

    def _new_id(self, wished: str | None) -> str:
        """An id for a new session; raises InvalidRequest, SessionExists."""
        if wished is None:
            return uuid.uuid4().hex[:16]
        if not _SESSION_ID.fullmatch(wished) or wished.startswith(DEFAULT_SESSION):
            raise InvalidRequest(
                "a session id has 1 to 64 of the characters A-Z a-z 0-9 . _ - and does not begin "
                "with 'default'"
            )
        if wished in self._sessions:
            raise SessionExists(f"a session has the id {wished!r} already")
        return wished

    def _add(self, facts: SessionFacts) -> Session:
        if self._closing:
            raise ServiceClosing("the service is shutting down")
        limit = self.settings.max_sessions
        if len(self._sessions) >= limit:
            raise SessionLimit(
                f"{limit} sessions exist, as many as the settings allow; close one first",
                details={"limit": limit},
            )
        facts.language.kernelspec  # noqa: B018 - raises LanguageNotAvailable
        session = Session(
            facts,
            self._pool(facts.language),
            self._policy,
            self.sandbox.environment,
            self.sandbox.observers,
        )
        self._sessions[session.id] = session
        return session

    async def _remove(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        try:
            await session.close()
        finally:
            await self.checkpoints.delete_all(session.id)

    def _pool(self, language: Language) -> Pool:
        pool = self._pools.get(language.name)
        if pool is None:
            pool = self._pools[language.name] = Pool(
                partial(self._launcher.start, language),
                min_idle=self.settings.pool_size(language.name, *language.aliases),
                limit=self.settings.max_kernels,
            )
        return pool

    def _on_checkpoint_lost(self, checkpoint: Checkpoint, reason: str) -> None:
        session = self._sessions.get(checkpoint.session_id)
        if session is not None:
            session.note(reason)

    async def expire_sessions(self) -> None:
        """Close the sessions that have been idle for longer than they may."""
        for session in list(self._sessions.values()):
            limit = session.facts.idle_timeout
            if 0 < limit < session.idle_seconds:
                log.info("session %s expired after %g s without a run", session.id, limit)
                try:
                    await self._remove(session)
                except Exception:
                    log.exception("an expired session could not be closed")


@contextlib.asynccontextmanager
async def open_engine(
    settings: Settings, languages: Languages | None = None
) -> AsyncIterator[Engine]:
    """An engine in a sandbox of its own; nothing is left of either."""
    languages = languages or Languages.load()
    sandbox = Sandbox(settings, languages.needs)
    engine = Engine(sandbox, languages)
    try:
        await sandbox.open()
        await engine.open()
        yield engine
    finally:
        await engine.close()
        await sandbox.close()


def _source(kernel: Kernel) -> ForkSource:
    """What a copy of `kernel` is made from; raises BranchRefused."""
    if kernel.source is not None:
        return kernel.source
    if not kernel.language.has_lean_kernel:
        raise BranchRefused(
            f"only Python kernels can be copied, not those of {kernel.language.name}"
        )
    if isinstance(kernel.provisioner, ForkProvisioner):
        raise BranchRefused(
            "only lean kernels can be copied, and this one runs on stock classes, because of "
            "KERNELAGENT_LEAN_KERNEL or the version of ipykernel; `kernelagent doctor` tells"
        )
    raise BranchRefused(
        "only kernels that the fork server has made can be copied, and this one was started by "
        "itself, because of KERNELAGENT_FORK_SERVER or what `fork_servers` in /health tells"
    )


def _not_found(session_id: str) -> SessionNotFound:
    # The id is not in the sentence: published clients look for words there.
    return SessionNotFound("no session has this id", details={"session_id": session_id[:64]})
