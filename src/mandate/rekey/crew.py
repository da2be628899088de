"""Does tasks on several sessions at a time, the largest first, and shows how far they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from mandate.postgres.connection import Session, sql
from mandate.progress import Reporter, Silent
from mandate.progress import Task as ProgressTask

T = TypeVar("T")

_OFFLINE_KILOBYTES = 256 << 10
_OFFLINE_TOTAL_KILOBYTES = 2048 << 10
_LEAST_KILOBYTES = 8192
_MOST_PIECES = 64
_CANCEL_AGAIN_SECONDS = 0.05
_LOOK_SECONDS = 1.0
_PROGRESS = (Path(__file__).parent / "sql" / "build_progress.sql").read_bytes()


@dataclass(frozen=True)
class Task:
    """Statements of one transaction, after all tasks of a lower stage. `bytes`: the size of what it reads.

    `sorts`: about how many bytes it sorts in the end; None: it works in another way.
    """

    stage: int
    name: str
    bytes: int
    statements: tuple[sql.Composed, ...]
    sorts: int | None = None

    @property
    def effort(self) -> float:
        """What it costs beside other tasks: sorting an index the most, statistics only look at a sample."""
        return self.bytes * {0: 4.0, 2: 0.25}.get(self.stage, 1.0)

    def memory_kilobytes(self, most: int) -> int:
        """maintenance_work_mem for it, of at most `most`.

        What is sorted in pieces that the processor's cache holds, and merged, takes less time than in one.
        """
        if self.sorts is None:
            return most
        return min(most, max(_LEAST_KILOBYTES, self.sorts // _MOST_PIECES // 1024))


def memory_kilobytes(session: Session, jobs: int | None = None) -> int:
    """The most maintenance_work_mem of one session: as it is set; with `jobs` sessions that nobody else
    needs memory beside, 2 GiB together, if that is more.
    """
    configured: int = session.value(
        "SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'"
    )
    if jobs is None:
        return configured
    return max(configured, min(_OFFLINE_KILOBYTES, _OFFLINE_TOTAL_KILOBYTES // jobs))


@dataclass
class _Crew:
    """Who does the tasks, and the effort of those under way by process of the server."""

    sessions: Sequence[Session]
    memory_kilobytes: int
    alone: bool
    compresses: bool
    gate: Callable[[], None] | None
    observer: Session | None
    whole: float
    idle: SimpleQueue[Session] = field(default_factory=SimpleQueue)
    under_way: dict[int, float] = field(default_factory=dict)

    def partly(self) -> float:
        """Effort that is in what is half done."""
        under_way = dict(self.under_way)
        if self.observer is None or not under_way:
            return 0.0
        rows = self.observer.rows(_PROGRESS, (list(under_way),))
        return float(sum(under_way[row["pid"]] * row["part"] for row in rows))


def spread(sessions: Sequence[Session], works: Sequence[Callable[[Session], T]]) -> list[T]:
    """What each of `works` returns, with one of the sessions, as many at a time as there are.

    Raises the first error; then no statement is running any more.
    """
    idle: SimpleQueue[Session] = SimpleQueue()
    for session in sessions:
        idle.put(session)

    def one(work: Callable[[Session], T]) -> T:
        session = idle.get()
        try:
            return work(session)
        finally:
            idle.put(session)

    with ThreadPoolExecutor(len(sessions)) as pool:
        futures = [pool.submit(one, work) for work in works]
        try:
            return [future.result() for future in futures]
        except BaseException:
            _stop(pool, futures, sessions)
            raise


def run(
    sessions: Sequence[Session],
    tasks: Sequence[Task],
    reporter: Reporter | None = None,
    *,
    jobs_alone: int | None = None,
    gate: Callable[[], None] | None = None,
    observer: Session | None = None,
) -> None:
    """Do the tasks, stage by stage, as many at a time as there are sessions, the largest first.

    `jobs_alone`: how many sessions share what memory and disk nobody else needs; None: clients are at work.
    `gate` is called before each task, by several threads, and may wait or raise. `observer`: another
    session, to see how far tasks under way are. Raises the first error; then no statement is running any
    more.
    """
    memory = memory_kilobytes(sessions[0], jobs_alone)
    crew = _Crew(
        sessions,
        memory,
        jobs_alone is not None,
        jobs_alone is None and sessions[0].value("SELECT current_setting('is_superuser')") == "on",
        gate,
        observer,
        sum(task.effort for task in tasks) or 1.0,
    )
    for session in sessions:
        crew.idle.put(session)
    with (reporter or Silent()).task("build", total=100, unit="%") as progress:
        done = 0.0
        for _, stage in groupby(sorted(tasks, key=lambda task: task.stage), key=lambda task: task.stage):
            done = _run_stage(crew, list(stage), progress, done)


def _run_stage(crew: _Crew, stage: Sequence[Task], progress: ProgressTask, done: float) -> float:
    with ThreadPoolExecutor(len(crew.sessions)) as pool:
        running = {pool.submit(_run_one, crew, task): task for task in stage}
        try:
            pending = set(running)
            while pending:
                finished, pending = wait(
                    pending, _LOOK_SECONDS if crew.observer else None, return_when=FIRST_COMPLETED
                )
                for future in finished:
                    future.result()
                    done += running[future].effort
                    progress.update(100 * done / crew.whole, note=running[future].name)
                if not finished:
                    progress.update(100 * (done + crew.partly()) / crew.whole)
        except BaseException:
            _stop(pool, running, crew.sessions)
            raise
    return done


def _stop(pool: ThreadPoolExecutor, running: Iterable[Future[T]], sessions: Sequence[Session]) -> None:
    """Cancel what runs until nothing does: a cancellation between two statements hits neither."""
    pool.shutdown(wait=False, cancel_futures=True)
    # A future that was cancelled before it began never counts as done.
    begun = [future for future in running if not future.cancelled()]
    while wait(begun, timeout=_CANCEL_AGAIN_SECONDS).not_done:
        for session in sessions:
            session.cancel()


def _run_one(crew: _Crew, task: Task) -> None:
    if crew.gate is not None:
        crew.gate()
    session = crew.idle.get()
    pid = session.pid
    crew.under_way[pid] = task.effort
    try:
        with session.transaction():
            _set(session, crew, task)
            for statement in task.statements:
                session.execute(statement)
    finally:
        # A connection that was lost has no number any more.
        del crew.under_way[pid]
        crew.idle.put(session)


def _set(session: Session, crew: _Crew, task: Task) -> None:
    """With more than one session at work each uses one processor: several for one index only cost more."""
    settings = {
        "search_path": "",
        "default_tablespace": "",
        "maintenance_work_mem": f"{task.memory_kilobytes(crew.memory_kilobytes)}kB",
    }
    if len(crew.sessions) > 1:
        settings["max_parallel_maintenance_workers"] = "0"
    if crew.alone:
        # What a crash takes away of a task is done again, so its COMMIT need not wait for the disk.
        settings["synchronous_commit"] = "off"
    if crew.compresses:
        # A client's COMMIT waits until all WAL before it is on the disk: the pages of new indexes, too.
        settings["wal_compression"] = "on"
    session.execute(
        "SELECT pg_catalog.set_config(s.name, s.value, true)"
        " FROM unnest(%s::text[], %s::text[]) AS s (name, value)",
        (list(settings), list(settings.values())),
    )
