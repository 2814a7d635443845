"""A confinement in this process, and what is started through it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from kernelagent.isolation.confinement import Confinement, Needs
from kernelagent.processes.process import ChildProcess, Program, Starter

ENV = {"PATH": os.defpath}


NEEDS = Needs(sys.executable, [])


# Children of this process that other tests have left running.
others: set[psutil.Process] = set()


def children() -> list[psutil.Process]:
    """Our children that came with this test, zombies included."""
    return [child for child in psutil.Process().children() if child not in others]


async def output_of(
    starter: Starter, *argv: str, env: Mapping[str, str] = ENV, cwd: Path = Path("/")
) -> str:
    """What a program prints, which ends well."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as pipe:
        program = Program(argv, env, cwd, "test", descriptors={1: writer})
        child = ChildProcess.start(program, starter)
        os.close(writer)
        printed = await asyncio.to_thread(pipe.read)
    status = await child.exited
    assert status.code == 0, child.stderr_tail
    return printed.decode()


def spawner_of(confinement: Confinement) -> psutil.Process:
    """The one child of ours."""
    (child,) = children()
    assert confinement.starter is confinement
    return child
