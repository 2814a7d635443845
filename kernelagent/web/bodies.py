"""What the bodies of requests have in common."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)


def _check_characters(text: str) -> str:
    # JSON can spell halves of surrogate pairs, which nothing can be made of.
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair is no character") from None
    return text


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(strict=True), AfterValidator(_check_characters)]

# How published clients spell it.
WORKDIR = AliasChoices("workdir", "working_dir", "cwd")

_LONGEST_NAME = 4096


class Body(BaseModel):
    """The body of a request. Unknown fields are accepted, null means absent."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None}


def check_environment(env: dict[str, str] | None) -> dict[str, str] | None:
    """`env` if the system can hold it; raises ValueError."""
    for name, value in (env or {}).items():
        if not name or "=" in name or "\0" in name or len(name) > _LONGEST_NAME:
            raise ValueError("a variable's name is not empty and has neither = nor NUL")
        if "\0" in value:
            raise ValueError("a variable's value has no NUL character")
    return env


def check_words(value: str | list[str] | None) -> str | list[str] | None:
    """A program or its arguments if they can be passed to one; raises ValueError."""
    if any("\0" in word for word in ([value] if isinstance(value, str) else value or ())):
        raise ValueError("an argument has no NUL character")
    return value
