"""A refund that must not happen, asked for by an agent that runs on asyncio."""

from __future__ import annotations

import asyncio
import os

from mandate.client import AsyncClient, Blocked, governed


async def main() -> None:
    """Try to pay a customer whom nobody has verified."""
    paid: list[str] = []
    url = os.environ.get("MANDATE_URL", "http://localhost:3000")
    async with AsyncClient(
        url,
        os.environ.get("MANDATE_TOKEN"),
        organization_id="7c9e6679-7425-40de-944b-e07fc1f90ae7",
        domain="billing",
        actor="refund-agent",
        scope={"environment": "prod", "service": "payments"},
    ) as client:

        @governed(
            client=client,
            intent="issue_refund",
            target=lambda order: f"order/{order}",
            context=lambda amount, verified: {"amount": amount, "customer_verified": verified},
        )
        async def refund(order: str, amount: float, *, verified: bool) -> None:
            paid.append(order)

        try:
            await refund("4713", 40, verified=False)
        except Blocked as blocked:
            print(f"blocked by {', '.join(blocked.verdict.matched_policy_ids)}: {blocked.hint}")
    print(f"paid: {len(paid)}")


if __name__ == "__main__":
    asyncio.run(main())
