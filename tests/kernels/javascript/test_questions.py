"""JavaScript: what the session tells of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kernels.host.harness import Host


def complete(host: Host, code: str) -> Any:
    return host.driver.complete(code, len(code))


def test_completion(host: Host, tmp_path: Path) -> None:
    (tmp_path / "module.mjs").write_text("")
    (tmp_path / "node_modules" / "pack").mkdir(parents=True)
    code = """
    const obj = { first: 1, get second() { throw new Error('ran') }, deep: { under: { last: 1 } } };
    class Base { method() {} } class Derived extends Base { own() {} }
    let inst = new Derived(); function namedFunction() {}; var ran = 0;
    const trap = new Proxy({}, { get() { ran++ }, ownKeys() { ran++; return [] } });
    """
    assert host.run(code).ok
    assert complete(host, "obj.fi") == (["first"], 4, 6)
    assert complete(host, "é = obj.sec") == (["second"], 8, 11)
    assert complete(host, "obj.deep.under.")[0][0:0] == []
    assert "last" in complete(host, "obj.deep.under.")[0]
    assert complete(host, "obj.second.")[0] == []
    assert {"method", "own", "constructor"} <= set(complete(host, "inst.")[0])
    assert "method" in complete(host, "inst?.me")[0]
    assert complete(host, "1 + inst.ow") == (["own"], 9, 11)
    assert complete(host, "named") == (["namedFunction"], 0, 5)
    assert "instanceof" in complete(host, "insta")[0]
    assert "toFixed" not in complete(host, "trap.")[0]
    assert host.run("ran").text == "0"
    assert complete(host, "require('node:child_p")[0] == ["node:child_process"]
    assert complete(host, "import x from './mo") == (["./module.mjs"], 15, 19)
    assert "pack" in complete(host, "await import('pa")[0]
    assert host.driver.complete("obj.fi + 1", 6) == (["first"], 4, 6)


def test_inspection(host: Host) -> None:
    host.run("const o = { v: 1, get g() { throw 1 } }; function add(a, b) {\n  return a + b\n}")
    shown = host.driver.inspect("add(1, 2)", 2)
    assert shown is not None
    assert "function add(a, b) {\n  return a + b\n}" in shown["text/plain"]
    shown = host.driver.inspect("o", 1)
    assert shown is not None
    assert "{ v: 1, g: [Getter] }" in shown["text/plain"]
    assert "number" in (host.driver.inspect("o.v", 3) or {})["text/plain"]
    assert host.driver.inspect("o.g", 3) is None
    assert host.driver.inspect("nothing", 3) is None


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("1 + 1", "complete"),
        ("", "complete"),
        ("for (;;) {", "incomplete"),
        ("f(1,", "incomplete"),
        ("`abc", "incomplete"),
        ("/* x", "incomplete"),
        ("let a = ", "incomplete"),
        ("import a from 'x'; await a", "complete"),
        ("let = = 1", "invalid"),
        ("'abc", "invalid"),
        ("}", "invalid"),
    ],
)
def test_completeness(shared: Host, code: str, status: str) -> None:
    assert shared.driver.is_complete(code) == status


def test_variables(host: Host) -> None:
    code = """
    const list = [1, 2, 3]; let text = 'hé\\n'; class Point {}; var when = new Map([[1, 2]]);
    function work() {} ; const typed = new Float64Array(4), p = new Point(), none = null; bare = 5;
    const hidden = { get g() { throw new Error('ran') } }; const _private = 1;
    """
    assert host.run(code).ok
    told = host.driver.variables(100)
    by_name = {one["name"]: one for one in told["variables"]}
    assert set(by_name) == set("list text Point when work typed p none bare hidden".split())
    assert told["total"] == 10
    assert by_name["list"] == {
        "name": "list",
        "type": "Array",
        "shape": [3],
        "size": None,
        "preview": "[ 1, 2, 3 ]",
    }
    assert by_name["typed"]["size"] == 32
    assert by_name["when"]["shape"] == [1]
    assert by_name["p"]["type"] == "Point"
    assert [by_name[name]["type"] for name in ("Point", "work", "none", "bare", "text")] == [
        "class",
        "function",
        "null",
        "number",
        "string",
    ]
    assert by_name["hidden"]["preview"] == "{ g: [Getter] }"
    told = host.driver.variables(3)
    assert (len(told["variables"]), told["total"], told["truncated"]) == (3, 10, True)
