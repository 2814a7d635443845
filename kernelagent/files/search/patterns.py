"""Regular expressions of clients, as RE2 runs them: in time that grows with the text alone."""

from __future__ import annotations

import re
from typing import Protocol

import re2

from kernelagent.errors import InvalidRequest, PatternNotSupported

_LONGEST = 1000
# Has ^ and $ look at lines.
_LINES = "(?m)"
# What other engines can do and RE2 cannot: look-around, back-references, possessive and atomic
# groups, recursion.
_unsupported = re.compile(
    r"\\[1-9gk]|\(\?<?[=!]|\(\?P[=>&]|\(\?>|\(\?\(|\(\?(?:R|[+-]?\d|&)|[*+?}]\+"
).search
# Looks at where the text begins and ends, which is a line for clients.
_anchored = re.compile(r"\\[Az]|\(\?[A-Za-z]*-").search


class Match(Protocol):
    """Where a pattern was found, in bytes."""

    def start(self) -> int: ...

    def end(self) -> int: ...


class Pattern:
    """What is looked for in lines of UTF-8; it reaches beyond none. Raises InvalidRequest."""

    def __init__(self, pattern: str, *, literal: bool, ignore_case: bool) -> None:
        if not pattern or len(pattern) > _LONGEST:
            raise InvalidRequest(f"a pattern has 1 to {_LONGEST} characters")
        options = re2.Options()
        options.log_errors = False
        options.never_nl = True
        options.literal = literal
        options.case_sensitive = not ignore_case
        # Whether lines can be looked for in a text of several.
        self.is_quick = literal or not _anchored(pattern)
        try:
            self._found = re2.compile(pattern if literal else f"{_LINES}{pattern}", options)
        except UnicodeEncodeError:
            raise InvalidRequest("pattern: a lone surrogate is no text") from None
        except re2.error as error:
            if _unsupported(pattern):
                raise PatternNotSupported(
                    "pattern: look-around, back-references, possessive and atomic groups and "
                    "recursion are not run: use what RE2 has"
                ) from None
            raise InvalidRequest(f"pattern: {_reason(error)}") from None

    def search(self, text: bytes, start: int = 0) -> Match | None:
        """The first place; other threads run meanwhile."""
        found: Match | None = self._found.search(text, start)
        return found


def _reason(error: re2.error) -> str:
    reason = error.args[0] if error.args else ""
    text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
    return text.replace(_LINES, "", 1)[:200]
