"""The obvious way to run code over HTTP: jupyter_client's own client behind a FastAPI route.

A baseline, written as its documentation suggests; not a part of the service.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from pydantic import BaseModel

_kernels: dict[str, tuple[AsyncKernelManager, AsyncKernelClient]] = {}


async def _start() -> tuple[AsyncKernelManager, AsyncKernelClient]:
    manager = AsyncKernelManager(kernel_name="python3")
    await manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client: AsyncKernelClient = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    return manager, client


async def _stop(name: str) -> None:
    manager, client = _kernels.pop(name)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    _kernels["main"] = await _start()
    yield
    for name in list(_kernels):
        await _stop(name)


app = FastAPI(lifespan=_lifespan)


class ExecuteRequest(BaseModel):
    """Code, and the session to run it in."""

    code: str
    session: str = "main"


class Session(BaseModel):
    """A kernel's name and process."""

    session: str
    pid: int


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/execute")
async def execute(request: ExecuteRequest) -> dict[str, Any]:
    _, client = _kernels[request.session]
    msg_id = client.execute(request.code)
    outputs: list[dict[str, Any]] = []
    while True:
        message = await client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != msg_id:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            break
        if kind in ("stream", "display_data", "execute_result", "error"):
            outputs.append({"output_type": kind, **content})
    reply = await client.get_shell_msg(timeout=60)
    return {"status": reply["content"]["status"], "outputs": outputs}


@app.post("/create")
async def create() -> Session:
    name = uuid.uuid4().hex
    _kernels[name] = await _start()
    provisioner: Any = _kernels[name][0].provisioner
    return Session(session=name, pid=provisioner.pid)


@app.post("/delete/{name}")
async def delete(name: str) -> dict[str, str]:
    await _stop(name)
    return {"deleted": name}
