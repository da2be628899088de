"""Plain shadows and swaps for tests of what keeps two tables in step, and three schemas whose keys change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mandate.postgres.connection import Session, Target, Verbatim, connect, sql
from mandate.rekey import transform
from mandate.rekey.direction import FORWARD
from mandate.rekey.discover import discover
from mandate.rekey.model import Graph, NewTable
from mandate.rekey.spec import parse


@dataclass(frozen=True)
class Example:
    """A schema, rows to begin with, and the spec of a change."""

    name: str
    ddl: bytes
    spec: str


INTEGERS = Example(
    "integers",
    b"""
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, email text UNIQUE);
CREATE TABLE orders (
    id int PRIMARY KEY,
    customer_id int REFERENCES customers ON DELETE CASCADE,
    follows int REFERENCES orders ON DELETE SET NULL,
    amount numeric(12,2) NOT NULL DEFAULT 0,
    doubled numeric GENERATED ALWAYS AS (amount * 2) STORED
);
CREATE TABLE lines (
    order_id int REFERENCES orders ON DELETE CASCADE,
    line smallint,
    note text,
    PRIMARY KEY (order_id, line)
);
""",
    """
[rekey]
name = "integers"
[[key]]
table = "public.customers"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
[[key]]
table = "public.orders"
columns = ["id"]
[[key.new]]
name = "id"
type = "bigint"
expression = "id::bigint"
""",
)

NAMES = Example(
    "names",
    b"""
CREATE TABLE scopes (scope_id uuid PRIMARY KEY, name text NOT NULL UNIQUE, note text);
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope_id uuid REFERENCES scopes,
    said text
);
CREATE TABLE grants (
    scope_id uuid REFERENCES scopes ON DELETE CASCADE,
    who text,
    PRIMARY KEY (scope_id, who)
);
""",
    """
[rekey]
name = "names"
[[key]]
table = "public.scopes"
columns = ["scope_id"]
old_default = "gen_random_uuid()"
[[key.new]]
name = "scope_id"
type = "text"
expression = "'scope.' || name"
""",
)

COMPOSITE = Example(
    "composite",
    b"""
CREATE TABLE domains (
    domain_id uuid PRIMARY KEY,
    organization_id int NOT NULL,
    name varchar(40) NOT NULL,
    parent_id uuid REFERENCES domains,
    UNIQUE (organization_id, name)
);
CREATE TABLE decisions (
    id int PRIMARY KEY,
    organization_id int,
    domain_id uuid REFERENCES domains ON DELETE CASCADE,
    said text
);
CREATE TABLE verdicts (
    domain_id uuid REFERENCES domains,
    number int,
    decision_id int REFERENCES decisions ON DELETE CASCADE,
    PRIMARY KEY (domain_id, number)
);
CREATE TABLE timeline (
    id int PRIMARY KEY,
    domain_id uuid,
    number int,
    at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (domain_id, number) REFERENCES verdicts ON DELETE CASCADE
);
""",
    """
[rekey]
name = "composite"
[[key]]
table = "public.domains"
columns = ["domain_id"]
drop = { name = "domain" }
old_default = "gen_random_uuid()"
[[key.new]]
name = "organization_id"
[[key.new]]
name = "domain"
type = "text"
expression = "name"
[[reference]]
table = "public.domains"
columns = ["parent_id"]
new = ["parent_organization_id", "parent_domain"]
""",
)

EXAMPLES = (INTEGERS, NAMES, COMPOSITE)


@contextmanager
def engine(target: Target) -> Iterator[Session]:
    """A session as the engine has them."""
    with connect(target, settings={"row_security": "off", "search_path": ""}) as session:
        yield session


def opener(target: Target) -> Callable[[], Session]:
    """What the engine gives its workers to connect with."""
    return lambda: connect(target, settings={"row_security": "off", "search_path": ""})


def begin(target: Target, example: Example) -> Graph:
    """Create the example's tables and discover the change."""
    with connect(target) as session:
        session.execute(example.ddl)
    with engine(target) as session:
        return discover(session, parse(example.spec))


def shadows(session: Session, graph: Graph) -> None:
    """Bare tables with the new columns; safe to repeat."""
    session.execute(
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(graph.spec.shadow_schema))
    )
    for table in graph.tables:
        session.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(
                FORWARD.destination(graph, table), _columns(table)
            )
        )


def _columns(table: NewTable) -> sql.Composed:
    return sql.SQL(", ").join(_column(table, name) for name in [column.name for column in table.columns])


def _column(table: NewTable, name: str) -> sql.Composed:
    column = next(each for each in table.columns if each.name == name)
    old = table.old.column(name) if column.source else None
    extra = ""
    if old is not None and old.generated:
        extra = " GENERATED ALWAYS AS (amount * 2) STORED"
    elif old is not None and old.identity:
        extra = " GENERATED ALWAYS AS IDENTITY"
    return sql.SQL("{} {}{}{}").format(
        sql.Identifier(name),
        Verbatim(column.type),
        Verbatim(extra),
        sql.SQL(" NOT NULL" if column.not_null else ""),
    )


def keys(session: Session, graph: Graph) -> None:
    """The shadows' primary and unique keys; safe to repeat."""
    for row in session.rows(_KEYS, ([table.old.oid for table in graph.tables],)):
        table = graph.table(row["tab"])
        name = f"{row['name']}_new"
        if _dropped(table) & set(row["columns"]):
            continue
        if not session.value("SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = %s)", (name,)):
            session.execute(
                sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} ({})").format(
                    FORWARD.destination(graph, table),
                    sql.Identifier(name),
                    sql.SQL("PRIMARY KEY" if row["is_primary"] else "UNIQUE"),
                    transform.column_list(table.renamed(row["columns"])),
                )
            )


def _dropped(table: NewTable) -> set[str]:
    return {name for group in table.groups if group.owner for name in group.change.key.drop}


_KEYS = """
SELECT c.conrelid::bigint AS tab, c.conname AS name, c.contype = 'p' AS is_primary,
    (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (number, n)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns
FROM pg_constraint c WHERE c.contype IN ('p', 'u') AND c.conrelid = ANY (%s::bigint[])
ORDER BY 1, 2
"""


def foreign_keys(session: Session, graph: Graph) -> None:
    """The graph's foreign keys on the shadows, validated; safe to repeat."""
    for row in session.rows(_FOREIGN_KEYS, ([table.old.oid for table in graph.tables],)):
        child, parent = graph.table(row["child"]), graph.table(row["parent"])
        name = f"{row['name']}_new"
        if session.value("SELECT EXISTS (SELECT FROM pg_constraint WHERE conname = %s)", (name,)):
            continue
        session.execute(
            sql.SQL(
                "ALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({}) REFERENCES {} ({})"
                " DEFERRABLE INITIALLY DEFERRED"
            ).format(
                FORWARD.destination(graph, child),
                sql.Identifier(name),
                transform.column_list(child.renamed(row["columns"])),
                FORWARD.destination(graph, parent),
                transform.column_list(parent.renamed(row["referred"])),
            )
        )


_FOREIGN_KEYS = """
SELECT c.conname AS name, c.confdeltype::text AS on_delete,
    c.conrelid::bigint AS child, c.confrelid::bigint AS parent,
    (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (number, n)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
    (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k (number, n)
     JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number) AS referred
FROM pg_constraint c WHERE c.contype = 'f' AND c.conrelid = ANY (%s::bigint[]) ORDER BY c.oid
"""


_ACTIONS = {"a": "", "c": " ON DELETE CASCADE", "n": " ON DELETE SET NULL"}


def swap(session: Session, graph: Graph) -> None:
    """Old tables to the retained schema, without their foreign keys; shadows in their place, with them."""
    retained, shadow = graph.spec.retained_schema, graph.spec.shadow_schema
    keys_of_old = session.rows(_FOREIGN_KEYS, ([table.old.oid for table in graph.tables],))
    for row in keys_of_old:
        child = graph.table(row["child"])
        _drop(session, child.old.identifier, row["name"])
        _drop(session, FORWARD.destination(graph, child), f"{row['name']}_new")
    session.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(retained)))
    for table in graph.tables:
        for here, there in ((table.old.schema, retained), (shadow, table.old.schema)):
            session.execute(
                sql.SQL("ALTER TABLE {} SET SCHEMA {}").format(
                    sql.Identifier(here, table.old.name), sql.Identifier(there)
                )
            )
    for row in keys_of_old:
        child, parent = graph.table(row["child"]), graph.table(row["parent"])
        session.execute(
            sql.SQL("ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {} ({}){}").format(
                child.old.identifier,
                transform.column_list(child.renamed(row["columns"])),
                parent.old.identifier,
                transform.column_list(parent.renamed(row["referred"])),
                sql.SQL(_ACTIONS[row["on_delete"]]),
            )
        )


def _drop(session: Session, table: sql.Identifier, constraint: str) -> None:
    session.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table, sql.Identifier(constraint)))


def contents(session: Session, name: sql.Identifier) -> list[str]:
    """Every row of a table as text, in order."""
    rows = session.rows(sql.SQL("SELECT t::text AS row FROM {} AS t ORDER BY 1").format(name))
    return [row["row"] for row in rows]
