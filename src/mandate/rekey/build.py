"""Keys, indexes, checks, triggers and views of the shadows, and their foreign keys, as tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from mandate.postgres.connection import Session, Verbatim, sql
from mandate.progress import Reporter
from mandate.rekey import catalogue, crew, dressing, renewal, rewriting, shadow, spec, views
from mandate.rekey import foreign_keys as keys_of
from mandate.rekey.catalogue import Catalogue, Index, View
from mandate.rekey.crew import Task
from mandate.rekey.model import Graph, Group, NewTable
from mandate.rekey.rewriting import IndexDefinition, Place

_LONGEST_NAME = 63


@dataclass(frozen=True)
class Existing:
    """What is in the shadow schemas already: relations, and constraints, triggers and policies by table."""

    relations: frozenset[Place] = frozenset()
    parts: frozenset[tuple[Place, str]] = frozenset()


_NOTHING = Existing()


def tasks(session: Session, graph: Graph) -> list[Task]:
    """What is left to build, in an order in which it can be. Raises CannotRewrite."""
    return planned(graph, catalogue.read(session, graph), existing(session, graph))


def existing(session: Session, graph: Graph) -> Existing:
    """What an earlier run has built."""
    base = (graph.spec.shadow_schema,)
    relations = session.rows(
        "SELECT n.nspname AS schema, c.relname AS name"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " LEFT JOIN pg_index i ON i.indexrelid = c.oid"
        " WHERE split_part(n.nspname, '$', 1) = %s AND coalesce(i.indisvalid, true)",
        base,
    )
    parts = session.rows(
        'SELECT n.nspname AS schema, c.relname AS "table", p.name'
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN ("
        "  SELECT conrelid AS oid, conname AS name FROM pg_constraint"
        "  UNION ALL SELECT tgrelid, tgname FROM pg_trigger WHERE NOT tgisinternal"
        "  UNION ALL SELECT polrelid, polname FROM pg_policy"
        ") AS p ON p.oid = c.oid WHERE split_part(n.nspname, '$', 1) = %s",
        base,
    )
    return Existing(
        frozenset((row["schema"], row["name"]) for row in relations),
        frozenset(((row["schema"], row["table"]), row["name"]) for row in parts),
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
        if (graph.shadow_schema(view.schema), view.name) not in there.relations:
            yield partial(_view_task, graph, kept, view, 3 + number)


def of_table(graph: Graph, kept: Catalogue, table: NewTable) -> list[Task]:
    """All tasks of one table, in order. Raises CannotRewrite."""
    return [*_index_tasks(graph, kept, table, _NOTHING), *_finish_tasks(graph, kept, table, _NOTHING)]


def _index_tasks(graph: Graph, kept: Catalogue, table: NewTable, there: Existing) -> Iterator[Task]:
    schema = graph.shadow_schema(table.old.schema)
    for built in indexes(graph, kept, table):
        if (schema, built.index.name) not in there.relations:
            statements = tuple(_index(schema, built))
            sorts = _sorted_bytes(table, built.definition.create)
            size = built.index.bytes + table.old.bytes // 8
            yield Task(0, f"index {built.index.name}", size, statements, sorts)
    for wanted in graph.spec.index:
        if wanted.table == str(table) and (schema, wanted.name) not in there.relations:
            statement = sql.SQL("CREATE {}INDEX {} ON {} {}").format(
                sql.SQL("UNIQUE " if wanted.unique else ""),
                sql.Identifier(wanted.name),
                sql.Identifier(*shadow.place(graph, table)),
                Verbatim(wanted.on),
            )
            size = table.old.bytes // 6
            yield Task(0, f"index {wanted.name}", size, (statement,), _sorted_bytes(table, wanted.on))


def _sorted_bytes(table: NewTable, definition: str) -> int | None:
    """What building a btree sorts, roughly; None for another method, which uses all the memory there is."""
    method = re.search(r"(?i)\busing\s+(\w+)", definition)
    return None if method and method[1].lower() != "btree" else max(1, table.old.bytes // 8)


def _finish_tasks(graph: Graph, kept: Catalogue, table: NewTable, there: Existing) -> Iterator[Task]:
    statements = tuple(_finish(graph, kept, table, there))
    if statements:
        yield Task(1, f"constraints of {table}", table.old.bytes, statements)
    at = sql.Identifier(*shadow.place(graph, table))
    last = (sql.SQL("ANALYZE {}").format(at), shadow.vacuumed(kept, table, at))
    yield Task(2, f"statistics of {table}", table.old.bytes, last)


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


def _index(schema: str, built: Built) -> Iterator[sql.Composed]:
    yield sql.Composed([Verbatim(built.definition.create)])
    there = sql.Identifier(schema, built.index.name)
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
    name = shadow.place(graph, table)
    at = sql.Identifier(*name)
    for built in indexes(graph, kept, table):
        if built.index.constraint_name and (name, built.index.constraint_name) not in there.parts:
            yield from _constraint(at, built.index)
        yield from _marks(at, built.index)
    for index in catalogue.of(kept.indexes, table.old.oid):
        if index.exclusion and (name, index.constraint_name) not in there.parts:
            yield from _exclusion(name[0], table, at, index)
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


def _exclusion(schema: str, table: NewTable, at: sql.Identifier, index: Index) -> Iterator[sql.Composed]:
    name = index.constraint_name or index.name
    what = f"constraint {name} of {table}"
    text = rewriting.exclusion(table, index.constraint_definition or "", what)
    yield sql.SQL("SET LOCAL default_tablespace = {}").format(sql.Literal(index.tablespace or ""))
    yield sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}").format(at, sql.Identifier(name), Verbatim(text))
    yield from _marks(at, index)
    yield from dressing.comment("INDEX", sql.Identifier(schema, index.name), index.comment)
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
    missing = [each for each in added if (shadow.place(graph, table), each[0]) not in there.parts]
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
    crew.run(sessions, foreign_key_tasks(sessions[0], graph), reporter, gate=gate)


def foreign_key_tasks(session: Session, graph: Graph) -> list[Task]:
    """The foreign keys that are left to make (all in one transaction: each locks two tables) and to prove.

    Those of one table are proven one after another: each proof locks it against the others.
    """
    kept = catalogue.read(session, graph)
    aside = graph.spec.shadow_schema
    states = _states(session, aside)
    missing: list[sql.Composed] = []
    proofs: dict[int, list[sql.Composed]] = {}
    for key in keys_of.renewed(graph, kept):
        state = states.get(((graph.shadow_schema(key.child_schema), key.child_name), key.name))
        if not keys_of.is_built(kept, key) or state is True:
            continue
        if state is None:
            missing += [keys_of.add(graph, key, aside, lagging=True), *keys_of.comment(graph, key, aside)]
        proofs.setdefault(key.child, []).append(keys_of.validate(graph, key, aside))
    made = [Task(0, "foreign keys", 0, tuple(missing))] if missing else []
    found = [
        Task(1, f"foreign keys of {graph.table(oid)}", len(each) * graph.table(oid).old.bytes, tuple(each))
        for oid, each in proofs.items()
    ]
    return made + sorted(found, key=lambda task: -task.bytes)


def _states(session: Session, base: str) -> dict[tuple[Place, str], bool]:
    rows = session.rows(
        "SELECT n.nspname AS schema, c.relname AS child, k.conname AS name, k.convalidated AS valid"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f'"
        " WHERE split_part(n.nspname, '$', 1) = %s",
        (base,),
    )
    return {((row["schema"], row["child"]), row["name"]): row["valid"] for row in rows}
