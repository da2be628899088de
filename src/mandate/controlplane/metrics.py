"""What the service counts and times, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Readings = Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]


class Metrics:
    """One registry for one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._counted: dict[tuple[str, ...], Counter] = {}
        self._requests = Counter(
            "mandate_requests",
            "HTTP requests by method and status",
            ["method", "status"],
            registry=self._registry,
        )
        self._verdicts = Counter(
            "mandate_verdicts", "Verdicts that were recorded", ["verdict", "stage"], registry=self._registry
        )
        self._seconds = Histogram(
            "mandate_decision_seconds",
            "Time a decision spends in each step of its way: read, judge, write",
            ["step"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.read = self._seconds.labels("read")
        self.judge = self._seconds.labels("judge")
        self.write = self._seconds.labels("write")
        self.groups = Histogram(
            "mandate_group_decisions",
            "Decisions that were written by one statement",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self._registry,
        )

    def request(self, method: str, status: int) -> None:
        """Count a request that was answered."""
        self._count(self._requests, method, str(status))

    def verdict(self, verdict: str | None, stage: str | None) -> None:
        """Count a verdict that was recorded."""
        self._count(self._verdicts, str(verdict), str(stage))

    def _count(self, family: Counter, *labels: str) -> None:
        # No two families share a combination of labels.
        child = self._counted.get(labels)
        if child is None:
            child = self._counted[labels] = family.labels(*labels)
        child.inc()

    def gauges(self, readings: Readings) -> None:
        """Add gauges that are read at each scrape: `readings` gives name, help, labels and value of each."""
        self._registry.register(_Gauges(readings))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._readings():
            family = families.setdefault(name, GaugeMetricFamily(name, text, labels=[*labels]))
            family.add_metric([*labels.values()], value)
        return families.values()
