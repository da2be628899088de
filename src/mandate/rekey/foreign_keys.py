"""Foreign keys of the tables: as clients need them, and as the side that is kept in step can bear them.

The side that catch-up writes lags behind. A foreign key between two of its tables is deferred and takes no
action of its own (a cascade would run on top of what is caught up). One that crosses the border of the
change would let the lag refuse a client's delete, so the lagging side has none of these.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from mandate.postgres.connection import sql
from mandate.rekey import dressing, rewriting, spec
from mandate.rekey.altering import Alteration
from mandate.rekey.catalogue import Catalogue, ForeignKey
from mandate.rekey.model import Graph, NewTable
from mandate.rekey.rewriting import CannotRewrite

_ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}
_NO_ACTION = "a"
_WEIGHT = {"r": 0, "c": 1, "n": 1, "d": 1, "a": 2}


def renewed(graph: Graph, kept: Catalogue) -> list[ForeignKey]:
    """The foreign keys over the new columns; of those that became the same, one. Raises CannotRewrite."""
    distinct = [made for made, instead in _rewritten(graph, kept) if instead is None]
    return [*_as_wanted(graph, distinct), *_added(graph, kept, distinct)]


def _as_wanted(graph: Graph, keys: Sequence[ForeignKey]) -> Iterator[ForeignKey]:
    """With the spec's name, which one alone can have, and proven, where the spec has it."""
    taken: set[str] = set()
    for key in keys:
        wanted = next((each for each in graph.spec.foreign_key if is_wanted(key, each)), None)
        if wanted is None:
            yield key
        elif wanted.keep_name or wanted.name in taken:
            yield replace(key, valid=True)
        else:
            taken.add(wanted.name)
            yield replace(key, name=wanted.name, valid=True)


def is_wanted(key: ForeignKey, wanted: spec.ForeignKey) -> bool:
    """Whether it is the one that the spec means, whatever its name."""
    return (
        wanted.table == f"{key.child_schema}.{key.child_name}"
        and wanted.references == f"{key.parent_schema}.{key.parent_name}"
        and set(zip(wanted.columns, wanted.referred, strict=True))
        == set(zip(key.columns, key.referred, strict=True))
    )


def added(graph: Graph, kept: Catalogue) -> Iterator[ForeignKey]:
    """Those of the spec that the old tables do not have. Raises CannotRewrite."""
    yield from _added(graph, kept, [rewritten(graph, key) for key in carried(graph, kept)])


def _added(graph: Graph, kept: Catalogue, there: Sequence[ForeignKey]) -> Iterator[ForeignKey]:
    """Those of the spec that the old tables do not have."""
    oids = {f"{table.schema}.{table.name}": table.oid for table in kept.tables}
    oids |= {f"{table.schema}.{table.name}": table.oid for table in kept.outside}
    for wanted in graph.spec.foreign_key:
        if any(is_wanted(key, wanted) for key in there):
            continue
        if wanted.references not in oids:
            raise CannotRewrite(f"foreign_key {wanted.name}: there is no table {wanted.references}")
        yield ForeignKey(
            oid=0,
            name=wanted.name,
            child=oids[wanted.table],
            child_schema=wanted.table.split(".")[0],
            child_name=wanted.table.split(".")[1],
            parent=oids[wanted.references],
            parent_schema=wanted.references.split(".")[0],
            parent_name=wanted.references.split(".")[1],
            columns=tuple(wanted.columns),
            referred=tuple(wanted.referred),
            match="s",
            on_update=_NO_ACTION,
            on_delete=_NO_ACTION,
            delete_columns=(),
            deferrable=False,
            deferred=False,
            valid=True,
            enforced=True,
            period=False,
            comment=None,
        )


def dropped(graph: Graph, kept: Catalogue) -> Iterator[str]:
    """The foreign keys that say what another one says already, in words. Raises CannotRewrite."""
    for key, instead in _rewritten(graph, kept):
        if instead is not None:
            yield f"{key} would be the same as {instead.name}: only that one is kept"
    for key in kept.foreign_keys:
        if _is_dropped(graph, key):
            yield f"{key}: the spec drops it"


def carried(graph: Graph, kept: Catalogue) -> list[ForeignKey]:
    """The old foreign keys that the spec does not drop."""
    return [key for key in kept.foreign_keys if not _is_dropped(graph, key)]


def _is_dropped(graph: Graph, key: ForeignKey) -> bool:
    built = graph.spec.built(f"{key.child_schema}.{key.child_name}")
    if built is None:
        return False
    columns, referred = ", ".join(key.columns), ", ".join(key.referred)
    text = f"FOREIGN KEY ({columns}) REFERENCES {key.parent_schema}.{key.parent_name} ({referred})"
    return any(re.search(pattern, text) for pattern in built.drop_foreign_key)


def homeless(graph: Graph, kept: Catalogue) -> Iterator[str]:
    """Foreign keys to a primary key that the spec makes another, in words."""
    for key in carried(graph, kept):
        parent = _table(graph, key.parent)
        if parent is None or not parent.primary_key or set(parent.key) == set(parent.old.key):
            continue
        if set(key.referred) == set(parent.old.key):
            new = ", ".join(parent.key)
            yield f"{key} refers to the primary key of {parent}, which becomes ({new}): drop it first"


def _rewritten(graph: Graph, kept: Catalogue) -> list[tuple[ForeignKey, ForeignKey | None]]:
    """Each over the new columns, with the one that stands for it; None for one that is kept.

    Two that were the same before are somebody's wish; two that became the same are not. The one that stays
    is the one that decided what a delete does: RESTRICT before any action, an action before none.
    """
    old = carried(graph, kept)
    made = [rewritten(graph, key) for key in old]
    found: list[tuple[ForeignKey, ForeignKey | None]] = []
    for before, after in zip(old, made, strict=True):
        alike = [pair for pair in zip(old, made, strict=True) if _pairs(pair[1]) == _pairs(after)]
        was, first = min(alike, key=lambda pair: (_WEIGHT[pair[1].on_delete], not pair[1].valid))
        found.append((after, None if _pairs(was) == _pairs(before) else first))
    return found


def _pairs(key: ForeignKey) -> tuple[int, int, frozenset[tuple[str, str]]]:
    """From where to where it refers: equal for two that say the same."""
    return key.child, key.parent, frozenset(zip(key.columns, key.referred, strict=True))


def rewritten(graph: Graph, key: ForeignKey) -> ForeignKey:
    """A foreign key over the new columns of its tables. Raises CannotRewrite."""
    child, parent = _table(graph, key.child), _table(graph, key.parent)
    of_child = {} if child is None else rewriting.successors(child)
    of_parent = {} if parent is None else rewriting.successors(parent)
    pairs: list[tuple[str, str]] = []
    for column, referred in zip(key.columns, key.referred, strict=True):
        here, there = of_child.get(column, (column,)), of_parent.get(referred, (referred,))
        if not here or len(here) != len(there):
            raise CannotRewrite(f"{key}: {column} and {referred} do not become the same columns")
        pairs += zip(here, there, strict=True)
    distinct = list(dict.fromkeys(pairs))
    made = replace(
        key,
        columns=tuple(column for column, _ in distinct),
        referred=tuple(referred for _, referred in distinct),
    )
    return replace(made, delete_columns=_delete_columns(child, key, made))


def _table(graph: Graph, oid: int) -> NewTable | None:
    return next((table for table in graph.tables if table.old.oid == oid), None)


def _delete_columns(child: NewTable | None, old: ForeignKey, new: ForeignKey) -> tuple[str, ...]:
    """What ON DELETE SET NULL sets: not a column that the old key left alone."""
    if child is None or old.on_delete not in ("n", "d"):
        return old.delete_columns
    changed = rewriting.successors(child)
    kept = {
        name
        for group in child.groups
        for name, is_kept in zip(group.new, group.kept, strict=True)
        if is_kept and name not in old.columns
    }
    set_ = rewriting.renamed(old.delete_columns or old.columns, changed)
    wanted = tuple(name for name in set_ if name not in kept)
    return () if not old.delete_columns and set(wanted) == set(new.columns) else wanted


# -- statements --------------------------------------------------------------------------------------


def place(graph: Graph, schema: str, name: str, oid: int, aside: str | None) -> sql.Identifier:
    """Where a table is: `aside` stands for the schemas of the change's tables, None for their own place."""
    inside = _table(graph, oid) is not None
    return sql.Identifier(graph.aside(aside, schema) if inside and aside is not None else schema, name)


def child(graph: Graph, key: ForeignKey, aside: str | None) -> sql.Identifier:
    """Where the table that has the foreign key is."""
    return place(graph, key.child_schema, key.child_name, key.child, aside)


def is_lenient(key: ForeignKey) -> bool:
    """Whether the lagging side's key becomes the real one by ALTER CONSTRAINT alone."""
    return key.on_delete == _NO_ACTION and key.on_update == _NO_ACTION


def is_built(kept: Catalogue, key: ForeignKey) -> bool:
    """Whether the lagging side has it: rows that break one that is not valid must get in."""
    return kept.is_inner(key) and key.valid and key.enforced


def add(graph: Graph, key: ForeignKey, aside: str | None, *, lagging: bool = False) -> sql.Composed:
    """ADD CONSTRAINT ... NOT VALID, for clients or for the lagging side."""
    on_update, on_delete = (_NO_ACTION, _NO_ACTION) if lagging else (key.on_update, key.on_delete)
    deferrable, deferred = (True, True) if lagging else (key.deferrable, key.deferred)
    action = sql.SQL(
        "ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({}){} ON UPDATE {} ON DELETE {}{} {}{}"
    ).format(
        sql.Identifier(key.name),
        _names(key.columns),
        place(graph, key.parent_schema, key.parent_name, key.parent, aside),
        _names(key.referred),
        sql.SQL(" MATCH FULL" if key.match == "f" else ""),
        _action(on_update),
        _action(on_delete),
        sql.SQL("")
        if lagging or not key.delete_columns
        else sql.SQL(" ({})").format(_names(key.delete_columns)),
        deferrability(deferrable, deferred),
        sql.SQL(" NOT VALID" if key.enforced else " NOT ENFORCED"),
    )
    return Alteration(child(graph, key, aside), action)


def _names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _action(letter: str) -> sql.SQL:
    return sql.SQL(_ACTIONS[letter])


def deferrability(deferrable: bool, deferred: bool) -> sql.SQL:
    """DEFERRABLE and so on."""
    if not deferrable:
        return sql.SQL("NOT DEFERRABLE")
    return sql.SQL("DEFERRABLE INITIALLY DEFERRED" if deferred else "DEFERRABLE INITIALLY IMMEDIATE")


def drop(graph: Graph, key: ForeignKey, aside: str | None) -> sql.Composed:
    """DROP CONSTRAINT."""
    action = sql.SQL("DROP CONSTRAINT {}").format(sql.Identifier(key.name))
    return Alteration(child(graph, key, aside), action)


def validate(graph: Graph, key: ForeignKey, aside: str | None) -> sql.Composed:
    """VALIDATE CONSTRAINT: blocks no writer."""
    return sql.SQL("ALTER TABLE {} VALIDATE CONSTRAINT {}").format(
        child(graph, key, aside), sql.Identifier(key.name)
    )


def comment(graph: Graph, key: ForeignKey, aside: str | None) -> Iterator[sql.Composed]:
    """COMMENT ON CONSTRAINT."""
    yield from dressing.comment_on("CONSTRAINT", key.name, child(graph, key, aside), key.comment)


def _alter(graph: Graph, key: ForeignKey, aside: str | None, how: sql.SQL) -> sql.Composed:
    action = sql.SQL("ALTER CONSTRAINT {} {}").format(sql.Identifier(key.name), how)
    return Alteration(child(graph, key, aside), action)


# -- the cutover -------------------------------------------------------------------------------------


def leave(
    graph: Graph, kept: Catalogue, keys: Sequence[ForeignKey], aside: str, *, lags: bool
) -> Iterator[sql.Composed]:
    """What happens to the keys of the tables that were just moved to `aside`.

    `lags`: they are kept in step from now on; else they are about to be dropped.
    """
    for key in keys:
        if not kept.is_inner(key):
            yield drop(graph, key, aside)
        elif not lags:
            continue
        elif is_built(kept, key) and is_lenient(key):
            yield _alter(graph, key, aside, deferrability(True, True))
        else:
            yield drop(graph, key, aside)
            if is_built(kept, key):
                yield add(graph, key, aside, lagging=True)


def arrive(graph: Graph, kept: Catalogue, keys: Sequence[ForeignKey]) -> Iterator[sql.Composed]:
    """What makes the keys of the tables that just took their place those that clients had."""
    for key in keys:
        if is_built(kept, key) and is_lenient(key):
            yield _alter(graph, key, None, deferrability(key.deferrable, key.deferred))
            continue
        if is_built(kept, key):
            yield drop(graph, key, None)
        yield add(graph, key, None)
        yield from comment(graph, key, None)


def to_validate(graph: Graph, kept: Catalogue, keys: Sequence[ForeignKey]) -> list[list[sql.Composed]]:
    """After the cutover: those that were added anew, by table, for each proof locks it against the others."""
    found: dict[int, list[sql.Composed]] = {}
    for key in keys:
        if key.valid and key.enforced and not (is_built(kept, key) and is_lenient(key)):
            found.setdefault(key.child, []).append(validate(graph, key, None))
    return list(found.values())


def outside(graph: Graph, kept: Catalogue) -> tuple[list[sql.Identifier], list[sql.Identifier]]:
    """Tables of nobody's change that the cutover locks too: parents of the change's tables, and children."""
    parents, children = {}, {}
    for key in (*kept.foreign_keys, *added(graph, kept)):
        if _table(graph, key.parent) is None:
            parents[key.parent] = sql.Identifier(key.parent_schema, key.parent_name)
        if _table(graph, key.child) is None:
            children[key.child] = sql.Identifier(key.child_schema, key.child_name)
    return list(parents.values()), [at for oid, at in children.items() if oid not in parents]
