"""Databases of a server: is it there, create it."""

from __future__ import annotations

from psycopg import sql

from mandate.errors import DatabaseError, DatabaseUnavailable
from mandate.postgres.connection import Session, Target, connect

_MAINTENANCE = ("postgres", "template1")
_ALREADY_THERE = ("42P04", "23505")  # duplicate_database; unique_violation when two create it at once


def create_if_missing(target: Target) -> bool:
    """Create the target's database, UTF-8, when its server does not have it. True when it was created.

    Raises DatabaseUnavailable or AuthenticationFailed as connecting to the database itself does.
    """
    try:
        connect(target).close()
    except DatabaseUnavailable as error:
        # The server's words are in its own language: ask its catalogue whether that was the reason.
        return _create(target, error)
    return False


def _create(target: Target, reason: DatabaseUnavailable) -> bool:
    with _maintenance(target, reason) as session:
        if session.value("SELECT count(*) FROM pg_database WHERE datname = %s", (target.database,)):
            raise reason
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'")
        try:
            session.execute(statement.format(sql.Identifier(target.database)))
        except DatabaseError as error:
            if error.sqlstate not in _ALREADY_THERE:
                raise
            return False
    return True


def _maintenance(target: Target, reason: DatabaseUnavailable) -> Session:
    for name in _MAINTENANCE:
        try:
            return connect(target.with_database(name))
        except DatabaseError:
            continue
    raise reason
