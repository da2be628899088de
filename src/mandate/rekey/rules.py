"""Rules: those of the tables and views, and those of others that read or write them.

Only what clients use has any. A rule is made again in the moment of the swap, from its definition, whose
names mean the arriving tables then.
"""

from __future__ import annotations

from collections.abc import Iterator

from mandate.postgres.connection import Verbatim, sql
from mandate.rekey import dressing, rewriting, views
from mandate.rekey.catalogue import Catalogue, Rule
from mandate.rekey.model import Graph

_ENABLE = {"D": "DISABLE RULE", "R": "ENABLE REPLICA RULE", "A": "ENABLE ALWAYS RULE"}


def outside(kept: Catalogue) -> list[Rule]:
    """Those of relations that stay where they are."""
    inside = {table.oid for table in kept.tables} | {view.oid for view in kept.views}
    return [rule for rule in kept.rules if rule.table not in inside]


def swap(graph: Graph, kept: Catalogue, aside: str) -> Iterator[sql.Composed]:
    """Statements for right after the tables and views in use were moved to `aside`."""
    stay = outside(kept)
    for rule in kept.rules:
        there = sql.Identifier(rule.schema, rule.table_name)
        left = there if rule in stay else sql.Identifier(graph.aside(aside, rule.schema), rule.table_name)
        name = sql.Identifier(rule.name)
        yield sql.SQL("DROP RULE {} ON {}").format(name, left)
        yield sql.Composed([Verbatim(rule.definition.rstrip("; \n"))])
        if rule.enabled in _ENABLE:
            yield sql.SQL("ALTER TABLE {} {} {}").format(there, sql.SQL(_ENABLE[rule.enabled]), name)
        yield from dressing.comment_on("RULE", rule.name, there, rule.comment)


def rehearsed(graph: Graph, kept: Catalogue, rule: Rule) -> Iterator[sql.Composed]:
    """It over the shadows, for a transaction that is taken back.

    A relation that stays is not touched: an empty one like it stands for it.
    """
    places = views.moved(graph, kept)
    if rule in outside(kept):
        schema = graph.shadow_schema(rule.schema)
        places[rule.schema, rule.table_name] = (schema, rule.table_name)
        yield sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema))
        yield sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE {})").format(
            sql.Identifier(schema, rule.table_name), sql.Identifier(rule.schema, rule.table_name)
        )
    yield sql.Composed([Verbatim(rewriting.query(rule.definition, places))])
