"""Sessions, and the one door through which the driver's errors become ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString, Self

import psycopg
from psycopg import sql as sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb as Jsonb

from mandate import errors

Query = LiteralString | bytes | sql.SQL | sql.Composed


class Verbatim(sql.Composable):
    """SQL that PostgreSQL wrote itself (a definition from its catalogue), or an expression that was parsed.

    The only way for text that is not a literal of this program into a statement.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def as_bytes(self, context: object | None = None) -> bytes:
        return self._text.encode()


Params = Sequence[Any] | Mapping[str, Any] | None
Row = dict[str, Any]

_PASSWORD = re.compile(r"(password=)('[^']*'|\S+)|(://[^:/@\s]+):[^@\s]*@", re.IGNORECASE)

# libpq parameter -> environment variable, for programs that must not see a password in argv.
_LIBPQ_ENVIRONMENT = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "passfile": "PGPASSFILE",
    "dbname": "PGDATABASE",
    "service": "PGSERVICE",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "options": "PGOPTIONS",
    "application_name": "PGAPPNAME",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
}


def redact(text: str) -> str:
    """The text with every password in a connection string or URL replaced by ***."""
    return _PASSWORD.sub(lambda m: f"{m[1]}***" if m[1] else f"{m[3]}:***@", text)


@dataclass(frozen=True)
class Target:
    """A database to talk to: libpq parameters and where they came from. repr shows no secret."""

    parameters: Mapping[str, str] = field(repr=False)
    source: str = "--dsn"

    @classmethod
    def from_dsn(cls, dsn: str, source: str = "--dsn") -> Self:
        """Parse a libpq string or URL. Raises UsageError when libpq cannot."""
        try:
            parsed = conninfo_to_dict(dsn)
            if "@" in str(parsed.get("host") or "").lstrip("@"):
                raise psycopg.ProgrammingError("an @ in the user or the password must be written %40")
        except psycopg.ProgrammingError as error:
            raise errors.UsageError(
                f"{source} is not a PostgreSQL connection string: {redact(str(error)).strip()}",
                hint="example: postgresql://postgres@localhost:5432/mandate",
            ) from None
        return cls({key: str(value) for key, value in parsed.items() if value is not None}, source)

    @property
    def database(self) -> str:
        return self.parameters.get("dbname", "mandate")

    @property
    def conninfo(self) -> str:
        """The libpq connection string, password included: never for display."""
        return make_conninfo("", **{**self.parameters, "dbname": self.database})

    def with_database(self, name: str) -> Target:
        """The same server, another database."""
        return Target({**self.parameters, "dbname": name}, self.source)

    def environment(self) -> dict[str, str]:
        """The PG* variables that make a program of PostgreSQL connect here."""
        parameters = {**self.parameters, "dbname": self.database}
        return {_LIBPQ_ENVIRONMENT[k]: v for k, v in parameters.items() if k in _LIBPQ_ENVIRONMENT}

    def __str__(self) -> str:
        get = self.parameters.get
        user = f"{get('user')}@" if get("user") else ""
        host = get("host") or get("service") or "local socket"
        port = f":{get('port')}" if get("port") else ""
        return f"{user}{host}{port}/{self.database}"


class Session:
    """One connection, pinned: rows as dicts, errors as ours, notices kept.

    Autocommit; use `transaction()` for more than one statement. Raises subclasses of
    errors.DatabaseError from every method.
    """

    def __init__(self, connection: psycopg.Connection[Row]) -> None:
        self.connection = connection
        self.notices: list[str] = []
        connection.add_notice_handler(lambda note: self.notices.append(note.message_primary or ""))

    def execute(self, query: Query, params: Params = None) -> int:
        """Run a statement; the number of rows it touched (-1 when that has no meaning)."""
        with translated():
            return self.connection.execute(query, params).rowcount

    def rows(self, query: Query, params: Params = None) -> list[Row]:
        """All rows of a query."""
        with translated():
            return self.connection.execute(query, params).fetchall()

    def fetch(self, query: Query, params: Params = None) -> tuple[list[str], list[Row]]:
        """Column names and rows of any statement; both empty when it returns no rows at all."""
        with translated():
            cursor = self.connection.execute(query, params)
            if cursor.description is None:
                return [], []
            return [column.name for column in cursor.description], cursor.fetchall()

    def row(self, query: Query, params: Params = None) -> Row | None:
        """The first row of a query, or None."""
        with translated():
            return self.connection.execute(query, params).fetchone()

    def value(self, query: Query, params: Params = None) -> Any:
        """The first column of the first row, or None."""
        row = self.row(query, params)
        return next(iter(row.values())) if row else None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction, or a savepoint inside one."""
        with translated(), self.connection.transaction():
            yield

    @contextmanager
    def stream(self, query: Query, params: Params = None, *, size: int = 1000) -> Iterator[Iterator[Row]]:
        """Rows through a server-side cursor: memory does not grow with the result."""
        with (
            translated(),
            self.connection.transaction(),
            self.connection.cursor("mandate_stream") as cursor,
        ):
            cursor.itersize = size
            cursor.execute(query, params)
            yield iter(cursor)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open, even a failed one."""
        return self.connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE

    @property
    def server_version(self) -> int:
        """For example 160003."""
        return self.connection.info.server_version

    @property
    def pid(self) -> int:
        return self.connection.info.backend_pid

    def cancel(self) -> None:
        """Cancel the running statement; safe from another thread. Raises DatabaseError."""
        with translated():
            self.connection.cancel_safe()

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# What a role or a database may be set to otherwise. The first two are the forms that the driver reads;
# the others would cut short what is meant to take its time.
_PINNED = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "default_transaction_isolation": "read committed",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "statement_timeout": "0",
    "transaction_timeout": "0",
}
# Not every version knows each of them.
_PIN = (
    "SELECT pg_catalog.set_config(s.name, p.value, false)"
    " FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS p (name, value)"
    " JOIN pg_catalog.pg_settings s USING (name)"
)


def connect(
    target: Target,
    *,
    application_name: str = "mandate",
    autocommit: bool = True,
    connect_timeout_seconds: int = 10,
    settings: Mapping[str, str] | None = None,
) -> Session:
    """Open a session. `settings` are server parameters (lock_timeout, ...) set for its lifetime.

    Raises DatabaseUnavailable, AuthenticationFailed or another DatabaseError.
    """
    parameters: dict[str, Any] = {
        "connect_timeout": connect_timeout_seconds,
        **target.parameters,
        "dbname": target.database,
        "application_name": application_name[:63],
    }
    with translated(target):
        connection = psycopg.connect(
            make_conninfo("", **parameters), autocommit=autocommit, row_factory=dict_row
        )
    session = Session(connection)
    session.rows(_PIN, (list(_PINNED), list(_PINNED.values())))
    for name, value in (settings or {}).items():
        session.execute("SELECT set_config(%s, %s, false)", (name, value))
    return session


@contextmanager
def translated(target: Target | None = None) -> Iterator[None]:
    """Turn psycopg's errors into mandate.errors.DatabaseError."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, target) from error


_BY_STATE: dict[str, Callable[..., errors.DatabaseError]] = {
    "28P01": errors.AuthenticationFailed,
    "28000": errors.AuthenticationFailed,
    "55P03": errors.LockNotAvailable,
    "40P01": errors.LockNotAvailable,
    "53100": errors.DiskFull,
    "57P01": errors.DatabaseUnavailable,
    "57P02": errors.DatabaseUnavailable,
    "57P03": errors.DatabaseUnavailable,
    "3D000": errors.DatabaseUnavailable,
    "53300": errors.DatabaseUnavailable,
}


_HINTS = {
    "25006": "is this a standby? else somebody set default_transaction_read_only on the database, the role"
    " or the server",
    "42501": "connect as the owner of the database, or let the owner grant this role what is missing",
}
_MISSING_SCHEMA = re.compile(r"permission denied for schema (\w+)$")


def _hint(sqlstate: str, text: str) -> str:
    """What to do about a refusal that PostgreSQL leaves without a hint."""
    if "create database" in text:
        return "ALTER ROLE ... CREATEDB: copies are restored into a database of their own beside"
    if found := _MISSING_SCHEMA.match(text):
        return (
            f"{_HINTS[sqlstate]}: GRANT USAGE ON SCHEMA {found[1]} TO ...;"
            f" GRANT SELECT ON ALL TABLES IN SCHEMA {found[1]} TO ..."
        )
    return _HINTS[sqlstate]


def translate(error: psycopg.Error, target: Target | None = None) -> errors.DatabaseError:
    """One psycopg error as ours, with sqlstate, detail and the object names it carries."""
    diag = error.diag
    text = redact((diag.message_primary or str(error)).strip())
    fields = {
        "sqlstate": error.sqlstate,
        "detail": diag.message_detail,
        "schema": diag.schema_name,
        "table": diag.table_name,
        "column": diag.column_name,
        "constraint": diag.constraint_name,
    }
    known = {key: value for key, value in fields.items() if value}
    if error.sqlstate in _HINTS:
        return errors.DatabaseError(text, hint=diag.message_hint or _hint(error.sqlstate, text), **known)
    if error.sqlstate in _BY_STATE:
        return _BY_STATE[error.sqlstate](text, hint=diag.message_hint, **known)
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return _connection_error(text, target, known)
    return errors.DatabaseError(text, hint=diag.message_hint, **known)


def _connection_error(text: str, target: Target | None, fields: Mapping[str, str]) -> errors.DatabaseError:
    where = f" {target} ({target.source})" if target else ""
    lowered = text.lower()
    if "password" in lowered or "authentication" in lowered or "pg_hba.conf" in lowered:
        return errors.AuthenticationFailed(
            f"PostgreSQL refused the login{where}: {text}",
            hint="check user and password (PGPASSWORD, ~/.pgpass or the DSN)",
            **fields,
        )
    if "not currently accepting connections" in lowered:
        return errors.DatabaseUnavailable(
            f"nobody may connect{where}: {text}",
            hint="a rollback closes the database just before its swap; when none is under way, one died"
            " there: run the same `mandate rollback` again, it opens the database and goes on",
            **fields,
        )
    return errors.DatabaseUnavailable(
        f"cannot reach PostgreSQL{where}: {text}",
        hint="is the server running? `mandate db status` for the embedded one, else check host and port",
        **fields,
    )
