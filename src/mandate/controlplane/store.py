"""Reads the record: pages of decisions and verdicts, single decisions, timelines, domains.

Rows come back as JSON text made by PostgreSQL, so that evidence keeps every digit it was recorded with.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from mandate.controlplane.dialect import DIALECTS, SCHEMA_VERSION, Dialect, may_be_outdated
from mandate.errors import DatabaseError, NotMandate
from mandate.postgres.connection import Row
from mandate.postgres.pool import Pool

T = TypeVar("T")
UUID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


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


class SchemaChanging(DatabaseError):
    """A statement was refused in the dialect that fits the schema as it is now: it is being changed."""

    code = "schema-changing"


# Every parameter of every statement, not given.
NOBODY = "00000000-0000-0000-0000-000000000000"
NO_FILTERS: dict[str, Any] = {"nobody": NOBODY} | dict.fromkeys(
    (
        *("domain_keys", "domain_organizations", "scope_keys", "after_1", "after_2", "decision_id"),
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

    Speaks to version 7 and version 8: a statement that is refused because the schema changed under it is run
    once more, in the dialect of the schema that is there now. Raises DatabaseError (or a subclass) and
    NotMandate.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._dialect: Dialect | None = None

    async def schema_version(self) -> int | None:
        """7, 8 or None (not a schema that this service knows), as the catalogue says now."""
        row = (await self._pool.rows(SCHEMA_VERSION))[0]
        self._dialect = DIALECTS.get(row["version"])
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

    async def decision(self, decision_id: str) -> str | None:
        """One decision as JSON text, None when there is no such decision."""
        return await self._adapting(lambda dialect: self._one(dialect, "decision", decision_id))

    async def verdict(self, decision_id: str) -> str | None:
        """The latest verdict on a decision as JSON text, None when there is none."""
        return await self._adapting(lambda dialect: self._one(dialect, "verdicts", decision_id))

    async def own(
        self, statement: str, params: Mapping[str, Any], pool: Pool | None = None
    ) -> tuple[int, list[Row]]:
        """Rows of a statement that each version has its own of, and the version that answered.

        `pool` is another one to ask, for a statement that writes.
        """

        async def ask(dialect: Dialect) -> tuple[int, list[Row]]:
            return dialect.version, await (pool or self._pool).rows(dialect.own[statement], params)

        return await self._adapting(ask)

    async def shared(self, statement: str, params: Mapping[str, Any]) -> list[Row]:
        """Rows of a statement that all versions share."""
        return await self._adapting(
            lambda dialect: self._pool.rows(dialect.statements[statement], {**NO_FILTERS, **params})
        )

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
                "the database has no schema of Mandate that this service knows (version 7 or 8)",
                hint="`mandate db init` makes one",
            )
        return self._dialect

    async def _page(self, dialect: Dialect, statement: str, selection: Selection) -> Page:
        keys = await self._keys(dialect, selection)
        if keys is None:
            return Page(())
        after = selection.after or (None, None)
        page = {"after_1": after[0], "after_2": after[1], "limit": selection.limit + 1}
        rows = await self._pool.rows(
            dialect.statements[statement], {**NO_FILTERS, **selection.filters, **keys, **page}
        )
        return _cut(rows, selection.limit)

    async def _keys(self, dialect: Dialect, selection: Selection) -> dict[str, list[str]] | None:
        """The keys that the filters on domain and scope mean; None when one means nothing that exists."""
        keys: dict[str, list[str]] = {}
        if selection.domain is not None:
            found = await self._resolve(dialect.own["resolve_domain"], selection.domain)
            keys["domain_keys"] = [row["key"] for row in found]
            keys["domain_organizations"] = [row["organization_id"] for row in found]
        if selection.scope_id is not None:
            found = await self._resolve(dialect.own["resolve_scope"], selection.scope_id)
            keys["scope_keys"] = [row["key"] for row in found]
        return keys if all(keys.values()) else None

    async def _resolve(self, statement: bytes, value: str) -> list[Row]:
        uuid = value.lower() if UUID_PATTERN.fullmatch(value) else None
        return await self._pool.rows(statement, {"value": value, "uuid": uuid})

    async def _one(self, dialect: Dialect, statement: str, decision_id: str) -> str | None:
        params = {**NO_FILTERS, "decision_id": decision_id, "limit": 1}
        rows = await self._pool.rows(dialect.statements[statement], params)
        return str(rows[0]["body"]) if rows else None


def _cut(rows: list[Row], limit: int) -> Page:
    """One row more than asked for was read: it only says that there is a next page."""
    page = rows[:limit]
    end = Position(page[-1]["position_1"], page[-1]["position_2"]) if len(rows) > limit else None
    return Page(tuple(row["body"] for row in page), end)
