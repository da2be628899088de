"""Functions that hold on to the tables: made again in the moment of the swap, in both directions.

A row type moves away with the table that it belongs to, so a function that takes or returns one is dropped
and made over what the name means then. Others stay the same function and are only bound anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mandate.postgres.connection import Verbatim, sql
from mandate.rekey import dressing, rewriting
from mandate.rekey.catalogue import Catalogue, Function
from mandate.rekey.model import Graph
from mandate.rekey.rewriting import Place


def swap(graph: Graph, kept: Catalogue, aside: str, *, forward: bool) -> Iterator[sql.Composed]:
    """Statements for right after the tables and views in use were moved to `aside`."""
    if kept.functions:
        # Bodies name things by a search path that is not ours; they were checked when they were written.
        yield sql.SQL("SET LOCAL check_function_bodies = off").format()
    for function in kept.functions:
        text = (function.renewed if forward else None) or function.definition
        if not function.anew:
            yield sql.Composed([Verbatim(text)])
            continue
        moved = {place: (graph.aside(aside, place[0]), place[1]) for place in function.row_types}
        yield _drop(function, moved)
        yield sql.Composed([Verbatim(text)])
        yield from _dressed(function)


def rehearsed(function: Function, places: Mapping[Place, Place]) -> Iterator[sql.Composed]:
    """It once more over relations in their new places, for a transaction that is taken back."""
    yield sql.SQL("SET LOCAL check_function_bodies = off").format()
    if function.anew:
        yield _drop(function, {})
    yield sql.Composed([Verbatim(rewriting.query(function.renewed or function.definition, places))])


def _drop(function: Function, moved: Mapping[Place, Place]) -> sql.Composed:
    return sql.SQL("DROP ROUTINE {}").format(_signature(function, moved))


def _signature(function: Function, moved: Mapping[Place, Place]) -> sql.Composed:
    """Name and input types, row types at their places in `moved`."""
    types: list[sql.Composable] = []
    for argument in function.arguments:
        if argument.row_type is None:
            types.append(Verbatim(argument.type))
        else:
            name = sql.Identifier(*moved.get(argument.row_type, argument.row_type))
            types.append(sql.SQL("{}{}").format(name, sql.SQL("[]" if argument.array else "")))
    return sql.SQL("{}({})").format(sql.Identifier(function.schema, function.name), sql.SQL(", ").join(types))


def _dressed(function: Function) -> Iterator[sql.Composed]:
    there = _signature(function, {})
    yield dressing.own("ROUTINE", there, function.owner)
    yield sql.SQL("REVOKE ALL ON ROUTINE {} FROM PUBLIC").format(there)
    yield dressing.clear_grants("ROUTINE", there)
    yield from dressing.grant("ROUTINE", there, function.owner, function.grants)
    yield from dressing.comment("ROUTINE", there, function.comment)
