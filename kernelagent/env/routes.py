"""Routes of the sandbox's variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import Query, Request

from kernelagent.auth.tokens import ENV
from kernelagent.env.models import EnvRequest, EnvResponse
from kernelagent.env.service import MASK, EnvironmentService
from kernelagent.text import utc_timestamp
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of

router = feature_router("env", ENV)


def _service(request: Request) -> EnvironmentService:
    return service_of(request, EnvironmentService)


def _answer(variables: Mapping[str, str], message: str = "") -> EnvResponse:
    return EnvResponse(
        env_vars=dict(variables), count=len(variables), timestamp=utc_timestamp(), message=message
    )


@router.get("/env")
async def get_env(
    request: Request,
    mask: Annotated[bool, Query(description="Names only, values replaced by stars")] = False,
) -> EnvResponse:
    """The sandbox's variables; not those that the service itself was started with."""
    variables = _service(request).variables
    return _answer(dict.fromkeys(variables, MASK) if mask else variables)


@router.put("/env")
async def replace_env(request: Request, wanted: EnvRequest) -> EnvResponse:
    """Have these variables and no others; a value that is the mask keeps the one that is set."""
    return _answer(await _service(request).replace(wanted.env_vars), "the variables were replaced")


@router.patch("/env")
async def merge_env(request: Request, wanted: EnvRequest) -> EnvResponse:
    """Set these variables and keep the others."""
    return _answer(await _service(request).merge(wanted.env_vars), "the variables were set")


@router.delete("/env")
async def clear_env(request: Request) -> EnvResponse:
    """Unset all variables of the sandbox."""
    return _answer(await _service(request).replace({}), "all variables were unset")


@router.delete("/env/{key}")
async def delete_env(request: Request, key: str) -> EnvResponse:
    """Unset one variable; one that is not set is no error."""
    return _answer(await _service(request).remove(key), "the variable is not set")
