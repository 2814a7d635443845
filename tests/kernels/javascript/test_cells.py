"""JavaScript as its users write it: cells, values, modules, output and errors."""

# ruff: noqa: E501 - the code of cells
from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.kernels.host.harness import Host


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("1 + 1", "2"),
        ("'it\\'s'", '"it\'s"'),
        ("undefined", None),
        ("null", "null"),
        ("-0", "-0"),
        ("10n ** 20n", "100000000000000000000n"),
        ("Symbol('s')", "Symbol(s)"),
        ("{ a: 1 }", "{ a: 1 }"),
        ("{}", "{}"),
        ("{ let a = 2; a }", "2"),
        ("[1, [2, [3, [4]]]]", "[ 1, [ 2, [ 3, [Array] ] ] ]"),
        ("new Map([[1, { a: 2 }]])", "Map(1) { 1 => { a: 2 } }"),
        ("(function f() {})", "[Function: f]"),
        ("class A {}; A", "[class A]"),
        ("let x = 5", None),
        ("if (true) 7", "7"),
        ("await Promise.resolve(8)", "8"),
        ("Promise.resolve(Promise.resolve(9))", "9"),
        ("(async () => { await null; return 'done' })()", "'done'"),
        ("const t = []; for await (const i of [1, 2]) t.push(i); t", "[ 1, 2 ]"),
        ("#!/usr/bin/env node\n3", "3"),
        ("'use strict'; 4", "4"),
        ("outer: for (;;) { for (;;) break outer }", "undefined"),
        ("class P { #x = 6; get x() { return this.#x } } new P().x", "6"),
        ("new Proxy({ a: 1 }, {})", "Proxy [ { a: 1 }, {} ]"),
        ("this === globalThis", "true"),
    ],
)
def test_values_are_shown_as_by_the_repl_of_node(shared: Host, code: str, text: str | None) -> None:
    outcome = shared.run(code)
    assert outcome.ok, outcome
    assert outcome.text == (None if text == "undefined" else text)


def test_names_can_be_declared_again(host: Host) -> None:
    for code in (
        "const a = 1; let b = 1; class C {}; var d = 1; function e() { return 1 }",
        "const a = 2; let b = 2; class C { x = 2 }; var d = 2; function e() { return 2 }",
    ):
        assert host.run(code).ok
    assert host.run("[a, b, new C().x, d, e()]").text == "[ 2, 2, 2, 2, 2 ]"
    assert host.run("let a = 3; let e = 3; const d = 3; class b {}").ok
    assert host.run("[a, e, d, typeof b]").text == "[ 3, 3, 3, 'function' ]"
    assert host.run("function a() { return 4 }; var b = 4; a() + b").text == "8"
    assert host.run("const { x, y: [z], ...rest } = { x: 1, y: [2], w: 3 }").ok
    assert (
        host.run("const { x, ...rest } = { x: 5, v: 6 }; [x, z, rest]").text == "[ 5, 2, { v: 6 } ]"
    )
    assert host.run("var g = 1; globalThis.g").text == "1"
    assert host.run("let twice = 1; let twice = 2").failure.name == "SyntaxError"


def test_modules_are_found_from_the_current_directory(host: Host, tmp_path: Path) -> None:
    package = tmp_path / "node_modules" / "dual"
    package.mkdir(parents=True)
    exports = {"import": "./m.mjs", "require": "./c.cjs"}
    (package / "package.json").write_text(json.dumps({"name": "dual", "exports": exports}))
    (package / "m.mjs").write_text("export default 'module'; export const one = 1")
    (package / "c.cjs").write_text("module.exports = 'common'")
    (tmp_path / "data.json").write_text('{"n": 3}')
    (tmp_path / "own.mjs").write_text(
        "globalThis.seen = true; export const v = 5; export default 6"
    )
    assert (
        host.run("import dual, { one as uno } from 'dual'; [dual, uno]").text == "[ 'module', 1 ]"
    )
    assert host.run("require('dual')").text == "'common'"
    assert host.run("import data from './data.json' with { type: 'json' }; data").text == "{ n: 3 }"
    assert host.run("import './own.mjs'; seen").text == "true"
    assert host.run("import def, * as ns from './own.mjs'\ndef + ns.v").text == "11"
    assert host.run("(await import('./own.mjs')).v").text == "5"
    assert host.run("const load = (n) => import(`./${n}.mjs`); (await load('own')).v").text == "5"
    assert (
        host.run("x = typeof readFileSync; import { readFileSync } from 'fs'; x").text
        == "'function'"
    )
    assert host.run("import { default as p } from 'node:path'; p.sep").text == "'/'"
    assert host.run("__dirname").text == repr(str(tmp_path))
    assert host.run("import.meta.dirname === process.cwd()").text == "true"
    assert host.run("new URL('data.json', import.meta.url).pathname").text == repr(
        str(tmp_path / "data.json")
    )
    assert host.run("import.meta.resolve('./own.mjs')").text == repr(
        (tmp_path / "own.mjs").as_uri()
    )
    assert host.run("typeof module + typeof exports + __filename.startsWith(__dirname)").ok
    below = tmp_path / "below"
    below.mkdir()
    (below / "own.mjs").write_text("export const v = 'below'")
    assert host.run("process.chdir('below'); (await import('./own.mjs')).v").text == "'below'"


def test_words_in_strings_and_comments_are_no_imports(host: Host) -> None:
    code = "// import a from 'b'\n`import x from 'y' ${1 + 1}` + /import(.)/.source"
    assert host.run(code).text == "\"import x from 'y' 2import(.)\""


def test_imports_that_fail_name_the_line(host: Host) -> None:
    failure = host.run("1;\nimport a from 'no-such-package'").failure
    assert "Cannot find package 'no-such-package'" in failure.value
    assert failure.traceback[-1] == "    at Cell In[1]:2:1"
    failure = host.run("import { nothing } from 'fs'").failure
    assert failure.name == "SyntaxError"
    assert "does not provide an export named 'nothing'" in failure.value
    failure = host.run("if (1) {\n  import a from 'fs'\n}").failure
    assert (failure.name, failure.traceback[0]) == ("SyntaxError", "Cell In[3]:2:3")


def test_exports_are_plain_declarations(host: Host) -> None:
    assert host.run("export const a = 1; export function f() { return 2 }\nexport { f as g }").ok
    assert host.run("export default class K {}").ok
    assert host.run("[a, f(), typeof K]").text == "[ 1, 2, 'function' ]"
    assert host.run("export default 42").text == "42"
    assert "cannot export from a module" in host.run("export * from 'fs'").failure.value


def test_output_comes_in_order_on_its_own_stream(host: Host) -> None:
    code = """
    console.log('one %d', 1); console.error('two'); console.info({ a: [1] }); console.warn('three');
    console.group('G'); console.log('in\\nside'); console.groupEnd();
    console.table([{ a: 1 }]); console.dir({ d: { e: {} } }, { depth: 0 }); console.assert(false, 'no');
    process.stdout.write('raw'); process.stderr.write(Buffer.from('bytes')); console.count();
    """
    outcome = host.run(code)
    assert outcome.stdout == (
        "one 1\n{ a: [ 1 ] }\nG\n  in\n  side\n"
        "┌─────────┬───┐\n│ (index) │ a │\n├─────────┼───┤\n│ 0       │ 1 │\n└─────────┴───┘\n"
        "{ d: [Object] }\nrawdefault: 1\n"
    )
    assert outcome.stderr == "two\nthree\nAssertion failed: no\nbytes"
    assert [name for name, _ in outcome.events][:4] == ["stdout", "stderr", "stdout", "stderr"]


def test_children_write_in_order_with_the_cell(host: Host) -> None:
    code = """
    const { execSync, spawn } = require('child_process');
    for (let i = 0; i < 20; i++) { console.log('a' + i); execSync(`echo b${i}`, { stdio: 'inherit' }) }
    const child = spawn('sh', ['-c', 'echo c; echo d >&2'], { stdio: 'inherit' });
    await require('events').once(child, 'exit'); console.log('e')
    """
    outcome = host.run(code)
    pairs = "".join(f"a{i}\nb{i}\n" for i in range(20))
    assert outcome.stdout == pairs + "c\ne\n"
    assert outcome.stderr == "d\n"


def test_children_hold_none_of_the_pipes(host: Host) -> None:
    code = "require('child_process').execSync('ls -l /proc/self/fd').toString()"
    shown = host.run(code).text
    assert shown is not None
    assert "anon_inode" not in shown
    # Its own three, and the folder that it lists.
    assert sum("->" in line for line in shown.split("\\n")) == 4


def test_much_output_is_quick_and_whole(host: Host) -> None:
    outcome = host.run("for (let i = 0; i < 100000; i++) console.log('line ' + i)")
    assert outcome.stdout == "".join(f"line {i}\n" for i in range(100000))
    outcome = host.run("console.log('é😀x'.repeat(2500000)); process.stdout.write('\\ud800')")
    assert outcome.stdout == "é😀x" * 2500000 + "\n�"


def test_bytes_that_are_no_text_come_as_they_are(host: Host) -> None:
    seen: list[bytes] = []
    host.stream = lambda _, data: seen.append(data)  # type: ignore[method-assign,assignment]
    assert host.run("process.stdout.write(new Uint8Array([0, 255, 128, 10]))").ok
    assert b"".join(seen) == b"\x00\xff\x80\n"


def test_errors_have_name_message_and_the_cells_own_lines(host: Host) -> None:
    failure = host.run("function f() {\n  throw new RangeError('too far');\n}\n\n  f();").failure
    assert (failure.name, failure.value) == ("RangeError", "too far")
    assert list(failure.traceback) == [
        "RangeError: too far",
        "    at f (Cell In[1]:2:9)",
        "    at Cell In[1]:5:3",
    ]
    assert list(host.run("\nawait null;\nf()").failure.traceback) == [
        "RangeError: too far",
        "    at f (Cell In[1]:2:9)",
        "    at Cell In[2]:3:1",
    ]
    failure = host.run("class Mine extends Error { name = 'Mine' }; throw new Mine('m')").failure
    assert (failure.name, failure.value) == ("Mine", "m")
    shown = "\n".join(
        host.run("throw new Error('outer', { cause: new TypeError('inner') })").failure.traceback
    )
    assert "[cause]: TypeError: inner\n      at Cell In[4]:1:35" in shown
    shown = "\n".join(
        host.run("await Promise.any([Promise.reject(new Error('in'))])").failure.traceback
    )
    assert "AggregateError" in shown
    assert "Error: in" in shown
    assert host.run("throw { code: 5 }").failure.value == "{ code: 5 }"
    assert host.run("throw null").failure.name == "Uncaught"
    assert host.run("try { f() } catch (e) { console.log(e.stack) }").stdout.endswith(
        "at f (Cell In[1]:2:9)\n    at Cell In[8]:1:7\n"
    )
    assert host.run("{ a: nope() }").failure.traceback[1] == "    at Cell In[9]:1:6"


def test_syntax_errors_show_line_and_column(host: Host) -> None:
    failure = host.run("const ok = 1;\nlet bad = ;").failure
    assert failure.name == "SyntaxError"
    assert failure.value == "Unexpected token ';' (2:11)"
    assert list(failure.traceback) == [
        "Cell In[1]:2:11",
        "let bad = ;",
        "          ^",
        "",
        "SyntaxError: Unexpected token ';'",
    ]
    failure = host.run("import a from 'fs';\n\tlet bad = ;").failure
    assert failure.traceback[:3] == ["Cell In[2]:2:12", "\tlet bad = ;", "\t          ^"]
    failure = host.run("JSON.parse('{')").failure
    assert failure.name == "SyntaxError"
    assert failure.traceback[-1] == "    at Cell In[3]:1:6"


def test_what_fails_outside_of_the_cell_is_told_on_stderr(host: Host) -> None:
    outcome = host.run("setTimeout(() => { throw new Error('late') }, 5); 1")
    assert outcome.text == "1"
    host.wait_for(lambda seen: "Cell In[1]:1:26" in seen.stderr)
    assert "Uncaught Error: late" in outcome.stderr
    outcome = host.run("Promise.reject(new Error('nobody')); 2")
    assert outcome.text == "2"
    assert "Unhandled rejection: Error: nobody" in outcome.stderr
    assert host.run("process.on('uncaughtException', (e) => console.log('mine', e.message))").ok
    host.run("setTimeout(() => { throw new Error('x') }, 1)")
    assert host.wait_for(lambda seen: "mine x" in seen.stdout).stderr == ""


def test_late_output_reaches_the_listener(host: Host) -> None:
    assert host.run("setTimeout(() => console.log('later'), 30); 'now'").text == "'now'"
    host.wait_for(lambda outcome: outcome.stdout == "later\n")


def test_ticks_that_are_due_are_part_of_the_run(host: Host) -> None:
    code = "process.nextTick(() => console.log('t')); queueMicrotask(() => console.log('m')); 1"
    outcome = host.run(code)
    assert sorted(outcome.stdout) == ["\n", "\n", "m", "t"]


def test_process_exit_ends_the_code_and_keeps_the_state(host: Host) -> None:
    outcome = host.run(
        "let kept = 1; try { process.exit(3) } catch {} finally { kept = 2 }; kept = 3"
    )
    assert (outcome.exit_code, outcome.ended and outcome.ended.failure) == (3, None)
    assert host.run("kept").text == "1"
    assert host.run("process.exit()").ok
    outcome = host.run("await new Promise((r) => setTimeout(r, 5)); process.exit(4); kept = 5")
    assert outcome.exit_code == 4
    assert host.run("await require('fs').promises.stat('.'); process.exit(5)").exit_code == 5
    assert host.run("process.exitCode = 6; kept").exit_code == 6
    assert host.run("kept").ok


def test_silent_runs_show_no_result(host: Host) -> None:
    assert host.run("let s = 5; s", silent=True).result is None
    assert host.run("s").text == "5"


def test_plain_objects_and_arrays_come_as_json_too(host: Host) -> None:
    result = host.run("({ a: [1, 'x', null], d: new Date(0) })").result
    assert result is not None
    assert result["application/json"] == {"a": [1, "x", None], "d": "1970-01-01T00:00:00.000Z"}
    for code in ("const c = {}; c.c = c; c", "new Map()", "({ b: 1n })", "5"):
        result = host.run(code).result
        assert result is not None
        assert list(result) == ["text/plain"], code


def test_environment_and_directory_are_undone(host: Host, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    host.driver.configure({"KEPT": "1"}, [], None)
    value = 'it\'s "$x" `é`\n\\'
    code = "const seen = process.env.V; process.env.V = 'own'; process.env.OWN = 'y'; process.chdir('..'); seen === process.env.W"
    assert host.run(code, env={"V": value, "W": value}, cwd=str(tmp_path / "in")).text == "true"
    shown = host.run("[process.env.V, process.env.W, process.env.OWN, process.env.KEPT]").text
    assert shown == "[ undefined, undefined, 'y', '1' ]"
    assert host.run("process.cwd()").text == repr(str(tmp_path))
    host.run("throw 1", env={"V": "1"}, cwd=str(tmp_path / "in"))
    host.run("await new Promise(() => {})", env={"V": "1"}, interrupt_when=lambda _: True)
    host.run("for (;;);", env={"V": "1"}, cwd="/", interrupt_when=lambda _: True)
    assert host.run("[process.env.V, process.cwd()]").ok
    assert host.run("'V' in process.env").text == "false"
    assert host.run("process.cwd()").text == repr(str(tmp_path))
    outcome = host.run("1", cwd=str(tmp_path / "none"))
    assert outcome.failure.name == "ScopeError"
    assert outcome.failure.value == f"{tmp_path / 'none'}: No such file or directory"
    host.driver.configure({}, ["KEPT"], None)
    assert host.run("process.env.KEPT").text is None
    assert os.environ.get("KEPT") is None
