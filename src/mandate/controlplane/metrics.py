"""What the service counts and times, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_without_created: Callable[[], None] = disable_created_metrics  # which has no types

Readings = Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]


class Metrics:
    """One registry for one application."""

    def __init__(self) -> None:
        _without_created()  # a second series for each, of the time when it was made
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
        self.read, self.judge, self.write = Seconds("read"), Seconds("judge"), Seconds("write")
        self._registry.register(_Steps((self.read, self.judge, self.write)))
        self.groups = Histogram(
            "mandate_group_decisions",
            "Decisions that were written by one statement",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self._registry,
        )

    def request(self, method: str, status: int) -> None:
        """Count a request that was answered."""
        self._count(self._requests, method, str(status))

    def verdict(self, verdict: str, stage: str, count: int = 1) -> None:
        """Count verdicts that were recorded."""
        self._count(self._verdicts, verdict, stage, count=count)

    def _count(self, family: Counter, *labels: str, count: int = 1) -> None:
        # No two families share a combination of labels.
        child = self._counted.get(labels)
        if child is None:
            child = self._counted[labels] = family.labels(*labels)
        child.inc(count)

    def gauges(self, readings: Readings) -> None:
        """Add gauges that are read at each scrape: `readings` gives name, help, labels and value of each."""
        self._registry.register(_Gauges(readings))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)


class Seconds:
    """How long one step took, each time. Only the thread of the event loop may say so: that spares a lock."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.sum = 0.0
        self._found = [0] * (len(_SECONDS) + 1)

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.sum += seconds
        self._found[bisect_left(_SECONDS, seconds)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """How many took no longer than each bound, which is how Prometheus wants them."""
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._found)), strict=True))


class _Steps(Collector):
    def __init__(self, steps: Sequence[Seconds]) -> None:
        self._steps = steps

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(
            "mandate_decision_seconds",
            "Time a decision spends in each step of its way: read, judge, write",
            labels=["step"],
        )
        for step in self._steps:
            family.add_metric([step.step], step.buckets(), step.sum)
        return [family]


class _Gauges(Collector):
    def __init__(self, readings: Readings) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._readings():
            family = families.setdefault(name, GaugeMetricFamily(name, text, labels=[*labels]))
            family.add_metric([*labels.values()], value)
        return families.values()
