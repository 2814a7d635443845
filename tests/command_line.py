"""The real command line, as processes."""

from __future__ import annotations

import sys
from pathlib import Path
from subprocess import CompletedProcess

from tests.programs import Command, Program
from tests.servers import clean_environment

# With what commands import when they need it. Not `typer.rich_utils`, which reads the environment
# as it is imported.
KERNELAGENT = Program(
    [sys.executable, "-m", "kernelagent"],
    "kernelagent.cli:main",
    """
    kernelagent.auth.tokens kernelagent.client kernelagent.settings
    kernelagent.cli.follower kernelagent.cli.printer kernelagent.cli.prompts
    kernelagent.cli.selection kernelagent.cli.tables kernelagent.cli.terminal
    kernelagent.jupyter.languages kernelagent.notebooks.replay
    anyio._backends._asyncio httpcore._async.http2 jupyter_client.kernelspec
    rich.console rich.live rich.markdown rich.progress rich.table
    """.split(),
)


def start(*arguments: str, cwd: Path, stdin: str | int = "", **environment: str) -> Command:
    """Start a command that reads `stdin`: a text, or what comes from a descriptor."""
    variables = clean_environment(**environment)
    return KERNELAGENT.start(*arguments, cwd=cwd, stdin=stdin, environment=variables)


def start_on_terminal(*arguments: str, cwd: Path, **environment: str) -> Command:
    """Start a command whose streams are a terminal."""
    variables = clean_environment(**environment)
    return KERNELAGENT.start(*arguments, cwd=cwd, terminal=True, environment=variables)


def kernelagent(
    *arguments: str, cwd: Path, stdin: str | None = None, **environment: str
) -> CompletedProcess[str]:
    """Run a command to its end; without `stdin` its input is empty."""
    with start(*arguments, cwd=cwd, stdin=stdin or "", **environment) as command:
        return command.complete(arguments)


def fresh_kernelagent(
    *arguments: str, cwd: Path, stdin: str | None = None, **environment: str
) -> CompletedProcess[str]:
    """`kernelagent` as a new `python -m kernelagent`, for what its start is about."""
    variables = clean_environment(**environment)
    with KERNELAGENT.start(
        *arguments, cwd=cwd, stdin=stdin or "", environment=variables, fresh=True
    ) as command:
        return command.complete(arguments)
