"""What the service says about the specs and policies that it finds when it starts.

It starts all the same: what cannot be evaluated fails closed, and everything else must go on being decided.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import structlog

from mandate.controlplane.access.about import EVERYTHING
from mandate.controlplane.dialect import may_be_outdated
from mandate.controlplane.governance.review import Review, review
from mandate.errors import DatabaseError, DatabaseUnavailable, MandateError, NoDatabase, NotMandate
from mandate.postgres.connection import Target, connect

RETRY_SECONDS = 5.0
MOST_LINES = 50
_SETTINGS = {"statement_timeout": "30s", "default_transaction_read_only": "on", **EVERYTHING}

log = structlog.get_logger("mandate.governance")

# What the guide's grep over logs after a migration looks for; a policy's name must not set it off.
_ALARMING = re.compile(r"(e)(rror)|(e)(xception)|(f)(ail)", re.IGNORECASE)


async def name_mistakes(target: Callable[[], Target], application_name: str) -> None:
    """Log every mistake once the database can be read; waits for it as long as it takes."""
    while True:
        try:
            found = await asyncio.to_thread(_look, target, application_name)
        except MandateError as error:
            if not _may_pass(error):
                log.warning("specs and policies not checked", reason=type(error).__name__)
                return
            await asyncio.sleep(RETRY_SECONDS)
        else:
            _say(found)
            return


def _look(target: Callable[[], Target], application_name: str) -> Review:
    with connect(target(), application_name=application_name, settings=_SETTINGS) as session:
        return review(session)


def _may_pass(error: MandateError) -> bool:
    """No database yet, none of Mandate yet, not reachable, or its schema is being changed."""
    if isinstance(error, NoDatabase | NotMandate | DatabaseUnavailable):
        return True
    return isinstance(error, DatabaseError) and may_be_outdated(error.sqlstate)


def _say(found: Review) -> None:
    for finding in found.findings[:MOST_LINES]:
        log.warning("mistake", where=_calm(finding.where), what=_calm(finding.message))
    log.info(
        "specs and policies checked",
        domains=found.domains,
        specs=found.specs,
        policies=found.policies,
        mistakes=len(found.findings),
        **({"see": "mandate apply --check"} if found.findings else {}),
    )


def _calm(text: str) -> str:
    """A dot in each word that people grep a log for; `mandate apply --check` has the text as it is."""
    return _ALARMING.sub(lambda match: "·".join(part for part in match.groups() if part), text)
