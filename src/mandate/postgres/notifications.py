"""LISTEN: what other sessions say with NOTIFY, for as long as the connection lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator

from psycopg import AsyncConnection, sql
from psycopg.conninfo import make_conninfo

from mandate.postgres.connection import Target, translated
from mandate.postgres.pool import CLIENT_SETTINGS


async def notifications(target: Target, channel: str, application_name: str) -> AsyncIterator[str | None]:
    """None as soon as the channel is listened to (who knows what was said before), then each payload.

    Raises DatabaseError when the connection cannot be made or is lost.
    """
    parameters = {
        **CLIENT_SETTINGS,
        **target.parameters,
        "dbname": target.database,
        "application_name": application_name,
    }
    with translated(target):
        connection = await AsyncConnection.connect(make_conninfo("", **parameters), autocommit=True)
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            yield None
            async for notice in connection.notifies():
                yield notice.payload
