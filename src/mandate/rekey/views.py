"""Views and materialised views that read the tables: built beside, like the tables, and swapped with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

from mandate.postgres.connection import Verbatim, sql
from mandate.rekey import catalogue, dressing, rewriting
from mandate.rekey.catalogue import Catalogue, View
from mandate.rekey.model import Graph
from mandate.rekey.rewriting import Place


def moved(graph: Graph, kept: Catalogue) -> dict[Place, Place]:
    """Own place -> place in the shadow schema, of tables and views."""
    places = [(table.old.schema, table.old.name) for table in graph.tables]
    places += [(view.schema, view.name) for view in kept.views]
    return {place: (graph.shadow_schema(place[0]), place[1]) for place in places}


def statements(graph: Graph, kept: Catalogue, view: View) -> Iterator[sql.Composed]:
    """A view over the shadows, in the shadow schema."""
    places = moved(graph, kept)
    there = sql.Identifier(*places[view.schema, view.name])
    yield _create(view, there, rewriting.query(view.renewed or view.definition, places))
    yield dressing.clear_grants("TABLE", there)
    yield dressing.own(_kind(view), there, view.owner)
    yield from dressing.grant("TABLE", there, view.owner, view.grants)
    yield from dressing.comment(_kind(view), there, view.comment)
    yield from _columns(kept, view, there)
    if view.materialized and view.populated:
        yield from refresh(there)
    yield from _indexes(kept, view, places[view.schema, view.name])
    for trigger in catalogue.of(kept.triggers, view.oid):
        text = rewriting.trigger(None, trigger.definition, places, f"trigger {trigger.name} of {view}")
        yield sql.Composed([Verbatim(text)])
        yield from dressing.comment_on("TRIGGER", trigger.name, there, trigger.comment)


def _kind(view: View) -> LiteralString:
    return "MATERIALIZED VIEW" if view.materialized else "VIEW"


def _create(view: View, there: sql.Identifier, query: str) -> sql.Composed:
    end = sql.SQL(" WITH NO DATA" if view.materialized else "")
    return sql.SQL("CREATE {} {}{}{}{} AS {}{}").format(
        sql.SQL(_kind(view)),
        there,
        dressing.using(view.method if view.materialized else None),
        dressing.with_options(dressing.options(view.options)),
        dressing.tablespace(view.tablespace),
        Verbatim(query),
        end,
    )


def _columns(kept: Catalogue, view: View, there: sql.Identifier) -> Iterator[sql.Composed]:
    for column in kept.columns_of(view.oid).values():
        yield from dressing.grant_column(there, column.name, column.grants)
        what = sql.SQL("{}.{}").format(there, sql.Identifier(column.name))
        yield from dressing.comment("COLUMN", what, column.comment)
        alter = sql.SQL("ALTER {} {} ALTER COLUMN {} ").format(
            sql.SQL(_kind(view)), there, sql.Identifier(column.name)
        )
        if column.expression is not None:
            yield alter + sql.SQL("SET DEFAULT {}").format(Verbatim(column.expression))
        if column.statistics is not None:
            yield alter + sql.SQL("SET STATISTICS {}").format(sql.Literal(column.statistics))
        if column.options:
            given = sql.SQL(", ").join(dressing.options(column.options))
            yield alter + sql.SQL("SET ({})").format(given)


def _indexes(kept: Catalogue, view: View, place: Place) -> Iterator[sql.Composed]:
    for index in catalogue.of(kept.indexes, view.oid):
        definition = rewriting.index(None, index.definition, place, f"index {index.name}", index.tablespace)
        yield sql.Composed([Verbatim(definition.create)])
        there = sql.Identifier(place[0], index.name)
        yield from dressing.comment("INDEX", there, index.comment)
        for number, target in index.statistics.items():
            yield sql.SQL("ALTER INDEX {} ALTER COLUMN {} SET STATISTICS {}").format(
                there, sql.Literal(number), sql.Literal(target)
            )
        if index.clustered:
            yield sql.SQL("ALTER MATERIALIZED VIEW {} CLUSTER ON {}").format(
                sql.Identifier(*place), sql.Identifier(index.name)
            )


# -- the cutover -------------------------------------------------------------------------------------


def lock(kept: Catalogue) -> Iterator[sql.Composed]:
    """Lock the views and nothing else, those that nobody reads through others first, as a query does.

    Those whose rules are made again come before all: a rule may write to any view.
    LOCK TABLE would lock every table that a view reads; a move to where it is takes the lock and moves
    nothing.
    """
    ruled = {(rule.schema, rule.table_name) for rule in kept.rules if rule.of_view}
    for schema, name in sorted(ruled - {(view.schema, view.name) for view in kept.views}):
        yield sql.SQL("ALTER VIEW {} SET SCHEMA {}").format(
            sql.Identifier(schema, name), sql.Identifier(schema)
        )
    for view in reversed(kept.views):
        yield _set_schema(view, view.schema, view.schema)


def swap(graph: Graph, kept: Catalogue, aside: str, back: str) -> Iterator[sql.Composed]:
    """Those in use go to `aside`, those in `back` take their place."""
    for view in kept.views:
        yield _set_schema(view, view.schema, graph.aside(aside, view.schema))
        yield _set_schema(view, graph.aside(back, view.schema), view.schema)


def _set_schema(view: View, schema: str, to: str) -> sql.Composed:
    return sql.SQL("ALTER {} {} SET SCHEMA {}").format(
        sql.SQL(_kind(view)), sql.Identifier(schema, view.name), sql.Identifier(to)
    )


def refresh(place: sql.Identifier, *, concurrently: bool = False) -> Iterator[sql.Composed]:
    """REFRESH, beside readers when it has a unique index.

    It is done as the view's owner, who sees what policies let him see: that is no error here.
    """
    yield sql.SQL("SET row_security = on").format()
    yield sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(
        sql.SQL("CONCURRENTLY " if concurrently else ""), place
    )
    yield sql.SQL("SET row_security = off").format()
