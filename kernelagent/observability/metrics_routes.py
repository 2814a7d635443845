"""GET /metrics and its kin: what the service has done, and how it is."""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.responses import Response

from kernelagent.auth.tokens import METRICS
from kernelagent.observability.clock import Clock
from kernelagent.observability.machine import Usage
from kernelagent.observability.measurements import Measurements
from kernelagent.observability.models import Metrics
from kernelagent.observability.prometheus import OPENMETRICS, TEXT, render
from kernelagent.observability.service import Gauges, ObservabilityService
from kernelagent.observability.snapshot import snapshot
from kernelagent.web.json import dump_json
from kernelagent.web.routing import feature_router
from kernelagent.web.services import service_of

router = feature_router("observability", METRICS)

_EXPOSITION = {"schema": {"type": "string"}}


@router.get(
    "/metrics/prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "The exposition format of Prometheus, or OpenMetrics if Accept asks",
            "content": {
                TEXT.partition(";")[0]: _EXPOSITION,
                OPENMETRICS.partition(";")[0]: _EXPOSITION,
            },
        }
    },
)
async def prometheus(request: Request) -> Response:
    """The same and more for Prometheus."""
    service = service_of(request, ObservabilityService)
    gauges = await service.gauges()
    accept = request.headers.get("accept", "")
    measurements = service.measurements.copy()
    body, media_type = await asyncio.to_thread(render, measurements, gauges, accept)
    return Response(body, headers={"Content-Type": media_type})


@router.get("/metrics", response_model=Metrics)
async def metrics(request: Request) -> Response:
    """What the service has done since its start, and how it and its machine are now."""
    return await _answer(request)


@router.get("/metrics/snapshot", response_model=Metrics)
async def metrics_snapshot(request: Request) -> Response:
    """As /metrics, under the name that most clients ask for."""
    return await _answer(request)


async def _answer(request: Request) -> Response:
    service = service_of(request, ObservabilityService)
    clock = service_of(request, Clock)
    gauges, usage = await service.gauges(), await service.usage()
    measurements = service.measurements.copy()
    body = await asyncio.to_thread(_snapshot, measurements, gauges, usage, clock.uptime)
    return Response(body, media_type="application/json")


def _snapshot(measurements: Measurements, gauges: Gauges, usage: Usage, uptime: float) -> bytes:
    return dump_json(snapshot(measurements, gauges, usage, uptime))
