"""The plan of a key change as a page of 80 columns, and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from mandate.cli import run_text
from mandate.cli.output import seconds, size
from mandate.postgres.connection import Target
from mandate.rekey import hints
from mandate.rekey.forecast import Forecast, Place
from mandate.rekey.locks import Lock
from mandate.rekey.model import Graph, NewTable

_WIDTH = run_text.WIDTH


def document(graph: Graph, problems: Sequence[str], made: Forecast) -> dict[str, Any]:
    """The plan as JSON-able data."""
    sizes = {table.table: table.as_dict() for table in made.tables}
    return {
        "name": graph.spec.rekey.name,
        "tables": [
            {
                **sizes[str(table)],
                "changes": [{"old": group.old, "new": group.new} for group in table.groups],
                "columns_gone": sorted(table.gone),
                "columns_added": [each.name for each in table.columns if each.expression is not None],
                "primary_key": table.key,
            }
            for table in graph.tables
        ],
        **{key: value for key, value in made.as_dict().items() if key != "tables"},
        "problems": list(problems),
        "hints": {problem: hints.hint(problem) for problem in problems},
    }


def page(target: Target, graph: Graph, problems: Sequence[str], made: Forecast) -> str:
    """The plan for a person."""
    lines = [f"Plan of {graph.spec.rekey.name} on {target}", "", *tables(graph, made), ""]
    lines += [*disk(made), "", *wal(made), "", *time(made), "", *locks(made.locks)]
    if problems:
        lines += ["", f"{len(problems)} objects cannot be carried over:"]
        for problem in problems:
            lines += run_text.wrapped(problem, "  - ")
            advice = hints.hint(problem)
            lines += [] if advice is None else run_text.wrapped(advice, "    -> ")
    return "\n".join([*lines, "", *nothing_changed(made.sample_seconds is not None)])


def fits(made: Forecast) -> bool:
    """Whether every disk that can be seen has room."""
    return not any(place.missing for place in made.places)


def tables(graph: Graph, made: Forecast) -> Iterator[str]:
    """Every table: rows, bytes, and which of its columns change."""
    yield f"{'Tables':<26} {'rows':>13} {'heap':>9} {'toast':>9} {'indexes':>9} {'new':>9}"
    for table, figures in zip(graph.tables, made.tables, strict=True):
        sizes = (figures.heap_bytes, figures.toast_bytes, figures.index_bytes, figures.new_bytes)
        cells = " ".join(f"{_short(each):>9}" for each in sizes)
        name = f"  {table}"
        if len(name) > 26:
            yield name
            name = ""
        yield f"{name:<26} {figures.rows:>13,} {cells}"
        for change in _changes(table):
            yield from run_text.wrapped(change, "    ")


def _short(value: float) -> str:
    return size(value).replace(" ", "")


def _changes(table: NewTable) -> Iterator[str]:
    """`id integer -> id bigint`, one for each group of columns that changes."""
    types = {column.name: column.type for column in table.columns}
    for group in table.groups:
        old = ", ".join(f"{name} {table.old.column(name).type}" for name in group.old)
        yield f"{old} -> {', '.join(f'{name} {types[name]}' for name in group.new)}"
    if table.primary_key:
        yield f"primary key ({', '.join(table.old.key)}) -> ({', '.join(table.primary_key)})"
    for column in table.columns:
        if column.expression is not None:
            yield f"new column {column.name} {column.type}"


def disk(made: Forecast) -> Iterator[str]:
    """Every file system: what is needed for what, what is free, whether that is enough."""
    yield f"{'Disk beside what is there':<58} {'needed':>10} {'free':>10}"
    for place in made.places:
        free = "not known" if place.free is None else _short(place.free)
        name = ", ".join(place.tablespaces)
        yield f"  {name:<56} {_short(place.needed):>10} {free:>10}"
        for part in made.parts:
            if _belongs(part.tablespace, place, made.places):
                yield f"    {part.what:<54} {_short(part.bytes):>10}"
        yield from _verdict(place)


def _belongs(tablespace: str | None, place: Place, places: Sequence[Place]) -> bool:
    """None is the database's own tablespace, which is the one that no part names."""
    return (tablespace in place.tablespaces) if tablespace else place is places[0]


def _verdict(place: Place) -> Iterator[str]:
    margin = f"a margin of {_short(place.margin)} must stay free beyond it"
    if place.free is None:
        said = f"not known from here: {place.why}. Look with `df -h` on the server; {margin}"
    elif place.missing:
        said = f"NOT ENOUGH: {_short(place.missing)} missing at {place.path}; {margin}. `run` will refuse"
    else:
        said = f"enough at {place.path}; {margin}"
    yield from run_text.wrapped(said, "    ")


def wal(made: Forecast) -> Iterator[str]:
    """WAL that is written in all."""
    server = made.server
    said = f"about {_short(made.wal)} (wal_level {server.wal_level}"
    if server.page_images_of_hints and server.full_page_writes:
        said += ", with checksums or wal_log_hints: each copied page twice"
    said += ")"
    if server.wal_is_held:
        said += "; a replication slot that nobody reads keeps all of it"
    yield from run_text.wrapped(said, "WAL    ")


def time(made: Forecast) -> Iterator[str]:
    """How long it takes, by phase, and who says so."""
    total = made.eta.seconds
    if total is None:
        why = f"no sample: {made.not_sampled}" if made.not_sampled else "no sample was taken"
        yield from run_text.wrapped(f"not known ({why})", "Time   ")
        return
    if made.earlier is not None:
        source = f"as long as the {_earlier(made)} of {made.earlier} took, by rows"
    else:
        source = f"from a sample of {made.sample_seconds:g} s, with {made.jobs} jobs and an idle disk"
    yield from run_text.wrapped(f"{_long(total)}, {source}", "Time   ")
    for phase in made.eta.phases:
        why = f"  ({phase.why})" if phase.why else ""
        yield f"  {phase.phase:<14} {_long(phase.seconds):>12}{why}"


def _earlier(made: Forecast) -> str:
    return "run" if made.eta.source == "earlier run" else made.eta.source


def _long(value: float) -> str:
    return "under 1 s" if value < 1 else f"about {seconds(value)}"


def locks(taken: Sequence[Lock]) -> Iterator[str]:
    """Every lock by phase: what it blocks, for how long, on which tables."""
    yield "Locks on what clients use"
    for lock in taken:
        yield f"  {lock.phase}: {lock.mode}"
        yield from run_text.wrapped(f"blocks {lock.blocks}; {lock.how_long}", "    ")
        yield from textwrap.wrap(
            ", ".join(lock.tables),
            _WIDTH,
            initial_indent="    on ",
            subsequent_indent="       ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def nothing_changed(sampled: bool) -> Iterator[str]:
    """The last line of a plan."""
    said = "Nothing was changed."
    if sampled:
        said += " The sample was made in a transaction that was rolled back."
    yield from run_text.wrapped(said)
