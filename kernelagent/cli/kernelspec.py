"""`kernelagent kernelspec`: our kernels for other Jupyter front ends."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kernelagent.jupyter.languages import Language

app = typer.Typer(
    help="Register our kernels with Jupyter, for JupyterLab and other front ends.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def _group() -> None:
    """Register our kernels with Jupyter, for JupyterLab and other front ends."""


@app.command()
def install(
    user: Annotated[
        bool, typer.Option("--user", help="For this user; the default outside environments.")
    ] = False,
    sys_prefix: Annotated[
        bool,
        typer.Option(
            "--sys-prefix", help="In this Python environment; the default inside a virtual one."
        ),
    ] = False,
    prefix: Annotated[
        Path | None, typer.Option(help="Below this directory, as PREFIX/share/jupyter/kernels.")
    ] = None,
) -> None:
    """Register each available kernel as kernelagent-LANGUAGE.

    Doing it again replaces what was registered before.
    """
    from jupyter_client.kernelspec import KernelSpecManager

    from kernelagent.jupyter.languages import Languages

    if sum((user, sys_prefix, prefix is not None)) > 1:
        raise typer.BadParameter("--user, --sys-prefix and --prefix exclude each other")
    if not user and prefix is None and (sys_prefix or sys.prefix != sys.base_prefix):
        prefix = Path(sys.prefix)
    manager = KernelSpecManager()
    for language in Languages.load():
        # Others are registered already.
        if not language.available or not language.has_side_channel:
            continue
        name = f"kernelagent-{language.name}"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder)
            (source / "kernel.json").write_text(json.dumps(_specification(language), indent=2))
            try:
                where = manager.install_kernel_spec(
                    folder,
                    name,
                    user=prefix is None,
                    prefix=None if prefix is None else str(prefix),
                )
            except OSError as error:
                typer.echo(f"kernelagent: {name} cannot be registered: {error}", err=True)
                raise typer.Exit(1) from error
        typer.echo(f"{name}: {where}")


def _specification(language: Language) -> dict[str, Any]:
    """The kernelspec with paths that hold wherever it is read."""
    path = Path(language.kernelspec.resource_dir) / "kernel.json"
    specification: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    # The placeholder stays one: Jupyter fills it in.
    specification["argv"] = language.command(Path("{connection_file}"))
    return specification
