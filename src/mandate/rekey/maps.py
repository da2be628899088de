"""Old key -> new key, as tables that follow the parents' rows as they are now.

map_<n>: o1.. (old key), n1.. (new key), d1.. (columns of the parent that go away). Beside it moved_<n>:
entries that the running batch takes out, empty between batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mandate.errors import CheckFailed, DatabaseError, MigrationFailed
from mandate.postgres.connection import Session, Verbatim, sql
from mandate.rekey import expressions, json_keys, provable, references, transform, work
from mandate.rekey.direction import (
    Direction,
    equal,
    mapped,
    numbered,
    qualified,
    require_whole_keys,
    settle,
)
from mandate.rekey.model import Change, Graph, Group

Composable = sql.Composable
_QUERY = sql.Identifier("mandate_query")


def map_table(graph: Graph, change: Change) -> sql.Identifier:
    """The map of a change."""
    return sql.Identifier(graph.spec.work_schema, change.map_name)


def moved_table(graph: Graph, change: Change) -> sql.Identifier:
    """The entries that a running batch takes out of the map."""
    return sql.Identifier(graph.spec.work_schema, f"moved_{change.number}")


def create(session: Session, graph: Graph) -> None:
    """Create the work schema with log, chunks and empty maps. Safe to repeat. Raises CheckFailed."""
    require_whole_keys(graph)
    work.create(session, graph)
    for change in mapped(graph):
        with session.transaction():
            session.execute(_create(graph, change))
            session.execute(
                sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE {})").format(
                    moved_table(graph, change), map_table(graph, change)
                )
            )


def _create(graph: Graph, change: Change) -> sql.Composed:
    """As a query, so that types and collations are those of the parent's columns."""
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} AS {} WITH NO DATA").format(
        map_table(graph, change), current(graph, change, typed=True)
    )


def fill(session: Session, graph: Graph, *, again: bool = False) -> int:
    """Make every map what the parents' rows say now; the number of keys in them.

    Only while no row has been copied. Raises CheckFailed naming the rows: a new key that is NULL or comes
    twice; and, unless `again`, a reference to no parent, kept columns that contradict their parent.
    """
    count = 0
    with session.transaction():
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        settle(session)
        problems = [text for change in graph.changes for text in _parent_problems(session, graph, change)]
        _raise(problems)
        for change in mapped(graph):
            with explained(graph, change):
                count += _refresh(session, graph, change)
        if not again:
            _raise([*references.problems(session, graph), *_unknown_in_json(session, graph)])
            _raise(list(provable.unmet_checks(session, graph)))
            _raise(list(provable.unmet_foreign_keys(session, graph)))
    return count


def _unknown_in_json(session: Session, graph: Graph) -> Iterator[str]:
    for rule in graph.spec.json_key:
        table = next((each for each in graph.tables if str(each) == rule.table), None)
        row = None if table is None else session.row(json_keys.unknown(graph, table, rule))
        if row is not None and row["count"]:
            yield (
                f"{rule.table}.{rule.column}, {rule.path}: {row['count']} strings are the key of no row of"
                f" {rule.key}, such as {row['example']!r}"
            )


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise CheckFailed(
            "the new keys cannot be made:\n" + "\n".join(f"  {problem}" for problem in problems),
            hint="correct these rows, or the spec, then run again; nothing was changed",
            problems=list(problems),
        )


# -- what a parent's row says ----------------------------------------------------------------------------


def current(graph: Graph, change: Change, *, typed: bool = False) -> sql.Composed:
    """SELECT of o1.., n1.., d1.. of each of the parent's rows in use now.

    Without `typed` values are assigned, not cast, when they are inserted: what is too long is an error.
    """
    owner = graph.owner(change).old
    alias = sql.Identifier(owner.name)
    old = _named(alias, change.key.columns, "o")
    gone = _named(alias, tuple(change.key.drop), "d")
    new = [
        sql.SQL("{} AS {}").format(
            new_value(graph, change, place, typed=typed), sql.Identifier(f"n{place + 1}")
        )
        for place in range(len(change.key.new))
    ]
    return sql.SQL("SELECT {} FROM {} AS {}{}").format(
        sql.SQL(", ").join([*old, *new, *gone]), owner.identifier, alias, _queried(change, alias)
    )


def _queried(change: Change, alias: sql.Identifier) -> Composable:
    """The join with the spec's query, which is read by the place of its columns."""
    if change.key.query is None:
        return sql.SQL("")
    old = [f"o{place}" for place in range(1, len(change.key.columns) + 1)]
    return sql.SQL(" LEFT JOIN ({}\n) AS {} ({}) ON {}").format(
        Verbatim(change.key.query),
        _QUERY,
        transform.column_list([*old, *(column.name for column in change.key.made)]),
        equal(_QUERY, old, alias, change.key.columns),
    )


def new_value(graph: Graph, change: Change, place: int, *, typed: bool = False) -> Composable:
    """One column of the new key, over the parent's row."""
    column = change.key.new[place]
    if column.existing:
        return qualified(sql.Identifier(graph.owner(change).old.name), [column.name])
    if column.expression is None:
        value: Composable = qualified(_QUERY, [column.name])
    else:
        value = transform.expression(column.expression)
    return sql.SQL("{}::{}").format(value, Verbatim(change.new_types[place])) if typed else value


def _named(alias: Composable, names: Sequence[str], prefix: str) -> list[Composable]:
    return [
        sql.SQL("{}.{} AS {}").format(alias, sql.Identifier(name), sql.Identifier(f"{prefix}{place}"))
        for place, name in enumerate(names, start=1)
    ]


def _followed(change: Change) -> tuple[str, ...]:
    """New columns that follow the parent's row; what reads no column of it is assigned once and stays."""
    return tuple(
        f"n{place}"
        for place, column in enumerate(change.key.new, start=1)
        if column.expression is None or expressions.columns(column.expression)
    )


def _has_key(change: Change) -> sql.Composed:
    """Condition on `c`: the row has an old key at all (a unique key may be NULL)."""
    return sql.SQL(" AND ").join(
        sql.SQL("c.{} IS NOT NULL").format(sql.Identifier(name)) for name in numbered(change, "o")
    )


# -- filling ---------------------------------------------------------------------------------------------


def _parent_problems(session: Session, graph: Graph, change: Change) -> Iterator[str]:
    parent = graph.owner(change)
    with provable.computed(graph, change, "the new key"):
        without = session.rows(_without_new_key(graph, change))
    for row in without:
        yield f"{parent}: the row with key {row['old']} gets no new key (NULL)"
    if len(_followed(change)) == len(change.key.new):
        for row in session.rows(_twice(graph, change)):
            yield f"{parent}: the new key {row['new']} comes {row['count']} times: from {row['old']}"
    if not without:
        yield from provable.not_back(session, graph, change, current(graph, change, typed=True))


def _without_new_key(graph: Graph, change: Change) -> sql.Composed:
    null = sql.SQL(" OR ").join(
        sql.SQL("c.{} IS NULL").format(sql.Identifier(name)) for name in numbered(change, "n")
    )
    return sql.SQL("SELECT ({})::text AS old FROM ({}) AS c WHERE {} AND ({}) LIMIT 20").format(
        _row(change, "o"), current(graph, change), _has_key(change), null
    )


def _twice(graph: Graph, change: Change) -> sql.Composed:
    return sql.SQL(
        "SELECT ({new})::text AS new, count(*), string_agg(({old})::text, ', ') AS old"
        " FROM ({current}) AS c WHERE {has_key} GROUP BY {new_columns} HAVING count(*) > 1 LIMIT 20"
    ).format(
        new=_row(change, "n"),
        old=_row(change, "o"),
        current=current(graph, change, typed=True),
        has_key=_has_key(change),
        new_columns=qualified(sql.Identifier("c"), numbered(change, "n")),
    )


def _row(change: Change, prefix: str) -> sql.Composed:
    return sql.SQL("ROW({})").format(qualified(sql.Identifier("c"), numbered(change, prefix)))


def _refresh(session: Session, graph: Graph, change: Change) -> int:
    """Take out what no parent says any more, put in what is missing."""
    table = map_table(graph, change)
    same = sql.SQL(" AND ").join(
        sql.SQL("c.{0} IS NOT DISTINCT FROM g.{0}").format(sql.Identifier(name))
        for name in [*numbered(change, "o"), *_followed(change), *numbered(change, "d")]
    )
    fresh = not _has_keys(session, graph, change)
    if not fresh:
        session.execute(
            sql.SQL("DELETE FROM {} AS g WHERE NOT EXISTS (SELECT FROM ({}) AS c WHERE {} AND {})").format(
                table, current(graph, change, typed=True), _same_key(change), same
            )
        )
    session.execute(
        sql.SQL("INSERT INTO {} SELECT * FROM ({}) AS c WHERE {}{}").format(
            table, current(graph, change), _has_key(change), sql.SQL("") if fresh else _unknown(graph, change)
        )
    )
    if fresh:
        _add_keys(session, graph, change)
    session.execute(sql.SQL("ANALYZE {}").format(table))
    count: int = session.value(sql.SQL("SELECT count(*) FROM {}").format(table))
    return count


def _same_key(change: Change) -> sql.Composed:
    names = numbered(change, "o")
    return equal(sql.Identifier("g"), names, sql.Identifier("c"), names)


def _unknown(graph: Graph, change: Change) -> sql.Composed:
    return sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS g WHERE {})").format(
        map_table(graph, change), _same_key(change)
    )


def _has_keys(session: Session, graph: Graph, change: Change) -> bool:
    return bool(
        session.value(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE contype = 'p'"
            " AND conrelid = pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', %s::text, %s::text)))",
            (graph.spec.work_schema, change.map_name),
        )
    )


def _add_keys(session: Session, graph: Graph, change: Change) -> None:
    """After the rows: an index is built faster than it is filled."""
    not_null = sql.SQL(", ").join(
        sql.SQL("ALTER COLUMN {} SET NOT NULL").format(sql.Identifier(name)) for name in numbered(change, "n")
    )
    session.execute(
        sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({}), ADD UNIQUE ({}), {}").format(
            map_table(graph, change),
            transform.column_list(numbered(change, "o")),
            transform.column_list(numbered(change, "n")),
            not_null,
        )
    )
    for columns in json_keys.indexes(graph, change):
        session.execute(sql.SQL("CREATE INDEX ON {} {}").format(map_table(graph, change), columns))


@contextmanager
def explained(graph: Graph, change: Change) -> Iterator[None]:
    """Turn what a map refuses into words: a new key twice, or none. Raises CheckFailed."""
    try:
        yield
    except DatabaseError as error:
        if error.sqlstate not in ("23505", "23502") or error.fields.get("table") != change.map_name:
            raise
        parent = graph.owner(change)
        said = error.fields.get("detail") or error.message
        raise CheckFailed(
            f"{parent}: two rows would have the same key, or one none: {said}",
            hint="correct the rows of the parent, then go on",
            table=str(parent),
        ) from error


# -- following, batch by batch ---------------------------------------------------------------------------


def mark_moved(
    session: Session, graph: Graph, direction: Direction, change: Change, keys: Composable | None
) -> int:
    """Note the entries whose parent is gone or has another key now; how many.

    `keys`: the relation of the parent's logged keys (Direction.keys); None: all of them.
    """
    side, _ = direction.prefixes
    owned = _owner_group(graph, change)
    statement = sql.SQL(
        "INSERT INTO {moved} SELECT g.* FROM {map} AS g"
        " WHERE {asked} NOT EXISTS (SELECT FROM ({now}) AS c WHERE {same})"
    ).format(
        moved=moved_table(graph, change),
        map=map_table(graph, change),
        asked=_asked(sql.Identifier("g"), numbered(change, side), direction.source_columns(owned), keys),
        now=_standing(graph, direction, change),
        same=_stands(direction, change),
    )
    return session.execute(statement)


def _owner_group(graph: Graph, change: Change) -> Group:
    groups = graph.owner(change).groups
    return next(group for group in groups if group.owner and group.change.number == change.number)


def _asked(
    alias: Composable, names: Sequence[str], columns: Sequence[str], keys: Composable | None
) -> Composable:
    """(alias.names) IN (the keys) AND, or nothing."""
    if keys is None:
        return sql.SQL("")
    return sql.SQL("({}) IN (SELECT {} FROM {} AS k) AND").format(
        qualified(alias, names), qualified(sql.Identifier("k"), columns), keys
    )


def _standing(graph: Graph, direction: Direction, change: Change) -> sql.Composed:
    """What parents say now, of what an entry must agree with."""
    if direction.forward:
        return current(graph, change, typed=True)
    owner = graph.owner(change)
    alias = sql.Identifier(owner.old.name)
    columns = _named(alias, _owner_group(graph, change).new, "n")
    return sql.SQL("SELECT {} FROM {} AS {}").format(
        sql.SQL(", ").join(columns), direction.source(owner), alias
    )


def _stands(direction: Direction, change: Change) -> sql.Composed:
    side, _ = direction.prefixes
    key = equal(sql.Identifier("c"), numbered(change, side), sql.Identifier("g"), numbered(change, side))
    if not direction.forward:
        return key
    followed = [
        sql.SQL(" AND c.{0} IS NOT DISTINCT FROM g.{0}").format(sql.Identifier(name))
        for name in _followed(change)
    ]
    return sql.Composed([key, *followed])


def follow(
    session: Session, graph: Graph, direction: Direction, change: Change, keys: Composable | None
) -> None:
    """Take the moved entries out of the map and give every parent of `keys` without an entry one.

    Raises CheckFailed when two parents would have the same key, or one none.
    """
    with explained(graph, change):
        session.execute(_take_out(graph, change))
        if direction.forward:
            _follow_dropped(session, graph, change, keys)
        session.execute(_born(graph, direction, change, keys))
    session.execute(sql.SQL("DELETE FROM {}").format(moved_table(graph, change)))


def _take_out(graph: Graph, change: Change) -> sql.Composed:
    names = numbered(change, "o")
    return sql.SQL("DELETE FROM {} AS g USING {} AS m WHERE {}").format(
        map_table(graph, change),
        moved_table(graph, change),
        equal(sql.Identifier("g"), names, sql.Identifier("m"), names),
    )


def _follow_dropped(session: Session, graph: Graph, change: Change, keys: Composable | None) -> None:
    """What the columns that go away hold now."""
    names = numbered(change, "d")
    if not names:
        return
    owner = graph.owner(change).old
    here, there = sql.Identifier("g"), sql.Identifier("c")
    session.execute(
        sql.SQL(
            "UPDATE {map} AS g SET {values} FROM {parent} AS c"
            " WHERE {asked} {same} AND ({old}) IS DISTINCT FROM ({new})"
        ).format(
            map=map_table(graph, change),
            values=sql.SQL(", ").join(
                sql.SQL("{} = c.{}").format(sql.Identifier(name), sql.Identifier(column))
                for name, column in zip(names, change.key.drop, strict=True)
            ),
            parent=owner.identifier,
            asked=_asked(there, change.key.columns, change.key.columns, keys),
            same=equal(here, numbered(change, "o"), there, change.key.columns),
            old=qualified(here, names),
            new=qualified(there, tuple(change.key.drop)),
        )
    )


def _born(graph: Graph, direction: Direction, change: Change, keys: Composable | None) -> sql.Composed:
    """Entries for parents without one. Only the parent is in scope of the spec's expressions."""
    owner = graph.owner(change)
    alias = sql.Identifier(owner.old.name)
    group = _owner_group(graph, change)
    side, _ = direction.prefixes
    columns = direction.source_columns(group)
    joined = _queried(change, alias) if direction.forward else sql.SQL("")
    return sql.SQL(
        "INSERT INTO {map} ({names}) SELECT {values} FROM {parent} AS {alias}{joined}"
        " WHERE {asked} {has_key} AND NOT EXISTS (SELECT FROM {map} AS g WHERE {same})"
    ).format(
        map=map_table(graph, change),
        names=transform.column_list(name for prefix in "ond" for name in numbered(change, prefix)),
        values=_forward_values(graph, change) if direction.forward else _back_values(graph, change, group),
        parent=direction.source(owner),
        alias=alias,
        joined=joined,
        asked=_asked(alias, columns, columns, keys),
        has_key=sql.SQL(" AND ").join(
            sql.SQL("{}.{} IS NOT NULL").format(alias, sql.Identifier(name)) for name in columns
        ),
        same=equal(sql.Identifier("g"), numbered(change, side), alias, columns),
    )


def _forward_values(graph: Graph, change: Change) -> Composable:
    alias = sql.Identifier(graph.owner(change).old.name)
    new = [new_value(graph, change, place) for place in range(len(change.key.new))]
    gone = tuple(change.key.drop)
    parts = [qualified(alias, change.key.columns), *new]
    return sql.SQL(", ").join([*parts, qualified(alias, gone)] if gone else parts)


def _back_values(graph: Graph, change: Change, group: Group) -> Composable:
    """A fresh old key for a row that was born in the new table, and what its dropped columns would hold."""
    key, owner = change.key, graph.owner(change)
    made = key.old_default or (key.new[0].inverse if len(key.columns) == 1 else None)
    if made is None or len(key.columns) != 1:
        raise MigrationFailed(
            f"{owner} has rows that were born after the cutover, and nothing says what their old key is",
            hint="give the key old_default (or its column inverse) in the spec",
            table=str(owner),
        )
    texts = [
        expressions.numbering(text, lambda schema: graph.aside(graph.spec.retained_schema, schema))
        for text in (made, *key.drop.values())
    ]
    values: list[Composable] = [transform.expression(text) for text in texts]
    values.insert(1, qualified(sql.Identifier(owner.old.name), group.new))
    return sql.SQL(", ").join(values)
