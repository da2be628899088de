"""`@governed`: a function that is called only after Mandate has let it."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeVar, cast

from mandate.client.clients import AsyncClient, Client
from mandate.client.documents import DecisionFields, Stage, Verdict
from mandate.client.errors import ClientError, Unavailable

P = ParamSpec("P")
R = TypeVar("R")

EXECUTED = "EXECUTED"
FAILED = "FAILED"
# So long may a report hold up a result, an exception or a cancellation.
REPORT_SECONDS = 5.0

log = logging.getLogger("mandate.client")

_current: ContextVar[Verdict | None] = ContextVar("mandate_verdict", default=None)


def current_verdict() -> Verdict | None:
    """The verdict that lets the governed function run that is running; None elsewhere."""
    return _current.get()


def governed(
    *,
    client: Client | AsyncClient,
    intent: str,
    target: str | Callable[..., str],
    context: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    scope: Mapping[str, Any] | Callable[..., Mapping[str, Any]] | None = None,
    actor: str | Callable[..., str] | None = None,
    domain: str | None = None,
    stage: Stage = "pre_commit",
    unstructured_context: str | Callable[..., str] | None = None,
    report_outcome: bool = False,
    on_unavailable: Literal["raise", "proceed"] = "raise",
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function, a coroutine function, a method or an object with `__call__`: each call is a
    decision, posted before it.

    ALLOW and OBSERVE: the function is called. Else it is not, and Blocked or Paused is raised. Where there
    is no verdict at all, the function is not called either: Unavailable, Problem, BadAnswer or CannotSend is
    raised. `on_unavailable="proceed"` calls it after Unavailable all the same, without a verdict, and logs a
    warning.

    `target`, `context`, `scope`, `actor` and `unstructured_context` may be functions: each is called with
    those arguments of the call, defaults included, that it has parameters for. `report_outcome` appends
    EXECUTED or FAILED (with the kind of the exception) to the timeline afterwards; that it could not be is
    logged, not raised.

    A coroutine function wants an AsyncClient, any other a Client. Raises TypeError where that is not so.
    """
    given = {
        "intent": intent,
        "target": target,
        "context": context,
        "scope": scope,
        "actor": actor,
        "domain": domain,
        "stage": stage,
        "unstructured_context": unstructured_context,
    }
    present = {name: value for name, value in given.items() if value is not None}

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        asking = _Asking.of(function, present)
        proceed = on_unavailable == "proceed"
        if inspect.iscoroutinefunction(_acting(function)):
            if not isinstance(client, AsyncClient):
                raise TypeError(f"{asking.name} is a coroutine function: it wants an AsyncClient")
            awaitable = cast(Callable[P, Awaitable[Any]], function)
            return cast(Callable[P, R], _awaited(awaitable, client, asking, report_outcome, proceed))
        if not isinstance(client, Client):
            raise TypeError(f"{asking.name} is no coroutine function: it wants a Client")
        return _called(function, client, asking, report_outcome, proceed)

    if on_unavailable not in ("raise", "proceed"):
        raise TypeError(f"on_unavailable is 'raise' or 'proceed', not {on_unavailable!r}")
    return decorate


@contextmanager
def _under(verdict: Verdict | None) -> Iterator[None]:
    before = _current.set(verdict)
    try:
        yield
    finally:
        _current.reset(before)


def _called(
    function: Callable[P, R], client: Client, asking: _Asking, report: bool, proceed: bool
) -> Callable[P, R]:
    def ask(decision: DecisionFields) -> Verdict | None:
        try:
            return client.decide(**decision).require()
        except Unavailable as error:
            _without_a_verdict(asking, error, proceed)
            return None

    def say(verdict: Verdict, outcome: str, details: Mapping[str, Any]) -> None:
        try:
            client.outcome(verdict.decision_id, outcome, details=details, deadline=REPORT_SECONDS)
        except ClientError as error:
            _unsaid(verdict, outcome, error)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        verdict = ask(asking.decision(args, kwargs))
        try:
            with _under(verdict):
                result = function(*args, **kwargs)
        except BaseException as error:
            if report and verdict is not None:
                say(verdict, FAILED, _details(error))
            raise
        if report and verdict is not None:
            say(verdict, EXECUTED, {})
        return result

    return wrapper


def _awaited(
    function: Callable[P, Awaitable[R]], client: AsyncClient, asking: _Asking, report: bool, proceed: bool
) -> Callable[P, Awaitable[R]]:
    async def ask(decision: DecisionFields) -> Verdict | None:
        try:
            return (await client.decide(**decision)).require()
        except Unavailable as error:
            _without_a_verdict(asking, error, proceed)
            return None

    async def say(verdict: Verdict, outcome: str, details: Mapping[str, Any]) -> None:
        try:
            await client.outcome(verdict.decision_id, outcome, details=details, deadline=REPORT_SECONDS)
        except ClientError as error:
            _unsaid(verdict, outcome, error)

    @functools.wraps(function)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        verdict = await ask(asking.decision(args, kwargs))
        try:
            with _under(verdict):
                result = await function(*args, **kwargs)
        except BaseException as error:
            if report and verdict is not None:
                await say(verdict, FAILED, _details(error))
            raise
        if report and verdict is not None:
            await say(verdict, EXECUTED, {})
        return result

    return wrapper


@dataclass(frozen=True)
class _Asking:
    """How the decision about a call is made of its arguments."""

    name: str
    signature: inspect.Signature
    fixed: Mapping[str, Any]
    made: Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]

    @classmethod
    def of(cls, function: Callable[..., Any], given: Mapping[str, Any]) -> _Asking:
        """Raises TypeError for what cannot be governed, and for a parameter that is not the function's."""
        name = getattr(function, "__qualname__", repr(function))
        acting = _acting(function)
        generates = inspect.isgeneratorfunction(acting) or inspect.isasyncgenfunction(acting)
        if generates or isinstance(function, type | staticmethod | classmethod):
            raise TypeError(f"{name} is no function that acts when it is called: govern what it calls")
        signature = inspect.signature(function)
        made = {
            key: (value, _wanted(name, key, value, signature))
            for key, value in given.items()
            if callable(value)
        }
        return cls(name, signature, {key: given[key] for key in given if key not in made}, made)

    def decision(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DecisionFields:
        """The decision about this call. Raises TypeError as the call itself would."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        made = {
            name: make(**{wanted: bound.arguments[wanted] for wanted in parameters})
            for name, (make, parameters) in self.made.items()
        }
        return cast(DecisionFields, {**self.fixed, **made})


def _acting(function: Callable[..., Any]) -> Callable[..., Any]:
    """What runs when it is called: what a partial is of, and the `__call__` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    acts: Callable[..., Any] = getattr(type(function), "__call__", function)  # noqa: B004 - of the class
    return acts


def _wanted(name: str, key: str, make: Callable[..., Any], signature: inspect.Signature) -> tuple[str, ...]:
    """The arguments that `make` is called with; a parameter with a default may be its own affair."""
    parameters = inspect.signature(make).parameters.values()
    wanted = [one.name for one in parameters if one.default is one.empty or one.name in signature.parameters]
    if unknown := [parameter for parameter in wanted if parameter not in signature.parameters]:
        raise TypeError(f"{key} of {name} wants {', '.join(unknown)}, which {name} has no parameter for")
    return tuple(wanted)


def _details(error: BaseException) -> dict[str, str]:
    """Its kind only: what an exception says may be nobody else's business."""
    return {"exception": type(error).__name__}


def _without_a_verdict(asking: _Asking, error: Unavailable, proceed: bool) -> None:
    if not proceed:
        raise error
    log.warning("%s is called without a verdict: %s", asking.name, error.message)


def _unsaid(verdict: Verdict, outcome: str, error: ClientError) -> None:
    log.warning("decision %s: %s could not be recorded: %s", verdict.decision_id, outcome, error.message)
