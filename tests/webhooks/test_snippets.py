"""What the documentation tells receivers to do accepts what is sent, and nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernelagent.webhooks.sender import sign

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
BODY = '{"stdout": "é"}\n'.encode()


def snippet(language: str) -> str:
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(code)


def python_verify(*arguments: Any) -> bool:
    names: dict[str, Any] = {}
    exec(snippet("python"), names)  # noqa: S102 - the code is the documentation's
    return bool(names["verify"](*arguments))


def node_verify(secret: str, timestamp: str, signature: str, body: bytes) -> bool:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    arguments = ", ".join(json.dumps(text) for text in (secret, timestamp, signature))
    code = f"{snippet('javascript')}\nconst body = Buffer.from('{body.hex()}', 'hex');\n"
    code += f"process.stdout.write(String(verify({arguments}, body)));"
    ran = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True)
    return {"true": True, "false": False}[ran.stdout]


@pytest.mark.parametrize("verify", [python_verify, node_verify])
def test_a_receiver_accepts_what_was_signed(verify: Callable[..., bool]) -> None:
    now = str(int(time.time()))
    signature = sign("sésame", now, BODY)
    assert verify("sésame", now, signature, BODY)
    assert not verify("sesame", now, signature, BODY)
    assert not verify("sésame", now, signature, BODY + b" ")
    assert not verify("sésame", now, signature[:-1], BODY)
    assert not verify("sésame", now, "", BODY)
    later = str(int(now) + 1)
    assert not verify("sésame", later, signature, BODY)
    old = str(int(now) - 301)
    assert not verify("sésame", old, sign("sésame", old, BODY), BODY)
