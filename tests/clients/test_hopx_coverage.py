"""That no call of the published hopx clients to an agent is left without a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hopx_ai import AsyncSandbox, Sandbox
from hopx_ai._async_cache import AsyncCache
from hopx_ai._async_commands import AsyncCommands
from hopx_ai._async_env_vars import AsyncEnvironmentVariables
from hopx_ai._async_files import AsyncFiles
from hopx_ai._async_terminal import AsyncTerminal
from hopx_ai.cache import Cache
from hopx_ai.commands import Commands
from hopx_ai.env_vars import EnvironmentVariables
from hopx_ai.files import Files
from hopx_ai.terminal import Terminal

_HERE = Path(__file__).parent
_TYPES = _HERE / "javascript" / "node_modules" / "@hopx-ai" / "sdk" / "dist" / "index.d.ts"

# Calls of the control plane, and what only computes; the desktop is not there yet.
_NOT_THE_AGENT = frozenset(
    """
    agent_url cache commands connect create debug delete_template desktop env files get_expiry_info
    get_info get_preview_url get_template get_time_to_expiry get_token is_expiring_soon iter kill
    list list_templates pause refresh_token resume set_timeout terminal
    """.split()
)
_NOT_THE_AGENT_JS = frozenset(
    """
    init getInfo getPreviewUrl kill pause resume setTimeout getTimeToExpiry isExpiringSoon
    getExpiryInfo refreshToken ensureValidToken getToken
    """.split()
)


def calls(kind: type, left_out: frozenset[str] = frozenset()) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")} - left_out


PYTHON = {
    "": (Sandbox, AsyncSandbox),
    "files.": (Files, AsyncFiles),
    "commands.": (Commands, AsyncCommands),
    "env.": (EnvironmentVariables, AsyncEnvironmentVariables),
    "cache.": (Cache, AsyncCache),
    "terminal.": (Terminal, AsyncTerminal),
}


def text_of(folder: Path, pattern: str) -> str:
    """All test files that drive one of the clients."""
    texts = [path.read_text() for path in folder.rglob(pattern) if path != Path(__file__)]
    return "\n".join(text for text in texts if "hopx" in text)


@pytest.mark.parametrize("prefix", PYTHON)
@pytest.mark.parametrize("index", [0, 1], ids=["sync", "async"])
def test_every_call_of_the_python_client_has_a_test(prefix: str, index: int) -> None:
    text = text_of(_HERE.parent, "test_*.py")
    if index:
        text = "\n".join(re.findall(r"(?:await|async for|async with|=>)[^\n]*", text))
    left_out = frozenset() if prefix else _NOT_THE_AGENT
    wanted = calls(PYTHON[prefix][index], left_out)
    assert wanted
    missing = {name for name in wanted if not re.search(rf"{prefix or '[.]'}{name}\(", text)}
    assert missing == set()


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("Sandbox", "sandbox."),
        ("Files", "files."),
        ("Commands", "commands."),
        ("EnvironmentVariables", "env."),
        ("Cache", "cache."),
        ("Terminal", "terminal."),
    ],
)
def test_every_call_of_the_javascript_client_has_a_test(kind: str, prefix: str) -> None:
    body = _TYPES.read_text().partition(f"declare class {kind} {{")[2].partition("\n}")[0]
    methods = set(re.findall(r"^    (\w+)\(.*\): (?:Promise|Async)", body, re.MULTILINE))
    wanted = methods - _NOT_THE_AGENT_JS
    assert wanted
    text = text_of(_HERE / "javascript", "[a-z]*.mjs")
    missing = {name for name in wanted if f"{prefix}{name}(" not in text}
    assert missing == set()
