"""Nothing stands between the check and a run: documented and guarded all the same."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from kernelagent.app import create_app
from kernelagent.auth.tokens import METRICS, Authenticator
from kernelagent.execution.models import ExecuteRequest, ExecuteResponse, RichResponse
from kernelagent.execution.routes import router
from kernelagent.settings import Settings
from tests.runs import run
from tests.servers import Server

PATHS = ("/execute", "/execute/rich", "/execute/ipython")

# A run for each way in which an answer can differ.
CODES = {
    "nothing": "pass",
    "everything": (
        "import sys, pandas as pd, matplotlib.pyplot as plt\n"
        "from IPython.display import HTML, JSON, Markdown, SVG, display\n"
        "print('out'); print('err', file=sys.stderr)\n"
        "handle = display(HTML('<b>x</b>'), display_id=True); handle.update(HTML('<i>y</i>'))\n"
        "display(Markdown('*m*'), JSON({'a': 1}), SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))\n"
        "display(pd.DataFrame({'a': [1]}))\n"
        "plt.plot([1, 2]); plt.show()\n"
        "42"
    ),
    "error": "1/0",
    "timeout": "import time; time.sleep(60)",
    "exit": "import sys; sys.exit(3)",
    "death": "import os; os._exit(1)",
    "truncated": "print('x' * 10_000)",
}


def names(model: type[ExecuteResponse], *, required: bool = False) -> set[str]:
    """The fields of the model as they are called on the wire."""
    return {
        field.alias or name
        for name, field in model.model_fields.items()
        if field.is_required() or not required
    }


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize(
    ("path", "model"), [("/execute", ExecuteResponse), ("/execute/rich", RichResponse)]
)
async def test_answers_are_what_their_model_documents(
    server: Server, path: str, model: type[ExecuteResponse], code: str
) -> None:
    answer = await run(
        server,
        CODES[code],
        path=path,
        isolated=True,
        timeout=5 if code != "timeout" else 0.3,
        max_output_bytes=1 << 22 if code != "truncated" else 1024,
    )

    model.model_validate(answer)
    assert set(answer) <= names(model)
    assert names(model, required=True) <= set(answer)


@pytest.mark.parametrize(
    ("path", "model"), [("/execute", ExecuteResponse), ("/execute/rich", RichResponse)]
)
async def test_cached_answers_are_what_their_model_documents(
    server: Server, path: str, model: type[ExecuteResponse]
) -> None:
    for cached in (False, True):
        answer = await run(
            server, f"{CODES['everything']} # {path}", path=path, isolated=True, cache=True
        )
        model.model_validate(answer)
        assert answer["cached"] is cached
        assert ("age" in answer) is cached
        assert set(answer) <= names(model)


def test_every_field_of_a_model_is_seen_in_some_answer() -> None:
    # Those that only some answers have; kept by hand, so that a new one is thought of above.
    assert names(RichResponse) - names(RichResponse, required=True) == {
        "execution_count", "message", "timed_out", "code", "error", "result", "png", "html", "svg",
        "markdown", "json", "dataframe", "chart", "cached", "age",
    }  # fmt: skip


def test_documentation_names_the_models(settings: Settings) -> None:
    document = create_app(settings).openapi()
    for path, model in zip(
        PATHS, ("ExecuteResponse", "RichResponse", "ExecuteResponse"), strict=True
    ):
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert set(body["properties"]) == set(ExecuteRequest.model_json_schema()["properties"])
        answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert answer["$ref"].endswith(f"/{model}")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


async def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.request(method, path, **options)


def test_the_routes_that_run_code_are_direct() -> None:
    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    assert [route.path for route in routes] == list(PATHS)
    assert all(type(route).handle is not APIRoute.handle for route in routes)


@pytest.mark.parametrize("path", PATHS)
async def test_a_direct_route_asks_for_a_token_before_it_reads_the_body(
    app: FastAPI, path: str
) -> None:
    answer = await ask(app, "POST", path, content=b"{")
    assert (answer.status_code, answer.json()["code"]) == (401, "AUTHENTICATION_REQUIRED")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_direct_route_asks_for_the_scope(
    app: FastAPI, settings: Settings, path: str
) -> None:
    token, _ = Authenticator.from_settings(settings).issue(scopes=[METRICS])
    answer = await ask(app, "POST", path, headers={"Authorization": f"Bearer {token}"}, json={})
    assert (answer.status_code, answer.json()["code"]) == (403, "ACCESS_DENIED")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/execute", 405), ("PUT", "/execute/rich", 405), ("POST", "/execute/", 404)],
)
async def test_what_is_no_direct_route_goes_the_usual_way(
    app: FastAPI, method: str, path: str, status: int
) -> None:
    answer = await ask(app, method, path)
    assert answer.status_code == status
    assert answer.json()["request_id"]


async def test_a_body_that_is_no_request_is_refused_in_the_usual_shape(
    app: FastAPI, settings: Settings
) -> None:
    token, _ = Authenticator.from_settings(settings).issue()
    headers = {"Authorization": f"Bearer {token}"}
    answer = await ask(app, "POST", "/execute", headers=headers, content=b"[")
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_JSON")
    answer = await ask(app, "POST", "/execute", headers=headers, json={})
    assert (answer.status_code, answer.json()["code"]) == (400, "MISSING_PARAMETER")
