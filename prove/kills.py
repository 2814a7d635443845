"""A server that is killed at any moment forgets no job, leaves no process, delivers each webhook.

In each round jobs are sent without pause, some that end at once, some that do not, some with a
webhook to a receiver that mostly refuses; at a random moment comes `kill -9`, and the next server
starts on what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from prove.report import Report
from tests.jobs.jobs import get, job, start_command
from tests.jobs.receiver import Receiver, receiving
from tests.runs import client_of
from tests.servers import Server, start_server
from tests.waiting import until

LIMIT = 600

_ROUNDS = 15
_LONGEST_ROUND = 2.0
# Pauses between attempts double: the next one may be as far away as the first one is long ago.
_LONGEST_WAIT = 240.0
_SENDERS = 4
_MARK = "PROOF_OF_KILLS"
_SETTINGS: dict[str, Any] = {
    "KERNELAGENT_WEBHOOK_ALLOW": "127.0.0.1",
    "KERNELAGENT_JOB_KERNELS": "3",
    "KERNELAGENT_JOB_COMMANDS": "3",
    "KERNELAGENT_PRELOAD": "",
}
_ENDED = ("completed", "failed", "killed")


@dataclass
class _Taken:
    """A job that the service has said to have taken, and what was last seen of it."""

    id: str
    name: str
    has_webhook: bool
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        return self.facts.get("status") in _ENDED


class _Proof:
    def __init__(self, report: Report, directory: Path, receiver: Receiver) -> None:
        self.report = report
        self.directory = directory
        self.receiver = receiver
        self.mark = uuid.uuid4().hex
        # Each job writes its name there when it begins.
        self.trace = directory / "trace"
        self.taken: list[_Taken] = []

    async def start(self) -> Server:
        # Whatever it starts has the directory in its environment.
        runtime_dir = str(self.directory / "run")
        settings = {**_SETTINGS, "KERNELAGENT_RUNTIME_DIR": runtime_dir}
        return await asyncio.to_thread(start_server, self.directory, **settings)

    async def send(self, server: Server, chance: random.Random) -> None:
        """Send jobs until the server is no more."""
        with contextlib.suppress(httpx.TransportError):
            async with client_of(server) as client:
                while True:
                    name = uuid.uuid4().hex[:12]
                    path, body = self._job(name, chance)
                    response = await client.post(path, json=body)
                    assert response.status_code == 200, response.text
                    answer = response.json()
                    has_webhook = path == "/execute/async"
                    self.taken.append(_Taken(answer["process_id"], name, has_webhook))
                    await asyncio.sleep(chance.uniform(0, 0.2))

    def _job(self, name: str, chance: random.Random) -> tuple[str, dict[str, object]]:
        # Some are still there when the server is killed, with a child of their own.
        lasts = chance.random() < 0.3
        body: dict[str, object] = {"env": {_MARK: self.mark}, "timeout": LIMIT}
        if chance.random() < 0.5:
            line = f"echo {name} >> {self.trace}; echo {name}"
            line += "; setsid sleep 600 & sleep 600" if lasts else ""
            return "/commands/background", {**body, "command": "bash", "args": ["-c", line]}
        code = f"print({name!r}, file=open({str(self.trace)!r}, 'a'))\nprint({name!r}, flush=True)"
        if lasts:
            code += "\nimport subprocess; subprocess.run(['setsid', 'sleep', '600'])"
        if chance.random() < 0.5:
            return "/execute/background", {**body, "code": code}
        return "/execute/async", {**body, "code": code, "callback_url": self.receiver.url}

    async def look(self, server: Server) -> None:
        """What the server says now of each job that was taken."""
        listed = (await get(server, "/jobs", limit=1000))["jobs"]
        by_id = {item["id"]: item for item in listed}
        for one in self.taken:
            before, now = one.facts, by_id.get(one.id)
            if now is None:
                self.report.check(False, f"{one.id} was taken, and is unknown")
                continue
            if one.ended:
                same = before["status"] == now["status"] and before["exit_code"] == now["exit_code"]
                self.report.check(same, f"{one.id} had ended, and has changed")
            one.facts = now

    def processes(self) -> list[int]:
        """Servers, kernels, commands and what jobs have started."""
        marks = (self.mark.encode(), str(self.directory).encode())
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    environment = (entry / "environ").read_bytes()
                    if any(mark in environment for mark in marks):
                        found.append(int(entry.name))
        return found


def prove(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="ka-kills-") as directory:
        asyncio.run(_prove(report, Path(directory)))


async def _prove(report: Report, directory: Path) -> None:
    async with receiving() as receiver:
        proof = _Proof(report, directory, receiver)
        for number in range(1, _ROUNDS + 1):
            await _round(proof, number)
        await _finish(proof)


async def _round(proof: _Proof, number: int) -> None:
    report, chance = proof.report, proof.report.chance
    # Taken now and then: some webhooks are delivered, and the news of it is lost.
    proof.receiver.status = 200 if chance.random() < 0.3 else 503
    before = len(proof.taken)
    server = await proof.start()
    try:
        report.check(not _older(proof, server), f"round {number}: processes outlived their server")
        await proof.look(server)
        senders = [
            asyncio.create_task(proof.send(server, random.Random(chance.random())))  # noqa: S311
            for _ in range(_SENDERS)
        ]
        moment = chance.uniform(0.05, _LONGEST_ROUND)
        await asyncio.wait(senders, timeout=moment, return_when=asyncio.FIRST_COMPLETED)
    finally:
        server.process.kill()
        await asyncio.to_thread(server.process.wait)
    await asyncio.gather(*senders)
    sent = len(proof.taken) - before
    report.say(f"round {number}: {sent} jobs taken, killed after {moment:.2f} s")


def _older(proof: _Proof, server: Server) -> list[int]:
    """Processes that are older than the server."""
    began = _start_time(server.process.pid)
    found = []
    for pid in proof.processes():
        with contextlib.suppress(OSError):
            if _start_time(pid) < began:
                found.append(pid)
    return found


def _start_time(pid: int) -> int:
    """In the ticks of the system."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


async def _finish(proof: _Proof) -> None:
    report, receiver = proof.report, proof.receiver
    receiver.status = 200
    server = await proof.start()
    try:
        await proof.look(server)
        # It still works, whatever there was to be cleaned up.
        await start_command(server, "true")

        async def have_ended() -> bool:
            await _kill_lasting(proof, server)
            await proof.look(server)
            return all(one.ended for one in proof.taken)

        await until(have_ended, LIMIT)
        hooks = {one.id for one in proof.taken if one.has_webhook}

        async def are_delivered() -> bool:
            taken = {str(body["execution_id"]) for _, body, done in receiver.seen if done}
            return hooks <= taken

        began = time.monotonic()
        with contextlib.suppress(AssertionError):
            await until(are_delivered, _LONGEST_WAIT)
        report.say(f"webhooks were delivered after {time.monotonic() - began:.1f} s")
        _check_webhooks(report, receiver, hooks)
        await _check_outputs(proof, server)
    finally:
        code = await asyncio.to_thread(server.stop)
    report.check(code == 0, "the last server ends in peace")
    report.figure("processes left", len(proof.processes()), most=0)


async def _kill_lasting(proof: _Proof, server: Server) -> None:
    """End the jobs that would not: they have waited for a server that begins them."""
    for one in proof.taken:
        if not one.ended and (await job(server, one.id))["stdout"]:
            async with client_of(server) as client:
                await client.post(f"/jobs/{one.id}/kill")


def _check_webhooks(report: Report, receiver: Receiver, hooks: set[str]) -> None:
    keys: dict[str, set[str]] = {}
    delivered: Counter[str] = Counter()
    for key, body, done in receiver.seen:
        keys.setdefault(str(body["execution_id"]), set()).add(key)
        delivered[str(body["execution_id"])] += done
    report.figure("webhooks", len(hooks))
    missing = sum(not delivered[name] for name in hooks)
    report.figure("webhooks that were not delivered", missing, most=0)
    strange = sum(len(keys.get(name, ())) > 1 for name in hooks)
    report.figure("webhooks that came with several keys", strange, most=0)


async def _check_outputs(proof: _Proof, server: Server) -> None:
    report = proof.report
    begun = Counter(proof.trace.read_text().split())
    statuses: Counter[str] = Counter()
    wrong = 0
    for one in proof.taken:
        facts = await job(server, one.id)
        statuses[facts["status"]] += 1
        wrong += facts["stdout"] not in ("", f"{one.name}\n")
        if facts["status"] == "completed":
            wrong += (facts["stdout"], begun[one.name]) != (f"{one.name}\n", 1)
    report.figure("jobs", len(proof.taken))
    report.say(", ".join(f"{number} {status}" for status, number in statuses.items()))
    report.figure("jobs with a wrong output", wrong, most=0)
    report.figure("jobs that were begun twice", sum(n > 1 for n in begun.values()), most=0)
