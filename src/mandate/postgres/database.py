"""Whole databases: made like another one, marked as ours, renamed, dropped.

Sessions given here are connected to another database of the same server, see `maintenance`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mandate.errors import DatabaseUnavailable
from mandate.postgres.connection import Row, Session, Target, connect, sql

PROPERTIES_SQL = (Path(__file__).parent / "sql" / "database_properties.sql").read_bytes()

_MARK = "Made by Mandate: "
_MAX_NAME_BYTES = 63


@dataclass(frozen=True)
class Mark:
    """The comment on a database that we made: what for, in which run, from which database."""

    purpose: str
    run_id: str
    database: str
    state: str = ""

    def text(self) -> str:
        """As a comment."""
        return _MARK + json.dumps(vars(self), ensure_ascii=False)


def maintenance(target: Target, application_name: str = "mandate") -> Session:
    """A session on a database of the server that is not the target. Raises DatabaseError."""
    names = [name for name in ("postgres", "template1") if name != target.database]
    try:
        return connect(target.with_database(names[0]), application_name=application_name)
    except DatabaseUnavailable as error:
        if error.sqlstate != "3D000" or len(names) < 2:
            raise
        return connect(target.with_database(names[1]), application_name=application_name)


def derived_name(database: str, suffix: str) -> str:
    """`database` + `suffix`, the former cut so that PostgreSQL takes the whole (63 bytes)."""
    room = _MAX_NAME_BYTES - len(suffix.encode())
    return database.encode()[:room].decode("utf-8", "ignore") + suffix


def exists(session: Session, name: str) -> bool:
    """Whether the server has a database of that name."""
    return session.row("SELECT FROM pg_catalog.pg_database WHERE datname = %s", (name,)) is not None


def size(session: Session, name: str) -> int:
    """Bytes on the server's disk."""
    return int(session.value("SELECT pg_catalog.pg_database_size(%s::name)", (name,)))


def properties(session: Session, name: str) -> dict[str, Any]:
    """Owner, encoding, locale, tablespace, limit, comment, grants and settings; JSON-able."""
    row = session.row(PROPERTIES_SQL, {"database": name})
    if row is None:
        raise DatabaseUnavailable(f'database "{name}" does not exist')
    return row


def _tablespace(name: str) -> sql.Composed | sql.SQL:
    """Where template0 is anyway goes without saying: said, it takes a privilege that no owner has."""
    return sql.SQL("") if name == "pg_default" else sql.SQL("TABLESPACE {}").format(sql.Identifier(name))


def create(session: Session, name: str, like: Mapping[str, Any], mark: Mark) -> None:
    """An empty database with the owner, encoding, locale and tablespace that `like` (properties) has."""
    session.execute(
        sql.SQL(
            "CREATE DATABASE {} TEMPLATE template0 OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {} {} {}"
        ).format(
            sql.Identifier(name),
            sql.Identifier(like["owner"]),
            sql.Literal(like["encoding"]),
            sql.Literal(like["collate"]),
            sql.Literal(like["ctype"]),
            _tablespace(str(like["tablespace"])),
            _locale_provider(like["version_specific"]),
        )
    )
    set_mark(session, name, mark)


def _locale_provider(row: Mapping[str, Any]) -> sql.Composable:
    """PostgreSQL 15 brought ICU per database, 16 its rules, 17 the built-in provider; 14 has libc only."""
    provider = row.get("datlocprovider", "c")
    locale = sql.Literal(row.get("datlocale") or row.get("daticulocale"))
    if provider == "b":
        return sql.SQL("LOCALE_PROVIDER builtin BUILTIN_LOCALE {}").format(locale)
    if provider == "i":
        rules = row.get("daticurules")
        return sql.SQL("LOCALE_PROVIDER icu ICU_LOCALE {} {}").format(
            locale, sql.SQL("ICU_RULES {}").format(sql.Literal(rules)) if rules else sql.SQL("")
        )
    return sql.SQL("")


def apply_properties(session: Session, name: str, like: Mapping[str, Any]) -> None:
    """Connection limit, grants and settings of `like`; its comment is left to the caller.

    After the data: a setting such as default_transaction_read_only would refuse the restore.
    """
    with session.transaction():
        session.execute(
            sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(
                sql.Identifier(name), sql.Literal(like["connection_limit"])
            )
        )
        if like["has_grants"]:
            _apply_grants(session, name, like["owner"], like["grants"] or ())
    for setting in like["settings"]:
        _apply_setting(session, name, setting)


def _apply_grants(session: Session, name: str, owner: str, grants: Sequence[Mapping[str, Any]]) -> None:
    database = sql.Identifier(name)
    session.execute(
        sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC, {}").format(database, sql.Identifier(owner))
    )
    for grant in grants:
        grantee = sql.SQL("PUBLIC") if grant["grantee"] is None else sql.Identifier(grant["grantee"])
        session.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                _PRIVILEGES[grant["privilege"]],
                database,
                grantee,
                sql.SQL(" WITH GRANT OPTION") if grant["grantable"] else sql.SQL(""),
            )
        )


_PRIVILEGES = {
    "CONNECT": sql.SQL("CONNECT"),
    "CREATE": sql.SQL("CREATE"),
    "TEMPORARY": sql.SQL("TEMPORARY"),
}


def _apply_setting(session: Session, name: str, setting: Mapping[str, Any]) -> None:
    """FROM CURRENT takes the value as it is stored: lists such as search_path need no parsing."""
    parts = {"database": sql.Identifier(name), "parameter": sql.Identifier(setting["name"])}
    if setting["role"] is None:
        statement = sql.SQL("ALTER DATABASE {database} SET {parameter} FROM CURRENT").format(**parts)
    else:
        statement = sql.SQL("ALTER ROLE {role} IN DATABASE {database} SET {parameter} FROM CURRENT").format(
            role=sql.Identifier(setting["role"]), **parts
        )
    with session.transaction():
        session.execute("SELECT pg_catalog.set_config(%s, %s, true)", (setting["name"], setting["value"]))
        session.execute(statement)


def set_comment(session: Session, name: str, text: str | None) -> None:
    """COMMENT ON DATABASE; None removes it."""
    session.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(text)))


def set_mark(session: Session, name: str, mark: Mark) -> None:
    """Say on the database itself whose it is."""
    set_comment(session, name, mark.text())


def marks(session: Session) -> dict[str, Mark]:
    """Every database of the server that carries our mark."""
    rows = session.rows(
        "SELECT d.datname AS name, pg_catalog.shobj_description(d.oid, 'pg_database') AS comment"
        " FROM pg_catalog.pg_database AS d WHERE NOT d.datistemplate"
    )
    found = {row["name"]: _read_mark(row["comment"] or "") for row in rows}
    return {name: mark for name, mark in found.items() if mark is not None}


def _read_mark(comment: str) -> Mark | None:
    if not comment.startswith(_MARK):
        return None
    try:
        return Mark(**json.loads(comment.removeprefix(_MARK)))
    except (ValueError, TypeError):
        return None  # somebody edited it: no longer ours to judge


def clients(session: Session, name: str) -> list[Row]:
    """Who is connected to a database: pid, user, application, address, state."""
    return session.rows(
        'SELECT pid, usename::text AS "user", application_name AS application,'
        " COALESCE(pg_catalog.host(client_addr), 'local socket') AS address, state"
        " FROM pg_catalog.pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_catalog.pg_backend_pid()"
        " AND backend_type IN ('client backend', 'walsender') ORDER BY backend_start",
        (name,),
    )


def rename(session: Session, name: str, new_name: str) -> None:
    """Refused (55006) while somebody is connected. Transactional: several can be one step."""
    session.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(name), sql.Identifier(new_name))
    )


def allow_connections(session: Session, name: str, allowed: bool) -> None:
    """Let new sessions in, or nobody, not even a superuser; sessions that are open stay."""
    session.execute(
        sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), sql.Literal(allowed))
    )


def drop(session: Session, name: str) -> None:
    """Drop it if it is there. Refused (55006) while somebody is connected."""
    session.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
