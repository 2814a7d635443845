from __future__ import annotations

import asyncio
import base64
import os
import pty
import signal
import socket
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest

from kernelagent.cli.connection import own_token
from kernelagent.cli.printer import Printer
from kernelagent.cli.terminal import Inline, LineReader, inline_image, inline_protocol
from kernelagent.client import ServiceClient
from tests.cli.service import KERNELAGENT, Service, clean_environment, kernelagent, wait_until

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGD4DwABBAEAX+XDSwAAAABJRU5E"
    "rkJggg=="
)


def run_code(
    service: Service,
    directory: Path,
    code: str,
    *options: str,
    stdin: str | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    file = directory / "script.py"
    file.write_text(code)
    return kernelagent(
        "run",
        str(file),
        *options,
        cwd=directory,
        stdin=stdin,
        **{**service.environment, **environment},
    )


def start(service: Service, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*KERNELAGENT, "run", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=clean_environment(**service.environment),
    )


def new_session(service: Service) -> str:
    return str(service.request("POST", "/sessions", json={}).json()["id"])


def session_ids(service: Service) -> list[str]:
    sessions = service.request("GET", "/sessions").json()["sessions"]
    return [session["id"] for session in sessions]


def test_stdout_and_stderr_are_kept_apart(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "import sys\nprint('out')\nprint('err', file=sys.stderr)")

    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_exit_code_is_that_of_the_code(service: Service, tmp_path: Path) -> None:
    failed = run_code(service, tmp_path, "print('before')\n1 / 0")
    left = run_code(service, tmp_path, "import sys; sys.exit(7)")

    assert (failed.returncode, failed.stdout) == (1, "before\n")
    assert "ZeroDivisionError: division by zero" in failed.stderr
    assert left.returncode == 7


def test_output_appears_while_the_code_runs(service: Service, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    file = tmp_path / "script.py"
    file.write_text(
        "import os, time\nprint('first', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('second')"
    )
    with start(service, str(file), cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "first\n"
        gate.touch()
        assert process.stdout.read() == "second\n"
    assert process.returncode == 0


def test_code_from_stdin(service: Service, tmp_path: Path) -> None:
    done = kernelagent("run", "-", stdin="6 * 7", cwd=tmp_path, **service.environment)

    assert (done.returncode, done.stdout) == (0, "42\n")


def test_images_are_saved_and_their_paths_printed(service: Service, tmp_path: Path) -> None:
    code = (
        "import matplotlib.pyplot as plt\n"
        "from IPython.display import SVG, display\n"
        "plt.plot([1, 2]); plt.show()\n"
        'display(SVG(\'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\'))\n'
    )

    done = run_code(service, tmp_path, code, "--images", "pictures")

    assert done.stdout == "pictures/script-1.png\npictures/script-2.svg\n"
    assert (tmp_path / "pictures" / "script-1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "pictures" / "script-2.svg").read_text().startswith("<svg")


def test_text_is_preferred_to_html(service: Service, tmp_path: Path) -> None:
    code = (
        "import pandas as pd\nfrom IPython.display import HTML, Markdown, display\n"
        "print('no line end', end='')\n"
        "display(HTML('<b>bold</b>'))\ndisplay(Markdown('*soft*'))\npd.DataFrame({'a': [1]})\n"
    )

    done = run_code(service, tmp_path, code)

    assert done.stdout == "no line end\n<b>bold</b>\n*soft*\n   a\n0  1\n"


def test_prompts_are_answered_from_stdin(service: Service, tmp_path: Path) -> None:
    code = "import getpass\nprint(input('name? '), len(getpass.getpass('word? ')), input('more? '))"

    done = run_code(service, tmp_path, code, stdin="Ann\nsecret\nlast")

    assert (done.returncode, done.stdout) == (0, "Ann 6 last\n")
    assert "name? " in done.stderr


def test_prompt_without_input_interrupts_the_run(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "input('name? ')", stdin="")

    assert done.returncode == 1
    assert done.stderr == (
        "name? \nkernelagent: the code asks for input and stdin has ended: it was interrupted\n"
    )


def test_run_that_ends_while_it_asks_is_not_waited_for(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text("input('name? ')")
    ours, theirs = os.pipe()
    try:
        done = subprocess.run(
            [*KERNELAGENT, "run", str(file), "--timeout", "1"],
            stdin=ours,
            capture_output=True,
            text=True,
            env=clean_environment(**service.environment),
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)

    assert done.returncode == 124
    assert "time limit of 1 s" in done.stderr


def test_options_reach_the_run(service: Service, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    code = "import os\nprint(os.getcwd(), os.environ['WORD'], os.environ['EQUAL'])"

    done = run_code(
        service,
        tmp_path,
        code,
        *("--workdir", str(folder), "--env", "WORD=hello", "--env", "EQUAL=a=b"),
    )

    assert done.stdout == f"{folder} hello a=b\n"


def test_fresh_session_is_closed_and_a_named_one_kept(service: Service, tmp_path: Path) -> None:
    before = session_ids(service)
    run_code(service, tmp_path, "x = 1")
    assert session_ids(service) == before

    session = new_session(service)
    run_code(service, tmp_path, "x = 41", "--session", session)
    done = run_code(service, tmp_path, "x + 1", "--session", session)

    assert done.stdout == "42\n"
    assert session in session_ids(service)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_interrupts_the_code(
    service: Service, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    trace = tmp_path / "trace"
    file = tmp_path / "script.py"
    file.write_text(
        "import time\ntry:\n    print('going', flush=True)\n    time.sleep(600)\n"
        f"except KeyboardInterrupt:\n    open({str(trace)!r}, 'w').close()\n    raise"
    )
    session = new_session(service)
    with start(service, str(file), "--session", session, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        process.send_signal(number)
        assert process.wait(30) == code
    wait_until(trace.exists)
    assert run_code(service, tmp_path, "1 + 1", "--session", session).stdout == "2\n"


def test_nobody_there_says_how_to_start_the_server(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = kernelagent("run", "-", "--url", url, "--token", "x", stdin="1", cwd=tmp_path)

    assert done.returncode == 1
    assert done.stderr == (
        f"kernelagent: nothing answers at {url}\nstart the server with: kernelagent serve\n"
    )


def test_refused_token_says_how_to_get_one(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "1", KERNELAGENT_TOKEN="wrong")

    assert done.returncode == 1
    assert "TOKEN_INVALID" in done.stderr
    assert "kernelagent token" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_session_is_an_error(service: Service, tmp_path: Path) -> None:
    done = run_code(service, tmp_path, "1", "--session", "nothere")

    assert done.returncode == 1
    assert "SESSION_NOT_FOUND" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent.py"], "cannot be read"),
        (["notes.txt"], "--language"),
        (["-", "--env", "broken"], "NAME=VALUE"),
    ],
)
def test_wrong_usage_is_refused(tmp_path: Path, arguments: list[str], reason: str) -> None:
    (tmp_path / "notes.txt").write_text("text")

    done = kernelagent("run", *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert reason in done.stderr


def test_own_token_stays_on_this_machine(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)

    assert own_token("http://localhost:7777")
    assert own_token("http://192.0.2.1:7777") is None
    assert own_token("https://example.org") is None


def test_no_key_is_made_only_to_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELAGENT_STATE_DIR", str(tmp_path / "state"))

    assert own_token("http://127.0.0.1:7777") is None
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, Inline.KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, Inline.KITTY),
        ({"TERM": "xterm-ghostty"}, Inline.KITTY),
        ({"TERM_PROGRAM": "iTerm.app"}, Inline.ITERM),
        ({"TERM_PROGRAM": "WezTerm"}, Inline.ITERM),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm"}, None),
    ],
)
def test_terminals_that_show_images(environment: dict[str, str], protocol: Inline | None) -> None:
    assert inline_protocol(environment) == protocol


def test_kitty_images_are_sent_in_chunks() -> None:
    content = bytes(range(256)) * 40
    drawing = inline_image(Inline.KITTY, "image/png", content)

    assert drawing is not None
    parts = drawing.removesuffix("\n").split("\x1b\\")[:-1]
    heads, chunks = zip(*(part.removeprefix("\x1b_G").split(";") for part in parts), strict=True)
    assert heads == ("a=T,f=100,m=1", "m=1", "m=1", "m=0")
    assert all(len(chunk) <= 4096 for chunk in chunks)
    assert base64.b64decode("".join(chunks)) == content
    assert inline_image(Inline.KITTY, "image/svg+xml", b"<svg/>") is None
    assert inline_image(Inline.ITERM, "image/jpeg", b"x") == (
        "\x1b]1337;File=inline=1;size=1:eA==\x07\n"
    )


def rich(mime: str, data: Any, *, primary: bool = False, output: int = 1) -> dict[str, Any]:
    return {"type": "rich", "mime": mime, "data": data, "primary": primary, "output": output}


def test_printer_shows_images_inline_and_joins_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = Printer("plot", directory=tmp_path, protocol=Inline.ITERM, save_inlined=False)
    half = len(PIXEL) // 2

    printer.show(
        {**rich("image/png", PIXEL[:half], primary=True), "part": 1, "parts": 2, "encoding": "text"}
    )
    printer.show(
        {**rich("image/png", PIXEL[half:], primary=True), "part": 2, "parts": 2, "encoding": "text"}
    )
    printer.show(rich("text/plain", "<Figure size 640x480>"))
    printer.finish()

    printed = capsys.readouterr().out
    assert PIXEL in printed
    assert "Figure" not in printed
    assert list(tmp_path.iterdir()) == []


def test_printer_falls_back_to_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printer = Printer("plot", directory=tmp_path, protocol=None, save_inlined=False)

    printer.show(rich("text/html", "<p>only</p>", primary=True))
    printer.show(rich("application/json", {"a": 1}, primary=True, output=2))
    printer.show(rich("application/vnd.thing+json", {}, primary=True, output=3))
    printer.show(rich("text/plain", "thing()", output=3))
    printer.show(rich("application/vnd.other", {}, primary=True, output=4))
    printer.show({"type": "error", "message": "the queue is full", "code": "QUEUE_FULL"})

    captured = capsys.readouterr()
    assert captured.out == '<p>only</p>\n{\n  "a": 1\n}\nthing()\n[application/vnd.other]\n'
    assert captured.err == "kernelagent: the queue is full\n"


async def test_hidden_lines_are_not_echoed() -> None:
    terminal, program = pty.openpty()
    try:
        reader = LineReader(program)
        answer = asyncio.create_task(reader.line(hidden=True))
        async with asyncio.timeout(10):
            while termios.tcgetattr(program)[3] & termios.ECHO:
                await asyncio.sleep(0.001)
            os.write(terminal, b"secret\n")
            assert await answer == "secret"
            assert termios.tcgetattr(program)[3] & termios.ECHO
            os.write(terminal, b"\x04")
            assert await reader.line() is None
            os.write(terminal, b"again\n")
            assert await reader.line() == "again"
    finally:
        os.close(terminal)
        os.close(program)


async def test_client_runs_and_streams(service: Service) -> None:
    async with ServiceClient(service.url, token=service.token) as client:
        assert (await client.health())["status"] == "healthy"
        session = await client.create_session(language="python")
        answer = await client.execute_rich("1 + 1", session_id=session)
        kinds = [message["type"] async for message in client.execute_stream("print(1)")]
        await client.close_session(session)

    assert answer["result"] == "2"
    assert kinds[0] == "started"
    assert kinds[-1] == "complete"
