"""[[table]] of a key change: another primary key, columns, indexes and foreign keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.servers import DatabaseFactory

from mandate.errors import CheckFailed, UsageError
from mandate.postgres.connection import Session, Target, connect
from mandate.progress import Silent
from mandate.rekey import spec
from mandate.rekey.engine import Engine
from mandate.rekey.options import Hooks, Options

TABLES = b"""
CREATE SCHEMA app;
CREATE TABLE app.items (
    id int PRIMARY KEY, tenant int, name text NOT NULL, made_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX items_name ON app.items (name);
CREATE INDEX items_made_at ON app.items (made_at);
CREATE TABLE app.parts (
    id int PRIMARY KEY, tenant int NOT NULL,
    item int CONSTRAINT parts_item REFERENCES app.items ON DELETE CASCADE
);
INSERT INTO app.items (id, tenant, name) SELECT i, i % 3, 'item ' || i FROM generate_series(1, 300) i;
INSERT INTO app.parts SELECT i, i % 3, i FROM generate_series(1, 300) i;
"""

BY_TENANT = """
[rekey]
name = "tenants"
[[table]]
name = "app.items"
primary_key = ["tenant", "id"]
drop_index = ['\\(made_at\\)$']
[[table.column]]
name = "label"
type = "text"
expression = "upper(name)"
default = "'born'"
not_null = true
[[table]]
name = "app.parts"
primary_key = ["tenant", "id"]
drop_foreign_key = ['^FOREIGN KEY \\(item\\) REFERENCES app\\.items \\(id\\)$']
[[foreign_key]]
table = "app.parts"
name = "parts_tenant_item"
columns = ["tenant", "item"]
references = "app.items"
referred = ["tenant", "id"]
[[index]]
table = "app.items"
name = "items_old_key"
on = "(id)"
unique = true
until_final = true
"""


def change(target: Target, text: str = BY_TENANT, *written: bytes) -> Engine:
    """The engine; `written` is done by a client between the copy and the swap."""

    def write(_: Session) -> None:
        with connect(target) as client:
            for statement in written:
                client.execute(statement)

    return Engine(target, spec.parse(text), Options(hooks=Hooks(before_swap=(write,))), Silent())


def shape(session: Session) -> list[str]:
    """Constraints, indexes and columns of the schema."""
    rows = session.rows(
        "SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) AS what"
        " FROM pg_constraint WHERE connamespace = 'app'::regnamespace AND contype <> 'n'"
        " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'app'"
        " UNION ALL SELECT table_name || '.' || column_name || ' ' || is_nullable"
        " FROM information_schema.columns WHERE table_schema = 'app' ORDER BY 1"
    )
    return [row["what"] for row in rows]


def rows(session: Session, columns: str = "id, tenant, name, made_at") -> list[object]:
    query = f"SELECT ROW({columns})::text AS row FROM app.items ORDER BY id".encode()
    parts = session.rows("SELECT p::text AS row FROM app.parts p ORDER BY id")
    return [*session.rows(query), *parts]


def test_keys_columns_and_indexes_change_under_writers_and_back(database: DatabaseFactory) -> None:
    target = database("empty")
    with connect(target) as session:
        session.execute(TABLES)
        before = shape(session)
    # Each row is another one by its new key or by its old one: tenant changes, id changes, one leaves.
    engine = change(
        target,
        BY_TENANT,
        b"BEGIN; DELETE FROM app.parts WHERE id = 7;"
        b" UPDATE app.items SET tenant = 9, name = 'moved' WHERE id = 7;"
        b" UPDATE app.items SET id = 1000 WHERE id = 7; DELETE FROM app.items WHERE id = 8;"
        b" INSERT INTO app.items VALUES (8, 5, 'again'); INSERT INTO app.parts VALUES (8000, 5, 8); COMMIT",
    )
    engine.run()
    with connect(target) as session:
        now = shape(session)
        assert "app.items items_pkey PRIMARY KEY (tenant, id)" in now
        assert (
            "app.parts parts_tenant_item FOREIGN KEY (tenant, item) REFERENCES app.items(tenant, id)" in now
        )
        assert not [line for line in now if "parts_item " in line or "items_made_at" in line]
        assert session.value("SELECT label FROM app.items WHERE id = 1000") == "MOVED"
        assert session.value("SELECT tenant FROM app.items WHERE id = 8") == 5
        session.execute(
            "INSERT INTO app.items (id, tenant, name) VALUES (2000, 1, 'late');"
            "UPDATE app.items SET tenant = 4 WHERE id = 1000; DELETE FROM app.parts WHERE id = 9"
        )
        assert session.value("SELECT label FROM app.items WHERE id = 2000") == "born"
        written = rows(session)
    engine.rollback()
    with connect(target) as session:
        assert shape(session) == before
        assert rows(session) == written
    replace(engine, options=Options()).run()
    engine.finalize()
    with connect(target) as session:
        assert shape(session) == [line for line in now if "items_old_key" not in line]
        assert rows(session) == written


def edited(*changes: tuple[str, str]) -> str:
    text = BY_TENANT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[rekey]\nname = "none"', r"at least one \[\[key\]\] or \[\[table\]\]"),
        (edited(('"tenant", "id"]', '"tenant", "tenant"]')), "primary_key names a column twice"),
        (edited(("drop_index = ['", "drop_index = ['(")), "is not a regular expression"),
        (edited(('name = "app.parts"', 'name = "app.items"')), "table: each name once"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        spec.parse(text)


WRONG = {
    "no table": (edited(('"app.items"', '"app.item"')), r"there is no table app\.item"),
    "no column": (edited(('"tenant", "id"]', '"tenat", "id"]')), r"app\.items has no column tenat"),
    "taken": (edited(('name = "label"', 'name = "name"')), "has a column name already"),
    "unknown type": (edited(('type = "text"', 'type = "txt"')), r"type: type \"txt\" does not exist"),
    "unknown function": (edited(("upper(name)", "uppr(name)")), r"expression: function uppr\(text\)"),
    "default that reads a row": (
        edited(("\"'born'\"", '"name"')),
        r"default: column \"name\" does not exist",
    ),
    "injected": (edited(("upper(name)", "1); DROP TABLE app.parts; --")), r"table\[0\]\.column\[0\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_spec_that_does_not_fit_the_tables_is_refused(database: DatabaseFactory, name: str) -> None:
    target = database("empty")
    text, said = WRONG[name]
    with connect(target) as session:
        session.execute(TABLES)
        before = shape(session)
    with pytest.raises(UsageError, match=said):
        change(target, text).run()
    with connect(target) as session:
        assert shape(session) == before


def test_rows_and_objects_that_do_not_fit_are_named(database: DatabaseFactory) -> None:
    target = database("empty")
    with connect(target) as session:
        session.execute(TABLES)
        session.execute("INSERT INTO app.items VALUES (900, NULL, 'nobody''s')")
    with pytest.raises(CheckFailed, match=r"app\.items \(id 900\): tenant is NULL"):
        change(target).run()
    with connect(target) as session:
        session.execute(
            "DELETE FROM app.items WHERE id = 900; CREATE TABLE app.notes (item int REFERENCES app.items)"
        )
    change(target).abort()
    with pytest.raises(
        CheckFailed, match=r"notes_item_fkey of app\.notes refers to the primary key of app\.items"
    ):
        change(target).run()
