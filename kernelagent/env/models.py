"""Shapes of the wire for the sandbox's variables."""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from kernelagent.web.bodies import Body, Text, check_environment


class EnvRequest(Body):
    """Variables to be set. Unknown fields are accepted."""

    env_vars: dict[Text, Text] = Field(description="Name and value")

    _check_env = field_validator("env_vars")(check_environment)


class EnvResponse(BaseModel):
    """All variables of the sandbox, after the change if there was one."""

    env_vars: dict[str, str]
    count: int
    timestamp: str
    success: bool = True
    message: str = ""
