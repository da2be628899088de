"""Who a request comes from, by its token. What became of a token is known here within a second.

What is remembered is remembered by the digest of the whole token: whoever has the secret wrong is answered by
the same query as somebody whose token does not exist.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from mandate.controlplane.access import tokens
from mandate.controlplane.access.principal import EVERYBODY, HeldDomain, Principal, Role
from mandate.controlplane.access.statements import read_sql
from mandate.errors import DatabaseError, MandateError
from mandate.postgres.pool import Pool

TRUST_SECONDS = 1.0
"""A revoked token is refused after so many seconds, whatever else goes wrong."""
MOST_REMEMBERED = 10_000

_EXISTS, _ANY, _VERIFY = read_sql("exists.sql"), read_sql("any.sql"), read_sql("verify.sql")
_NO_TABLES = {"3F000", "42P01"}
_Answer = tuple[float, Mapping[str, Any] | None]


class NotAuthenticated(MandateError):
    """No token, or none that is valid; `given` says whether there was one at all."""

    code = "not-authenticated"

    def __init__(self, message: str, *, given: bool) -> None:
        super().__init__(message)
        self.given = given


@dataclass(frozen=True)
class _Remembered:
    principal: Principal
    until: float
    expires: float


class Authority:
    """Turns an Authorization header into a principal. `closed` from the start: no request without a token."""

    def __init__(self, pool: Pool, *, closed: bool = False) -> None:
        self._pool = pool
        self._closed = closed
        self._open_until = 0.0
        self._renewing: dict[bytes, asyncio.Task[None]] = {}
        self._remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[_Answer]] = {}

    @property
    def closed(self) -> bool:
        """Whether every request needs a token, as far as is known; once it is so it stays so."""
        return self._closed

    async def principal(self, authorization: list[str]) -> Principal:
        """Whom the values of the Authorization header stand for; EVERYBODY as long as there are no tokens.

        Raises NotAuthenticated and DatabaseError: nobody is let in because nobody could be asked.
        """
        if not await self._needs_token():
            return EVERYBODY
        text = _bearer(authorization)
        token_id, digest = tokens.token_id(text), tokens.digest(text)
        if token_id is None:
            raise NotAuthenticated("the token has not the form mdt_<id>_<secret>", given=True)
        found = self._remembered.get(digest)
        if found is None or found.until <= time.monotonic():
            found = await self._verify(token_id, digest)
        if found.expires <= time.monotonic():
            raise NotAuthenticated("the token has expired", given=True)
        return found.principal

    def known(self, authorization: str | None) -> Principal | None:
        """The same by what is in memory; None: `principal` has to find out, or refuses."""
        now = time.monotonic()
        if not self._closed:
            if self._open_until - now < TRUST_SECONDS / 2:
                self._renew(b"", self._look)
            return EVERYBODY if self._open_until > now else None
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        text = text.strip()
        token_id, digest = tokens.token_id(text), tokens.digest(text)
        found = self._remembered.get(digest)
        if found is None or token_id is None or found.until <= now or found.expires <= now:
            return None
        if found.until - now < TRUST_SECONDS / 2:
            self._renew(digest, lambda: self._verify(token_id, digest))
        return found.principal

    def _renew(self, what: bytes, ask: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Ask in time what will be asked again, so that nobody has to wait for it. What that runs into is
        said to whoever comes when nothing is known any more."""

        async def asking() -> None:
            try:
                await ask()
            except MandateError:
                pass
            finally:
                del self._renewing[what]

        if what not in self._renewing:
            self._renewing[what] = asyncio.create_task(asking())

    async def _needs_token(self) -> bool:
        if not self._closed and self._open_until <= time.monotonic():
            await self._look()
        return self._closed

    async def _look(self) -> None:
        asked = time.monotonic()
        if (await self._pool.rows(_EXISTS))[0]["found"] and (await self._pool.rows(_ANY))[0]["found"]:
            self._closed = True
        self._open_until = max(self._open_until, asked + TRUST_SECONDS)

    async def _verify(self, token_id: str, digest: bytes) -> _Remembered:
        asked, row = await self._shared(token_id, digest)
        self._remembered.pop(digest, None)
        if not tokens.matches(row["digest"] if row else None, digest) or row is None:
            raise NotAuthenticated("the token is not valid", given=True)
        if row["revoked"]:
            raise NotAuthenticated("the token was revoked", given=True)
        left = row["seconds_left"]
        found = _Remembered(
            _principal(token_id, row), asked + TRUST_SECONDS, float("inf") if left is None else asked + left
        )
        self._remembered[digest] = found
        if len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)
        return found

    async def _shared(self, token_id: str, digest: bytes) -> _Answer:
        """The row of a token, and since when it is known: requests that come together ask once."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._ask(token_id))
            task.add_done_callback(lambda _done: self._asking.pop(digest, None))
        return await asyncio.shield(task)

    async def _ask(self, token_id: str) -> _Answer:
        asked = time.monotonic()
        try:
            rows = await self._pool.rows(_VERIFY, {"token_id": token_id})
        except DatabaseError as error:
            if error.sqlstate not in _NO_TABLES:
                raise
            rows = []
        return asked, rows[0] if rows else None


def _bearer(authorization: list[str]) -> str:
    if not authorization:
        raise NotAuthenticated("this needs a token: Authorization: Bearer mdt_...", given=False)
    scheme, _, text = authorization[0].partition(" ")
    if len(authorization) > 1 or scheme.lower() != "bearer":
        raise NotAuthenticated("give one Authorization header: Bearer mdt_...", given=True)
    return text.strip()


def _principal(token_id: str, row: Mapping[str, Any]) -> Principal:
    names, uuids = row["domains"], row["domain_ids"]
    held = None if names is None else tuple(map(HeldDomain, names, uuids))
    return Principal(token_id, Role(row["role"]), row["organization_id"], held)
