"""Writes the text formats of Prometheus and OpenMetrics.

prometheus_client takes ten times as long for a series, and a scrape must not be felt: tests read
what is written here with its parsers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from kernelagent.observability.measurements import Histogram

Labels = TypeVar("Labels", bound=tuple[str, ...])


class Exposition:
    """Families of series, one after the other; values are given by the values of their labels."""

    def __init__(self, prefix: str, *, openmetrics: bool) -> None:
        self._prefix = prefix
        self._openmetrics = openmetrics
        self._lines: list[str] = []

    def gauge(
        self, name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]
    ) -> None:
        """Something that goes up and down."""
        name = self._begin(name, text, "gauge")
        self._series(name, labels, values)

    def counter(
        self, name: str, text: str, labels: Sequence[str], values: Mapping[Labels, float]
    ) -> None:
        """Something that only grows; its series end with `_total`."""
        total = f"{self._prefix}{name}_total"
        # OpenMetrics calls the family by the name without the suffix.
        self._begin(name if self._openmetrics else f"{name}_total", text, "counter")
        self._series(total, labels, values)

    def histogram(
        self, name: str, text: str, labels: Sequence[str], values: Mapping[Labels, Histogram]
    ) -> None:
        """Values by range."""
        name = self._begin(name, text, "histogram")
        for key, histogram in values.items():
            shown = _shown(labels, key)
            comma = "," if shown else ""
            seen = 0
            for bound, count in zip(_bounds(histogram.bounds), histogram.counts, strict=True):
                seen += count
                self._lines.append(f'{name}_bucket{{{shown}{comma}le="{bound}"}} {seen}')
            braces = f"{{{shown}}}" if shown else ""
            self._lines.append(f"{name}_count{braces} {seen}")
            self._lines.append(f"{name}_sum{braces} {histogram.total!r}")

    def text(self) -> str:
        """All lines, each with its end."""
        return "".join(f"{line}\n" for line in self._lines)

    def _begin(self, name: str, text: str, kind: str) -> str:
        name = f"{self._prefix}{name}"
        self._lines.append(f"# HELP {name} {text}")
        self._lines.append(f"# TYPE {name} {kind}")
        return name

    def _series(self, name: str, labels: Sequence[str], values: Mapping[Labels, float]) -> None:
        for key, value in values.items():
            shown = _shown(labels, key)
            braces = f"{{{shown}}}" if shown else ""
            self._lines.append(f"{name}{braces} {value!r}")


def _shown(labels: Sequence[str], key: tuple[str, ...]) -> str:
    return ",".join(
        f'{label}="{_escaped(value)}"' for label, value in zip(labels, key, strict=True)
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


@lru_cache(maxsize=16)
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return (*map(str, bounds), "+Inf")
