"""Routes of the result cache: its statistics, and emptying it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import Request

from kernelagent.auth.tokens import EXECUTE
from kernelagent.execution.cache.models import (
    CacheFacts,
    CacheOverview,
    CacheStatistics,
    ClearAnswer,
)
from kernelagent.execution.cache.service import CachedRuns
from kernelagent.text import utc_timestamp
from kernelagent.web.about import root_facts
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of

router = feature_router("cache", EXECUTE)

_MB = 1_000_000


def _statistics(cached_runs: CachedRuns) -> dict[str, Any]:
    store, ttl = cached_runs.store, cached_runs.ttl
    # The count first: it drops what has expired.
    count, counted = len(store), store.statistics
    return {
        "cache": CacheFacts(
            size=count,
            max_size=store.max_entries,
            total_hits=counted.hits,
            ttl=f"{ttl:.15g}s",
            ttl_seconds=ttl,
            bytes=store.bytes,
            max_bytes=store.max_bytes,
        ),
        "timestamp": utc_timestamp(),
        "hit_rate": counted.hit_rate,
        "size": store.bytes / _MB,
        "count": count,
        "total_cached": count,
        **asdict(counted),
    }


@router.get("/cache/stats")
async def cache_stats(request: Request) -> CacheStatistics:
    """What the result cache holds, and how often it has helped."""
    return CacheStatistics(**_statistics(service_of(request, CachedRuns)))


@router.get("/cache")
async def cache_overview(request: Request) -> CacheOverview:
    """The same, and who answers here."""
    return CacheOverview(**root_facts(request) | _statistics(service_of(request, CachedRuns)))


@router.post("/cache/clear")
async def clear_cache(request: Request) -> ClearAnswer:
    """Forget all results; what runs now is not kept either. Any body is ignored."""
    cached_runs = service_of(request, CachedRuns)
    entries, freed = cached_runs.store.clear()
    return ClearAnswer(
        success=True,
        message=f"Cache cleared successfully: {entries} results removed",
        entries_removed=entries,
        cleared_entries=entries,
        freed_bytes=freed,
        timestamp=utc_timestamp(),
    )
