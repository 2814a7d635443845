"""A command over HTTP as one would write it at first: a plain Starlette route.

A baseline; not a part of the service.
"""

from __future__ import annotations

import asyncio

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


app = Starlette(
    routes=[Route("/health", health), Route("/command", command, methods=["POST"])],
)
