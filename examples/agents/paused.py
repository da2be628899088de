"""A refund that a person has to look at: nothing is paid, and the agent says who is waited for."""

from __future__ import annotations

import os

from mandate.client import Client, Paused, governed

client = Client(
    os.environ.get("MANDATE_URL", "http://localhost:3000"),
    os.environ.get("MANDATE_TOKEN"),
    organization_id="7c9e6679-7425-40de-944b-e07fc1f90ae7",
    domain="billing",
    actor="refund-agent",
)


class Till:
    """Methods are governed like functions; what is asked about can be made of `self` too."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.paid = 0.0

    @governed(
        client=client,
        intent="issue_refund",
        target=lambda order: f"order/{order}",
        scope=lambda self: {"environment": "prod", "service": self.service},
        context=lambda amount, verified: {"amount": amount, "customer_verified": verified},
    )
    def refund(self, order: str, amount: float, verified: bool = True) -> None:
        """Pay the money back."""
        self.paid += amount


def main() -> None:
    """Try to refund too much."""
    till = Till("payments")
    with client:
        try:
            till.refund("4712", 740)
        except Paused as paused:
            print(f"paused by {', '.join(paused.verdict.matched_policy_ids)}: {paused.hint}")
    print(f"paid: {till.paid}")


if __name__ == "__main__":
    main()
