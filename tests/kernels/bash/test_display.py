"""Rich output of Bash: files and input are shown as what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.host.harness import Host

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)


def test_files_are_shown_in_their_place(bash: Host, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(PNG)
    (tmp_path / "a b.md").write_text("# Title")
    outcome = bash.run('echo one; display dot.png; echo two; display "a b.md"; echo three')
    kinds = [value if kind == "stdout" else next(iter(value)) for kind, value in outcome.events]
    assert kinds == ["one\n", "image/png", "two\n", "text/markdown", "three\n"]
    assert not list(Path(bash.driver._live.folder, "shown").iterdir())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a", PNG, "image/png"),
        ("a", b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        ("a", b"GIF89a", "image/gif"),
        ("a", b"%PDF-1.4", "application/pdf"),
        ("a.svg", b"<?xml version='1.0'?><svg/>", "image/svg+xml"),
        ("a.html", b"<p>", "text/html"),
        ("a.md", b"# x", "text/markdown"),
        ("a.json", b"{}", "application/json"),
        ("a.csv", b"a,b\n1,2\n", "text/html"),
        ("a.tsv", b"a\tb\n1\t2\n", "text/html"),
        ("a.txt", b"plain", "text/plain"),
    ],
)
def test_files_are_shown_as_what_they_are(
    bash: Host, tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = bash.run(f"display {name}")
    assert (outcome.ok, len(outcome.displays)) == (True, 1)
    assert {kind, "text/plain"} == set(outcome.displays[0]["data"])


def test_a_picture_from_the_background_is_shown_later(bash: Host) -> None:
    bash.run("(sleep 0.2; echo '<b>late</b>' | display --html) &")
    assert bash.wait_for(lambda seen: bool(seen.displays)).stdout == ""


@pytest.mark.parametrize(
    ("code", "kind", "value"),
    [
        ("printf 'a\\tb\\n' | display --tsv", "text/html", None),
        ("display --html <<< '<b>x</b>'", "text/html", "<b>x</b>\n"),
        ("echo '{\"a\": [1]}' | display --json", "application/json", {"a": [1]}),
        ("display --type=image/svg+xml - <<< '<svg/>'", "image/svg+xml", "<svg/>\n"),
        ("printf 'a,b\\n1,<2>\\n' | display --csv", "text/html", None),
        ("bash -c 'display --markdown <<< x'", "text/markdown", "x\n"),
        ("(display --html <<< y)", "text/html", "y\n"),
    ],
)
def test_input_is_shown_by_its_type(bash: Host, code: str, kind: str, value: object) -> None:
    outcome = bash.run(code)
    assert outcome.ok
    data = outcome.displays[0]["data"]
    assert kind in data
    if value is None:
        assert "<th>a</th>" in data[kind]
        assert "tsv" in code or "<td>&lt;2&gt;</td>" in data[kind]
    else:
        assert data[kind] == value


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("display /no/such", "No such file"),
        ("display --what", "usage: display"),
        ("echo '{' | display --json; false", "is no JSON"),
        ("head -c 34000000 /dev/zero | display --html", "has more than 32 MiB"),
        ("printf '\\xff' | display --html; false", "not UTF-8"),
        ("printf '[%.0s' {1..50000} | display --json; false", "is no JSON"),
        ("echo '[NaN]' | display --json; false", "NaN is not JSON"),
        ("head -c 200000 /dev/zero | tr '\\0' x | display --csv; false", "is no table"),
        ("display /", "Is a directory"),
    ],
)
def test_what_cannot_be_shown_is_told(bash: Host, code: str, said: str) -> None:
    outcome = bash.run(code)
    assert not outcome.displays
    assert said in outcome.stderr
    assert outcome.exit_code != 0
