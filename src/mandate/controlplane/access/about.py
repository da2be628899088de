"""What the policies of row level security are told: whose rows a transaction is about."""

from __future__ import annotations

from collections.abc import Iterable

from mandate.controlplane.access.principal import Principal
from mandate.postgres import arrays

EVERYTHING = {"mandate.organization_id": "*", "mandate.domains": "*"}


def organizations(ids: Iterable[str]) -> dict[str, str]:
    """About organizations, with all their domains."""
    return {"mandate.organization_id": ",".join(dict.fromkeys(ids)), "mandate.domains": "*"}


def principal(who: Principal, domains: tuple[str, ...] | None) -> dict[str, str]:
    """About what a principal may see; its domains have these names now, None: it has all of them."""
    found = EVERYTHING if who.organization_id is None else organizations([who.organization_id])
    return found if domains is None else {**found, "mandate.domains": arrays.literal(domains)}
