"""What is asked of a shell between two cells: completion, help, variables."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from kernelagent_host.host import MimeBundle

# Has the shell carry out a script of ours with a task, and gives what it wrote.
Ask = Callable[[str, Sequence[str]], bytes]

_CHECK_TIMEOUT = 10.0
_WORD = re.compile(r"(?:\\.|[^\s;|&()<>'\"`=\\])*\Z")
_REST = re.compile(r"[\w.-]*")
_VARIABLE = re.compile(r"\$\{?(\w*)\Z", re.ASCII)
_SPECIAL = re.compile(r"[\s\\'\"`$&;|()<>*?\[\]{}!#~=]")
_INCOMPLETE = ("unexpected end of file", "unexpected EOF", "here-document at line")
_TYPES = {"n": "reference", "A": "associative array", "a": "array", "i": "integer"}
# Bash makes these by itself, in the course of things.
_OWN = frozenset(
    {"BASH_REMATCH", "COLUMNS", "COPROC_PID", "FUNCNAME", "LINES", "OLDPWD", "OPTARG", "PIPESTATUS"}
)


def complete(ask: Ask, code: str, cursor: int) -> tuple[Sequence[str], int, int]:
    """Commands, files and variables that the word before the cursor may become."""
    found = _WORD.search(code[:cursor])
    word = found[0] if found else ""
    start = cursor - len(word)
    variable = _VARIABLE.search(word)
    if variable:
        start = cursor - len(variable[0])
        opening = variable[0][: len(variable[0]) - len(variable[1])]
        closing = "}" if opening.endswith("{") else ""
        matches = _matches(ask, variable[1], ["variable"])["variable"]
        return [f"{opening}{match}{closing}" for match in matches], start, cursor
    before = code[:start].rstrip(" \t")
    is_command = not before or before[-1] in "\n;|&(`"
    kinds = ["directory", "file"]
    if is_command and word and "/" not in word:
        kinds.append("command")
    found_by_kind = _matches(ask, re.sub(r"\\(.)", r"\1", word), kinds)
    directories = set(found_by_kind["directory"])
    names = {_quoted(f"{name}/" if name in directories else name) for name in found_by_kind["file"]}
    names.update(found_by_kind.get("command", ()))
    return sorted(names), start, cursor


def _matches(ask: Ask, word: str, kinds: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    into: list[str] = []
    for line in ask("complete", [word, *kinds]).decode("utf-8", "replace").splitlines():
        if line.startswith("=") and line[1:] in found:
            into = found[line[1:]]
        else:
            into.append(line)
    return found


def _quoted(name: str) -> str:
    home = "~" if name.startswith("~") else ""
    return home + _SPECIAL.sub(r"\\\g<0>", name[len(home) :])


def inspect(ask: Ask, code: str, cursor: int) -> MimeBundle | None:
    """What bash tells of the name at the cursor."""
    before = _WORD.search(code[:cursor])
    after = _REST.match(code[cursor:])
    word = (before[0].lstrip("${") if before else "") + (after[0] if after else "")
    text = ask("inspect", [word]).decode("utf-8", "replace") if word else ""
    return {"text/plain": text.rstrip("\n")} if text else None


def is_complete(program: str, code: str) -> str:
    """By a shell that only reads it: as with `shopt -s extglob`, without the aliases of ours."""
    try:
        checked = subprocess.run(
            [program, "--norc", "-O", "extglob", "-n"],
            input=code.encode("utf-8", "surrogateescape"),
            capture_output=True,
            check=False,
            timeout=_CHECK_TIMEOUT,
            cwd="/",
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    said = checked.stderr.decode("utf-8", "replace")
    if code.rstrip("\n").endswith("\\") or any(phrase in said for phrase in _INCOMPLETE):
        return "incomplete"
    return "complete" if checked.returncode == 0 and not said else "invalid"


def names(ask: Ask) -> list[str]:
    """Of all variables but those of the shell's host."""
    found = ask("complete", ["", "variable"]).decode("utf-8", "replace").splitlines()[1:]
    return [name for name in found if not name.startswith("__ka_") and name not in _OWN]


def variables(ask: Ask, initial: set[str], limit: int) -> dict[str, Any]:
    """Those that are not among the `initial` ones."""
    found = [name for name in names(ask) if name not in initial]
    wanted = found[: max(limit, 0)]
    listed = []
    if wanted:
        fields = ask("variables", wanted).decode("utf-8", "replace").split("\0")
        for name, flags, count, shown in zip(*[iter(fields)] * 4, strict=False):
            kind = next((_TYPES[flag] for flag in _TYPES if flag in flags), "string")
            shape = [int(count)] if count else None
            described = {"name": name, "type": kind, "shape": shape, "size": None}
            listed.append({**described, "preview": shown})
    return {"variables": listed, "total": len(found), "truncated": len(found) > len(listed)}
