"""The end of a change's schemas and indexes, and of nothing of anybody else's."""

from __future__ import annotations

from pathlib import Path

from mandate.errors import NeedsPerson
from mandate.postgres.connection import Session, sql
from mandate.rekey.spec import Spec

_DEPENDENTS = (Path(__file__).parent / "sql" / "dependents.sql").read_bytes()


def drop(session: Session, spec: Spec) -> None:
    """Drop the schemas of a change. Raises NeedsPerson, naming them, when others would lose objects by it."""
    schemas = there(session, spec)
    found = [row["problem"] for row in session.rows(_DEPENDENTS, {"schemas": schemas})]
    if found:
        raise NeedsPerson(
            "something was made that needs the tables which are to be dropped:\n"
            + "\n".join(f"  {problem}" for problem in found),
            hint="drop it, or create it again on the tables in use, then repeat the command",
            problems=found,
        )
    for name in schemas:
        session.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def there(session: Session, spec: Spec) -> list[str]:
    """The schemas of a change that there are, those for tables of other schemas too."""
    names = [spec.shadow_schema, spec.retained_schema, spec.work_schema]
    rows = session.rows(
        "SELECT nspname AS name FROM pg_catalog.pg_namespace"
        " WHERE pg_catalog.split_part(nspname, '$', 1) = ANY (%s) ORDER BY 1",
        (names,),
    )
    return [row["name"] for row in rows]


def drop_until_final(session: Session, spec: Spec) -> None:
    """Drop the indexes that were there for the way back only."""
    for index in spec.index:
        if index.until_final:
            there = sql.Identifier(index.table.split(".")[0], index.name)
            session.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(there))
