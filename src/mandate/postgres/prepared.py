"""One statement, executed as fast as the client library can: prepared once, parameters as they are.

What the driver does for every execution - choosing how to adapt each parameter, deciding whether to prepare,
several waits - takes longer than some statements do. This is for parameters that are texts already, and waits
only as often as the server has something to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from psycopg import AsyncConnection, Error, OperationalError
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from mandate.postgres.connection import Row
from mandate.postgres.numbered import numbered

_IDLE = TransactionStatus.IDLE
_DEALLOCATED = "26000"
# The statement is not there any more, or was planned for tables of another shape.
_OUTDATED = {_DEALLOCATED, "0A000"}
_FINE = (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK)


# After so many statements on a connection, ever more rarely, everything is planned anew: what was planned for
# tables that were empty - foreign keys too, which no statement names - may have taken the wrong index.
_PLANNED_ANEW = frozenset(8**power for power in range(1, 20))


class Connection(AsyncConnection[Row]):
    """A connection that remembers what was prepared on it, and how often it was used for that."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.prepared: dict[bytes, bytes] = {}
        self.prepared_ever = 0
        self.used = 0

    async def use(self) -> None:
        """Count a statement that is planned once for all its executions."""
        self.used += 1
        if self.used in _PLANNED_ANEW:
            await self.execute(b"DISCARD PLANS")


def are_texts(params: object) -> TypeGuard[Mapping[str, str | None]]:
    """Whether parameters need no adapting."""
    return isinstance(params, Mapping) and all(each is None or type(each) is str for each in params.values())


async def fetch(connection: Connection, query: bytes, params: Mapping[str, str | None]) -> list[Row]:
    """All rows of a statement with named placeholders. Raises psycopg's errors."""
    statement, names = numbered(query)
    values = [None if (value := params[name]) is None else value.encode() for name in names]
    known = statement in connection.prepared
    try:
        return _rows(connection, await _executed(connection, statement, values))
    except Error as error:
        # The driver deallocates everything, ours too, when a transaction was rolled back. Nothing ran.
        if not known or error.sqlstate != _DEALLOCATED or connection.info.transaction_status != _IDLE:
            raise
        connection.prepared.clear()
    return _rows(connection, await _executed(connection, statement, values))


async def _executed(connection: Connection, statement: bytes, values: Sequence[bytes | None]) -> PGresult:
    name = connection.prepared.get(statement) or await _prepare(connection, statement)
    connection.pgconn.send_query_prepared(name, values)
    try:
        return await _result(connection)
    except Error as error:
        if error.sqlstate in _OUTDATED:
            del connection.prepared[statement]
        raise


async def _prepare(connection: Connection, statement: bytes) -> bytes:
    name = b"mandate_%d" % connection.prepared_ever
    connection.prepared_ever += 1
    connection.pgconn.send_prepare(name, statement)
    await _result(connection)
    connection.prepared[statement] = name
    return name


async def _result(connection: Connection) -> PGresult:
    """The one result of what was sent."""
    pgconn = connection.pgconn
    while pgconn.flush():
        await _turn(pgconn, writing=True)
        pgconn.consume_input()
    results: list[PGresult] = []
    while True:
        while pgconn.is_busy():
            await _turn(pgconn)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            break
        results.append(result)
    for result in results:
        if result.status not in _FINE:
            raise error_from_result(result, encoding=connection.info.encoding)
    if not results:
        raise OperationalError("the server gave no answer")
    return results[-1]


async def _turn(pgconn: PGconn, *, writing: bool = False) -> None:
    """Wait until the server has something to say, or (when `writing`) takes more."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()

    def come() -> None:
        if not turn.done():
            turn.set_result(None)

    socket = pgconn.socket
    loop.add_reader(socket, come)
    if writing:
        loop.add_writer(socket, come)
    try:
        await turn
    finally:
        loop.remove_reader(socket)
        if writing:
            loop.remove_writer(socket)


def _rows(connection: Connection, result: PGresult) -> list[Row]:
    names = [(result.fname(at) or b"").decode() for at in range(result.nfields)]
    transformer = Transformer(connection)
    transformer.set_pgresult(result)

    def row(values: Sequence[Any]) -> Row:
        return dict(zip(names, values, strict=True))

    return transformer.load_rows(0, result.ntuples, row)
