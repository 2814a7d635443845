"""Spans of requests, runs, kernel starts, commands and jobs, sent to a collector by OpenTelemetry.

Configured by the OTEL_* variables alone. Without them, or without the extra `telemetry`, nothing of
OpenTelemetry's SDK is imported and nobody listens. Code, output and secrets are in no span.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kernelagent import __version__, logs, observers
from kernelagent.observers import (
    CommandEnded,
    Event,
    JobEnded,
    KernelStarted,
    Observers,
    RequestBegan,
    RequestEnded,
    RunEnded,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

_NAME = "kernelagent"
# Asked again and again by machines: they would be most of all traces.
_UNTRACED = frozenset({"/health", "/ping", "/metrics/prometheus"})
# Seconds for what is still to be sent when the service ends.
_LAST_WORDS = 3.0
_PROTOCOL = "http/protobuf"


class Tracing:
    """Makes spans of what services tell. `open` first, `close` in any case."""

    def __init__(self, told: Observers, environ: Mapping[str, str] = os.environ) -> None:
        self._observers = told
        self._environ = environ
        self._provider: TracerProvider | None = None
        self._spans: Spans | None = None

    async def open(self) -> None:
        """Begin, if the environment asks for it and the SDK is there; else say why not."""
        wanted = wanted_exporter(self._environ)
        if not wanted:
            return
        try:
            # It imports much and starts a thread; once, before anything else goes on.
            self._provider = _make_provider(wanted)
        except ImportError as error:
            log.warning(
                "OTEL_* variables ask for traces, but %s is missing: pip install "
                "'kernelagent[telemetry]'",
                error.name,
            )
            return
        self._spans = Spans(self._provider.get_tracer(_NAME, __version__))
        self._observers.add(self._spans)

    async def close(self) -> None:
        """Send what is still there, for a moment at most."""
        provider, self._provider = self._provider, None
        if provider is None or self._spans is None:
            return
        self._observers.remove(self._spans)
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def shut_down() -> None:
            provider.shutdown()
            try:
                loop.call_soon_threadsafe(ended.set)
            except RuntimeError:
                # It took so long that the loop has gone.
                return

        # Not one of the executor's: Python would wait for that one at its end, and a collector
        # that does not answer is tried for half a minute.
        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await ended.wait()
        except TimeoutError:
            log.warning("the last spans could not be sent within %g s", _LAST_WORDS)


def wanted_exporter(environ: Mapping[str, str]) -> str:
    """`otlp`, `console`, or nothing: what the environment asks for."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    named = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    wanted = named or ("otlp" if endpoint else "")
    if wanted in ("", "none"):
        return ""
    if wanted not in ("otlp", "console"):
        log.warning("OTEL_TRACES_EXPORTER=%s is none of otlp, console, none: no traces", wanted)
        return ""
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if wanted == "otlp" and protocol not in (None, "", _PROTOCOL):
        log.warning("traces are sent by %s only, not by %s: no traces", _PROTOCOL, protocol)
        return ""
    return wanted


def _make_provider(exporter: str) -> TracerProvider:
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What the environment says about the resource goes before what we know.
    ours = Resource({SERVICE_NAME: _NAME, SERVICE_VERSION: __version__})
    theirs = Resource.create()
    named = not str(theirs.attributes.get(SERVICE_NAME, "")).startswith("unknown_service")
    resource = ours.merge(theirs) if named else theirs.merge(ours)
    # Ours alone, not the global one: what other libraries may trace is not ours to send.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_make_exporter(exporter)))
    return provider


def _make_exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Spans:
    """A listener that turns what it is told into spans of `tracer`."""

    def __init__(self, tracer: Tracer) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        # Spans without a parent begin a trace, whatever the current one of other libraries is.
        self._nothing = Context()

    def __call__(self, event: Event) -> None:
        """Take what is told."""
        match event:
            case RequestBegan():
                self._begin_request(event)
            case RequestEnded():
                self._end_request(event)
            case RunEnded():
                self._run(event)
            case KernelStarted():
                self._kernel_start(event)
            case CommandEnded():
                self._command(event)
            case JobEnded():
                self._job(event)

    def _begin_request(self, event: RequestBegan) -> None:
        scope = event.scope
        if scope["path"] in _UNTRACED:
            return
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        parent = self._propagator.extract(carrier, self._nothing)
        method = scope.get("method", "WEBSOCKET")
        span = self._tracer.start_span(
            "request",
            parent,
            self._trace.SpanKind.SERVER,
            {"kernelagent.request_id": scope["state"]["request_id"]},
        )
        if len(method) < 20:
            span.set_attribute("http.request.method", method)
        observers.span.set(self._trace.set_span_in_context(span, self._nothing))
        logs.trace_id.set(f"{span.get_span_context().trace_id:032x}")

    def _end_request(self, event: RequestEnded) -> None:
        context: Context | None = observers.span.get()
        if context is None:
            return
        span = self._trace.get_current_span(context)
        span.update_name(f"{event.method} {event.route}")
        span.set_attributes({"http.route": event.route, "http.response.status_code": event.status})
        if event.status >= 500:
            span.set_attribute("error.type", str(event.status))
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def _run(self, event: RunEnded) -> None:
        ended = time.time_ns()
        begun = ended - _nanoseconds(event.seconds)
        submitted = begun - _nanoseconds(event.queued_seconds)
        facts = {
            "kernelagent.language": event.language,
            "kernelagent.session_id": event.session_id,
            "kernelagent.execution_id": event.execution_id,
            "kernelagent.outcome": event.outcome,
            "kernelagent.exit_code": event.exit_code,
        }
        failed = event.outcome if event.outcome != "ok" else ""
        whole = self._span("execution", self._parent, submitted, ended, facts, failed)
        self._span("queue", whole, submitted, begun)
        if event.begun:
            self._span("run", whole, begun, ended, failed=failed)

    def _kernel_start(self, event: KernelStarted) -> None:
        facts = {"kernelagent.language": event.language, "kernelagent.how": event.how}
        self._past("kernel start", event.seconds, facts, event.code)

    def _command(self, event: CommandEnded) -> None:
        facts = {
            "kernelagent.command_id": event.command_id,
            "kernelagent.outcome": event.outcome,
            "kernelagent.exit_code": event.exit_code,
        }
        self._past("command", event.seconds, facts, event.outcome if event.outcome != "ok" else "")

    def _job(self, event: JobEnded) -> None:
        facts = {
            "kernelagent.job_id": event.job_id,
            "kernelagent.kind": event.kind,
            "kernelagent.status": event.status,
        }
        failed = event.status if event.status != "completed" else ""
        self._past("job", event.seconds, facts, failed)

    @property
    def _parent(self) -> Context:
        context: Context | None = observers.span.get()
        return self._nothing if context is None else context

    def _past(self, name: str, seconds: float, facts: Mapping[str, Any], failed: str) -> None:
        """A span that ends now."""
        ended = time.time_ns()
        self._span(name, self._parent, ended - _nanoseconds(seconds), ended, facts, failed)

    def _span(
        self,
        name: str,
        parent: Context,
        began: int,
        ended: int,
        facts: Mapping[str, Any] | None = None,
        failed: str = "",
    ) -> Context:
        """A span of what is over; the context in which it is the parent."""
        kind = self._trace.SpanKind.INTERNAL
        span = self._tracer.start_span(name, parent, kind, facts, start_time=began)
        if failed:
            span.set_attribute("error.type", failed)
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(ended)
        return self._trace.set_span_in_context(span, self._nothing)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
