"""The phases of a key change, in order, each safe to begin again; and its ends: finalize, rollback, abort."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mandate.errors import (
    CheckFailed,
    DiskFull,
    LockNotAvailable,
    NeedsPerson,
    NotEnoughSpace,
    RolledBack,
    UsageError,
)
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Reporter
from mandate.rekey import (
    build,
    capture,
    catch_up,
    copying,
    cutover,
    eta,
    hints,
    journal,
    leftovers,
    load,
    locking,
    maps,
    objects,
    refuse,
    shadow,
    space,
    throttle,
    verify,
    work,
    yielding,
)
from mandate.rekey.direction import BACK, FORWARD, Direction
from mandate.rekey.discover import discover
from mandate.rekey.governor import Governor
from mandate.rekey.model import Graph
from mandate.rekey.patience import FILL_SECONDS, patiently
from mandate.rekey.spec import Spec

_POLL_SECONDS = 0.5
_SMALL_BYTES = 64 << 20
# The log must not grow faster than it is caught up.
_LEAST_CATCH_UP = 0.25


@dataclass(frozen=True)
class Hooks:
    """What somebody's change does beside its tables, in sessions of the engine.

    `begin` once a run begins or goes on; `before_swap` and `before_swap_back` on the session of each attempt,
    before it locks; `at_swap` and `at_swap_back` inside the transaction of the swap.
    """

    begin: Sequence[cutover.Work] = ()
    before_swap: Sequence[cutover.Work] = ()
    at_swap: Sequence[cutover.Work] = ()
    before_swap_back: Sequence[cutover.Work] = ()
    at_swap_back: Sequence[cutover.Work] = ()


@dataclass(frozen=True)
class Options:
    """How a change is run: `jobs` sessions at a time; `accept`: problems that a person has accepted.

    `limits`: what the server must not go beyond meanwhile; None: clients are stopped, nothing is spared.
    `force_space`: begin although the new tables seem not to fit the disk.
    """

    jobs: int = 2
    limits: load.Limits | None = None
    accept: frozenset[str] = frozenset()
    force_space: bool = False
    swap: cutover.Options = field(default_factory=cutover.Options)
    hooks: Hooks = field(default_factory=Hooks)

    def with_hooks(self, hooks: Hooks) -> Options:
        """The same with these hooks."""
        return replace(self, hooks=hooks)


def _told(problem: str) -> str:
    """A problem of the plan, and what to do about it."""
    advice = hints.hint(problem)
    return f"  {problem}" if advice is None else f"  {problem}\n    -> {advice}"


class Aborted(RolledBack):
    """Somebody asked for it from another terminal; nothing of the change is left."""

    code = "aborted"


@dataclass(frozen=True)
class Engine:
    """One key change of one database. Every method opens and closes its own sessions."""

    target: Target
    spec: Spec
    options: Options
    reporter: Reporter
    governor: Governor | None = None
    watch: yielding.Watch | None = None

    @property
    def name(self) -> str:
        return self.spec.rekey.name

    def session(self) -> Session:
        """A session of this change: errors instead of rows that a policy hides, no time limits."""
        settings = {
            "row_security": "off",
            "search_path": "",
            "statement_timeout": "0",
            "idle_in_transaction_session_timeout": "0",
        }
        if self.options.limits is not None:
            # `jobs` is what may work at a time.
            settings |= {"max_parallel_maintenance_workers": "0", "max_parallel_workers_per_gather": "0"}
        return connect(self.target, application_name=f"mandate-rekey-{self.name}", settings=settings)

    # -- forward -------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Take the change from where it stands to the swap; figures by phase.

        Raises CheckFailed or NotEnoughSpace (refused, nothing done), MigrationFailed (old tables in use,
        resumable), DiskFilled (taken back), Aborted, NeedsPerson when it is swapped already or its spec was
        edited.
        """
        try:
            return self._run()
        except DiskFull as error:
            raise space.give_up(error, self._take_back) from error

    def _run(self) -> dict[str, Any]:
        with self.session() as session:
            locking.end_orphans(session)
            for hook in self.options.hooks.begin:
                hook(session)
            graph = self._begin(session)
            with self._governor(session, graph) as governor, self._watched(session) as watched:
                replace(watched, governor=governor, reporter=governor.reporter)._go_through(session, graph)
            return {phase.phase: dict(phase.evidence) for phase in journal.phases(session, self.name)}

    @contextmanager
    def _watched(self, session: Session) -> Iterator[Engine]:
        """The same, giving way to clients that wait for a lock because of it."""

        def say(why: str | None) -> None:
            journal.waits(session, self.name, why)
            if why is not None:
                self.reporter.line(why)

        with yielding.watching(self.session, say) as watch:
            yield replace(self, watch=watch)

    def _governor(self, session: Session, graph: Graph) -> Governor:
        """It measures the server before anything is done; not for long when there is little to do."""
        work.create(session, graph)
        tables = sum(table.old.bytes for table in graph.tables)
        indexes = session.value(
            "SELECT sum(pg_indexes_size(oid::oid::regclass)) FROM unnest(%s::bigint[]) AS t (oid)",
            ([table.old.oid for table in graph.tables],),
        )
        small = {"baseline_samples": 10} if tables < _SMALL_BYTES else {}
        made = Governor(
            lambda: connect(
                self.target,
                application_name=f"mandate-load-{self.name}",
                settings={"statement_timeout": "2s", "search_path": "pg_catalog"},
            ),
            self.name,
            self.options.limits,
            self.reporter,
            probe=sql.Identifier(graph.spec.work_schema, "probe"),
            expected=eta.weights(tables, int(indexes or 0)),
            **small,
        )
        for phase in journal.phases(session, self.name):
            if phase.finished_at is not None:
                made.is_over(phase.phase, phase.evidence.get("seconds", 0.0))
        return made

    def _go_through(self, session: Session, graph: Graph) -> None:
        for phase, task in self._phases():
            if phase in journal.done(session, self.name):
                continue
            self._obey(session)
            if phase != "cutover":
                self._wait_for_server(session)
            journal.waits(session, self.name, None)
            self._phase(session, graph, phase, task)

    def _begin(self, session: Session) -> Graph:
        change = journal.begin(session, self.spec)
        if change.status == "swapped":
            self._finish_swap(session, change)
            raise NeedsPerson(
                f"{self.name} is swapped already and in its reverse window",
                hint="`mandate rekey finalize` ends it, `mandate rekey rollback` goes back",
            )
        if change.status == "rolled back":
            self._finish_rollback(session, change)
            journal.begin_again(session, self.name)
        graph = journal.kept_graph(change) if change.status == "running" else None
        if graph is None:
            try:
                graph = self._discover(session)
                self._guard(graph).begin(session, self.reporter)
            except (CheckFailed, UsageError, NotEnoughSpace):
                journal.set_status(session, self.name, "aborted")
                raise
            journal.keep_graph(session, graph)
        elif "build" not in journal.done(session, self.name):
            self._guard(graph).resume(session)
        return graph

    def _discover(self, session: Session) -> Graph:
        graph = discover(session, self.spec)
        problems = [text for text in refuse.problems(session, graph) if text not in self.options.accept]
        if problems:
            raise CheckFailed(
                f"{len(problems)} objects cannot be carried over:\n" + "\n".join(map(_told, problems)),
                hint="drop or change them; or --accept the text of one that you have looked at",
                problems=problems,
            )
        return graph

    def _guard(self, graph: Graph) -> space.Guard:
        return space.Guard(self.target, graph, self.options.jobs, self.options.force_space)

    def _phases(self) -> Iterator[tuple[str, Callable[[Session, Graph], Mapping[str, Any]]]]:
        yield "map", self._map
        yield "shadow", self._shadow
        yield "capture", self._capture
        yield "copy", self._copy
        yield "build", self._build
        yield "catch up", self._catch_up
        yield "foreign keys", self._foreign_keys
        yield "verify", self._verify
        yield "cutover", self._cutover

    def _phase(
        self,
        session: Session,
        graph: Graph,
        phase: str,
        task: Callable[[Session, Graph], Mapping[str, Any]],
    ) -> None:
        journal.start_phase(session, self.name, phase)
        started = time.monotonic()
        if self.governor is not None:
            self.governor.begin(phase)
        evidence = task(session, graph)
        seconds = round(time.monotonic() - started, 3)
        journal.end_phase(session, self.name, phase, {**evidence, "seconds": seconds})
        if self.governor is not None:
            self.governor.end()
        self.reporter.line(f"{phase:<13} {seconds:>8.1f} s  {_shown(evidence)}".rstrip())

    def _map(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        figures = self._guard(graph).figures(session)
        maps.create(session, graph)

        def fill() -> int:
            return yielding.retried(self.watch, [session], lambda: maps.fill(session, graph))

        return {"keys": patiently(fill, FILL_SECONDS), "space": figures}

    def _shadow(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        shadow.create(session, graph)
        return {"tables": len(graph.tables)}

    def _capture(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        def obey() -> None:
            self._obey(session)

        capture.install(session, graph, FORWARD, self.reporter, obey)
        capture.wait_for_older(session, self.reporter, obey)
        return {}

    def _copy(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        pace = throttle.Pace()
        figures = self._guard(graph).require_still(session)
        watch = space.Watch(figures)

        def between_chunks() -> None:
            watch.require()
            self._pace(session, pace)

        jobs = self.options.jobs
        rows = copying.run(self.session, graph, jobs, self.reporter, between_chunks, watch=self.watch)
        catch_up.forget_logged(session, graph)
        return {"rows": rows, "space": figures}

    def _build(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        figures = self._guard(graph).require_still(session)
        tasks = build.tasks(session, graph)
        with self._sessions() as sessions, space.Watch(figures).over(sessions):
            memory = None if self.options.limits else build.spare_memory_megabytes(session, self.options.jobs)
            build.run(sessions, tasks, self.reporter, memory, gate=self._gate(session), observer=session)
        return {"objects": len(tasks), "space": figures}

    def _catch_up(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        return {"rows": self._until_small(session, graph, FORWARD)}

    def _foreign_keys(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        # Only a batch of everything leaves the shadows consistent among themselves.
        applied = catch_up.patient_batch(session, graph, FORWARD, None, self.watch)
        with self._sessions() as sessions:
            build.foreign_keys(sessions, graph, self.reporter, self._gate(session))
        return {"rows": applied}

    def _verify(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        proofs = self._proofs(session, graph, FORWARD)
        return {"tables": [vars(proof) for proof in proofs], "equal_rows": sum(p.rows for p in proofs)}

    def _proofs(self, session: Session, graph: Graph, direction: Direction) -> list[verify.Proof]:
        self._until_small(session, graph, direction)
        return verify.run(self.session, graph, direction, self.options.jobs, self.reporter, self.watch)

    def _cutover(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        self._hold(session, graph)
        if changed := objects.drift(session, graph):
            raise CheckFailed(
                f"the old tables were altered since {self.name} began, and the new ones do not have it: "
                + "; ".join(changed),
                hint="take it back and run again, or `mandate rekey abort` and begin again",
                changed=changed,
            )
        evidence = self._swap(session, graph, FORWARD, "swapped")
        self._after(session, graph, FORWARD)
        return evidence

    def _after(self, session: Session, graph: Graph, direction: Direction) -> None:
        """What follows a swap outside its transaction: proofs of foreign keys, refreshed views."""
        for statement in objects.after_cutover(session, graph, direction):
            yielding.retried(self.watch, [session], partial(session.execute, statement))

    def _finish_swap(self, session: Session, change: journal.Change) -> None:
        """A run that was killed right after its swap left something to do."""
        graph = journal.kept_graph(change)
        if graph is not None and "cutover" not in journal.done(session, self.name):
            self._after(session, graph, FORWARD)
            journal.end_phase(session, self.name, "cutover", {"resumed": "after the swap"})

    def _finish_rollback(self, session: Session, change: journal.Change) -> None:
        """Likewise for a rollback; without its working schema it had got to its end."""
        graph = journal.kept_graph(change)
        if graph is not None and objects.is_kept(session, graph):
            self._after(session, graph, BACK)
        self._drop_schemas(session)

    def _swap(self, session: Session, graph: Graph, direction: Direction, status: str) -> dict[str, Any]:
        def record(inside: Session) -> None:
            journal.set_status(inside, self.name, status)

        hooks = self.options.hooks
        before = hooks.before_swap if direction.forward else hooks.before_swap_back
        also = [record, *(hooks.at_swap if direction.forward else hooks.at_swap_back)]
        if direction.forward:
            also.append(lambda inside: capture.install_now(inside, graph, BACK))
        swap = cutover.Swap(graph, direction, self.session, self.options.swap, also, before, self.watch)

        def between(why: str | None) -> None:
            journal.waits(session, self.name, why)
            if why is not None:
                self._obey(session)

        return cutover.run(swap, self.reporter, between)

    def _until_small(self, session: Session, graph: Graph, direction: Direction) -> int:
        """Take the log down to a batch's worth; rows applied."""
        limit = self.options.swap.largest_backlog

        pace = throttle.Pace()

        def between_batches() -> None:
            self._pace(session, pace, _LEAST_CATCH_UP)
            journal.waits(session, self.name, "catching up with rows that clients changed")

        applied = catch_up.until_small(
            session,
            graph,
            direction,
            small=limit // 4,
            limit=limit * 10,
            throttle=between_batches,
            watch=self.watch,
        )
        journal.waits(session, self.name, None)
        return applied

    def _hold(self, session: Session, graph: Graph) -> None:
        """Keep in step until somebody releases the cutover."""
        while journal.control(session, self.name).hold_cutover:
            self._obey(session)
            self._until_small(session, graph, FORWARD)
            journal.waits(session, self.name, "the cutover is held: `mandate rekey cutover` releases it")
            with self._resting():
                time.sleep(_POLL_SECONDS)
        journal.waits(session, self.name, None)

    def _obey(self, session: Session) -> None:
        """Do what other terminals ask: wait while paused, end when aborted."""
        while (asked := journal.control(session, self.name)).paused and not asked.abort:
            journal.waits(session, self.name, "paused: `mandate rekey resume` goes on")
            with self._resting():
                time.sleep(_POLL_SECONDS)
        if asked.abort:
            self.abort()
            raise Aborted(f"{self.name} was aborted from another terminal; nothing of it is left")

    def _gate(self, session: Session) -> throttle.Gate:
        """For work that cannot be interrupted: the next of it begins when the server allows it."""
        pace = throttle.Pace()
        return throttle.Gate(lambda: self._pace(session, pace))

    def _pace(self, session: Session, pace: throttle.Pace, least: float = 0.0) -> None:
        """Before a piece of work: obey, and let the server have its share of the time, and clients theirs.

        least: the share that is worked at all events, while the server allows anything.
        """
        self._obey(session)
        decided = self._wait_for_server(session)
        share, why = decided.share, decided.reason
        asked = journal.control(session, self.name).throttle
        if asked is not None and asked < share:
            share, why = asked, "`mandate rekey throttle` asked for it"
        share = max(share, least)
        journal.waits(
            session, self.name, f"throttled: works {share:.0%} of the time: {why}" if share < 1 else None
        )
        with self._idle():
            pace.rest(share)

    def _wait_for_server(self, session: Session) -> load.Decision:
        """Until the server's load allows any work at all."""
        if self.governor is None:
            return load.Decision()
        while (decided := self.governor.decision()).share == 0:
            journal.waits(session, self.name, f"the server comes first: {decided.reason}")
            with self.governor.rest():
                self.governor.wait(_POLL_SECONDS)
            self._obey(session)
        return decided

    @contextmanager
    def _idle(self) -> Iterator[None]:
        if self.governor is None:
            yield
        else:
            with self.governor.idle():
                yield

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """Time that says nothing of how fast the work is."""
        if self.governor is None:
            yield
        else:
            with self.governor.rest():
                yield

    @contextmanager
    def _sessions(self) -> Iterator[list[Session]]:
        opened: list[Session] = []
        try:
            opened += [self.session() for _ in range(self.options.jobs)]
            yield opened
        finally:
            for each in opened:
                each.close()

    # -- ends ----------------------------------------------------------------------------------------

    def rollback(self) -> dict[str, Any]:
        """Swap back, with everything that was written since. Raises NeedsPerson when it is not swapped."""
        with self.session() as session:
            graph = self._require_swapped(session)
            with self._watched(session) as watched:
                proofs = watched._proofs(session, graph, BACK)
                evidence = watched._swap(session, graph, BACK, "rolled back")
                watched._after(session, graph, BACK)
            self._drop_schemas(session)
            return {**evidence, "tables": [vars(proof) for proof in proofs]}

    def finalize(self) -> dict[str, Any]:
        """Verify once more, then drop the retained tables and everything of the change but its record."""
        with self.session() as session:
            graph = self._require_swapped(session)
            with self._watched(session) as watched:
                proofs = watched._proofs(session, graph, BACK)
            self._end(session, graph, BACK, "finalized")
            return {"tables": [vars(proof) for proof in proofs]}

    def abort(self) -> None:
        """Leave no object of a change that is under way. Raises NeedsPerson when none is."""
        with self.session() as session:
            change = journal.load(session, self.name)
            if change is None or change.status != "running":
                raise NeedsPerson(
                    f"there is nothing to abort: {self.name} is {change.status if change else 'not there'}",
                    hint="a swapped change ends with rollback or finalize",
                )
            self._end(session, journal.kept_graph(change), FORWARD, "aborted")

    def _take_back(self) -> bool:
        """End a change that filled a disk, as abort does; False when there is nothing to end."""
        with self.session() as session:
            change = journal.load(session, self.name) if journal.exists(session) else None
            if change is None or change.status != "running":
                return False
            graph = journal.kept_graph(change)
            try:
                self._end(session, graph, FORWARD, "aborted")
            except DiskFull:
                # Without room for one more row in the journal: what gives space back comes first. A change
                # without phases begins at the first one, should this be as far as it gets.
                with session.transaction():
                    journal.forget_phases(session, self.name)
                    self._drop(session, graph, FORWARD)
                journal.set_status(session, self.name, "aborted")
            return True

    def finish(self) -> None:
        """Do what a swap, or a rollback, whose process died right after it left to do."""
        with self.session() as session:
            change = journal.load(session, self.name)
            if change is not None and change.status == "swapped":
                self._finish_swap(session, change)
            if change is not None and change.status == "rolled back":
                self._finish_rollback(session, change)

    def sweep(self) -> None:
        """`abort`, or drop what a change that nothing records has left. Raises NeedsPerson like `abort`."""
        with self.session() as session:
            change = journal.load(session, self.name)
            names = [self.spec.shadow_schema, self.spec.retained_schema, self.spec.work_schema]
            left = session.value("SELECT count(*) FROM pg_namespace WHERE nspname = ANY (%s)", (names,))
            if left and (change is None or change.status in journal.ENDED):
                self._drop_schemas(session)
            else:
                self.abort()

    def _require_swapped(self, session: Session) -> Graph:
        locking.end_orphans(session)
        change = journal.load(session, self.name)
        graph = journal.kept_graph(change) if change else None
        if change is None or graph is None:
            raise UsageError(f"there is no key change called {self.name} in this database")
        if change.status == "swapped":
            self._finish_swap(session, change)
        if change.status == "rolled back":
            self._finish_rollback(session, change)
        if change.status != "swapped":
            raise NeedsPerson(
                f"{self.name} is {change.status}, not swapped", hint="`mandate rekey status` says where it is"
            )
        return graph

    def _end(self, session: Session, graph: Graph | None, direction: Direction, status: str) -> None:
        """Capture, schemas and status go together: a change without its capture must not look alive."""
        pause = 0.2
        while True:
            try:
                with locking.at_once(session, self.options.swap.deadline_seconds), session.transaction():
                    self._drop(session, graph, direction)
                    journal.set_status(session, self.name, status)
            except LockNotAvailable as error:
                self.reporter.line(f"waits for a lock to be {status}: {error.message}")
                time.sleep(pause)
                pause = min(5.0, pause * 2)
            else:
                return

    def _drop(self, session: Session, graph: Graph | None, direction: Direction) -> None:
        locking.give_up_soon(session)
        if graph is not None:
            capture.remove(session, graph, direction)
            if not direction.forward:
                leftovers.drop_until_final(session, self.spec)
        self._drop_schemas(session)

    def _drop_schemas(self, session: Session) -> None:
        leftovers.drop(session, self.spec)


def _shown(evidence: Mapping[str, Any]) -> str:
    return ", ".join(
        _figure(key, value) for key, value in evidence.items() if isinstance(value, int | float | str)
    )


def _figure(key: str, value: float | str) -> str:
    name = key.removesuffix("_milliseconds").replace("_", " ")
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return f"{name} {shown}{' ms' if key.endswith('_milliseconds') else ''}"
