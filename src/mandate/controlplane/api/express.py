"""The shortest way for the one request that there are thousands of a second of: POST /api/decisions.

It takes what is plain and can be judged by what is in memory, and has it written; no task, no ASGI, no
framework. Everything else - what is refused, what has to be looked up, what did not go well - it leaves to
the long way, which knows the answer to it and gives it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from time import perf_counter

from mandate.controlplane import intake, logs
from mandate.controlplane.access.authority import Authority
from mandate.controlplane.access.principal import Principal
from mandate.controlplane.api.access import RULES
from mandate.controlplane.api.direct import PATHS
from mandate.controlplane.api.guard import MAX_HEADER_BYTES, Begun, is_loopback_name
from mandate.controlplane.grouping import Present, Stale, Written
from mandate.controlplane.intake import Posted
from mandate.controlplane.metrics import Metrics
from mandate.controlplane.recorder import Recorder

MOST_BYTES = 64 * 1024
_ROLES = RULES["POST", "/decisions"]
_FORMS = frozenset(
    (b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8")
)
_UNUSUAL = frozenset((b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"))
_PATHS = {path.encode(): path for path in PATHS}

Headers = Sequence[tuple[bytes, bytes]]
Done = Callable[[bytes, bytes], None]
LongWay = Callable[[Begun], None]


class Express:
    """Takes requests and answers them once they are in the record."""

    def __init__(self, recorder: Recorder, metrics: Metrics, authority: Authority) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._authority = authority

    @staticmethod
    def may_take(method: bytes, url: bytes) -> bool:
        """Whether it is worth keeping the body of a request."""
        return method == b"POST" and url in _PATHS

    def take(self, url: bytes, headers: Headers, body: bytes, done: Done, long_way: LongWay) -> bool:
        """Take a request, and later call `done` (headers and body of a 201) or `long_way`. False: not taken.

        Names of headers are lower case.
        """
        started = perf_counter()
        given = dict(headers)
        principal = self._admitted(given, len(headers))
        if principal is None:
            return False
        try:
            posted = intake.read_decision(body, _traceparent(given))
        except (intake.MalformedBody, intake.InvalidDecision):
            return False
        read = perf_counter()
        recording = self._recorder.judge_now(posted, principal)
        if recording is None:
            return False
        judged = perf_counter()
        self._metrics.read.observe(read - started)
        self._metrics.judge.observe(judged - read)

        def settle(found: Written | Exception) -> None:
            if isinstance(found, Written):
                self._metrics.write.observe(perf_counter() - judged)
                done(*self._answer(_PATHS[url], principal, posted, found, started))
            else:
                unwritten = isinstance(found, Stale | Present)
                long_way(Begun(started, posted, None if unwritten else found))

        self._recorder.groups.submit(recording, settle)
        return True

    def _admitted(self, given: dict[bytes, bytes], count: int) -> Principal | None:
        """Who asks, if that is known and nothing is unusual about the headers."""
        if len(given) != count or given.get(b"content-type") not in _FORMS or not _UNUSUAL.isdisjoint(given):
            return None
        if sum(map(len, given)) + sum(map(len, given.values())) + 4 * count > MAX_HEADER_BYTES:
            return None
        authorization = given.get(b"authorization")
        principal = self._authority.known(authorization.decode("latin-1") if authorization else None)
        if principal is None or principal.role not in (None, *_ROLES):
            return None
        if principal.unrestricted and not _is_loopback(given.get(b"host", b"localhost")):
            return None
        return principal

    def _answer(
        self, path: str, principal: Principal, posted: Posted, found: Written, started: float
    ) -> tuple[bytes, bytes]:
        request_id = _request_id()
        body = f'{{"decision": {found.decision}, "verdict": {found.verdict}}}'.encode()
        self._metrics.request("POST", 201)
        fields: dict[str, object] = {
            "request_id": request_id,
            "method": "POST",
            "path": path,
            "status": 201,
            "ms": round((perf_counter() - started) * 1000, 2),
        }
        if principal.token_id:
            fields["token_id"] = principal.token_id
        fields["decision_id"] = posted.decision_id
        logs.request(fields)
        head = (
            f"content-length: {len(body)}\r\ncontent-type: application/json\r\nx-request-id: {request_id}\r\n"
        )
        return head.encode(), body


@lru_cache(maxsize=256)
def _is_loopback(host: bytes) -> bool:
    return is_loopback_name(host.decode("latin-1"))


def _traceparent(given: dict[bytes, bytes]) -> str | None:
    value = given.get(b"traceparent")
    return intake.read_traceparent(value.decode("latin-1")) if value else None


def _request_id() -> str:
    """A random UUID, for a fifth of what the standard library takes."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"
