"""Which job an id on the command line means: whole, or its beginning where only one has it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kernelagent.cli.connection import CommandFailed

if TYPE_CHECKING:
    from kernelagent.client import AsyncClient

_WHOLE = re.compile(r"(proc|exec|cmd)_[0-9a-f]{20}")
_PREFIX = re.compile(r"(?:proc|exec|cmd)_")
_MOST_CANDIDATES = 20


async def find_job(client: AsyncClient, text: str) -> str:
    """The id of the job that `text` means; raises CommandFailed if none or several do."""
    if _WHOLE.fullmatch(text):
        return text
    return choose(await client.processes(), text)


def choose(jobs: list[dict[str, Any]], text: str) -> str:
    """The id of that one of `jobs` whose id begins with `text`, or whose process has it."""
    found = [job for job in jobs if _is_meant(job, text)]
    if not found:
        raise CommandFailed(f"no job has this id: {text}")
    if len(found) == 1:
        return str(found[0]["process_id"])
    lines = [f"  {job['process_id']}  {job['status']}  {job['name']}" for job in found]
    if len(lines) > _MOST_CANDIDATES:
        rest = len(lines) - _MOST_CANDIDATES
        lines[_MOST_CANDIDATES:] = [f"  and {rest} more"]
    raise CommandFailed("\n".join([f"{text} may be one of {len(found)} jobs:", *lines]))


def _is_meant(job: dict[str, Any], text: str) -> bool:
    unique = _PREFIX.sub("", text, count=1)
    if not unique:
        return False
    if unique != text:
        return any(str(job[name]).startswith(text) for name in ("process_id", "execution_id"))
    if job["status"] == "running" and text == str(job["pid"]):
        return True
    return str(job["process_id"]).partition("_")[2].startswith(text)
