"""The locks that a change takes on tables that clients use, phase by phase: what they block, and how long."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mandate.postgres.connection import sql
from mandate.rekey import cutover, foreign_keys, locking
from mandate.rekey.catalogue import Catalogue
from mandate.rekey.model import Graph

_PLAIN = re.compile(r'"([a-z_][a-z0-9_]*)"')


@dataclass(frozen=True)
class Lock:
    """One lock mode in one phase; `at_most_seconds`: how long a client may wait for an attempt."""

    phase: str
    mode: str
    tables: tuple[str, ...]
    blocks: str
    how_long: str
    at_most_seconds: float | None = None


def of_change(graph: Graph, kept: Catalogue, options: cutover.Options) -> list[Lock]:
    """Every lock on what is not the change's own, in the order of the phases."""
    return list(_locks(graph, kept, options))


def _locks(graph: Graph, kept: Catalogue, options: cutover.Options) -> Iterator[Lock]:
    inside = _names([table.old.identifier for table in graph.tables])
    moment = locking.MOMENT_MILLISECONDS / 1000
    parents = _names([graph.owner(change).old.identifier for change in graph.changes])
    schema = "DDL and VACUUM FULL only"
    yield Lock("map", "ACCESS SHARE", parents, schema, "a moment: it gives way")
    yield Lock(
        "capture",
        "SHARE ROW EXCLUSIVE",
        inside,
        "writers",
        f"a moment, {moment:g} s at most for each attempt",
        moment,
    )
    yield Lock("copy, catch up, verify", "ACCESS SHARE", inside, schema, "a moment: it gives way")
    yield from _cutover(graph, kept, options, inside)
    yield from _after(graph, kept)
    yield Lock(
        "finalize, abort",
        "ACCESS EXCLUSIVE",
        inside,
        "readers and writers",
        "a moment, 0.2 s at most for each attempt",
        0.2,
    )


def _cutover(
    graph: Graph, kept: Catalogue, options: cutover.Options, inside: tuple[str, ...]
) -> Iterator[Lock]:
    before, after = foreign_keys.outside(graph, kept)
    looking = [sql.Identifier(each.schema, each.table_name) for each in kept.policies if each.reads]
    views = tuple(f"{view.schema}.{view.name}" for view in kept.views)
    others = _names([*before, *after, *looking])
    outside = tuple(name for name in dict.fromkeys([*others, *views]) if name not in inside)
    for tables in (inside, outside):
        if tables:
            yield Lock(
                "cutover, rollback",
                "ACCESS EXCLUSIVE",
                tables,
                "readers and writers",
                f"{options.deadline_seconds:g} s at most for each attempt (--deadline)",
                options.deadline_seconds,
            )


def _after(graph: Graph, kept: Catalogue) -> Iterator[Lock]:
    """What follows the swap: proofs of the foreign keys that were made anew, refreshed views."""
    children = {
        f"{key.child_schema}.{key.child_name}"
        for key in kept.foreign_keys
        if key.valid and key.enforced and not (kept.is_inner(key) and foreign_keys.is_lenient(key))
    }
    if children:
        yield Lock(
            "after the cutover",
            "SHARE UPDATE EXCLUSIVE",
            tuple(sorted(children)),
            "DDL and VACUUM only",
            "a moment: the proofs of foreign keys give way to who waits",
        )
    views = tuple(
        str(f"{view.schema}.{view.name}") for view in kept.views if view.materialized and view.populated
    )
    if views:
        yield Lock(
            "after the cutover",
            "EXCLUSIVE or ACCESS EXCLUSIVE",
            views,
            "readers of the view, unless it has a unique index",
            "while the materialised view is refreshed",
        )


def _names(identifiers: Sequence[sql.Identifier]) -> tuple[str, ...]:
    """As a person writes them: quoted where they must be."""
    return tuple(dict.fromkeys(_PLAIN.sub(r"\1", each.as_string()) for each in identifiers))
