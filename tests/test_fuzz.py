"""Generated requests to every operation: no answer is a 5xx, each is as OpenAPI describes it.

Thousands of them: `make prove fuzz`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from prove.fuzz import Target, describe, fuzz, running, still_works

CASES = 300

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:schemathesis.*")


@pytest.mark.timeout(240)
def test_no_answer_is_a_fault_and_each_is_documented(tmp_path: Path) -> None:
    with running(tmp_path) as target:
        report = fuzz(target, cases=CASES, seconds=120, seed=1)
        document = httpx.get(f"{target.url}/openapi.json").json()
        works = still_works(target)
    assert not report.failures, describe(report)
    assert works
    # Every operation was asked, and not only for what it refuses.
    asked = {label.lower() for label in report.cases}
    documented = {f"{method} {path}" for path, item in document["paths"].items() for method in item}
    assert asked | {name.lower() for name in report.left_out} == documented
    # Several hundred cases on an idle machine; on a busy one the time is over before.
    assert report.total >= len(documented)
    assert report.statuses[200] > report.total / 5


class Item(BaseModel):
    number: int


def faulty_app() -> FastAPI:
    """One operation for each kind of fault that must be found, and one without any."""
    app = FastAPI()
    documented: dict[int | str, dict[str, Any]] = {
        "default": {"description": "Errors", "model": dict[str, Any]}
    }

    @app.get("/good", responses=documented)
    def good() -> Item:
        return Item(number=1)

    @app.get("/broken", responses=documented)
    def broken(text: str = "") -> Item:
        raise RuntimeError(text)

    @app.get("/shape", response_model=Item, responses=documented)
    def shape() -> Response:
        return JSONResponse({"number": "one"})

    @app.get("/type", response_model=Item, responses=documented)
    def content_type() -> Response:
        return PlainTextResponse("1")

    @app.get("/success", response_model=Item, responses=documented)
    def success() -> Response:
        return JSONResponse({"number": 1}, 201)

    @app.get("/status", response_model=Item)
    def status() -> Response:
        return JSONResponse({}, 418)

    @app.get("/rare", responses=documented)
    def rare(number: int) -> Item:
        return Item(number=1 // (number % 7))

    @app.get(
        "/endless",
        response_class=Response,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def endless() -> Response:
        async def events() -> Any:
            while True:
                yield b": still here\n\n"
                await asyncio.sleep(0.5)

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Target]:
    config = uvicorn.Config(faulty_app(), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield Target(f"http://127.0.0.1:{listener.getsockname()[1]}", "token", tmp_path)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def test_each_kind_of_fault_is_found(faulty: Target) -> None:
    report = fuzz(faulty, cases=210, seconds=120, seed=1)

    assert report.left_out == ["GET /endless"]
    assert {label for label, _ in report.failures} == {
        "GET /broken", "GET /shape", "GET /type", "GET /success", "GET /status", "GET /rare"
    }  # fmt: skip
    assert {("GET /broken", "Server error"), ("GET /rare", "Server error")} <= set(report.failures)
    assert "curl" in describe(report)
