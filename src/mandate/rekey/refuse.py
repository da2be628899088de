"""Everything that the engine cannot carry, named before anything is done.

What the catalogue can tell is asked of it. The rest is tried: the new tables and all that belongs to them are
made, empty, in a transaction that is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mandate.errors import CheckFailed, DatabaseError
from mandate.postgres.connection import Session, sql
from mandate.rekey import (
    build,
    catalogue,
    crew,
    foreign_keys,
    renewal,
    rewriting,
    routines,
    rules,
    shadow,
    views,
)
from mandate.rekey.catalogue import Catalogue
from mandate.rekey.model import Graph, NewTable

_SQL = Path(__file__).parent / "sql"
_REFUSED = (_SQL / "objects_refused.sql").read_bytes()
_PRIVILEGES = (_SQL / "objects_privileges.sql").read_bytes()


class _TakeBack(Exception):
    """Ends the rehearsal's transaction."""


def problems(session: Session, graph: Graph) -> list[str]:
    """What stands in the way, a line each, by name; empty when nothing does. Changes nothing.

    Locks no table of the change. Without the rights that it takes nothing is tried.
    """
    kept = catalogue.live(session, graph)
    found = [*graph.refused, *_catalogue_says(session, graph, kept)]
    for table in graph.tables:
        found += _columns(graph, kept, table)
    found += foreign_keys.homeless(graph, kept)
    missing = _privileges(session, graph, kept)
    found += missing or _rehearse(session, graph, renewal.renewed(session, graph, kept))
    return list(dict.fromkeys(found))


def _privileges(session: Session, graph: Graph, kept: Catalogue) -> list[str]:
    rows = session.rows(
        _PRIVILEGES,
        {
            "tables": [table.old.oid for table in graph.tables],
            "views": [view.oid for view in kept.views],
            "functions": [function.oid for function in kept.functions],
            "ruled": [rule.table for rule in kept.rules],
        },
    )
    return [row["problem"] for row in rows]


def _catalogue_says(session: Session, graph: Graph, kept: Catalogue) -> list[str]:
    changed = [(table.old.oid, name) for table in graph.tables for name in rewriting.successors(table)]
    gone = [(table.old.oid, name) for table in graph.tables for name in renewal.gone(table)]
    rows = session.rows(
        _REFUSED,
        {
            "tables": [table.old.oid for table in graph.tables],
            "views": [view.oid for view in kept.views],
            "changed_tables": [oid for oid, _ in changed],
            "changed_columns": [name for _, name in changed],
            "gone_tables": [oid for oid, _ in gone],
            "gone_columns": [name for _, name in gone],
            "work": graph.spec.work_schema,
        },
    )
    return [row["problem"] for row in rows]


def _columns(graph: Graph, kept: Catalogue, table: NewTable) -> Iterator[str]:
    """Defaults and identities that have no equivalent."""
    attributes = kept.columns_of(table.old.oid)
    for column in table.columns:
        attribute = attributes.get(shadow.origin(table, column) or "")
        if attribute is None or column.source is not None:
            continue
        group = shadow.converted(table, column)
        if attribute.identity and column.type not in shadow.INTEGERS and group is not None:
            yield f"identity column {table}.{attribute.name} would be {column.type}, which can be no identity"
        elif _is_reference(table, attribute.name) and attribute.expression is not None and group is None:
            if _drops_default(graph, table, attribute.name):
                continue
            yield f"the default of {table}.{attribute.name} is an old key: {attribute.expression}"


def _drops_default(graph: Graph, table: NewTable, name: str) -> bool:
    return any(
        each.drop_default and each.table == str(table) and name in each.columns
        for each in graph.spec.reference
    )


def _is_reference(table: NewTable, name: str) -> bool:
    group = table.group_of(name)
    return group is not None and not group.owner


# -- rehearsal ---------------------------------------------------------------------------------------


def _rehearse(session: Session, graph: Graph, kept: Catalogue) -> list[str]:
    """Make everything, empty, and take it back. Not while there are shadows: then it was made already."""
    there = session.value("SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL", (graph.spec.shadow_schema,))
    if there:
        return []
    found: list[str] = []
    try:
        with session.transaction():
            session.execute("SET LOCAL lock_timeout = '5s'")
            shadow.create_schemas(session, graph, kept)
            found += _made(session, graph, kept)
            raise _TakeBack
    except _TakeBack:
        return found


def _made(session: Session, graph: Graph, kept: Catalogue) -> Iterator[str]:
    tables = [
        problem
        for table in graph.tables
        for problem in _try(session, f"table {table}", _create(graph, kept, table))
    ]
    yield from tables
    if tables:
        return
    for task in _planned(graph, kept):
        if isinstance(task, str):
            yield task
        elif not task.name.startswith("statistics of "):
            yield from _try(session, task.name, _execute(task.statements))
    places = views.moved(graph, kept)
    for function in kept.functions:
        yield from _try(session, str(function), _execute(tuple(routines.rehearsed(function, places))))
    for rule in kept.rules:
        yield from _try(session, str(rule), _execute(tuple(rules.rehearsed(graph, kept, rule))))
    for key in foreign_keys.carried(graph, kept):
        yield from _try(session, str(key), _foreign_key(graph, kept, key))
    yield from _try(session, "foreign keys of the spec", _wanted_foreign_keys(graph, kept))


def _create(graph: Graph, kept: Catalogue, table: NewTable) -> Callable[[Session], None]:
    return lambda session: shadow.create_table(session, graph, kept, table)


def _execute(statements: tuple[sql.Composed, ...]) -> Callable[[Session], None]:
    def execute(session: Session) -> None:
        for statement in statements:
            session.execute(statement)

    return execute


def _foreign_key(graph: Graph, kept: Catalogue, key: catalogue.ForeignKey) -> Callable[[Session], None]:
    """As clients will have it, where that locks no table of theirs."""

    def make(session: Session) -> None:
        if key.period:
            raise CheckFailed("a foreign key over a PERIOD is not carried")
        made = foreign_keys.rewritten(graph, key)
        if kept.is_inner(key):
            session.execute(foreign_keys.add(graph, made, graph.spec.shadow_schema))

    return make


def _wanted_foreign_keys(graph: Graph, kept: Catalogue) -> Callable[[Session], None]:
    """Those that the old tables do not have."""

    def make(session: Session) -> None:
        for key in foreign_keys.added(graph, kept):
            if kept.is_inner(key):
                session.execute(foreign_keys.add(graph, key, graph.spec.shadow_schema))

    return make


def _try(session: Session, name: str, work: Callable[[Session], None]) -> Iterator[str]:
    try:
        with session.transaction():
            work(session)
    except (DatabaseError, CheckFailed) as error:
        yield error.message if error.message.startswith(name) else f"{name}: {error.message}"


def _planned(graph: Graph, kept: Catalogue) -> Iterator[crew.Task | str]:
    """What build would do; a table that it cannot plan is a problem, not an end."""
    for planned in build.parts(graph, kept):
        try:
            yield from planned()
        except CheckFailed as error:
            yield error.message
