"""TypeScript: the same host, with types stripped."""

# ruff: noqa: E501 - the code of cells
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels.host.harness import Host, opened


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A TypeScript host in an empty directory."""
    with opened(tmp_path, "javascript", "--typescript") as host:
        yield host


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The host of cells that stand by themselves."""
    with opened(tmp_path_factory.mktemp("typescript"), "javascript", "--typescript") as host:
        yield host


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("const a: number = 1; a as any", "1"),
        ("interface P { x: number }\nconst p: P = { x: 1 }; p", "{ x: 1 }"),
        ("function id<T>(v: T): T { return v }\nid<string>('s')", "'s'"),
        ("type A = { b?: string }; let v: A | undefined; v?.b ?? 'none'", "'none'"),
        ("class C<T> { constructor(public v: T, private w = 2) {} }; new C(1).v", "1"),
        ("enum E { A, B = 'b' }; [E.A, E.B]", "[ 0, 'b' ]"),
        ("namespace N { export const v = 7 }; N.v", "7"),
        ("const x = { a: 1 } satisfies object; x!.a", "1"),
        ("abstract class B { abstract f(): void }; typeof B", "'function'"),
        (
            "import type { Stats } from 'fs'\nimport { sep, type ParsedPath } from 'path'; sep",
            "'/'",
        ),
        ("import fs from 'node:fs'; typeof fs.readFileSync", "'function'"),
        ("const later: Promise<number> = Promise.resolve(4); await later", "4"),
        ("declare const none: string; 5", "5"),
        ("{ a: 1 }", "{ a: 1 }"),
        ("#!/usr/bin/env node\n6 as number", "6"),
        ("let n = 1; n = 2; for await (const i of [n]) n += i; n", "4"),
    ],
)
def test_types_are_stripped(shared: Host, code: str, text: str) -> None:
    outcome = shared.run(code)
    assert outcome.ok, outcome
    assert outcome.text == text


def test_declarations_persist_and_can_be_repeated(host: Host) -> None:
    for _ in range(2):
        assert host.run("interface I { a: number }; enum E { X }; const i: I = { a: E.X }").ok
    assert host.run("i.a + E.X").text == "0"


def test_errors_are_at_the_users_lines(host: Host) -> None:
    code = "interface X {\n  a: number\n}\nfunction f(v: X): never {\n  throw new Error('no')\n}\nf({ a: 1 })"
    assert list(host.run(code).failure.traceback) == [
        "Error: no",
        "    at f (Cell In[1]:5:9)",
        "    at Cell In[1]:7:1",
    ]
    code = (
        "enum E {\n  A,\n\n  B\n}\nconst g = (v: E): void => {\n  throw new Error('no')\n}\ng(E.A)"
    )
    lines = host.run(code).failure.traceback
    assert "Cell In[2]:7:" in lines[1]
    assert "Cell In[2]:9:" in lines[2]


def test_syntax_errors_are_clear(host: Host) -> None:
    failure = host.run("const a: number = 1;\nconst b: = 2").failure
    assert failure.name == "SyntaxError"
    assert list(failure.traceback[:3]) == ["Cell In[1]:2:10", "const b: = 2", "         ^"]
    failure = host.run("const v = <div>text</div>").failure
    assert failure.name == "SyntaxError"
    assert "JSX is not supported" in failure.value
    failure = host.run("const dec = (x: any) => x;\n@dec class A {}").failure
    assert failure.name == "SyntaxError"
    assert failure.traceback[0].startswith("Cell In[3]:2:")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("const a: number = 1", "complete"),
        ("interface A {", "incomplete"),
        ("function f(a: string", "incomplete"),
        ("const a: = 1", "invalid"),
    ],
)
def test_completeness(shared: Host, code: str, status: str) -> None:
    assert shared.driver.is_complete(code) == status


def test_the_language_is_named(shared: Host) -> None:
    assert shared.driver.language_info["name"] == "typescript"
    assert shared.driver.language_info["file_extension"] == ".ts"


def test_interrupts_keep_the_state(host: Host) -> None:
    assert host.run("let kept: string = 'yes'").ok
    outcome = host.run("for (;;);", interrupt_when=lambda _: True)
    assert outcome.failure.name == "KeyboardInterrupt"
    assert host.run("kept").text == "'yes'"
