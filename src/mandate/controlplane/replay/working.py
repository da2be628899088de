"""Chunks judged in this process or over several, results in the order of the chunks."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mandate.controlplane.dialect import DIALECTS
from mandate.controlplane.replay import records
from mandate.controlplane.replay.candidate import Candidate
from mandate.controlplane.replay.holdings import Library
from mandate.controlplane.replay.judging import Judge, Part
from mandate.controlplane.replay.records import Chunk, Selection
from mandate.errors import MandateError
from mandate.postgres.connection import Session, Target, connect, sql

APPLICATION_NAME = "mandate-replay"
SETTINGS = {
    "TimeZone": "UTC",
    "client_encoding": "UTF8",
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}
# By index: a plan that reads whole tables would do so for each chunk.
_CHUNK_PLANS = {"enable_hashjoin": "off", "enable_mergejoin": "off", "max_parallel_workers_per_gather": "0"}
_AHEAD_PER_PROCESS = 2
Results = Generator[tuple[Chunk, Part], None, None]


class WorkerDied(MandateError):
    """A process of the replay was killed, by a person or for want of memory."""

    exit_code = 9
    code = "worker-died"


@dataclass(frozen=True)
class Work:
    """All that a process needs to judge chunks as the leader sees the database. Picklable."""

    target: Target
    snapshot: str
    version: int
    selection: Selection
    candidate: Candidate | None
    texts: bool


class _Worker:
    """Judges chunks: rows come over one connection, what they refer to over another meanwhile."""

    def __init__(self, work: Work, rows: Session, library: Session) -> None:
        self._work = work
        self._rows = rows
        self._dialect = DIALECTS[work.version]
        self._judge = Judge(Library(library, self._dialect), work.candidate)

    def part(self, chunk: Chunk) -> Part:
        """The results of a chunk."""
        selection, texts = self._work.selection, self._work.texts
        with records.lines(self._rows, self._dialect, selection, chunk, texts=texts) as lines:
            return self._judge.judge(lines)


@contextmanager
def _worker(work: Work) -> Iterator[_Worker]:
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(connect(work.target, application_name=APPLICATION_NAME, settings=settings))
            for settings in ({**SETTINGS, **_CHUNK_PLANS}, SETTINGS)
        ]
        for session in sessions:
            stack.enter_context(session.transaction())
            session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(work.snapshot)))
        yield _Worker(work, *sessions)


def judged(work: Work, chunks: Iterator[Chunk], jobs: int) -> Results:
    """Each chunk with its results, in order. Close the iterator to stop early. Raises MandateError."""
    return _here(work, chunks) if jobs == 1 else _spread(work, chunks, jobs)


def _here(work: Work, chunks: Iterator[Chunk]) -> Results:
    with _worker(work) as worker:
        for chunk in chunks:
            yield chunk, worker.part(chunk)


def _spread(work: Work, chunks: Iterator[Chunk], jobs: int) -> Results:
    with closing(_Processes(work, jobs)) as processes:
        yield from processes.run(chunks)


class _Processes:
    """Processes that end with this one, however it ends: their pipe is closed then."""

    def __init__(self, work: Work, jobs: int) -> None:
        self._started: dict[Connection, BaseProcess] = {}
        try:
            for _ in range(jobs):
                self._start(work)
        except BaseException:
            self.close()
            raise

    def _start(self, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(work, theirs), daemon=True)
        # Ctrl-C goes to every process of a terminal; the leader alone decides what becomes of it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._started[ours] = process

    def run(self, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Part]]:
        """Chunks in, results out; never more than a few chunks between the two."""
        waiting: deque[Chunk] = deque()
        found: dict[Chunk, Part] = {}
        idle = deque([*self._started] * _AHEAD_PER_PROCESS)
        working: list[Connection] = []
        while True:
            while idle and len(waiting) < 2 * _AHEAD_PER_PROCESS * len(self._started):
                chunk = next(chunks, None)
                if chunk is None:
                    break
                pipe = idle.popleft()
                self._send(pipe, chunk)
                working.append(pipe)
                waiting.append(chunk)
            if not waiting:
                return
            for pipe in self._ready(working):
                chunk, part = self._receive(pipe)
                found[chunk] = part
                working.remove(pipe)
                idle.append(pipe)
            while waiting and waiting[0] in found:
                yield waiting[0], found.pop(waiting.popleft())

    def _ready(self, working: list[Connection]) -> list[Connection]:
        return [pipe for pipe in wait(set(working)) if isinstance(pipe, Connection)]

    def _send(self, pipe: Connection, chunk: Chunk) -> None:
        try:
            pipe.send(chunk)
        except OSError as error:
            raise self._died(pipe) from error

    def _receive(self, pipe: Connection) -> tuple[Chunk, Part]:
        try:
            answer = pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died(pipe) from error
        if isinstance(answer, MandateError):
            raise answer
        chunk, part = answer
        return chunk, part

    def _died(self, pipe: Connection) -> WorkerDied:
        process = self._started[pipe]
        process.join(1)
        return WorkerDied(
            f"a process of the replay (pid {process.pid}) ended too early, with status {process.exitcode}",
            hint="for want of memory? fewer --jobs need less; --state FILE makes a replay resumable",
        )

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for pipe, process in self._started.items():
            pipe.close()
            process.terminate()
        for process in self._started.values():
            process.join()


def _serve(work: Work, pipe: Connection) -> None:
    """A process's whole life: chunks in, results out, until the leader closes the pipe or is gone."""
    try:
        with _worker(work) as worker:
            while True:
                chunk = pipe.recv()
                pipe.send((chunk, worker.part(chunk)))
    except MandateError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
