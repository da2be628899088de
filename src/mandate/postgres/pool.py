"""A pool of asynchronous connections for a service that outlives its database's restarts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from psycopg import AsyncConnection, AsyncCursor, AsyncRawCursor, OperationalError
from psycopg.conninfo import make_conninfo
from psycopg.errors import DeadlockDetected
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from mandate.errors import DatabaseUnavailable
from mandate.postgres import prepared
from mandate.postgres.connection import Params, Query, Row, Target, translate, translated
from mandate.postgres.numbered import numbered

# Given at connection time, so that no SET ever changes a connection that somebody else gets next.
_SERVER_SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "idle_in_transaction_session_timeout": "60s",
}
# Optional filters fold away only in a plan made for the values at hand.
_READING = {"plan_cache_mode": "force_custom_plan"}
_READ_ONLY = "-c default_transaction_read_only=on"
# The same few statements for ever, over arrays of any length: planned once, and not for the few rows that the
# planner expects of an array it cannot see, nor for tables, in which keys are looked up, that are empty yet.
_WRITING = {
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
    "enable_nestloop": "off",
    "enable_seqscan": "off",
}

# Notice a peer that vanished without a word.
CLIENT_SETTINGS: dict[str, Any] = {
    "connect_timeout": 3,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


# Connections that are ended together do not end at one moment: the next may look alive and be lost, too.
_TRIES = 3

_SET_LOCAL = (
    "SELECT pg_catalog.set_config(name, value, true) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"
)


class Pool:
    """Autocommit connections, read-only unless `writing`; methods raise errors.DatabaseError or a subclass.

    `target` is asked again for each new connection: an embedded server may come back on another port.
    """

    def __init__(
        self,
        target: Callable[[], Target],
        *,
        application_name: str,
        size: int,
        statement_timeout_seconds: float = 10.0,
        wait_seconds: float = 3.0,
        writing: bool = False,
    ) -> None:
        self._target = target
        self._writing = writing
        self.guarded = True
        """Whether policies look at `settings`; true until somebody knows better."""
        self._application_name = application_name
        self._statement_timeout_ms = round(statement_timeout_seconds * 1000)
        self._pool: AsyncConnectionPool[prepared.Connection] = AsyncConnectionPool(
            self._conninfo,
            connection_class=prepared.Connection,
            kwargs={"autocommit": True, "row_factory": dict_row},
            # A writer does without the round trip: it knows what to do when its connection is lost.
            check=None if writing else AsyncConnectionPool.check_connection,
            min_size=1,
            max_size=size,
            max_waiting=50 * size,
            timeout=wait_seconds,
            # As long as a caller waits and no longer: the next caller begins a new attempt at once
            # instead of waiting out a back-off that has grown to minutes.
            reconnect_timeout=wait_seconds,
            name=application_name,
            open=False,
        )

    def _conninfo(self) -> str:
        target = self._target()
        own = _WRITING if self._writing else _READING
        settings = {"statement_timeout": str(self._statement_timeout_ms), **_SERVER_SETTINGS, **own}
        ours = (f"-c {name}={value}" for name, value in settings.items())
        read_only = () if self._writing else (_READ_ONLY,)
        options = " ".join([*ours, target.parameters.get("options", ""), *read_only])
        return make_conninfo(
            "",
            **{
                **CLIENT_SETTINGS,
                **target.parameters,
                "dbname": target.database,
                "application_name": self._application_name,
                "options": options,
            },
        )

    @property
    def target(self) -> Target:
        """The database as it is known now. Raises NoDatabase."""
        return self._target()

    async def open(self) -> None:
        """Begin to connect; returns at once, whether or not the server is there."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection, waiting a little for those in use."""
        await self._pool.close(timeout=5.0)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def rows(
        self, query: Query, params: Params = None, settings: Mapping[str, str] | None = None
    ) -> list[Row]:
        """All rows of one statement that may run again: it does after a lost connection or a deadlock.

        `settings` hold for its transaction and no longer; left out while nobody `guarded` looks at them.
        """
        said = settings if self.guarded else None
        tries = _TRIES
        with translated():
            while True:
                tries -= 1
                async with self._pool.connection() as connection:
                    try:
                        if self._writing:
                            await connection.use()
                        return await _fetch(connection, query, params, said)
                    except OperationalError as error:
                        lost = isinstance(translate(error), DatabaseUnavailable)
                        if not tries or not (lost or isinstance(error, DeadlockDetected)):
                            raise
                if lost:
                    await self._pool.check()

    def statistics(self) -> dict[str, int]:
        """Figures of the pool by psycopg_pool's names (pool_size, pool_available, requests_waiting, ...)."""
        return self._pool.get_stats()


async def _fetch(
    connection: prepared.Connection, query: Query, params: Params, settings: Mapping[str, str] | None
) -> list[Row]:
    if not settings:
        if isinstance(query, bytes) and prepared.are_texts(params):
            return await prepared.fetch(connection, query, params)
        cursor = await _execute(connection, query, params)
        return await cursor.fetchall()
    # In one round trip. SET LOCAL, never SET: the connection is somebody else's next.
    async with connection.pipeline(), connection.transaction():
        await connection.execute(_SET_LOCAL, (list(settings), list(settings.values())))
        cursor = await _execute(connection, query, params)
    return await cursor.fetchall()


async def _execute(
    connection: AsyncConnection[Row], query: Query, params: Params
) -> AsyncCursor[Row] | AsyncRawCursor[Row]:
    if not isinstance(query, bytes) or not isinstance(params, Mapping):
        return await connection.execute(query, params)
    statement, names = numbered(query)
    cursor = AsyncRawCursor(connection, row_factory=dict_row)
    return await cursor.execute(statement, [params[name] for name in names])
