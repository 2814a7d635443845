"""The families of series that Prometheus reads, in the classes of its client library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from kernelagent.observability.measurements import Histogram

Labels = TypeVar("Labels", bound=tuple[str, ...])


class Exposition(Collector):
    """Families of series, one after the other; values are given by the values of their labels."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._families: list[Metric] = []

    def gauge(
        self, name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]
    ) -> None:
        """Something that goes up and down."""
        family = GaugeMetricFamily(f"{self._prefix}{name}", text, labels=labels)
        for key, value in values.items():
            family.add_metric(key, value)
        self._families.append(family)

    def counter(
        self, name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]
    ) -> None:
        """Something that only grows; its series end with `_total`."""
        family = CounterMetricFamily(f"{self._prefix}{name}", text, labels=labels)
        for key, value in values.items():
            family.add_metric(key, value)
        self._families.append(family)

    def histogram(
        self, name: str, text: str, labels: Sequence[str], values: Mapping[Labels, Histogram]
    ) -> None:
        """Values by range."""
        family = HistogramMetricFamily(f"{self._prefix}{name}", text, labels=labels)
        for key, histogram in values.items():
            seen = 0
            buckets: list[Sequence[str | float]] = []
            for bound, count in zip(_bounds(histogram.bounds), histogram.counts, strict=True):
                seen += count
                buckets.append((bound, seen))
            family.add_metric(key, buckets, histogram.total)  # type: ignore[arg-type]
        self._families.append(family)

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._families


@lru_cache(maxsize=16)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(str, bounds), "+Inf")
