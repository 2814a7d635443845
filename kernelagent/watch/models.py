"""Shapes of the wire for watches."""

from __future__ import annotations

from pydantic import BaseModel, Field


class WatchInfo(BaseModel):
    """A watch that is on."""

    id: str
    path: str = Field(description="What is watched")
    since: str = Field(description="When it began")


class WatchList(BaseModel):
    """All watches that are on."""

    watches: list[WatchInfo]
    count: int
    limit: int = Field(description="How many there may be")
    timestamp: str
