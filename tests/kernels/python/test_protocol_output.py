"""Output of every kind of Python kernel: of threads, tasks, children and what is past Python."""

from __future__ import annotations

import pytest

from tests.kernels.python.protocol import Client, Variant, labels_of


def test_a_thread_prints_for_its_cell_when_that_has_ended(client: Client) -> None:
    cell = client.run("import threading; threading.Timer(0.02, print, ['late']).start()")
    client.until_printed("late", cell.reply.parent_id)


def test_a_task_prints_for_its_cell_whichever_runs(client: Client) -> None:
    first = client.run(
        "import asyncio\n"
        "async def late():\n"
        "    await asyncio.sleep(0.02); print('late'); display(1)\n"
        "    await go.wait(); print('later'); display(2)\n"
        "go = asyncio.Event()\n"
        "task = asyncio.create_task(late())"
    )
    client.until(lambda message: message.type == "display_data")
    second = client.run("go.set(); await task; print('second')")
    assert second.outputs == ["stdout: second\n"]
    assert labels_of(client.about(first.reply.parent_id)) == [
        *first.labels,
        *("stdout: late\n", "display_data", "stdout: later\n", "display_data"),
    ]


OUTSIDE = {
    "os.system": "os.system('echo out; echo err >&2')",
    "os.write": "os.write(1, b'out\\n'); os.write(2, b'err\\n')",
    "subprocess": "subprocess.run('echo out; echo err >&2', shell=True)",
    "puts": "libc.puts(b'out'); libc.perror(b'err')",
    "printf": "libc.printf(b'%s\\n', b'out'); libc.dprintf(2, b'err\\n')",
    "sys.__stdout__": "print('out', file=sys.__stdout__); print('err', file=sys.__stderr__)",
}


@pytest.mark.parametrize("way", OUTSIDE)
def test_what_is_written_past_python_belongs_to_the_cell(client: Client, way: str) -> None:
    client.run("import ctypes, os, subprocess, sys; libc = ctypes.CDLL(None)")
    for _ in range(10):
        cell = client.run(OUTSIDE[way])
        assert cell.text() == "out\n"
        assert cell.text("stderr").startswith("err")


def test_much_that_is_written_past_python_arrives_whole(client: Client) -> None:
    expected = "".join(f"{number}\n" for number in range(1, 50_001))
    for _ in range(5):
        cell = client.run("import subprocess; subprocess.run(['seq', '50000'])")
        assert cell.text() == expected


CHILD = """
import multiprocessing, os, sys
context = multiprocessing.get_context("fork")

def work(number):
    print("child", number)
    print("error", number, file=sys.stderr)
    display(number)
    return number + 1
"""


def test_a_forked_child_prints_and_displays_for_its_parents_cell(
    client: Client, variant: Variant
) -> None:
    client.run(CHILD)
    for number in range(10):
        cell = client.run(
            f"process = context.Process(target=work, args=[{number}])\n"
            "process.start(); process.join(); print('parent')"
        )
        said, error = [f"child {number}", "parent"], f"error {number}\n"
        if variant.lean:
            assert sorted(cell.text().splitlines()) == said
            assert cell.text("stderr") == error
        else:
            # A stock child sends each part of a print over a connection of its own: they arrive in
            # any order, and `idle` does not wait for them.
            whole = "".join(f"{line}\n" for line in said)
            while len(cell.text() + cell.text("stderr")) < len(whole + error) or (
                not cell.all("display_data")
            ):
                cell = client.hear_more(cell)
            assert sorted(cell.text()) == sorted(whole)
            assert sorted(cell.text("stderr")) == sorted(error)
        assert cell.one("display_data").content["data"]["text/plain"] == str(number)


def test_a_forked_child_displays_without_printing(client: Client, variant: Variant) -> None:
    if not variant.lean:
        pytest.skip("a stock session refuses to send from a fork that has not printed")
    for _ in range(20):
        cell = client.run(
            "import os\nchild = os.fork()\nif not child: display(1); os._exit(0)\n"
            "os.waitpid(child, 0);"
        )
        assert len(cell.all("display_data")) == 1


def test_a_pool_of_forked_children_works(client: Client, variant: Variant) -> None:
    client.run(CHILD)
    cell = client.run("with context.Pool(2) as pool: result = pool.map(work, range(20))\nresult")
    value = cell.one("execute_result").content["data"]["text/plain"]
    assert value == repr(list(range(1, 21)))
    while not variant.lean and len(cell.all("display_data")) < 20:
        cell = client.hear_more(cell)
    assert len(cell.all("display_data")) == 20


def test_a_large_text_arrives_exactly(client: Client) -> None:
    cell = client.run(
        "text = ''.join(chr(33 + n % 94) for n in range(5 << 20))\n"
        "for start in range(0, 1 << 20, 1 << 16): print(text[start : start + (1 << 16)], end='')\n"
        "print(); print(text)"
    )
    text = "".join(chr(33 + number % 94) for number in range(5 << 20))
    assert cell.text() == f"{text[: 1 << 20]}\n{text}\n"
    assert max(len(message.content["text"]) for message in cell.all("stream")) <= 512 * 1024


def test_lone_surrogates_become_replacement_characters(client: Client) -> None:
    cell = client.run(
        "print('before'); print('a\\ud800b'); print('after')\n"
        "display({'text/plain': '\\udcff', 'application/json': {'\\ud800': ['\\ud800']}}, raw=True)"
    )
    assert cell.text() == "before\na\ufffdb\nafter\n"
    assert cell.one("display_data").content["data"] == {
        "text/plain": "\ufffd",
        "application/json": {"\ufffd": ["\ufffd"]},
    }
    cell = client.run("raise ValueError('\\ud800')", stop_on_error=False)
    assert cell.reply.content["evalue"] == cell.one("error").content["evalue"] == "\ufffd"


def test_bytes_that_are_no_text_become_replacement_characters(client: Client) -> None:
    client.run("import os")
    assert client.run("os.write(1, b'a\\xff\\xfeb\\n');").text() == "a\ufffd\ufffdb\n"
    # A character of two bytes, written in halves.
    assert client.run("os.write(1, b'\\xc3'); os.write(1, b'\\xa9\\n');").text() == "\u00e9\n"
