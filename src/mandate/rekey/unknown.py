"""Columns that somebody added to a table whose rows are about to live on in another: they would be lost."""

from __future__ import annotations

from collections.abc import Sequence

from mandate.errors import CheckFailed
from mandate.postgres.connection import Session, sql
from mandate.rekey.direction import BACK, FORWARD, Direction
from mandate.rekey.model import Graph, NewTable

_ADDED = """
SELECT t.place, a.attname AS name
FROM unnest(%(tables)s::text[]) WITH ORDINALITY AS t (name, place)
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = pg_catalog.to_regclass(t.name)
WHERE a.attnum > 0 AND NOT a.attisdropped AND NOT EXISTS (
    SELECT FROM unnest(%(places)s::int[], %(names)s::text[]) AS k (place, name)
    WHERE k.place = t.place AND k.name = a.attname
)
ORDER BY 1, 2
"""


def refuse(session: Session, graph: Graph, direction: Direction) -> None:
    """Raise CheckFailed naming columns of the tables in use that the change does not know."""
    _refuse(session, graph, direction, [direction.source(table) for table in graph.tables])


def refuse_left(session: Session, graph: Graph, direction: Direction) -> None:
    """The same inside of a swap, for tables that have just left: nobody can have added one since."""
    other = BACK if direction.forward else FORWARD
    _refuse(session, graph, direction, [other.destination(graph, table) for table in graph.tables])


def _refuse(session: Session, graph: Graph, direction: Direction, tables: Sequence[sql.Identifier]) -> None:
    known = [
        (place, name)
        for place, table in enumerate(graph.tables, start=1)
        for name in _known(table, direction)
    ]
    rows = session.rows(
        _ADDED,
        {
            "tables": [table.as_string(session.connection) for table in tables],
            "places": [place for place, _ in known],
            "names": [name for _, name in known],
        },
    )
    if not rows:
        return
    added = [f"{graph.tables[row['place'] - 1]}.{row['name']}" for row in rows]
    raise CheckFailed(
        f"added since {graph.spec.rekey.name} began, and the tables that come in would not have it: "
        + ", ".join(added),
        hint="keep what it holds in a table of your own and drop the column, then repeat it;"
        " or `abort`, and begin again"
        if direction.forward
        else "keep what it holds in a table of your own and drop the column, then repeat it",
        columns=added,
    )


def _known(table: NewTable, direction: Direction) -> list[str]:
    columns = table.old.columns if direction.forward else table.columns
    return [column.name for column in columns]
