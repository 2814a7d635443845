"""Jobs as people read them: a table and a page on the terminal, lines of fields elsewhere."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Job = dict[str, Any]

NO_JOBS = "There are no such jobs."

_STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "completed": "green",
    "failed": "bold red",
    "killed": "magenta",
}
_FIELDS = (
    "id",
    "name",
    "status",
    "language",
    "started_at",
    "duration",
    "exit_code",
    "pid",
    "cpu_percent",
    "memory_bytes",
    "command",
)
_COLUMNS = {
    "id": "id",
    "name": "name",
    "status": "status",
    "language": "language",
    "started": "started",
    "duration": "duration",
    "exit": "exit",
    "pid": "pid",
    "cpu": "CPU %",
    "memory": "memory",
}
_NUMBERS = ("duration", "exit", "pid", "cpu", "memory")
# What goes first where the terminal is narrow, so that the command can be seen.
_SPARE = ("pid", "language", "cpu", "memory", "duration", "name")
_LEAST_COMMAND = 16
_LONGEST_NAME = 24
_SHORT_ID = 8


def drawn(answer: dict[str, Any], console: Console) -> RenderableType:
    """A list of jobs, or one, for a terminal."""
    if "jobs" not in answer:
        return _page(answer)
    jobs = answer["jobs"]
    if not jobs:
        return NO_JOBS
    table = _table(jobs, console)
    if answer["total"] > len(jobs):
        table.caption = f"the newest {len(jobs)} of {answer['total']}"
    return table


def plain(answer: dict[str, Any]) -> str:
    """The same for programs: fields between tabs, nothing cut, an empty one if it says nothing."""
    if "jobs" not in answer:
        return "\n".join(f"{name}\t{value}" for name, value in _facts(answer))
    if not answer["jobs"]:
        return NO_JOBS
    lines = ["\t".join(_FIELDS)]
    for job in answer["jobs"]:
        shown = {**job, **({} if _ended(job) else {"exit_code": ""}), "pid": job["pid"] or ""}
        if job["status"] == "queued":
            shown["started_at"] = ""
        lines.append("\t".join(one_line(str(shown[name])) for name in _FIELDS))
    return "\n".join(lines)


def _table(jobs: list[Job], console: Console) -> Table:
    length = _id_length([job["id"] for job in jobs])
    rows = [_row(job, length) for job in jobs]
    columns = list(_COLUMNS)
    for spare in (*_SPARE, None):
        table = _filled(columns, rows, [""] * len(jobs))
        room = console.width - console.measure(table, options=_unlimited(console)).maximum
        if room >= _LEAST_COMMAND or spare is None:
            break
        columns.remove(spare)
    commands = [_cut(one_line(job["command"]), max(room + len("command"), 1)) for job in jobs]
    return _filled(columns, rows, commands)


def _unlimited(console: Console) -> Any:
    return console.options.update(width=10_000)


def _filled(columns: list[str], rows: list[dict[str, Text]], commands: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        justify = "right" if name in _NUMBERS else "left"
        table.add_column(_COLUMNS[name], no_wrap=True, justify=justify)  # type: ignore[arg-type]
    table.add_column("command", no_wrap=True)
    for row, command in zip(rows, commands, strict=True):
        table.add_row(*(row[name] for name in columns), Text(command))
    return table


def _row(job: Job, id_length: int) -> dict[str, Text]:
    prefix, _, unique = str(job["id"]).partition("_")
    memory = job["peak_memory_bytes"] if _ended(job) else job["memory_bytes"]
    return {
        "id": Text(f"{prefix}_{unique[:id_length]}"),
        "name": Text(_cut(one_line(job["name"]), _LONGEST_NAME)),
        "status": _status(job),
        "language": Text(one_line(job["language"])),
        "started": Text(_started(job)),
        "duration": Text(duration(job["duration"]) if job["status"] != "queued" else ""),
        "exit": Text(str(job["exit_code"]) if _ended(job) else ""),
        "pid": Text(str(job["pid"] or "") if not _ended(job) else ""),
        "cpu": Text(f"{job['cpu_percent']:.0f}" if job["pid"] else ""),
        "memory": Text(size(memory) if memory else "", style="dim" if _ended(job) else ""),
    }


def _page(job: Job) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(job):
        table.add_row(name, _status(job) if name == "status" else Text(value))
    return table


def _facts(job: Job) -> list[tuple[str, str]]:
    """Everything that is known of a job, as far as it says something."""
    log, webhook = job["log"], job["webhook"] or {}
    began = job["status"] != "queued"
    facts = {
        "id": job["id"],
        "execution": job["execution_id"],
        "name": job["name"],
        "kind": job["kind"],
        "language": job["language"],
        "command": job["command"],
        "status": job["status"],
        "outcome": job["outcome"],
        "exit code": job["exit_code"] if _ended(job) else "",
        "message": job["message"],
        "place in line": job["queue_position"] or "",
        "process id": job["pid"] or "",
        "submitted": _moment(job["submitted_at"]),
        "started": _moment(job["started_at"]) if began else "",
        "ended": _moment(job.get("ended_at") or job.get("end_time") or ""),
        "duration": duration(job["duration"]) if began else "",
        "time limit": duration(job["timeout"]),
        "CPU": f"{job['cpu_seconds']:g} s, {job['cpu_percent']:g} %" if began else "",
        "memory": size(job["memory_bytes"]) if job["memory_bytes"] else "",
        "most memory": size(job["peak_memory_bytes"]) if job["peak_memory_bytes"] else "",
        "log": f"{log['bytes']} bytes: stdout {log['stdout_bytes']}, stderr {log['stderr_bytes']}",
        "log lacks": f"{log['cut_bytes']} bytes" if log["cut_bytes"] else "",
        "log error": log["error"],
        "webhook": webhook.get("state", ""),
        "webhook id": webhook.get("id", ""),
        "webhook url": webhook.get("url", ""),
        "webhook attempts": webhook.get("attempts", ""),
        "webhook answer": webhook.get("last_status") or "",
        "webhook error": webhook.get("last_error", ""),
        "webhook due": _moment(webhook.get("next_attempt_at", "")),
        "webhook ended": _moment(webhook.get("ended_at", "")),
    }
    return [(name, one_line(str(value))) for name, value in facts.items() if value != ""]


def _ended(job: Job) -> bool:
    return job["status"] not in ("queued", "running")


def _status(job: Job) -> Text:
    return Text(job["status"], style=_STYLES.get(job["status"], ""))


def _started(job: Job) -> str:
    if job["status"] == "queued":
        return f"waits, place {job['queue_position']}"
    return ago(job["started_at"])


def _id_length(ids: list[str]) -> int:
    """How much of each id suffices to tell these apart."""
    parts = [job_id.partition("_")[2] for job_id in ids]
    length = _SHORT_ID
    while len({part[:length] for part in parts}) < len(set(parts)):
        length += 1
    return length


def one_line(text: str) -> str:
    """`text` without line ends and wide spaces, and without what would steer the terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def ago(moment: str) -> str:
    """How long ago it was."""
    seconds = max(time.time() - datetime.fromisoformat(moment).timestamp(), 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{int(seconds)} s ago"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _moment(moment: str) -> str:
    return f"{moment} ({ago(moment)})" if moment else ""


def _cut(text: str, width: int) -> str:
    shown = Text(text)
    shown.truncate(width, overflow="ellipsis")
    return shown.plain
