"""Hears that specs, scopes or snapshots changed, so that no decision has to find out by being refused.

Only a courtesy: what the catalogue holds is checked by the statement that writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from mandate.controlplane.catalogue import Catalogue
from mandate.controlplane.governance.store import CHANNEL
from mandate.errors import MandateError
from mandate.postgres.connection import Target
from mandate.postgres.notifications import notifications

RECONNECT_SECONDS = 2.0

log = structlog.get_logger("mandate.catalogue")


async def watch(target: Callable[[], Target], catalogue: Catalogue, application_name: str) -> None:
    """Forget what is said to have changed; all of it after a time of not listening, or when nothing is named.

    Runs until cancelled.
    """
    while True:
        try:
            async for organization_id in notifications(target(), CHANNEL, application_name):
                if organization_id:
                    catalogue.forget(organization_id)
                else:
                    await catalogue.look_again()
        except MandateError as reason:
            log.info("not listening for changes", reason=type(reason).__name__)
        await asyncio.sleep(RECONNECT_SECONDS)
