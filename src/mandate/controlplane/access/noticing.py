"""Looks whether policies want to be told whose rows a statement is about: said only where it matters."""

from __future__ import annotations

import asyncio

from mandate.controlplane.access.statements import read_sql
from mandate.errors import MandateError
from mandate.postgres.pool import Pool

NOTICE_SECONDS = 1.0
_WANTED = read_sql("row_security_wanted.sql")


async def notice(reading: Pool, *others: Pool) -> None:
    """Keep `guarded` of the pools true to the database, every second. Runs until cancelled.

    As long as nobody can be asked, what was known stays; a pool that knows nothing is guarded.
    """
    while True:
        try:
            wanted = bool((await reading.rows(_WANTED))[0]["wanted"])
        except MandateError:
            wanted = reading.guarded
        for pool in (reading, *others):
            pool.guarded = wanted
        await asyncio.sleep(NOTICE_SECONDS)
