"""A refund that no policy minds: it happens, and the record says that it did."""

from __future__ import annotations

import os

from mandate.client import Client, current_verdict, governed

client = Client(
    os.environ.get("MANDATE_URL", "http://localhost:3000"),
    os.environ.get("MANDATE_TOKEN"),
    organization_id="7c9e6679-7425-40de-944b-e07fc1f90ae7",
    domain="billing",
    actor="refund-agent",
    scope={"environment": "prod", "service": "payments"},
)


@governed(
    client=client,
    intent="issue_refund",
    target=lambda order: f"order/{order}",
    context=lambda amount, verified: {"amount": amount, "customer_verified": verified},
    report_outcome=True,
)
def refund(order: str, amount: float, *, verified: bool) -> str:
    """Pay the money back. The id under which the record has it."""
    print(f"refunded {amount} for order {order}")
    verdict = current_verdict()
    assert verdict is not None  # there is one wherever on_unavailable="proceed" was not said
    return verdict.decision_id


def main() -> None:
    """Refund, then read what is on record about it."""
    with client:
        decision_id = refund("4711", 40, verified=True)
        for entry in client.timeline(decision_id):
            print(f"{entry.timestamp:%H:%M:%S}  {entry.summary}")


if __name__ == "__main__":
    main()
