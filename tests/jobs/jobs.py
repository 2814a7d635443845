"""How tests start jobs, wait for their end and follow their logs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.runs import client_of
from tests.servers import Service
from tests.waiting import until

Message = dict[str, Any]


async def start(server: Service, code: str, **fields: Any) -> str:
    """The id of a job that runs code."""
    return str((await post(server, "/execute/background", code=code, **fields))["process_id"])


async def start_command(server: Service, line: str, **fields: Any) -> str:
    """The id of a job that runs a shell line, sent as published clients send it."""
    body = {"command": "bash", "args": ["-c", line], **fields}
    return str((await post(server, "/commands/background", **body))["process_id"])


async def post(server: Service, path: str, **body: Any) -> Message:
    """The answer to a request that the service must accept."""
    async with client_of(server) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: Message = response.json()
    return answer


async def get(server: Service, path: str, **query: Any) -> Message:
    """What a route answers that must succeed."""
    async with client_of(server) as client:
        response = await client.get(path, params=query)
    assert response.status_code == 200, response.text
    answer: Message = response.json()
    return answer


async def job(server: Service, job_id: str) -> Message:
    """All that is known of a job."""
    return await get(server, f"/jobs/{job_id}")


async def ended(server: Service, job_id: str) -> Message:
    """All that is known of a job, once it has ended."""
    found: list[Message] = []

    async def has_ended() -> bool:
        found.append(await job(server, job_id))
        return found[-1]["status"] not in ("queued", "running")

    await until(has_ended)
    return found[-1]


async def kill(server: Service, job_id: str) -> Message:
    """What a killed job has become."""
    async with client_of(server) as client:
        response = await client.post(f"/execute/kill/{job_id}")
    assert response.status_code == 200, response.text
    answer: Message = response.json()
    return answer


async def follow(server: Service, job_id: str, **query: Any) -> list[Message]:
    """All messages of a job's log to its end, keepalives left out."""
    messages = []
    query = {"follow": 1, **query}
    path = f"/jobs/{job_id}/logs"
    async with client_of(server) as client, client.stream("GET", path, params=query) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            messages.append(json.loads(line))
    return [message for message in messages if message["type"] != "keepalive"]


def output(messages: list[Message], stream: str = "stdout") -> bytes:
    """What a log has of a stream."""
    return b"".join(
        base64.b64decode(message["data_base64"])
        if "data_base64" in message
        else message["data"].encode()
        for message in messages
        if message["type"] == "log" and message["stream"] == stream
    )


def alive(pid: int) -> bool:
    """Whether a process runs, a zombie not counted."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def pids_in(file: Path, count: int) -> list[int]:
    """The process ids that a job has written to a file, once there are `count` of them."""

    async def written() -> bool:
        return file.exists() and len(file.read_text().split()) >= count

    await until(written)
    return [int(word) for word in file.read_text().split()]


async def refused(response: httpx.Response, status: int, code: str) -> Message:
    """The body of an answer that must be an error."""
    assert response.status_code == status, response.text
    body: Message = response.json()
    assert body["code"] == code
    return body
