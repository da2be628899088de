"""Reads the record: pages of decisions and verdicts, single decisions, timelines, domains.

Rows come back as JSON text made by PostgreSQL, so that evidence keeps every digit it was recorded with.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from mandate.controlplane.access import about
from mandate.controlplane.access.principal import Principal, current
from mandate.controlplane.dialect import DIALECTS, SCHEMA_VERSION, Dialect, may_be_outdated
from mandate.errors import DatabaseError, NotMandate
from mandate.postgres.connection import Row
from mandate.postgres.pool import Pool

T = TypeVar("T")
UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_MOST_REACHED = 10_000


class Position(NamedTuple):
    """Where a page ended: the sort key of its last row, as PostgreSQL prints it."""

    first: str
    second: str


@dataclass(frozen=True)
class Selection:
    """Which rows of a list, and which page of them.

    `filters` by name (organization_id, intent, stage, actor, target, verdict, since, until: values that
    PostgreSQL can cast; decision_id for a timeline); `domain` and `scope_id`: name, readable id or UUID.
    """

    limit: int
    filters: Mapping[str, str] = field(default_factory=dict)
    domain: str | None = None
    scope_id: str | None = None
    after: Position | None = None


@dataclass(frozen=True)
class Page:
    """Rows as JSON objects (text), and the position after which the next page begins, if there is one."""

    rows: tuple[str, ...]
    end: Position | None = None


class Reach(NamedTuple):
    """An organization and the domains of it (by name in a version of the schema) that a principal may touch;
    None: all of them."""

    version: int
    organization_id: str
    domains: tuple[str, ...] | None

    def holds(self, organization_id: str, domain: str) -> bool:
        """Whether a domain lies inside."""
        return organization_id == self.organization_id and (self.domains is None or domain in self.domains)


class _Own(NamedTuple):
    """What a statement gets of the principal: parameters, and what policies are told."""

    params: Mapping[str, Any]
    settings: Mapping[str, str]


class SchemaChanging(DatabaseError):
    """A statement was refused in the dialect that fits the schema as it is now: it is being changed."""

    code = "schema-changing"


# Every parameter of every statement, not given.
NOBODY = "00000000-0000-0000-0000-000000000000"
NO_FILTERS: dict[str, Any] = {"nobody": NOBODY} | dict.fromkeys(
    (
        *("principal_organization", "principal_domains"),
        *("domain_keys", "domain_organizations", "scope_keys", "scope_organizations"),
        *("after_1", "after_2", "decision_id"),
        *("organization_id", "intent", "stage", "actor", "target", "verdict", "since", "until"),
        *(
            "environment",
            "service",
            "agent",
            "system",
            "tenant",
            "status",
            "spec_id",
            "version",
            "snapshot_id",
        ),
        "entry_id",
    )
)


class Store:
    """The record behind a pool.

    Speaks to versions 7, 8 and 9: a statement that is refused because the schema changed under it is run
    once more, in the dialect of the schema that is there now. Raises DatabaseError (or a subclass) and
    NotMandate.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._dialect: Dialect | None = None
        self._reached: OrderedDict[Principal, tuple[str, ...]] = OrderedDict()

    async def schema_version(self) -> int | None:
        """7, 8, 9 or None (not a schema that this service knows), as the catalogue says now."""
        row = (await self._pool.rows(SCHEMA_VERSION))[0]
        dialect = DIALECTS.get(row["version"])
        if dialect is not self._dialect:
            self._reached.clear()
        self._dialect = dialect
        return self._dialect.version if self._dialect else None

    async def decisions(self, selection: Selection) -> Page:
        """Decisions with their latest verdict, newest first."""
        return await self._adapting(lambda dialect: self._page(dialect, "decisions", selection))

    async def verdicts(self, selection: Selection) -> Page:
        """Verdicts, newest first."""
        return await self._adapting(lambda dialect: self._page(dialect, "verdicts", selection))

    async def domains(self, selection: Selection) -> Page:
        """Domains by organization and name."""
        return await self._adapting(lambda dialect: self._page(dialect, "domains", selection))

    async def scopes(self, selection: Selection) -> Page:
        """Scopes by organization and id."""
        return await self._adapting(lambda dialect: self._page(dialect, "scopes", selection))

    async def specs(self, selection: Selection) -> Page:
        """Versions of specs by id, the newest of each first."""
        return await self._adapting(lambda dialect: self._page(dialect, "specs", selection))

    async def policy_snapshots(self, selection: Selection) -> Page:
        """Policy snapshots, newest first."""
        return await self._adapting(lambda dialect: self._page(dialect, "policy_snapshots", selection))

    async def timeline(self, selection: Selection) -> Page:
        """The entries of the decision in `selection.filters`, oldest first."""
        return await self._adapting(lambda dialect: self._page(dialect, "timeline", selection))

    async def decision(self, filters: Mapping[str, str]) -> str | None:
        """The decision with this decision_id as JSON text, None when there is none."""
        return await self._adapting(lambda dialect: self._one(dialect, "decision", filters))

    async def verdict(self, filters: Mapping[str, str]) -> str | None:
        """The latest verdict on a decision as JSON text, None when there is none."""
        return await self._adapting(lambda dialect: self._one(dialect, "verdicts", filters))

    async def shared_by_organizations(self, filters: Mapping[str, str]) -> bool:
        """Whether several organizations that the principal sees have what `filters` name by its id.

        That is a decision_id, spec_id or snapshot_id; never where they say of which organization it is.
        """
        if "organization_id" in filters or current().organization_id is not None:
            return False

        async def ask(dialect: Dialect) -> bool:
            if dialect.version < 9:
                return False
            own = await self._principal(dialect)
            params = {**NO_FILTERS, **filters, **own.params}
            return len(await self._pool.rows(dialect.statements["owners"], params, own.settings)) > 1

        return await self._adapting(ask)

    async def own(
        self, statement: str, params: Mapping[str, Any], pool: Pool | None = None, *, principal: bool = True
    ) -> tuple[int, list[Row]]:
        """Rows of a statement that each version has its own of, and the version that answered.

        `pool` is another one to ask, for a statement that writes. Without `principal` it is asked for the
        service itself, which keeps what it reads for everybody.
        """

        async def ask(dialect: Dialect) -> tuple[int, list[Row]]:
            own = await self._principal(dialect) if principal else _Own({}, about.EVERYTHING)
            asked = pool or self._pool
            return dialect.version, await asked.rows(
                dialect.own[statement], {**params, **own.params}, own.settings
            )

        return await self._adapting(ask)

    async def shared(self, statement: str, params: Mapping[str, Any]) -> list[Row]:
        """Rows of a statement that all versions share."""

        async def ask(dialect: Dialect) -> list[Row]:
            own = await self._principal(dialect)
            return await self._pool.rows(
                dialect.statements[statement], {**NO_FILTERS, **params, **own.params}, own.settings
            )

        return await self._adapting(ask)

    async def reach(self) -> Reach | None:
        """What the principal of this request may touch; None when that is everything."""

        async def ask(dialect: Dialect) -> Reach | None:
            principal = current()
            if principal.organization_id is None:
                return None
            return Reach(dialect.version, principal.organization_id, await self._domains(dialect, principal))

        return await self._adapting(ask)

    def known_reach(self, principal: Principal) -> Reach | None:
        """The same for a principal of one organization, as far as it is in memory; None: ask `reach`."""
        if principal.organization_id is None or self._dialect is None:
            return None
        domains = None if principal.domains is None else self._reached.get(principal)
        if domains is None and principal.domains is not None:
            return None
        return Reach(self._dialect.version, principal.organization_id, domains)

    async def _principal(self, dialect: Dialect) -> _Own:
        """What keeps a statement inside what the principal of this request may see."""
        principal = current()
        domains = await self._domains(dialect, principal)
        params = {
            "principal_organization": principal.organization_id,
            "principal_domains": None if domains is None else list(domains),
        }
        return _Own(params, about.principal(principal, domains))

    async def _domains(self, dialect: Dialect, principal: Principal) -> tuple[str, ...] | None:
        """The names that the domains of a token have in this version of the schema."""
        held = principal.domains
        if held is None:
            return None
        if (known := self._reached.get(principal)) is not None:
            return known
        params = {
            "organization_id": principal.organization_id,
            "names": [each.name for each in held],
            "uuids": [each.uuid for each in held],
        }
        rows = await self._pool.rows(dialect.own["reach"], params, about.principal(principal, None))
        found = tuple(row["domain"] for row in rows)
        if dialect is self._dialect:
            self._reached[principal] = found
            if len(self._reached) > _MOST_REACHED:
                self._reached.popitem(last=False)
        return found

    async def _adapting(self, operation: Callable[[Dialect], Awaitable[T]]) -> T:
        try:
            return await operation(self._dialect or await self._detect())
        except DatabaseError as error:
            if not may_be_outdated(error.sqlstate):
                raise
        try:
            return await operation(await self._detect())
        except DatabaseError as error:
            if not may_be_outdated(error.sqlstate):
                raise
            raise SchemaChanging(error.message, **error.fields) from error

    async def _detect(self) -> Dialect:
        await self.schema_version()
        if self._dialect is None:
            raise NotMandate(
                "the database has no schema of Mandate that this service knows (version 7, 8 or 9)",
                hint="`mandate db init` makes one",
            )
        return self._dialect

    async def _page(self, dialect: Dialect, statement: str, selection: Selection) -> Page:
        own = await self._principal(dialect)
        keys = await self._keys(dialect, selection, own)
        if keys is None:
            return Page(())
        after = selection.after or (None, None)
        page = {"after_1": after[0], "after_2": after[1], "limit": selection.limit + 1}
        params = {**NO_FILTERS, **selection.filters, **keys, **page, **own.params}
        rows = await self._pool.rows(dialect.statements[statement], params, own.settings)
        return _cut(rows, selection.limit)

    async def _keys(self, dialect: Dialect, selection: Selection, own: _Own) -> dict[str, list[str]] | None:
        """The keys that the filters on domain and scope mean; None when one means nothing that exists."""
        keys: dict[str, list[str]] = {}
        if selection.domain is not None:
            found = await self._resolve(dialect.own["resolve_domain"], selection.domain, own)
            keys["domain_keys"] = [row["key"] for row in found]
            keys["domain_organizations"] = [row["organization_id"] for row in found]
        if selection.scope_id is not None:
            found = await self._resolve(dialect.own["resolve_scope"], selection.scope_id, own)
            keys["scope_keys"] = [row["key"] for row in found]
            if dialect.version >= 9:
                keys["scope_organizations"] = [row["organization_id"] for row in found]
        return keys if all(keys.values()) else None

    async def _resolve(self, statement: bytes, value: str, own: _Own) -> list[Row]:
        uuid = value.lower() if UUID_PATTERN.fullmatch(value) else None
        return await self._pool.rows(statement, {"value": value, "uuid": uuid, **own.params}, own.settings)

    async def _one(self, dialect: Dialect, statement: str, filters: Mapping[str, str]) -> str | None:
        own = await self._principal(dialect)
        params = {**NO_FILTERS, **filters, "limit": 1, **own.params}
        rows = await self._pool.rows(dialect.statements[statement], params, own.settings)
        return str(rows[0]["body"]) if rows else None


def _cut(rows: list[Row], limit: int) -> Page:
    """One row more than asked for was read: it only says that there is a next page."""
    page = rows[:limit]
    end = Position(page[-1]["position_1"], page[-1]["position_2"]) if len(rows) > limit else None
    return Page(tuple(row["body"] for row in page), end)
