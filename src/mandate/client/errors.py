"""What a client raises. Whatever is raised, no verdict that lets the action happen was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mandate.errors import MandateError

if TYPE_CHECKING:
    from mandate.client.documents import Verdict


class ClientError(MandateError):
    """Base of all that a client raises."""

    code = "client"


class NotAllowed(ClientError):
    """There is a verdict, and it does not let the action happen. `verdict` is all of it."""

    code = "not-allowed"

    def __init__(self, verdict: Verdict) -> None:
        because = "" if verdict.explanation is None else f": {verdict.explanation}"
        super().__init__(
            f"{verdict.verdict} on decision {verdict.decision_id}{because}",
            hint=self._hint.format(team=verdict.owning_team or "who owns the policy"),
            decision_id=verdict.decision_id,
        )
        self.verdict = verdict

    _hint = "ask {team}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.verdict,)


class Blocked(NotAllowed):
    """BLOCK: the action must not happen."""

    code = "blocked"
    _hint = "do not try again: {team} blocks this"


class Paused(NotAllowed):
    """PAUSE: a person decides. Mandate resumes nothing: whoever resumes asks with a decision of its own."""

    code = "paused"
    _hint = "wait for {team}; an action that is taken up again is a new decision"


class Unavailable(ClientError):
    """No verdict could be had in time: nobody answers, or 502, 503 and 504 until the deadline.

    The decision may be recorded: ask again with the same decision_id, `fields["decision_id"]`, to learn its
    one verdict. `problem` is the last problem that was answered, if any.
    """

    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        problem: Problem | None = None,
        hint: str = "is `mandate serve` running and ready?",
        **fields: Any,
    ) -> None:
        super().__init__(message, hint=hint, **fields)
        self.problem = problem


class NotTrusted(Unavailable):
    """The certificate of what answers over TLS is not trusted, has expired or is another host's.

    Nothing was sent to it, and it was asked once: to ask again does not mend that.
    """

    code = "not-trusted"


class BadAnswer(ClientError):
    """What answered does not speak as Mandate does. It counts as no verdict."""

    code = "bad-answer"


class CannotSend(ClientError):
    """What was given cannot be sent: not JSON, or a header with characters that no header has."""

    code = "cannot-send"
    exit_code = 2


class Problem(ClientError):
    """Mandate refuses, with an RFC 9457 document. `type` is stable; `name` is its last part."""

    code = "problem"

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.type = str(document.get("type", "about:blank"))
        self.title = str(document.get("title", ""))
        self.status = int(document["status"])
        self.detail = str(document.get("detail", ""))
        self.instance = str(document.get("instance", ""))
        super().__init__(f"{self.status} {self.title}: {self.detail}", instance=self.instance)

    @property
    def name(self) -> str:
        """`no-active-spec`, `unknown-domain`, ..."""
        return self.type.rpartition(":")[2]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.document,)


class Invalid(Problem):
    """400, 413, 415, 422: what was asked cannot be meant, or nothing governs it (`no-active-spec`)."""

    code = "invalid"


class NotAuthenticated(Problem):
    """401: a token is wanted, and there was none or not a valid one."""

    code = "not-authenticated"


class NotAuthorized(Problem):
    """403: the token may not do this."""

    code = "not-authorized"


class NotFound(Problem):
    """404: there is no such decision, domain, ..."""

    code = "not-found"


class Conflict(Problem):
    """409: the decision_id is recorded already, with another body."""

    code = "conflict"


_BY_STATUS: dict[int, type[Problem]] = {
    400: Invalid,
    401: NotAuthenticated,
    403: NotAuthorized,
    404: NotFound,
    409: Conflict,
    413: Invalid,
    415: Invalid,
    422: Invalid,
}


def problem(document: dict[str, Any]) -> Problem:
    """The exception for a problem document, by its status."""
    return _BY_STATUS.get(int(document["status"]), Problem)(document)
