"""Watches the server while a change is worked on: decides each second how much it may; writes it down."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from mandate.errors import DatabaseError
from mandate.postgres.connection import Session, sql
from mandate.progress import Reporter, Task
from mandate.rekey import eta, journal
from mandate.rekey.load import Decision, Limits, Signals, decide, latency_limit, nth_largest, quantile
from mandate.rekey.signals import Line, Probe, Reader

_PROBE_SECONDS = 0.1
_READING_SECONDS = 1.0
# A reading that old says nothing any more.
_STALE_SECONDS = 10.0
# Probes before the change works, and those that are remembered of when it did not.
_BASELINE_SAMPLES = 60
_IDLE_SAMPLES = 400
_EARLIER_SAMPLES = 100
# After so long a rest, what the change has done slows nobody any more.
_SETTLED_SECONDS = 0.3


@dataclass
class _Work:
    """What the change is doing. Written by its threads, read by the governor's."""

    phase: str = ""
    began: float = 0.0
    took: dict[str, float] = field(default_factory=dict)
    label: str = ""
    done: float = 0.0
    total: float | None = None
    unit: str = ""
    note: str | None = None
    rested: float = 0.0
    resting_since: float | None = None
    idle_since: float | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing has been worked for a while."""
        since = self.idle_since
        return since is not None and time.monotonic() - since > _SETTLED_SECONDS

    def seen(self) -> eta.Seen:
        part = min(1.0, self.done / self.total) if self.total else None
        rested = self.rested
        if self.resting_since is not None:
            rested += time.monotonic() - self.resting_since
        return eta.Seen(dict(self.took), self.phase, max(0.0, time.monotonic() - self.began - rested), part)


class _Recorder:
    """Passes progress on to a person, and keeps it for the journal."""

    def __init__(self, reporter: Reporter, work: _Work) -> None:
        self._reporter, self._work = reporter, work

    def line(self, text: str) -> None:
        """One finished line for a person."""
        self._reporter.line(text)

    @contextmanager
    def task(
        self,
        label: str,
        *,
        total: float | None = None,
        unit: str = "",
        expected_seconds: float | None = None,
    ) -> Iterator[Task]:
        work = self._work
        work.label, work.done, work.total, work.unit, work.note = label, 0.0, total, unit, None
        with self._reporter.task(label, total=total, unit=unit, expected_seconds=expected_seconds) as task:
            yield _RecordedTask(task, work)


@dataclass(frozen=True)
class _RecordedTask:
    task: Task
    work: _Work

    def update(self, done: float, *, total: float | None = None, note: str | None = None) -> None:
        self.work.done = done
        self.work.total = total or self.work.total
        self.work.note = note or self.work.note
        self.task.update(done, total=total, note=note)


@dataclass
class Latency:
    """What probes take, and what they take while the change does not work. Not for more than one thread."""

    probe: Probe
    baseline_samples: int
    _idle: deque[float] = field(default_factory=lambda: deque(maxlen=_IDLE_SAMPLES))
    _last: list[float] = field(default_factory=list)
    _earlier: deque[float] = field(default_factory=lambda: deque(maxlen=_EARLIER_SAMPLES))
    _failed: str | None = None

    def measure(self, idle: bool) -> None:
        """One probe, `idle`: while the change did not work, and had not just worked."""
        try:
            taken = self.probe.milliseconds()
        except DatabaseError as error:
            self._failed = error.message
            return
        self._last.append(taken)
        if idle:
            self._idle.append(taken)

    @property
    def baseline(self) -> float | None:
        """What a slow probe takes without the change; None: not measured yet."""
        return quantile(self._idle, 0.97) if len(self._idle) >= self.baseline_samples else None

    def read(self, signals: Signals) -> Signals:
        """The signals with the latency: the second slowest of the last second, the fifth of the last ten."""
        last, self._last = self._last, []
        failed, self._failed = self._failed, None
        baseline = self.baseline
        if failed is not None or baseline is None:
            why = failed or "it is being measured without this change first"
            return replace(signals, unreadable={**signals.unreadable, "latency": why})
        self._earlier += last
        slow = max(nth_largest(last, 2), nth_largest(self._earlier, 5))
        return replace(signals, latency=slow, baseline=baseline)

    def forget(self) -> None:
        """After a back-off: what was slow before it is no news."""
        self._earlier.clear()


class Governor:
    """Decides for one run, in a thread of its own, from `with` on. limits None: nothing is limited.

    `reporter` is to be used for all progress of the run: it ends up in the journal too.
    """

    def __init__(
        self,
        connect: Callable[[], Session],
        name: str,
        limits: Limits | None,
        reporter: Reporter,
        *,
        probe: sql.Identifier,
        expected: Mapping[str, float],
        baseline_samples: int = _BASELINE_SAMPLES,
    ) -> None:
        self._name, self._limits, self._expected = name, limits, expected
        self._work = _Work(began=time.monotonic())
        self.reporter: Reporter = _Recorder(reporter, self._work)
        self._lines = (Line(lambda: _without_waiting(connect())), Line(connect))
        self._reader = Reader(self._lines[0])
        self._latency = Latency(Probe(self._lines[1], probe), baseline_samples)
        self._signals = Signals()
        first = Decision() if limits is None else Decision(0.0, "the server's load is not known yet")
        self._decision, self._decided_at, self._started = first, time.monotonic(), False
        self._left: float | None = None
        self._left_at = time.monotonic()
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="governor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=_STALE_SECONDS)
        for line in self._lines:
            line.close()

    # -- what the run asks and says --------------------------------------------------------------------

    def decision(self) -> Decision:
        """What may be worked now. Raises what ended the governor, if it ended."""
        if self._error is not None:
            raise self._error
        age = time.monotonic() - self._decided_at
        if self._limits is not None and age > _STALE_SECONDS:
            return Decision(0.0, f"cannot read the server's load: no answer for {age:.0f} s")
        return self._decision

    def wait(self, seconds: float) -> None:
        """Until there is another decision, or so long."""
        with self._changed:
            self._changed.wait(seconds)

    @contextmanager
    def rest(self) -> Iterator[None]:
        """The run waits for somebody: this time says nothing of how fast it is."""
        self._work.resting_since = time.monotonic()
        try:
            with self.idle():
                yield
        finally:
            self._work.rested += time.monotonic() - self._work.resting_since
            self._work.resting_since = None

    @contextmanager
    def idle(self) -> Iterator[None]:
        """The run does not work: how the server fares now is how it does without it."""
        self._work.idle_since = time.monotonic()
        try:
            yield
        finally:
            self._work.idle_since = None

    def begin(self, phase: str) -> None:
        """A phase begins."""
        now = time.monotonic()
        work = self._work
        work.phase, work.began, work.rested = phase, now, 0.0
        work.done, work.total, work.unit, work.note = 0.0, None, "", None

    def end(self) -> None:
        """The phase is over."""
        self._work.took[self._work.phase] = self._work.seen().seconds

    def is_over(self, phase: str, seconds: float) -> None:
        """An earlier run has done a phase."""
        self._work.took[phase] = seconds

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._pause()):
                self._look()
        except BaseException as error:
            self._error = error
            with self._changed:
                self._changed.notify_all()
            raise

    def _pause(self) -> float:
        if self._limits is None:
            return _READING_SECONDS
        if self._latency.baseline is not None:
            return _PROBE_SECONDS
        return 0.05 if self._latency.baseline_samples >= _BASELINE_SAMPLES else 0.01

    def _look(self) -> None:
        measures = self._limits is not None and self._limits.limits_latency
        unknown = measures and self._latency.baseline is None
        if measures:
            # Before the first decision nothing is worked.
            self._latency.measure(idle=not self._started or self._work.idle)
        known = unknown and self._latency.baseline is not None
        if known or time.monotonic() - self._decided_at >= _READING_SECONDS:
            self._decide()
            self._record()

    def _decide(self) -> None:
        signals = self._reader.read()
        limits = self._limits
        if limits is None:
            self._signals, self._decided_at = signals, time.monotonic()
            return
        if limits.limits_latency:
            signals = self._latency.read(signals)
        # Until it was allowed once, nothing has slowed it down: the first good reading lets all of it go.
        before = self._decision if self._started else Decision()
        after = decide(signals, limits, before)
        if after.share < before.share:
            self._latency.forget()
        self._started = self._started or after.share > 0
        with self._changed:
            self._signals, self._decision, self._decided_at = signals, after, time.monotonic()
            self._changed.notify_all()

    # -- what `status` shows ---------------------------------------------------------------------------

    def _record(self) -> None:
        """Progress nobody could write down is shown late; that is all."""
        progress = self._progress()
        try:
            journal.report(self._lines[0].session(), self._name, progress)
        except DatabaseError as error:
            self._signals = replace(
                self._signals, unreadable={**self._signals.unreadable, "progress": error.message}
            )

    def _progress(self) -> dict[str, Any]:
        work, seen = self._work, self._work.seen()
        decision = self.decision()
        return {
            "phase": work.phase,
            "percent": round(eta.percent(self._expected, seen), 1),
            "done": work.done,
            "total": work.total,
            "unit": work.unit,
            "note": work.note,
            "rate": self._speed(work),
            "eta_seconds": self._remaining(seen),
            "share": decision.share,
            "reason": decision.reason,
            "signals": asdict(self._signals),
            "limits": None if self._limits is None else asdict(self._limits),
            "latency_limit": self._latency_limit(),
        }

    def _latency_limit(self) -> float | None:
        if self._limits is None or self._latency.baseline is None:
            return None
        return latency_limit(self._latency.baseline, self._limits)

    def _speed(self, work: _Work) -> float | None:
        """Units a second since the phase began; None where there are none."""
        seconds = work.seen().seconds
        return round(work.done / seconds, 1) if work.total and seconds > 0 else None

    def _remaining(self, seen: eta.Seen) -> float:
        """What is left; it stands still while the run rests."""
        now = time.monotonic()
        elapsed, self._left_at = now - self._left_at, now
        if self._left is None or self._work.resting_since is None:
            self._left = eta.smoothed(self._left, elapsed, eta.left(self._expected, seen))
        return round(self._left, 1)


def _without_waiting(session: Session) -> Session:
    """What is written down here is of no use after a crash."""
    session.execute("SET synchronous_commit = off")
    return session
