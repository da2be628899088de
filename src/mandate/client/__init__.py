"""The Python client: ask Mandate before an agent acts.

    client = Client("http://localhost:3000", domain="billing", actor="refund-agent", ...)

    @governed(client=client, intent="issue_refund", target=lambda order: f"order/{order}", context=...)
    def refund(order: str, amount: int) -> None: ...

It imports nothing of the service, of PostgreSQL or of the command line.
"""

from mandate.client.clients import AsyncClient, Client
from mandate.client.documents import BatchAnswer, Decision, DecisionFields, TimelineEntry, Verdict
from mandate.client.errors import (
    BadAnswer,
    Blocked,
    CannotSend,
    ClientError,
    Conflict,
    Invalid,
    NotAllowed,
    NotAuthenticated,
    NotAuthorized,
    NotFound,
    NotTrusted,
    Paused,
    Problem,
    Unavailable,
)
from mandate.client.governed import current_verdict, governed

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "BatchAnswer",
    "Blocked",
    "CannotSend",
    "Client",
    "ClientError",
    "Conflict",
    "Decision",
    "DecisionFields",
    "Invalid",
    "NotAllowed",
    "NotAuthenticated",
    "NotAuthorized",
    "NotFound",
    "NotTrusted",
    "Paused",
    "Problem",
    "TimelineEntry",
    "Unavailable",
    "Verdict",
    "current_verdict",
    "governed",
]
