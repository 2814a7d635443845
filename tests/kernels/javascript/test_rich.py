"""JavaScript: rich output."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.kernels.host.harness import Host

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PNG_TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("code", "data"),
    [
        ("display.html('<b>é</b>')", {"text/html": "<b>é</b>"}),
        ("display.svg('<svg/>')", {"image/svg+xml": "<svg/>"}),
        ("display.json({ a: [1] })", {"application/json": {"a": [1]}}),
        ("display.markdown('# T')", {"text/markdown": "# T"}),
        ("display.latex('$x$')", {"text/latex": "$x$"}),
        ("display.text('t')", {"text/plain": "t"}),
        (f"display.png(Buffer.from('{PNG_TEXT}', 'base64'))", {"image/png": PNG_TEXT}),
        (f"display.png(new Uint8Array([{','.join(map(str, PNG))}]))", {"image/png": PNG_TEXT}),
        (f"display.png('{PNG_TEXT}')", {"image/png": PNG_TEXT}),
        (f"display.png('data:image/png;base64,{PNG_TEXT}')", {"image/png": PNG_TEXT}),
        ("display.png('dot.png')", {"image/png": PNG_TEXT}),
        ("display.jpeg(new Uint8Array([255, 216]))", {"image/jpeg": "/9g="}),
        ("display.image('dot.png')", {"image/png": PNG_TEXT}),
        (
            "display.raw({ 'x/y': 1, 'application/z+json': [1] })",
            {"x/y": "1", "application/z+json": [1]},
        ),
        ("display('s')", {"text/plain": "'s'"}),
        ("display.html('\\ud800')", {"text/html": "�"}),
    ],
)
def test_display(shared: Host, code: str, data: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(PNG)
    outcome = shared.run(code)
    assert outcome.ok, outcome
    assert [shown["data"] for shown in outcome.displays] == [data]
    # The handle that it gives is no result.
    assert outcome.result is None


def test_a_table_is_html_and_text(host: Host) -> None:
    data = host.run("display.table([{ a: 1, b: '<x>' }, { a: null }])").displays[0]["data"]
    assert data["text/html"] == (
        "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody>"
        "<tr><td>1</td><td>&lt;x&gt;</td></tr><tr><td>null</td><td></td></tr></tbody></table>"
    )
    assert data["text/plain"].startswith("┌")


def test_displays_are_updated_by_their_id(host: Host) -> None:
    shown = host.run("const h = display.html('1', { id: 'mine' }); h.update('2'); h.id").displays
    assert [(one["id"], one["update"], one["data"]) for one in shown] == [
        ("mine", False, {"text/html": "1"}),
        ("mine", True, {"text/html": "2"}),
    ]
    shown = host.run("h.update('3')").displays
    assert (shown[0]["id"], shown[0]["update"]) == ("mine", True)
    shown = host.run("display(1, { metadata: { m: 1 } }); display(2)").displays
    assert shown[0]["metadata"] == {"m": 1}
    assert shown[0]["id"] != shown[1]["id"]


def test_clear(host: Host) -> None:
    events = host.run("console.log(1); display.clear(); display.clear({ wait: true })").events
    assert events == [("stdout", "1\n"), ("clear", False), ("clear", True)]


@pytest.mark.parametrize(
    "method",
    ["[Symbol.for('Jupyter.display')]()", "async toMimeBundle()", "_toMime()"],
)
def test_objects_show_themselves(host: Host, method: str) -> None:
    code = f"""class Own {{ {method} {{ return {{
        'text/html': '<i>o</i>', 'image/png': Buffer.from('p'), 'image/svg+xml': '<svg/>',
        'application/json': {{ a: 1 }}, 'text/markdown': '*m*' }} }} }}; new Own()"""
    result = host.run(code).result
    assert result == {
        "text/plain": "Own {}",
        "text/html": "<i>o</i>",
        "image/png": "cA==",
        "image/svg+xml": "<svg/>",
        "application/json": {"a": 1},
        "text/markdown": "*m*",
    }
    if not method.startswith("async"):
        assert host.run("display(new Own())").displays[0]["data"] == result


def test_a_failing_method_is_the_users_error(host: Host) -> None:
    assert host.run("({ toMimeBundle() { throw new Error('mine') } })").failure.value == "mine"
    assert host.run("display.png('none.png')").failure.value.startswith("ENOENT")
    assert host.run("display.image('x.txt')").failure.name == "TypeError"


def test_large_displays_are_whole_and_in_order(host: Host) -> None:
    code = "console.log('a'); display.png(Buffer.alloc(3e6, 1)); console.log('b'); 'x'.repeat(9000)"
    outcome = host.run(code)
    assert [kind for kind, _ in outcome.events] == ["stdout", "display", "stdout", "result"]
    assert len(outcome.displays[0]["data"]["image/png"]) == 4_000_000
    assert len(str(outcome.text)) == 9002


def test_a_display_that_is_cut_short_leaves_nothing_broken(host: Host) -> None:
    for _ in range(5):
        code = "const big = Buffer.alloc(1e6); for (;;) display.png(big)"
        host.run(code, interrupt_when=lambda seen: len(seen.displays) > 0)
        assert host.run("1").text == "1"
