"""The phases of a key change, in order, each safe to begin again; and its ends: finalize, rollback, abort."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from mandate.errors import CheckFailed, DiskFull, NeedsPerson, NotEnoughSpace, UsageError
from mandate.postgres.connection import Session, Target, connect, sql
from mandate.progress import Reporter
from mandate.rekey import (
    build,
    capture,
    catch_up,
    copying,
    crew,
    cutover,
    hints,
    journal,
    leftovers,
    locking,
    maps,
    objects,
    refuse,
    shadow,
    snapshots,
    space,
    throttle,
    unknown,
    verify,
    work,
    yielding,
)
from mandate.rekey.direction import BACK, FORWARD, Direction
from mandate.rekey.discover import discover
from mandate.rekey.ends import Ends
from mandate.rekey.governor import Governor
from mandate.rekey.model import Graph
from mandate.rekey.options import Options
from mandate.rekey.patience import FILL_SECONDS, patiently
from mandate.rekey.spec import Spec
from mandate.rekey.steering import Steering, governor

# The log must not grow faster than it is caught up.
_LEAST_CATCH_UP = 0.25


def _told(problem: str) -> str:
    """A problem of the plan, and what to do about it."""
    advice = hints.hint(problem)
    return f"  {problem}" if advice is None else f"  {problem}\n    -> {advice}"


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
            # Many statements over some of a table's rows each: compiling them costs more than it saves.
            "jit": "off",
        }
        if self.options.limits is not None:
            # `jobs` is what may work at a time.
            settings |= {"max_parallel_maintenance_workers": "0", "max_parallel_workers_per_gather": "0"}
        return connect(self.target, application_name=f"mandate-rekey-{self.name}", settings=settings)

    @property
    def _steering(self) -> Steering:
        return Steering(self.name, self._ends.abort, self.governor)

    @property
    def _ends(self) -> Ends:
        return Ends(self.session, self.spec, self.reporter, self.options.swap.deadline_seconds)

    # -- forward -------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Take the change from where it stands to the swap; figures by phase.

        Once swapped it only does what is left to do. Raises CheckFailed or NotEnoughSpace (refused, nothing
        done), MigrationFailed (old tables in use, resumable), DiskFilled (taken back), Aborted, NeedsPerson
        when its spec was edited.
        """
        try:
            return self._run()
        except DiskFull as error:
            raise space.give_up(error, self._ends.take_back) from error

    def _run(self) -> dict[str, Any]:
        with self.session() as session:
            locking.end_orphans(session)
            for hook in self.options.hooks.begin:
                hook(session)
            graph = self._begin(session)
            if graph is not None:
                self._forward(session, graph)
            return {phase.phase: dict(phase.evidence) for phase in journal.phases(session, self.name)}

    def _forward(self, session: Session, graph: Graph) -> None:
        work.create(session, graph)
        governing = governor(session, self.target, graph, self.options.limits, self.reporter)
        with governing, self._watched(session) as watched:
            replace(watched, governor=governing, reporter=governing.reporter)._go_through(session, graph)

    @contextmanager
    def _watched(self, session: Session) -> Iterator[Engine]:
        """The same, giving way to clients that wait for a lock because of it."""

        with yielding.watching(self.session, partial(self._waits, session)) as watch:
            yield replace(self, watch=watch)

    def _waits(self, session: Session, why: str | None) -> None:
        journal.waits(session, self.name, why)
        if why is not None:
            self.reporter.line(why)

    def _go_through(self, session: Session, graph: Graph) -> None:
        for phase, task in self._phases():
            if phase in journal.done(session, self.name):
                continue
            self._steering.obey(session)
            if phase != "cutover":
                self._steering.wait_for_server(session)
            journal.waits(session, self.name, None)
            self._phase(session, graph, phase, task)

    def _begin(self, session: Session) -> Graph | None:
        """The graph to work on; None when it is swapped, by an earlier run."""
        self._drop_map_of_another_spec(session)
        change = journal.begin(session, self.spec)
        if change.status == "swapped":
            self._finish_swap(session, change)
            return None
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

    def _drop_map_of_another_spec(self, session: Session) -> None:
        """What the map found wrong may be mended in the spec, too: nothing but the map was made by then."""
        change = journal.load(session, self.name)
        if change is None or change.status != "running" or not journal.edited(change, self.spec):
            return
        if {phase.phase for phase in journal.phases(session, self.name)} <= {"map"}:
            self._ends.end(session, journal.kept_graph(change), FORWARD, "aborted")

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
            self._steering.obey(session)

        capture.install(session, graph, FORWARD, self.reporter, obey)
        capture.wait_for_older(session, self.reporter, obey)
        return {}

    def _copy(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        pace = throttle.Pace()
        figures = self._guard(graph).require_still(session)
        watch = space.Watch(figures)

        def between_chunks() -> None:
            watch.require()
            self._steering.pace(session, pace)

        rows = copying.run(
            self.session,
            graph,
            self.options.jobs,
            self.reporter,
            between_chunks,
            target_seconds=copying.ONLINE_SECONDS if self.options.limits else copying.OFFLINE_SECONDS,
            watch=self.watch,
        )
        catch_up.forget_logged(session, graph)
        return {"rows": rows, "space": figures}

    def _build(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        figures = self._guard(graph).require_still(session)
        tasks = build.tasks(session, graph)
        with self._sessions() as sessions, space.Watch(figures).over(sessions):
            crew.run(
                sessions,
                tasks,
                self.reporter,
                jobs_alone=None if self.options.limits else self.options.jobs,
                gate=self._steering.gate(session),
                observer=session,
            )
        return {"objects": len(tasks), "space": figures}

    def _catch_up(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        return {"rows": self._until_small(session, graph, FORWARD)}

    def _foreign_keys(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        # Only a batch of everything leaves the shadows consistent among themselves.
        applied = catch_up.patient_batch(session, graph, FORWARD, None, self.watch)
        with self._sessions() as sessions:
            build.foreign_keys(sessions, graph, self.reporter, self._steering.gate(session))
        return {"rows": applied}

    def _verify(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        proofs = self._proofs(session, graph, FORWARD)
        return {"tables": [vars(proof) for proof in proofs], "equal_rows": sum(p.rows for p in proofs)}

    def _proofs(self, session: Session, graph: Graph, direction: Direction) -> list[verify.Proof]:
        self._until_small(session, graph, direction)
        return verify.run(self.session, graph, direction, self.options.jobs, self.reporter, self.watch)

    def _cutover(self, session: Session, graph: Graph) -> Mapping[str, Any]:
        self._steering.hold(session, lambda: self._until_small(session, graph, FORWARD))
        evidence = self._swap(session, graph, FORWARD, "swapped")
        self._after(session, graph, FORWARD)
        return evidence

    def _refuse_altered(self, session: Session, graph: Graph, direction: Direction) -> None:
        """Before each attempt: between two there may be hours. Going back only columns are missed."""
        if not direction.forward:
            unknown.refuse(session, graph, direction)
        elif changed := objects.drift(session, graph):
            raise CheckFailed(
                f"the old tables were altered since {self.name} began, and the new ones do not have it: "
                + "; ".join(changed),
                hint="take it back and run again, or `mandate rekey abort` and begin again",
                changed=changed,
            )

    def _after(self, session: Session, graph: Graph, direction: Direction) -> None:
        """What follows a swap outside its transaction: proofs of foreign keys, refreshed views."""
        for hook in self.options.hooks.after_swap if direction.forward else ():
            with session.transaction():
                hook(session)
        proofs = objects.proofs_after(session, graph, direction)
        with self._sessions() as sessions:
            crew.spread(sessions, [partial(self._each, statements=each) for each in proofs])
        self._each(session, objects.refreshed_after(session, graph))

    def _each(self, session: Session, statements: Sequence[sql.Composed]) -> None:
        for statement in statements:
            yielding.retried(self.watch, [session], partial(session.execute, statement))

    def _finish_swap(self, session: Session, change: journal.Change) -> None:
        """A run that was killed right after its swap left something to do."""
        graph = journal.kept_graph(change)
        if graph is not None and "cutover" not in journal.done(session, self.name):
            with self._watched(session) as watched:
                watched._after(session, graph, FORWARD)
            journal.end_phase(session, self.name, "cutover", {"resumed": "after the swap"})

    def _finish_rollback(self, session: Session, change: journal.Change) -> None:
        """What follows a rollback's swap; without its working schema it had got to its end."""
        graph = journal.kept_graph(change)
        if graph is not None and objects.is_kept(session, graph):
            with self._watched(session) as watched:
                watched._after(session, graph, BACK)
            snapshots.wait_for_older(session, graph, partial(self._waits, session))
            snapshots.remove(session, graph, self.reporter)
        leftovers.drop(session, self.spec)

    def _swap(self, session: Session, graph: Graph, direction: Direction, status: str) -> dict[str, Any]:
        def check(inside: Session) -> None:
            unknown.refuse_left(inside, graph, direction)

        def record(inside: Session) -> None:
            journal.set_status(inside, self.name, status)

        hooks = self.options.hooks
        before = [
            lambda attempt: self._refuse_altered(attempt, graph, direction),
            *(hooks.before_swap if direction.forward else hooks.before_swap_back),
        ]
        first = hooks.before_locks if direction.forward else ()
        also = [check, record, *(hooks.at_swap if direction.forward else hooks.at_swap_back)]
        swap = cutover.Swap(
            graph,
            direction,
            self.session,
            self.options.swap,
            lambda after: journal.status(after, self.name) == status,
            also,
            before,
            first,
            self.watch,
        )

        def between(why: str | None) -> None:
            journal.waits(session, self.name, why)
            if why is not None:
                self._steering.obey(session)

        return cutover.run(swap, self.reporter, between)

    def _until_small(self, session: Session, graph: Graph, direction: Direction) -> int:
        """Take the log down to a batch's worth; rows applied."""
        limit = self.options.swap.largest_backlog

        pace = throttle.Pace()

        def between_batches() -> None:
            self._steering.pace(session, pace, _LEAST_CATCH_UP)
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
        """Swap back, with everything that was written since; figures of this swap, if it is of now.

        Once rolled back it only does what is left to do. Raises NeedsPerson when it is neither that nor
        swapped.
        """
        with self.session() as session:
            graph, status = self._require(session, "swapped", "rolled back")
            evidence: dict[str, Any] = {}
            if status == "swapped":
                unknown.refuse(session, graph, BACK)
                with self._watched(session) as watched:
                    proofs = watched._proofs(session, graph, BACK)
                    evidence = watched._swap(session, graph, BACK, "rolled back")
                    evidence |= {"tables": [vars(proof) for proof in proofs]}
            self._finish(session)
            return evidence

    def finalize(self) -> dict[str, Any]:
        """Verify once more, then drop the retained tables and everything of the change but its record.

        Once finalized nothing is left to do. Raises NeedsPerson when it is neither that nor swapped.
        """
        with self.session() as session:
            graph, status = self._require(session, "swapped", "finalized")
            if status == "finalized":
                return {}
            with self._watched(session) as watched:
                proofs = watched._proofs(session, graph, BACK)
            snapshots.wait_for_older(session, graph, partial(self._waits, session))
            self._ends.end(session, graph, BACK, "finalized")
            return {"tables": [vars(proof) for proof in proofs]}

    def abort(self) -> None:
        """Leave no object of a change before its swap. Raises NeedsPerson when there is none."""
        self._ends.abort()

    def sweep(self) -> None:
        """`abort`, or drop what a change that nothing records has left. Raises NeedsPerson like `abort`."""
        self._ends.sweep()

    def finish(self) -> None:
        """Do what a swap, or a rollback, whose process died right after it left to do."""
        with self.session() as session:
            self._finish(session)

    def _finish(self, session: Session) -> None:
        change = journal.load(session, self.name)
        if change is not None and change.status == "swapped":
            self._finish_swap(session, change)
        if change is not None and change.status == "rolled back":
            self._finish_rollback(session, change)

    def _require(self, session: Session, *wanted: str) -> tuple[Graph, str]:
        """The graph of a change that has one of these states, and which; what its swap left to do is done."""
        locking.end_orphans(session)
        self._finish(session)
        change = journal.load(session, self.name)
        if change is None:
            raise UsageError(
                f"there is no key change called {self.name} in this database", hint="`run` begins it"
            )
        graph = journal.kept_graph(change)
        if change.status not in wanted or graph is None:
            raise NeedsPerson(
                f"{self.name} is {change.status}, not {wanted[0]}", hint=journal.NEXT[change.status]
            )
        return graph, change.status


def _shown(evidence: Mapping[str, Any]) -> str:
    return ", ".join(
        _figure(key, value) for key, value in evidence.items() if isinstance(value, int | float | str)
    )


def _figure(key: str, value: float | str) -> str:
    name = key.removesuffix("_milliseconds").replace("_", " ")
    shown = f"{value:,}" if isinstance(value, int) else str(value)
    return f"{name} {shown}{' ms' if key.endswith('_milliseconds') else ''}"
