"""Shapes of the wire for the cache's statistics."""

from __future__ import annotations

from pydantic import BaseModel, Field


class CacheFacts(BaseModel):
    """What the cache holds, and what it may."""

    size: int = Field(description="Results")
    max_size: int = Field(description="Results at most")
    total_hits: int
    ttl: str = Field(description="Life of a result, as 3600s")
    ttl_seconds: float
    bytes: int = Field(description="With what each result takes beside its bytes")
    max_bytes: int


class CacheStatistics(BaseModel):
    """What has happened since the service started; only runs that asked for the cache count."""

    cache: CacheFacts
    timestamp: str
    hits: int = Field(description="Answers that were kept")
    misses: int = Field(description="Runs that were started")
    hit_rate: float = Field(description="Share of hits among hits and misses, 0 to 1")
    size: float = Field(description="MB that are taken")
    count: int = Field(description="Results")
    total_cached: int = Field(description="Results")
    stores: int = Field(description="Results that were kept")
    refused: int = Field(
        description="Results that were not kept: failed, cut, too large, with late outputs, of "
        "files that changed, or cleared meanwhile"
    )
    evictions: int = Field(description="Results that made room for others")
    expired: int = Field(description="Results that reached the end of their life")
    shared: int = Field(description="Callers that joined an equal run")


class CacheOverview(CacheStatistics):
    """The statistics, and the fields of the service's root object."""

    agent: str
    version: str
    agent_version: str
    vm_id: str
    status: str
    message: str
    endpoints: dict[str, str]


class ClearAnswer(BaseModel):
    """What was removed."""

    success: bool
    message: str
    entries_removed: int
    cleared_entries: int = Field(description="The same")
    freed_bytes: int
    timestamp: str
