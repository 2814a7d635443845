"""Regular expressions of clients, as far as they can be let near the service's memory."""

from __future__ import annotations

import re

import regex

from kernelagent.errors import InvalidRequest

_LONGEST = 1000
# More alternatives are no quicker to look for than the pattern itself.
_MOST_NEEDED = 16
# Recursion takes memory that no length of the text bounds. A bracket that is no group may be
# refused too: `[(?R)]`.
_call = re.compile(r"(?<!\\)(?:\\\\)*\(\?(?:R|\d|&|[+-]\d|P[>&])").search

_special = re.compile(r"\(\?(?!:)|\(\*").search

_token = re.compile(
    r"""
    \\(?P<sign>[^0-9A-Za-z])
    | (?P<maybe> [*?] | \{\d*,?\d*\} )
    | (?P<stop> [+.^$] | \\[wWdDsSbBn] | \[\^?[^][\\^](?:\\.|[^][\\])*\] )
    | (?P<unclear> [\\[{] )
    | (?P<bracket> \((?:\?:)? | \) )
    | (?P<bar> \| )
    | (?P<plain> . )
    """,
    re.VERBOSE | re.DOTALL,
)


def read_pattern(
    pattern: str, *, literal: bool, ignore_case: bool
) -> tuple[regex.Pattern[str], regex.Pattern[str] | None]:
    """The pattern, and a quick one that matches in each line where the pattern does, if any.

    Raises InvalidRequest.
    """
    if not pattern or len(pattern) > _LONGEST:
        raise InvalidRequest(f"a pattern has 1 to {_LONGEST} characters")
    if not literal and _call(pattern):
        raise InvalidRequest("pattern: recursion and calls of groups, as (?R) or (?1), are not run")
    flags = regex.MULTILINE | (regex.IGNORECASE if ignore_case else 0)
    needed = [pattern] if literal else needed_text(pattern)
    try:
        wanted = _compile(regex.escape(pattern) if literal else pattern, flags)
        if needed is None:
            return wanted, None
        return wanted, _compile("|".join(map(regex.escape, needed)), flags)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"pattern: {str(error)[:200]}") from None


def _compile(pattern: str, flags: int) -> regex.Pattern[str]:
    return regex.compile(pattern, flags, cache_pattern=False)


def needed_text(pattern: str) -> list[str] | None:
    """Of each alternative some text that is in all its matches; None where that is not plain."""
    if _special(pattern):
        return None
    found: list[str] = []
    depth, run, longest = 0, "", ""
    for match in _token.finditer(pattern):
        kind, text = match.lastgroup, match[match.lastgroup or 0]
        if kind == "unclear":
            return None
        if kind in ("plain", "sign") and depth == 0:
            run += text
            continue
        # What may be missing is the last character.
        longest = max(longest, run[:-1] if kind == "maybe" else run, key=len)
        run = ""
        if kind == "bracket":
            depth += -1 if text == ")" else 1
        elif kind == "bar" and depth == 0:
            found.append(longest)
            longest = ""
    found.append(max(longest, run, key=len))
    return found if all(found) and len(found) <= _MOST_NEEDED else None
