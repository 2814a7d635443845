"""`kernelagent run`: run a file on a server and show what it shows, as it happens."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kernelagent.cli.connection import DEFAULT_URL, Token, Url, complete, fresh_session, own_token

if TYPE_CHECKING:
    from kernelagent.cli.printer import Printer

_LANGUAGES = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".ts": "typescript",
    ".sh": "bash",
    ".bash": "bash",
    ".go": "go",
}


def run(
    file: Annotated[str, typer.Argument(help="File to run; - reads the code from stdin.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    language: Annotated[
        str | None, typer.Option(help="Language; default: by the file's suffix, python for stdin.")
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(help="Session to run in; default: a fresh one, closed afterwards."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Time limit in seconds; default: the server's.")
    ] = None,
    workdir: Annotated[
        str | None, typer.Option(help="Directory on the server; default: its workspace.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Variable for the run; may be repeated."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Where images are saved.", show_default="out")
    ] = None,
    inline: Annotated[
        bool | None,
        typer.Option(
            "--inline/--no-inline",
            help="Show images in the terminal instead of saving them; default: where it can.",
            show_default=False,
        ),
    ] = None,
    background: Annotated[
        bool,
        typer.Option("--background", help="Start it as a job, print the job's id and leave."),
    ] = False,
    name: Annotated[str | None, typer.Option(help="Label of the job, with --background.")] = None,
) -> None:
    """Run a file or stdin on a server.

    Output appears as it is made: stdout and stderr on stdout and stderr, images in the terminal
    or as files, results as text. input() asks here. Ctrl-C interrupts the run. The exit code is
    that of the code.

    With --background it runs on a kernel of its own, and nothing is waited for.
    """
    from kernelagent.cli.printer import Printer
    from kernelagent.cli.terminal import Inline, inline_protocol

    if background and session is not None:
        raise typer.BadParameter("a job has a kernel of its own: no --session with --background")
    if name is not None and not background:
        raise typer.BadParameter("--name is the label of a job: give --background too")
    code, stem = _read(file)
    protocol = None
    if inline or (inline is None and sys.stdout.isatty()):
        protocol = inline_protocol(os.environ) or (Inline.KITTY if inline else None)
    printer = Printer(
        stem,
        directory=images or Path("out"),
        protocol=protocol,
        # Who names a directory wants the files, whatever the terminal shows.
        save_inlined=images is not None,
    )
    options = _Options(
        code=code,
        language=language or _language(file),
        session=session,
        timeout=timeout,
        workdir=workdir,
        env=_variables(env or []),
        stdin_is_code=file == "-",
    )
    token = token or own_token(url)
    if background:
        complete(_start(url, token, options, name))
    complete(_run(url, token, options, printer))


@dataclass(frozen=True, slots=True)
class _Options:
    code: str
    language: str | None
    session: str | None
    timeout: float | None
    workdir: str | None
    env: dict[str, str]
    stdin_is_code: bool


async def _start(url: str, token: str | None, options: _Options, name: str | None) -> int:
    from kernelagent.client import AsyncClient

    async with AsyncClient(url, token=token) as client:
        job = await client.start_background(
            options.code,
            language=options.language,
            timeout=options.timeout,
            workdir=options.workdir,
            env=options.env,
            name=name,
        )
    typer.echo(job["process_id"])
    typer.echo(f"see what it prints with: kernelagent logs -f {job['process_id']}", err=True)
    return 0


async def _run(url: str, token: str | None, options: _Options, printer: Printer) -> int:
    from kernelagent.cli.prompts import Prompts
    from kernelagent.client import AsyncClient

    exit_code = 1
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(url, token=token))
        session_id = options.session
        if session_id is None:
            session_id = await stack.enter_async_context(fresh_session(client, options.language))
        prompts = await stack.enter_async_context(
            Prompts(client, session_id, printer, stdin_is_code=options.stdin_is_code)
        )
        stream = client.execute_stream(
            options.code,
            # A session that exists knows its own language.
            language=options.language if options.session is None else None,
            session_id=session_id,
            timeout=options.timeout,
            workdir=options.workdir,
            env=options.env,
        )
        async for message in await stack.enter_async_context(contextlib.aclosing(stream)):
            if message["type"] == "input_request":
                prompts.ask(message)
            elif message["type"] == "result":
                exit_code = int(message["exit_code"])
            elif not prompts.exhausted:
                printer.show(message)
        printer.finish()
    return 1 if prompts.exhausted else exit_code


def _read(file: str) -> tuple[str, str]:
    """The code, and the stem of the names of its images."""
    try:
        if file == "-":
            return sys.stdin.buffer.read().decode("utf-8"), "stdin"
        path = Path(file)
        return path.read_text(encoding="utf-8"), path.stem
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is no UTF-8 text") from None


def _language(file: str) -> str:
    if file == "-":
        return "python"
    suffix = Path(file).suffix.lower()
    if suffix not in _LANGUAGES:
        known = " ".join(_LANGUAGES)
        raise typer.BadParameter(f"{file}: name its --language, or use a suffix of {known}")
    return _LANGUAGES[suffix]


def _variables(pairs: list[str]) -> dict[str, str]:
    variables = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not name or not separator:
            raise typer.BadParameter(f"--env wants NAME=VALUE, not {pair!r}")
        variables[name] = value
    return variables
