"""What the documentation tells receivers to do accepts what is sent, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernelagent.webhooks.sender import sign
from tests.installed import program

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
BODY = '{"stdout": "é"}\n'.encode()


def snippet(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(code)


# Secret, timestamp, signature, body.
Case = tuple[str, str, str, bytes]


def python_verify(*cases: Case) -> list[bool]:
    names: dict[str, Any] = {}
    exec(snippet("python"), names)  # noqa: S102 - the code is the documentation's
    return [bool(names["verify"](*case)) for case in cases]


def node_verify(*cases: Case) -> list[bool]:
    texts = json.dumps([(*texts, body.hex()) for *texts, body in cases])
    code = f"{snippet('javascript')}\nconst answers = {texts}.map(([a, b, c, body]) =>"
    code += " verify(a, b, c, Buffer.from(body, 'hex')));\n"
    code += "process.stdout.write(JSON.stringify(answers));"
    ran = subprocess.run([program("node"), "-e", code], capture_output=True, text=True, check=True)
    answers: list[bool] = json.loads(ran.stdout)
    return answers


@pytest.mark.parametrize("verify", [python_verify, node_verify])
def test_a_receiver_accepts_what_was_signed(verify: Callable[..., list[bool]]) -> None:
    now = str(int(time.time()))
    signature = sign("sésame", now, BODY)
    later = str(int(now) + 1)
    old = str(int(now) - 301)
    good = ("sésame", now, signature, BODY)
    bad = [
        ("sesame", now, signature, BODY),
        ("sésame", now, signature, BODY + b" "),
        ("sésame", now, signature[:-1], BODY),
        ("sésame", now, "", BODY),
        ("sésame", later, signature, BODY),
        ("sésame", old, sign("sésame", old, BODY), BODY),
    ]
    assert verify(good, *bad) == [True, *(False for _ in bad)]
