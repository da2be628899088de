"""The principal that a request acts for: a role in one organization, perhaps in some of its domains only.

It travels in a context variable, so that the store puts it into every statement whoever asks, and a route
that somebody adds cannot forget it. Without one nothing is read: `current` raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What a token is for."""

    AGENT = "agent"
    AUDITOR = "auditor"
    OPERATOR = "operator"


class HeldDomain(NamedTuple):
    """A domain of a token: its name when the token was made, and the UUID that it has or once had."""

    name: str
    uuid: str | None


@dataclass(frozen=True)
class Principal:
    """Whom a request acts for. Without an organization: everybody, which is nobody who came with a token."""

    token_id: str | None = None
    role: Role | None = None
    organization_id: str | None = None
    domains: tuple[HeldDomain, ...] | None = None

    @property
    def unrestricted(self) -> bool:
        """Whether no token stands behind it: the service answers on loopback only then."""
        return self.organization_id is None


EVERYBODY = Principal()

_current: ContextVar[Principal] = ContextVar("mandate.principal")


def current() -> Principal:
    """The principal of the request that is being answered. Raises LookupError where there is none."""
    return _current.get()


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Answer for a principal inside the block."""
    token = _current.set(principal)
    try:
        yield
    finally:
        _current.reset(token)
