"""Keys, indexes, checks, triggers and views of the shadows, several at a time, and their foreign keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from queue import SimpleQueue

from mandate.postgres.connection import Session, Verbatim, sql
from mandate.progress import Reporter, Silent
from mandate.progress import Task as ProgressTask
from mandate.rekey import catalogue, dressing, renewal, rewriting, shadow, spec, views
from mandate.rekey import foreign_keys as keys_of
from mandate.rekey.catalogue import Catalogue, Index, View
from mandate.rekey.model import Graph, Group, NewTable
from mandate.rekey.rewriting import IndexDefinition

_LONGEST_NAME = 63
_OFFLINE_MEGABYTES = 256
_OFFLINE_TOTAL_MEGABYTES = 2048
_CANCEL_AGAIN_SECONDS = 0.05
_LOOK_SECONDS = 1.0
_PROGRESS = (Path(__file__).parent / "sql" / "build_progress.sql").read_bytes()


@dataclass(frozen=True)
class Task:
    """Statements of one transaction, after all tasks of a lower stage. `bytes`: the size of what it reads."""

    stage: int
    name: str
    bytes: int
    statements: tuple[sql.Composed, ...]

    @property
    def effort(self) -> float:
        """What it costs beside other tasks: sorting an index the most, statistics only look at a sample."""
        return self.bytes * {0: 4.0, 2: 0.25}.get(self.stage, 1.0)


@dataclass(frozen=True)
class Existing:
    """What is in the shadow schema already: relations, and constraints, triggers and policies by table."""

    relations: frozenset[str] = frozenset()
    parts: frozenset[tuple[str, str]] = frozenset()


_NOTHING = Existing()


def tasks(session: Session, graph: Graph) -> list[Task]:
    """What is left to build, in an order in which it can be. Raises CannotRewrite."""
    return planned(graph, catalogue.read(session, graph), existing(session, graph))


def existing(session: Session, graph: Graph) -> Existing:
    """What an earlier run has built."""
    schema = (graph.spec.shadow_schema,)
    relations = session.rows(
        "SELECT c.relname AS name FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid"
        " WHERE c.relnamespace = to_regnamespace(quote_ident(%s)) AND coalesce(i.indisvalid, true)",
        schema,
    )
    parts = session.rows(
        'SELECT c.relname AS "table", p.name FROM pg_class c JOIN ('
        "  SELECT conrelid AS oid, conname AS name FROM pg_constraint"
        "  UNION ALL SELECT tgrelid, tgname FROM pg_trigger WHERE NOT tgisinternal"
        "  UNION ALL SELECT polrelid, polname FROM pg_policy"
        ") AS p USING (oid) WHERE c.relnamespace = to_regnamespace(quote_ident(%s))",
        schema,
    )
    return Existing(
        frozenset(row["name"] for row in relations), frozenset((row["table"], row["name"]) for row in parts)
    )


def planned(graph: Graph, kept: Catalogue, there: Existing) -> list[Task]:
    """All tasks that `there` does not make superfluous."""
    found = [task for part in parts(graph, kept, there) for task in part()]
    return sorted(found, key=lambda task: (task.stage, -task.bytes))


def parts(
    graph: Graph, kept: Catalogue, there: Existing = _NOTHING
) -> Iterator[Callable[[], Iterator[Task]]]:
    """The tasks in parts of which each can fail by itself (CannotRewrite): index, finish, view."""
    for table in graph.tables:
        yield partial(_index_tasks, graph, kept, table, there)
    for table in graph.tables:
        yield partial(_finish_tasks, graph, kept, table, there)
    for number, view in enumerate(kept.views):
        if view.name not in there.relations:
            yield partial(_view_task, graph, kept, view, 3 + number)


def of_table(graph: Graph, kept: Catalogue, table: NewTable) -> list[Task]:
    """All tasks of one table, in order. Raises CannotRewrite."""
    return [*_index_tasks(graph, kept, table, _NOTHING), *_finish_tasks(graph, kept, table, _NOTHING)]


def _index_tasks(graph: Graph, kept: Catalogue, table: NewTable, there: Existing) -> Iterator[Task]:
    for built in indexes(graph, kept, table):
        if built.index.name not in there.relations:
            yield Task(0, f"index {built.index.name}", built.index.bytes, tuple(_index(graph, built)))
    for wanted in graph.spec.index:
        if wanted.table == str(table) and wanted.name not in there.relations:
            statement = sql.SQL("CREATE {}INDEX {} ON {} {}").format(
                sql.SQL("UNIQUE " if wanted.unique else ""),
                sql.Identifier(wanted.name),
                sql.Identifier(*shadow.place(graph, table)),
                Verbatim(wanted.on),
            )
            yield Task(0, f"index {wanted.name}", table.old.bytes // 10, (statement,))


def _finish_tasks(graph: Graph, kept: Catalogue, table: NewTable, there: Existing) -> Iterator[Task]:
    statements = tuple(_finish(graph, kept, table, there))
    if statements:
        yield Task(1, f"constraints of {table}", table.old.bytes, statements)
    analyze = sql.SQL("ANALYZE {}").format(sql.Identifier(*shadow.place(graph, table)))
    yield Task(2, f"statistics of {table}", table.old.bytes, (analyze,))


def _view_task(graph: Graph, kept: Catalogue, view: View, stage: int) -> Iterator[Task]:
    yield Task(stage, str(view), 0, tuple(views.statements(graph, kept, view)))


# -- indexes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Built:
    """An index, and what it becomes. `instead`: why it is not built."""

    index: Index
    definition: IndexDefinition = field(repr=False)
    instead: str | None = None


def indexes(graph: Graph, kept: Catalogue, table: NewTable) -> list[Built]:
    """The indexes to build for a shadow. Raises CannotRewrite."""
    return [built for built in _all_indexes(graph, kept, table) if built.instead is None]


def dropped(session: Session, graph: Graph) -> list[str]:
    """What is left out because something else does the same afterwards, in words. Raises CannotRewrite."""
    kept = catalogue.read(session, graph)
    left_out = [
        f"index {built.index.name} of {table}: {built.instead}"
        for table in graph.tables
        for built in _all_indexes(graph, kept, table)
        if built.instead is not None
    ]
    return left_out + list(keys_of.dropped(graph, kept))


def _all_indexes(graph: Graph, kept: Catalogue, table: NewTable) -> list[Built]:
    found = [
        Built(index, _definition(graph, table, index))
        for index in catalogue.of(kept.indexes, table.old.oid)
        if not index.exclusion
    ]
    ordered = sorted(found, key=lambda built: _rank(built.index))
    wanted = [each for each in graph.spec.index if each.table == str(table)]
    made: list[Built] = []
    for built in ordered:
        why = _superseded(graph, table, built.index, wanted) or _why_not(built, made)
        made.append(built if why is None else Built(built.index, built.definition, why))
    return made


def _rank(index: Index) -> int:
    """A primary key is kept rather than a unique one, and that rather than an index that serves no rule."""
    if index.constraint_type is not None:
        return 0 if index.constraint_type == "p" else 1
    return 2 if index.unique else 3


def _superseded(graph: Graph, table: NewTable, index: Index, wanted: Sequence[spec.Index]) -> str | None:
    """The index of the spec that takes its place, or that the spec drops it."""
    if index.constraint_type is not None:
        return None
    given = graph.spec.built(str(table))
    if given is not None and any(re.search(text, index.definition) for text in given.drop_index):
        return "the spec drops it"
    for each in wanted:
        if index.name == each.name or any(re.search(text, index.definition) for text in each.instead_of):
            return f"the spec has {each.name} instead"
    return None


def _why_not(built: Built, before: Sequence[Built]) -> str | None:
    if not built.index.valid:
        return "it is not valid"
    if built.definition.empty:
        return "all its columns go away"
    for other in before:
        # Two that were the same before are somebody's wish; two that became the same are not.
        became = built.definition.changed or other.definition.changed
        same = built.definition.signature == other.definition.signature
        if other.instead is None and became and same:
            return f"it would be the same as {other.index.name}"
    return None


def _definition(graph: Graph, table: NewTable, index: Index) -> IndexDefinition:
    return rewriting.index(
        table,
        index.definition,
        shadow.place(graph, table),
        f"index {index.name} of {table}",
        index.tablespace,
        table.primary_key if index.constraint_type == "p" else (),
    )


def _index(graph: Graph, built: Built) -> Iterator[sql.Composed]:
    yield sql.Composed([Verbatim(built.definition.create)])
    there = sql.Identifier(graph.spec.shadow_schema, built.index.name)
    yield from index_attributes(there, built.index, built.definition)


def index_attributes(
    there: sql.Identifier, index: Index, definition: IndexDefinition
) -> Iterator[sql.Composed]:
    """Comment and statistics targets."""
    yield from dressing.comment("INDEX", there, index.comment)
    for number, before in definition.places.items():
        if before in index.statistics:
            yield sql.SQL("ALTER INDEX {} ALTER COLUMN {} SET STATISTICS {}").format(
                there, sql.Literal(number), sql.Literal(index.statistics[before])
            )


# -- constraints and triggers ------------------------------------------------------------------------


def _finish(graph: Graph, kept: Catalogue, table: NewTable, there: Existing) -> Iterator[sql.Composed]:
    """What is quick once the indexes are there, and one scan for all checks."""
    at = sql.Identifier(*shadow.place(graph, table))
    name = table.old.name
    for built in indexes(graph, kept, table):
        if built.index.constraint_name and (name, built.index.constraint_name) not in there.parts:
            yield from _constraint(at, built.index)
        yield from _marks(at, built.index)
    for index in catalogue.of(kept.indexes, table.old.oid):
        if index.exclusion and (name, index.constraint_name) not in there.parts:
            yield from _exclusion(graph, table, at, index)
    yield from _checks(graph, kept, table, at, there)
    for trigger in catalogue.of(kept.triggers, table.old.oid):
        if (name, trigger.name) not in there.parts:
            moved = {(t.old.schema, t.old.name): shadow.place(graph, t) for t in graph.tables}
            what = f"trigger {trigger.name} of {table}"
            yield sql.Composed([Verbatim(rewriting.trigger(table, trigger.definition, moved, what))])
            yield sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}").format(at, sql.Identifier(trigger.name))
            yield from dressing.comment_on("TRIGGER", trigger.name, at, trigger.comment)
    for policy in renewal.policies_to_build(kept, table.old.oid):
        if (name, policy.name) not in there.parts:
            moved = {(t.old.schema, t.old.name): shadow.place(graph, t) for t in graph.tables}
            yield from shadow.policy_statements(table, renewal.moved(policy.after, moved), at)


def _constraint(at: sql.Identifier, index: Index) -> Iterator[sql.Composed]:
    name = index.constraint_name or index.name
    yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} USING INDEX {} {}").format(
        at,
        sql.Identifier(name),
        sql.SQL("PRIMARY KEY" if index.constraint_type == "p" else "UNIQUE"),
        sql.Identifier(index.name),
        keys_of.deferrability(index.deferrable, index.deferred),
    )
    yield from dressing.comment_on("CONSTRAINT", name, at, index.constraint_comment)


def _marks(at: sql.Identifier, index: Index) -> Iterator[sql.Composed]:
    if index.clustered:
        yield sql.SQL("ALTER TABLE {} CLUSTER ON {}").format(at, sql.Identifier(index.name))
    if index.replica_identity:
        yield sql.SQL("ALTER TABLE {} REPLICA IDENTITY USING INDEX {}").format(at, sql.Identifier(index.name))


def _exclusion(graph: Graph, table: NewTable, at: sql.Identifier, index: Index) -> Iterator[sql.Composed]:
    name = index.constraint_name or index.name
    what = f"constraint {name} of {table}"
    text = rewriting.exclusion(table, index.constraint_definition or "", what)
    yield sql.SQL("SET LOCAL default_tablespace = {}").format(sql.Literal(index.tablespace or ""))
    yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(at, sql.Identifier(name), Verbatim(text))
    yield from _marks(at, index)
    yield from dressing.comment("INDEX", sql.Identifier(graph.spec.shadow_schema, index.name), index.comment)
    yield from dressing.comment_on("CONSTRAINT", name, at, index.constraint_comment)


def _checks(
    graph: Graph, kept: Catalogue, table: NewTable, at: sql.Identifier, there: Existing
) -> Iterator[sql.Composed]:
    added = []
    for check in catalogue.of(kept.checks, table.old.oid):
        if check.valid or not check.enforced:
            text = rewriting.expression(table, check.expression, f"check {check.name} of {table}")
            added.append((check.name, text, _check_options(check)))
    added += [(name, text, "") for name, text in wanted_checks(graph, table)]
    missing = [each for each in added if (table.old.name, each[0]) not in there.parts]
    if missing:
        parts = [
            sql.SQL("ADD CONSTRAINT {} CHECK ({}){}").format(
                sql.Identifier(name), Verbatim(text), Verbatim(options)
            )
            for name, text, options in missing
        ]
        yield sql.SQL("ALTER TABLE {} {}").format(at, sql.SQL(", ").join(parts))
    for check in catalogue.of(kept.checks, table.old.oid):
        if check.valid or not check.enforced:
            yield from dressing.comment_on("CONSTRAINT", check.name, at, check.comment)


def _check_options(check: catalogue.Check) -> str:
    return (" NO INHERIT" if check.no_inherit else "") + ("" if check.enforced else " NOT ENFORCED")


def wanted_checks(graph: Graph, table: NewTable) -> Iterator[tuple[str, str]]:
    """Checks that the spec asks for, and those without which half a key would pass for none."""
    for check in graph.spec.check:
        if check.table == str(table):
            yield check.name, check.expression
    for group in table.groups:
        text = _all_or_none(table, group)
        if text is not None:
            name = f"{table.old.name}_{'_'.join(group.new)}_all_or_none"
            yield name.encode()[:_LONGEST_NAME].decode(errors="ignore"), text


def _all_or_none(table: NewTable, group: Group) -> str | None:
    """MATCH SIMPLE takes a key that is NULL in part for no key at all."""
    required = {column.name for column in table.columns if column.not_null}
    fresh = [name for name, kept in zip(group.new, group.kept, strict=True) if not kept]
    if len(group.new) < 2 or not fresh or set(group.new) <= required:
        return None
    none = sql.SQL(" AND ").join(sql.SQL("{} IS NULL").format(sql.Identifier(name)) for name in fresh)
    all_ = sql.SQL(" AND ").join(sql.SQL("{} IS NOT NULL").format(sql.Identifier(name)) for name in group.new)
    return sql.SQL("({}) OR ({})").format(none, all_).as_string()


# -- foreign keys ------------------------------------------------------------------------------------


def spare_memory_megabytes(session: Session, jobs: int) -> int:
    """maintenance_work_mem for each of `jobs` sessions while nobody else works: 2 GiB together, or as set."""
    configured: int = session.value(
        "SELECT setting::bigint / 1024 FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'"
    )
    return max(configured, min(_OFFLINE_MEGABYTES, _OFFLINE_TOTAL_MEGABYTES // jobs))


def foreign_keys(
    sessions: Sequence[Session],
    graph: Graph,
    reporter: Reporter | None = None,
    gate: Callable[[], None] | None = None,
) -> None:
    """All foreign keys between shadows: deferred, without actions, and proven. Safe to repeat.

    Those that cross the border of the change come at the cutover. Raises CheckFailed naming the key that
    the rows do not fit.
    """
    run(sessions, foreign_key_tasks(sessions[0], graph), reporter, gate=gate)


def foreign_key_tasks(session: Session, graph: Graph) -> list[Task]:
    """The foreign keys that are left to make (all in one transaction: each locks two tables) and to prove."""
    kept = catalogue.read(session, graph)
    aside = graph.spec.shadow_schema
    states = _states(session, aside)
    missing, proofs = [], []
    for key in keys_of.renewed(graph, kept):
        state = states.get((key.child_name, key.name))
        if not keys_of.is_built(kept, key) or state is True:
            continue
        if state is None:
            missing += [keys_of.add(graph, key, aside, lagging=True), *keys_of.comment(graph, key, aside)]
        size = graph.table(key.child).old.bytes
        proofs.append(Task(1, f"validation of {key}", size, (keys_of.validate(graph, key, aside),)))
    made = [Task(0, "foreign keys", 0, tuple(missing))] if missing else []
    return made + sorted(proofs, key=lambda task: -task.bytes)


def _states(session: Session, schema: str) -> dict[tuple[str, str], bool]:
    rows = session.rows(
        "SELECT r.relname AS child, c.conname AS name, c.convalidated AS valid FROM pg_constraint c"
        " JOIN pg_class r ON r.oid = c.conrelid"
        " WHERE c.contype = 'f' AND r.relnamespace = to_regnamespace(quote_ident(%s))",
        (schema,),
    )
    return {(row["child"], row["name"]): row["valid"] for row in rows}


# -- running -----------------------------------------------------------------------------------------


@dataclass
class _Crew:
    """Who does the tasks, and the effort of those under way by process of the server."""

    sessions: Sequence[Session]
    memory_megabytes: int | None
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


def run(
    sessions: Sequence[Session],
    tasks: Sequence[Task],
    reporter: Reporter | None = None,
    memory_megabytes: int | None = None,
    *,
    gate: Callable[[], None] | None = None,
    observer: Session | None = None,
) -> None:
    """Do the tasks, stage by stage, as many at a time as there are sessions, the largest first.

    `memory_megabytes`: maintenance_work_mem of each session. `gate` is called before each task, by several
    threads, and may wait or raise. `observer`: another session, to see how far tasks under way are.
    Raises the first error; then no statement is running any more.
    """
    crew = _Crew(sessions, memory_megabytes, gate, observer, sum(task.effort for task in tasks) or 1.0)
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


def _stop(pool: ThreadPoolExecutor, running: dict[Future[None], Task], sessions: Sequence[Session]) -> None:
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
            session.execute("SET LOCAL search_path = ''")
            session.execute("SET LOCAL default_tablespace = ''")
            if crew.memory_megabytes is not None:
                session.execute(
                    "SELECT set_config('maintenance_work_mem', %s, true)", (f"{crew.memory_megabytes}MB",)
                )
            for statement in task.statements:
                session.execute(statement)
    finally:
        # A connection that was lost has no number any more.
        del crew.under_way[pid]
        crew.idle.put(session)
