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
_UNCLOSED = "unexpected EOF while looking for matching `)'"
_SYNTAX_ERROR = 2
# How many lines of a command that is not complete are looked at.
_MOST_LINES = 200
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
    checked = _check(program, code)
    if checked is None:
        return "unknown"
    status, said = checked
    if code.rstrip("\n").endswith("\\") or any(phrase in said for phrase in _INCOMPLETE):
        return "incomplete"
    return "complete" if status == 0 and not said else "invalid"


def cut_unclosed(program: str, code: str, cell: str) -> tuple[str, str]:
    """The part of a cell before a `$(` that is never closed, and what bash says of the rest.

    At the end of such a file bash 5.2 writes outside of its memory, and may abort later. What is
    not so comes back whole, with nothing to say.
    """
    if code.count("(") <= code.count(")"):
        return code, ""
    status, said = _check(program, code) or (0, "")
    unclosed = next((line for line in said.splitlines() if _UNCLOSED in line), "")
    if status != _SYNTAX_ERROR or not unclosed:
        return code, ""
    lines = code.split("\n")
    tried = range(len(lines) - 1, max(len(lines) - _MOST_LINES, 0), -1)
    parts = ("\n".join(lines[:count]) for count in tried)
    part = next((part for part in parts if is_complete(program, part) == "complete"), "")
    return part, f"{cell}: {unclosed.partition(': ')[2]}\n"


def _check(program: str, code: str) -> tuple[int, str] | None:
    """The status of a shell that only reads the code, and what it says; None if it cannot."""
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
        return None
    return checked.returncode, checked.stderr.decode("utf-8", "replace")


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
