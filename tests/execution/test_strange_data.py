"""Data that JSON and UTF-8 cannot hold, and output past Python."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from tests.runs import client_of, run
from tests.servers import Server

FRAME = """
import datetime as dt, decimal, numpy as np, pandas as pd
zone = dt.timezone(dt.timedelta(hours=2))
frame = pd.DataFrame({
    'nan': [float('nan'), float('inf')],
    'decimal': [decimal.Decimal('1.10'), decimal.Decimal('NaN')],
    'zone': [dt.datetime(2026, 1, 2, 3, tzinfo=zone), pd.NaT],
    'period': pd.period_range('2026-01', periods=2, freq='M'),
    'interval': pd.interval_range(0, 2),
    'complex': [1 + 2j, complex('nan')],
    'numpy': [np.float32(1.5), np.int64(7)],
    'object': [object(), {1: {2}}],
    'bytes': [b'\\xff\\x00', bytearray(b'x')],
    'big': [2**70, -2**70],
    'surrogate': ['\\ud800', 'a\\udfffb'],
    3: [None, pd.NA],
    ('tuple', 1): [1, 2],
})
"""


async def test_frames_of_strange_values_are_json(server: Server) -> None:
    async with client_of(server) as client:
        response = await client.post("/execute", json={"code": f"{FRAME}frame"})

    assert response.status_code == 200
    answer = json.loads(response.content, parse_constant=pytest.fail)
    assert answer["success"] is True, answer["stderr"]
    table = answer["dataframe"]
    assert table["shape"] == [2, 13]
    names = [column["name"] for column in table["columns"]]
    first = dict(zip(names, table["rows"][0][-13:], strict=False))
    assert first["nan"] is None
    assert float(first["decimal"]) == 1.1
    assert first["zone"].startswith("2026-01-02T03:00:00")
    assert first["numpy"] == 1.5


async def test_frame_with_multiindex_is_json(server: Server) -> None:
    code = """
import pandas as pd
index = pd.MultiIndex.from_tuples([('a', 1), ('b', 2)], names=['letter', None])
pd.DataFrame([[1, 2], [3, 4]], index=index, columns=pd.MultiIndex.from_product([['x'], [1, 2]]))
"""
    answer = await run(server, code)

    assert answer["success"] is True, answer["stderr"]
    assert answer["dataframe"]["shape"] == [2, 2]


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 10**400, {1: math.nan, None: [(), -math.inf]}]
)
async def test_json_displays_that_json_cannot_hold_do_not_fail(server: Server, value: Any) -> None:
    code = f"""
from IPython.display import display
nan, inf = float('nan'), float('inf')
display({{'application/json': {value!r}, 'text/plain': 'x'}}, raw=True)
print('after')
"""
    async with client_of(server) as client:
        response = await client.post("/execute", json={"code": code})

    assert response.status_code == 200
    answer = json.loads(response.content, parse_constant=pytest.fail)
    assert answer["success"] is True, answer["stderr"]
    assert answer["stdout"] == "after\n"


async def test_lone_surrogates_are_replaced(server: Server) -> None:
    answer = await run(server, "print('a\\ud800b')\n'c\\udfffd'")

    assert answer["success"] is True
    assert answer["stdout"].replace("?", "\ufffd") == "a\ufffdb\n"
    assert "c" in answer["result"]


async def test_unicode_arrives_whole(server: Server) -> None:
    text = "äß 中文 🎉 \u2028 \u0085 \x00 end"

    answer = await run(server, f"print({text!r})")

    assert answer["stdout"] == f"{text}\n"


async def test_bytes_written_past_python_are_captured(server: Server) -> None:
    code = "import os\nos.write(1, b'out \\xff\\xfe \\xc3\\xa4\\n')\nos.write(2, b'err\\n')"

    answer = await run(server, code)

    assert answer["stdout"] == "out \ufffd\ufffd ä\n"
    assert answer["stderr"] == "err\n"


async def test_output_of_child_processes_is_captured(server: Server) -> None:
    code = "import subprocess\nsubprocess.run('echo out; echo err >&2', shell=True, check=True)"

    answer = await run(server, code + "; None")

    assert answer["stdout"] == "out\n"
    assert answer["stderr"] == "err\n"


async def test_failing_repr_is_an_answer(server: Server) -> None:
    code = "class Bad:\n    def __repr__(self): raise RuntimeError('no repr')\nBad()"

    answer = await run(server, code)

    assert "no repr" in answer["stderr"]
    assert (await run(server, "1"))["success"] is True
