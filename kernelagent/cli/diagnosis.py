"""What a service needs on this machine, checked one thing at a time."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from kernelagent.auth.secret import SECRET_FILE
from kernelagent.cli.server import listen
from kernelagent.errors import ApiError, KernelagentError
from kernelagent.isolation.confinement import AUTO, OFF, REQUIRE, Needs, problem_of
from kernelagent.isolation.spawner import MISSING as MISSING_LAYER
from kernelagent.jupyter.languages import Language, Languages
from kernelagent.jupyter.memory import default_limit
from kernelagent.jupyter.outputs import Budget
from kernelagent.outcome import Outcome
from kernelagent.processes.environment import Environment
from kernelagent.sessions.engine import Engine, open_engine
from kernelagent.sessions.execution import RunRequest
from kernelagent.settings import Settings

OK = "ok"
MISSING = "missing"  # the service does not work without
ABSENT = "absent"  # something is not possible without

_REQUIRED_LIBRARIES = ("ipykernel", "numpy", "pandas", "matplotlib")
_OPTIONAL_LIBRARIES = ("pillow", "plotly", "altair", "bokeh", "sympy")
_CJK_FONTS = (
    "CJK",
    "Source Han",
    "WenQuanYi",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Droid Sans Fallback",
    "IPAexGothic",
    "IPAGothic",
    "NanumGothic",
    "SimHei",
    "Microsoft YaHei",
    "PingFang",
    "Hiragino Sans",
)
# How to get the layers of isolation that most systems can have.
_LAYERS = {
    "user": "let another user read the interpreter, the kernels and the workspace: install outside "
    "of root's home, for example with /usr/bin/python3 -m venv /opt/kernelagent",
    "cover": "allow user namespaces, or run as root with the capability SYS_ADMIN; a state "
    "directory that only root can read does as well, if what runs has another user",
    "landlock": "Linux 6.12 or newer, with landlock among its security modules",
    "memory": "KERNELAGENT_ISOLATION=auto",
}
_LONGEST_SOCKET_PATH = 107
_SMALL_MEMORY = 512 * 2**20
_PROBE_TIMEOUT = 60.0

# Runs in the interpreter of the kernels, which need not be ours.
_PROBE = """
import importlib.metadata, json, sys
found = {"executable": sys.executable, "versions": {}, "fonts": [], "cache": ""}
for name in sys.argv[1:]:
    try:
        found["versions"][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
if "matplotlib" in found["versions"]:
    import matplotlib, matplotlib.font_manager as fonts
    found["fonts"] = sorted({font.name for font in fonts.fontManager.ttflist})
    found["cache"] = matplotlib.get_cachedir()
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing: whether it is there, and how to get it if not."""

    area: str
    name: str
    status: str
    detail: str
    how: str = ""


def diagnose(settings: Settings) -> Iterator[Check]:
    """All checks, as they are made."""
    yield _python()
    yield from _packages()
    languages = Languages.load()
    yield from _languages(languages)
    yield from asyncio.run(_kernels(settings))
    yield from _libraries(settings, languages)
    yield from _directories(settings)
    yield _memory(settings)
    yield _port(settings)


def _check(
    area: str, name: str, there: bool, detail: str, how: str, *, otherwise: str = MISSING
) -> Check:
    return Check(area, name, OK if there else otherwise, detail, "" if there else how)


def _python() -> Check:
    version = platform.python_version_tuple()
    return _check(
        "python",
        "python",
        (int(version[0]), int(version[1])) >= (3, 11),
        platform.python_version(),
        "install Python 3.11 or later",
    )


def _packages() -> Iterator[Check]:
    try:
        requirements = importlib.metadata.requires("kernelagent") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "kernelagent", ABSENT, "not installed", "pip install .")
        return
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        yield _check(
            "packages",
            requirement.name,
            bool(version) and requirement.specifier.contains(version, prereleases=True),
            version or "not installed",
            f"pip install '{requirement}'",
        )


def _languages(languages: Languages) -> Iterator[Check]:
    for language in languages:
        if language.available:
            known = f"{language.kernelspec.display_name} {language.version}".strip()
            yield Check("languages", language.name, OK, known)
            continue
        status = MISSING if language.name == "python" else ABSENT
        why, _, how = (language.missing or "").partition(": ")
        yield Check("languages", language.name, status, why, how or "install kernelagent anew")


async def _kernels(settings: Settings) -> list[Check]:
    """Start kernels as the service does, and run something in the Python one."""
    how = "see what it says; kernelagent serve --log-level debug tells more"
    with tempfile.TemporaryDirectory(prefix="ka-doctor-") as folder:
        trial = settings.model_copy(
            update={
                "workspace": Path(folder),
                "pool_idle": 0,
                "pools": {},
                "isolation": "off" if settings.isolation == OFF else AUTO,
            }
        )
        try:
            async with open_engine(trial) as engine:
                # The fork server is ready with the first session.
                await engine.create_session(language="python")
                started = time.monotonic()
                session = await engine.create_session(language="python")
                ready = time.monotonic() - started
                request = RunRequest("1 + 1", 10.0, 10.0, 20.0, Budget(65536, 10))
                result = await session.submit(request).finished
                others = [await _start(engine, language) for language in engine.languages]
                fork_servers, memory = engine.fork_server_facts, engine.memory_facts
                layers = await _layers(settings, engine)
        except (KernelagentError, OSError) as error:
            details = error.details if isinstance(error, ApiError) else {}
            said = "; ".join([str(error), *(str(value) for value in details.values())])
            return [Check("kernel", "python kernel", MISSING, said[:2000], how)]
    fine = result.outcome is Outcome.OK
    return [
        _check(
            "kernel",
            "python kernel",
            fine,
            f"started in {ready * 1000:.0f} ms, first run in {result.seconds * 1000:.0f} ms"
            if fine
            else f"started, but did not run: {result.message}",
            how,
        ),
        *filter(None, others),
        _fork_server(settings, fork_servers.get("python")),
        _check(
            "kernel",
            "memory groups",
            memory["by"] == "cgroup",
            "kernels are limited by cgroup"
            if memory["by"] == "cgroup"
            else "kernels are watched ten times a second",
            f"let the service make memory groups: {memory['reason']}",
            otherwise=ABSENT,
        ),
        *layers,
    ]


async def _layers(settings: Settings, engine: Engine) -> list[Check]:
    """What keeps that which runs away from the service."""
    owner, workspace = engine.sandbox.confinement.owner, settings.workspace
    problem = ""
    if owner is not None and _exists(workspace):
        needs = Needs(sys.executable, [])
        env = engine.sandbox.environment.of_kernel()
        problem = await asyncio.to_thread(problem_of, owner, needs, workspace, env)
    checks = []
    for layer in engine.sandbox.confinement.layers:
        detail = problem if problem and layer.name == "user" else layer.detail
        there = layer.state != MISSING_LAYER and detail == layer.detail
        otherwise = MISSING if settings.isolation == REQUIRE else ABSENT
        how = _LAYERS.get(layer.name, "see docs/isolation.md")
        checks.append(_check("isolation", layer.name, there, detail, how, otherwise=otherwise))
    return checks


async def _start(engine: Engine, language: Language) -> Check | None:
    """Start a kernel of any language but Python; None if it is not there."""
    if language.name == "python" or not language.available:
        return None
    name, started = f"{language.name} kernel", time.monotonic()
    try:
        session = await engine.create_session(language=language.name)
    except ApiError as error:
        said = "; ".join([str(error), *(str(value) for value in error.details.values())])
        return Check("kernel", name, ABSENT, said[:1000], "see what it says")
    took = f"started in {(time.monotonic() - started) * 1000:.0f} ms"
    await engine.close_session(session.id)
    return Check("kernel", name, OK, took)


def _fork_server(settings: Settings, facts: dict[str, Any] | None) -> Check:
    if not settings.fork_server:
        return Check("kernel", "fork server", ABSENT, "off", "KERNELAGENT_FORK_SERVER=true")
    if facts is None:
        how = "use the kernelspec that comes with kernelagent"
        return Check("kernel", "fork server", ABSENT, "the kernelspec names none", how)
    if facts["state"] != "ready":
        how = "kernels start by themselves, in about a second; see what it says"
        return Check("kernel", "fork server", ABSENT, facts["reason"][:1000], how)
    return _check(
        "kernel",
        "fork server",
        facts["kernel"] == "lean" or not settings.lean_kernel,
        f"forks {facts['kernel']} kernels",
        "pip install 'ipykernel>=7.4,<7.5': only there the lean kernel, which is faster and can be "
        "branched, was tested",
        otherwise=ABSENT,
    )


def _libraries(settings: Settings, languages: Languages) -> Iterator[Check]:
    """What the Python kernels can import, and draw with."""
    python = languages.find("python")
    if not python.available:
        return
    executable = python.command(Path("unused"))[0]
    names = (*_REQUIRED_LIBRARIES, *_OPTIONAL_LIBRARIES)
    try:
        probe = subprocess.run(
            [executable, "-c", _PROBE, *names],
            env=Environment(settings.kernel_env).of_process(),
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT,
            check=True,
        )
        found: dict[str, Any] = json.loads(probe.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        how = f"make {executable} work"
        yield Check("libraries", "interpreter", MISSING, f"{executable}: {error}", how)
        return
    for name in names:
        version = found["versions"].get(name)
        yield _check(
            "libraries",
            name,
            version is not None,
            version or "not installed",
            f"{found['executable']} -m pip install {name}",
            otherwise=MISSING if name in _REQUIRED_LIBRARIES else ABSENT,
        )
    if "matplotlib" in found["versions"]:
        fonts = [font for font in found["fonts"] if any(part in font for part in _CJK_FONTS)]
        yield _check(
            "libraries",
            "CJK font",
            bool(fonts),
            fonts[0] if fonts else "Chinese, Japanese and Korean labels show as boxes",
            "apt-get install fonts-noto-cjk, then rebuild the font cache: "
            f"rm -r {found['cache'] or '~/.cache/matplotlib'}",
            otherwise=ABSENT,
        )


def _directories(settings: Settings) -> Iterator[Check]:
    yield _writable("workspace", settings.workspace, "--workspace or KERNELAGENT_WORKSPACE")
    state = settings.state_dir
    yield _writable("state directory", state, "--state-dir or KERNELAGENT_STATE_DIR")
    secret = state / SECRET_FILE
    for path, name, forbidden, mode in (
        (state, "state directory's mode", 0o022, 700),
        (secret, "key's mode", 0o077, 600),
    ):
        if _exists(path):
            actual = path.stat().st_mode & 0o777
            how = f"chmod {mode} {path}"
            yield _check("system", name, not actual & forbidden, f"{actual:o}", how)
    # ka-XXXXXXXX/k/ and the longest name of a socket in it.
    longest = len(os.fsencode(settings.runtime_parent / "ka-xxxxxxxx" / "k" / ("x" * 16))) + 2
    yield _check(
        "system",
        "socket paths",
        longest <= _LONGEST_SOCKET_PATH,
        f"{longest} of {_LONGEST_SOCKET_PATH} bytes in {settings.runtime_parent}",
        "set KERNELAGENT_RUNTIME_DIR to a shorter path",
    )


def _writable(name: str, path: Path, option: str) -> Check:
    """Whether `path` is a directory we can write, or can be made."""
    existing = path
    while not _exists(existing) and existing != existing.parent:
        existing = existing.parent
    usable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    state = "" if existing == path else " (will be made)"
    return _check(
        "system",
        name,
        usable,
        f"{path}{state}" if usable else f"{path} cannot be written",
        f"choose another with {option}",
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a directory of someone else
        return False


def _memory(settings: Settings) -> Check:
    limit = settings.kernel_memory or default_limit()
    return _check(
        "system",
        "memory of a kernel",
        limit >= _SMALL_MEMORY,
        f"{limit / 2**20:.0f} MiB",
        "numpy and pandas alone need some hundred MiB: raise KERNELAGENT_KERNEL_MEMORY, or give "
        "the machine or container more",
        otherwise=ABSENT,
    )


def _port(settings: Settings) -> Check:
    where = f"{settings.host}:{settings.port}"
    try:
        listen(settings.host, settings.port).close()
    except OSError as error:
        # The service may simply be running.
        how = "choose another with --port if it is not the service itself"
        return Check("system", "port", ABSENT, f"{where}: {error.strerror}", how)
    return Check("system", "port", OK, f"{where} is free")
