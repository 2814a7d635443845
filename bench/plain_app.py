"""A command, and a file, over HTTP as one would write it at first: plain Starlette routes.

A baseline; not a part of the service.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


async def health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


async def command(request: Request) -> JSONResponse:
    wanted = await request.json()
    process = await asyncio.create_subprocess_exec(
        wanted["command"],
        *wanted["args"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return JSONResponse(
        {
            "stdout": stdout.decode(),
            "stderr": stderr.decode(),
            "exit_code": process.returncode,
        }
    )


async def file(request: Request) -> JSONResponse:
    path = Path(request.query_params["path"])
    return JSONResponse({"content": path.read_text()})  # noqa: ASYNC240 - as at first


app = Starlette(
    routes=[
        Route("/health", health),
        Route("/command", command, methods=["POST"]),
        Route("/file", file),
    ],
)
