"""The command line: one module for each command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from kernelagent import __version__
from kernelagent.cli import doctor, jobs, kernelspec, kill, logs, replay, run, serve, token
from kernelagent.errors import ConfigurationError

app = typer.Typer(
    name="kernelagent",
    help="Runs code for agents and people in warm Jupyter kernels.",
    epilog="Every setting of the service is also read from KERNELAGENT_* variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(token.token)
app.command()(run.run)
app.command()(replay.replay)
app.command()(jobs.jobs)
app.command()(logs.logs)
app.command()(kill.kill)
app.command()(doctor.doctor)
app.add_typer(kernelspec.app, name="kernelspec")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kernelagent {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; what is configured wrongly is one line and exit code 2."""
    try:
        app(prog_name="kernelagent")
    except ConfigurationError as error:
        typer.echo(f"kernelagent: {error}", err=True)
        sys.exit(2)
