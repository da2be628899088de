"""How one exchange goes, without doing any of it: what to send, when to wait, when to give up.

An exchange is a generator of Attempt and Wait. Whoever drives it, with threads or with asyncio, sends back
an Answer or a Lost for an Attempt and None for a Wait, and has the result when it ends. There is one of
these and two drivers, so that both clients behave alike.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from mandate.client.errors import BadAnswer, CannotSend, NotTrusted, Problem, Unavailable, problem

T = TypeVar("T")

PROBLEM_TYPE = "application/problem+json"
# What a proxy says of a service that is being restarted, and what the service says of its database.
PASSING = frozenset({502, 503, 504})
FIRST_WAIT_SECONDS = 0.1
LONGEST_WAIT_SECONDS = 2.0


@dataclass(frozen=True)
class Request:
    """A request, complete: it can be sent again and says the same."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attempt:
    """Send this; give up after so many seconds without progress, and altogether when `end` has come."""

    request: Request
    seconds: float
    end: float


@dataclass(frozen=True)
class Wait:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Answer:
    """What came back. The names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises BadAnswer."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise BadAnswer(f"answered {self.status} with a body that is not JSON") from None


@dataclass(frozen=True)
class Lost:
    """No answer: not connected, cut off or too slow. Whether it was carried out is not known."""

    cause: Exception


Steps = Generator[Attempt | Wait, Answer | Lost | None, T]


@dataclass(frozen=True)
class Patience:
    """How long one attempt and all of them together may take, in seconds. `clock` must be monotonic."""

    timeout: float
    deadline: float
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[float, float], float] = random.uniform

    def until(self, deadline: float | None) -> float:
        """When an exchange that begins now has to be over."""
        return self.clock() + (self.deadline if deadline is None else deadline)

    def check(self, attempt: Attempt) -> None:
        """Raise TimeoutError when an answer that trickles in has taken too long."""
        if self.clock() >= attempt.end:
            raise TimeoutError("the answer began, and was not complete in time")


def exchange(request: Request, patience: Patience, end: float) -> Steps[Answer]:
    """An answer that is final: below 400. Raises Problem, BadAnswer, NotTrusted, or Unavailable when `end`
    has come.

    Sent again only where nothing or "not now" was answered: everything that is sent here may be sent twice.
    """
    tries = 0
    while True:
        reply = yield Attempt(request, min(patience.timeout, max(end - patience.clock(), 0.001)), end)
        tries += 1
        if isinstance(reply, Answer) and reply.status not in PASSING:
            return _accepted(reply)
        assert reply is not None
        if isinstance(reply, Lost) and (refused := _certificate_trouble(reply.cause)):
            raise _not_trusted(refused) from reply.cause
        seconds = wait(reply, tries, patience)
        if patience.clock() + seconds >= end:
            raise _unavailable(reply, tries)
        yield Wait(seconds)


def wait(reply: Answer | Lost | None, tries: int, patience: Patience) -> float:
    """Seconds: what the answer asks for and a little more each time, never the same for all clients."""
    longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(tries - 1, 10))
    asked = _retry_after(reply) if isinstance(reply, Answer) else 0.0
    return asked + patience.jitter(longest / 2, longest)


def _retry_after(answer: Answer) -> float:
    """Seconds, from either form that the header has; 0 where there is none that can be read."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)


def _unavailable(reply: Answer | Lost, tries: int) -> Unavailable:
    if isinstance(reply, Lost):
        said = str(reply.cause) or "no answer in time"
        error = Unavailable(
            f"no answer after {tries} tries: {said} ({type(reply.cause).__name__})", tries=tries
        )
        error.__cause__ = reply.cause
        return error
    found = problem_in(reply)
    said = f"{reply.status}" if found is None else found.message
    return Unavailable(f"not available after {tries} tries: {said}", problem=found, tries=tries)


def _certificate_trouble(cause: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """What is wrong with a certificate, where that is why there was no answer."""
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    return cause


# OpenSSL's numbers of X509_V_ERR_...
_OUT_OF_TIME = frozenset((9, 10))
_ANOTHER_HOST = frozenset((62, 64))


def _not_trusted(refused: ssl.SSLCertVerificationError) -> NotTrusted:
    if refused.verify_code in _OUT_OF_TIME:
        hint = "renew the certificate; or is the clock of this machine wrong?"
    elif refused.verify_code in _ANOTHER_HOST:
        hint = "the host in base_url must be one that the certificate names"
    else:
        hint = "SSL_CERT_FILE names a file with the certificates of the authorities to trust instead"
    return NotTrusted(f"certificate verify failed: {refused.verify_message}", hint=hint)


def _accepted(answer: Answer) -> Answer:
    if 200 <= answer.status < 300:
        return answer
    found = problem_in(answer)
    if found is None:
        raise BadAnswer(
            f"answered {answer.status} without a problem document", hint="is this Mandate's address?"
        )
    raise found


def problem_in(answer: Answer) -> Problem | None:
    """The problem that an answer is; None where it is something else."""
    if answer.headers.get("content-type", "").partition(";")[0].strip().lower() != PROBLEM_TYPE:
        return None
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return problem({**document, "status": answer.status})


def encode(document: Mapping[str, Any]) -> bytes:
    """JSON as it is sent. Raises CannotSend for what JSON has no form for."""
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise CannotSend(
            f"this is not JSON: {error}",
            hint="only text, numbers, true, false, null, lists and mappings with text keys",
        ) from None
