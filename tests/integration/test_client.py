"""mandate.client against a served instance: what it asks, what it raises, and functions that it governs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type
from uuid import uuid4

import pytest
from tests.posting import ORGANIZATION, Point, counted, decision_point
from tests.relay import tls_proxy

from mandate.client import (
    AsyncClient,
    Blocked,
    CannotSend,
    Client,
    Conflict,
    Invalid,
    NotFound,
    NotTrusted,
    Paused,
    Unavailable,
    Verdict,
    current_verdict,
    governed,
    transport,
)
from mandate.client.documents import Attribution, DecisionFields
from mandate.postgres.embedded_host import free_port

SCOPE = {"service": "payments", "agent": "refund-agent", "environment": "prod"}
ATTRIBUTION: Attribution = {
    "organization_id": ORGANIZATION,
    "domain": "finance",
    "actor": "refund-agent",
    "scope": SCOPE,
}


@pytest.fixture(scope="module")
def point(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Point]:
    with decision_point(request, tmp_path_factory.mktemp("log"), 8) as point:
        yield point


def address(point: Point) -> str:
    return f"http://127.0.0.1:{point.service.port}"


def client_of(point: Point) -> Client:
    return Client(address(point), **ATTRIBUTION)


def async_client_of(point: Point) -> AsyncClient:
    return AsyncClient(address(point), **ATTRIBUTION)


@pytest.fixture
def client(point: Point) -> Iterator[Client]:
    with client_of(point) as client:
        yield client


def refund_of(amount: float, target: str = "order/1", **more: Any) -> DecisionFields:
    given: Any = {"intent": "issue_refund", "stage": "pre_commit", "target": target, **more}
    given["context"] = {"amount": amount, "customer_verified": True}
    made: DecisionFields = given
    return made


def test_a_decision_has_one_verdict_and_a_timeline(client: Client) -> None:
    verdict = client.decide(**refund_of(740))
    assert (verdict.verdict, verdict.domain, verdict.matched_policy_ids) == (
        "PAUSE",
        "finance",
        ["finance-pause-large"],
    )
    assert verdict.timestamp.tzinfo is not None
    assert not verdict.allows
    with pytest.raises(Paused) as caught:
        verdict.require()
    assert caught.value.verdict is verdict
    assert client.decide(**refund_of(740, decision_id=verdict.decision_id)) == verdict
    assert client.verdict(verdict.decision_id) == verdict
    found = client.decision(verdict.decision_id)
    assert (found.actor, found.context["amount"], found.scope) == ("refund-agent", 740, SCOPE)
    when = datetime.now(UTC)
    said = client.outcome(verdict.decision_id, "approved", details={"by": "a person"}, timestamp=when)
    assert client.outcome(verdict.decision_id, "approved", details={"by": "a person"}, timestamp=when) == said
    types = [entry.details["type"] for entry in client.timeline(verdict.decision_id)]
    assert types == ["DECISION_RECORDED", "VERDICT_ISSUED", "OUTCOME"]


def test_lists_are_followed_to_their_end(client: Client) -> None:
    target = f"order/{uuid4()}"
    ids = [client.decide(**refund_of(amount, target)).decision_id for amount in (1, 2, 3, 740, 5)]
    assert [one.decision_id for one in client.decisions(target=target, limit=2)] == ids[::-1]
    paused = client.verdicts(
        target=target, verdict="PAUSE", domain="finance", since=datetime(2020, 1, 1, tzinfo=UTC)
    )
    assert [one.decision_id for one in paused] == [ids[3]]
    assert list(client.decisions(target="nobody's")) == []


def test_a_batch_answers_each_decision(client: Client) -> None:
    amounts = (1, 740, 3)
    good = [refund_of(amount) for amount in amounts]
    wrong: Any = {**refund_of(1), "domain": "nowhere"}
    answers = list(client.batch([*good, wrong]))
    assert [one.verdict and one.verdict.verdict for one in answers] == ["ALLOW", "PAUSE", "ALLOW", None]
    assert answers[0].require().allows
    with pytest.raises(Paused):
        answers[1].require()
    with pytest.raises(NotFound) as caught:
        answers[3].require()
    assert caught.value.name == "unknown-domain"
    assert list(client.batch([])) == []


def test_what_is_refused_says_why(client: Client) -> None:
    with pytest.raises(NotFound, match="404"):
        client.verdict(uuid4())
    with pytest.raises(Invalid) as caught:
        client.decide(intent="make_coffee", stage="pre_commit", target="kitchen")
    assert caught.value.name == "no-active-spec"
    decision_id = uuid4()
    client.decide(**refund_of(1, decision_id=decision_id))
    with pytest.raises(Conflict):
        client.decide(**refund_of(2, decision_id=decision_id))
    malformed: Any = "soon"
    with pytest.raises(Invalid) as caught:
        client.decide(**refund_of(1, decision_id=malformed))
    assert caught.value.status == 422
    with pytest.raises(Invalid):
        next(client.decisions(verdict=malformed))
    with pytest.raises(Invalid) as caught:
        client.decide(**refund_of(1, unstructured_context="x" * 300_000))
    assert caught.value.status == 413


def test_all_who_ask_at_once_get_the_one_verdict(client: Client, point: Point) -> None:
    given = refund_of(740, decision_id=uuid4())
    before = counted(point.target)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(client.decide, **given) for _ in range(24)]
        verdicts = [one.result(60) for one in asked]
    assert all(verdict == verdicts[0] for verdict in verdicts)
    assert counted(point.target)[:2] == (before[0] + 1, before[1] + 1)


def test_asyncio_does_all_of_it(point: Point) -> None:
    async def work() -> None:
        target = f"order/{uuid4()}"
        async with async_client_of(point) as client:
            asked = [client.decide(**refund_of(amount, target)) for amount in (1, 740, 3)]
            verdicts = await asyncio.gather(*asked)
            assert [one.verdict for one in verdicts] == ["ALLOW", "PAUSE", "ALLOW"]
            first = verdicts[0].decision_id
            assert await client.verdict(first) == verdicts[0]
            assert (await client.decision(first)).target == target
            assert (await client.outcome(first, "done")).summary == "Outcome: done"
            listed = [one.decision_id async for one in client.decisions(target=target, limit=1)]
            assert set(listed) == {one.decision_id for one in verdicts}
            assert len([one async for one in client.verdicts(target=target)]) == 3
            assert len([one async for one in client.timeline(first)]) == 3
            made = [refund_of(amount, target) for amount in (1, 740)]
            assert [one.verdict and one.verdict.verdict async for one in client.batch(made)] == [
                "ALLOW",
                "PAUSE",
            ]
            assert [one.problem async for one in client.batch(_arriving(made))] == [None, None]
            with pytest.raises(NotFound):
                await client.verdict(uuid4())

    asyncio.run(work())


async def _arriving(given: list[DecisionFields]) -> AsyncIterator[DecisionFields]:
    for one in given:
        await asyncio.sleep(0)
        yield one


def test_a_governed_function_runs_only_when_it_may(client: Client) -> None:
    refunded: list[tuple[str, float]] = []

    @governed(
        client=client,
        intent="issue_refund",
        target=lambda order: f"order/{order}",
        context=lambda amount, verified: {"amount": amount, "customer_verified": verified},
    )
    def refund(order: str, amount: float = 740, *, verified: bool = True) -> str:
        """Pay back."""
        refunded.append((order, amount))
        return order

    assert_type(refund("4711", 40), str)
    assert refunded == [("4711", 40)]
    with pytest.raises(Paused) as caught:
        refund("4712")
    assert client.decision(caught.value.verdict.decision_id).target == "order/4712"
    with pytest.raises(Blocked) as blocked:
        refund("4713", 40, verified=False)
    assert (blocked.value.verdict.verdict, len(refunded)) == ("BLOCK", 1)
    call: Any = refund
    with pytest.raises(TypeError, match="missing a required argument"):
        call()
    assert refund.__doc__ == "Pay back."
    assert list(inspect.signature(refund).parameters) == ["order", "amount", "verified"]


class Till:
    """A class with a governed method."""

    def __init__(self, client: Client) -> None:
        self.service = "payments"
        self.paid = 0.0
        self.verdicts: list[Verdict | None] = []
        self.pay = governed(
            client=client,
            intent="issue_refund",
            target="order/1",
            context=lambda amount: {"amount": amount, "customer_verified": True},
            report_outcome=True,
        )(self._pay)

    def _pay(self, amount: float) -> None:
        self.verdicts.append(current_verdict())
        if amount == 13:
            raise LookupError("account 4711 is empty")
        self.paid += amount


def outcomes(client: Client, verdict: Verdict | None) -> list[tuple[str, Any]]:
    assert verdict is not None
    entries = list(client.timeline(verdict.decision_id))
    return [
        (one.details["outcome"], one.details["details"])
        for one in entries
        if one.details["type"] == "OUTCOME"
    ]


def test_what_became_of_it_is_reported(client: Client) -> None:
    till = Till(client)
    till.pay(40)
    with pytest.raises(LookupError, match="4711"):
        till.pay(13)
    first, second = till.verdicts
    assert outcomes(client, first) == [("EXECUTED", {})]
    assert outcomes(client, second) == [("FAILED", {"exception": "LookupError"})]
    assert till.paid == 40
    assert current_verdict() is None


def test_attribution_that_is_missing_is_observed_and_stops_nothing(point: Point) -> None:
    with Client(address(point), actor="somebody") as client:

        @governed(client=client, intent="issue_refund", target="order/1")
        def act() -> Verdict | None:
            return current_verdict()

        verdict = act()
    assert verdict is not None
    assert (verdict.verdict, verdict.allows) == ("OBSERVE", True)


def test_coroutine_functions_and_methods_are_governed_too(point: Point) -> None:
    async def work() -> None:
        async with async_client_of(point) as client:

            class Agent:
                amounts: tuple[float, ...] = ()

                @governed(
                    client=client,
                    intent="issue_refund",
                    target=lambda self, order: f"{type(self).__name__}/{order}",
                    context=lambda amount: {"amount": amount, "customer_verified": True},
                    report_outcome=True,
                )
                async def refund(self, order: str, amount: float) -> Verdict | None:
                    self.amounts += (amount,)
                    if order == "slow":
                        waiting.set()
                        await asyncio.Event().wait()
                    return current_verdict()

            waiting, agent = asyncio.Event(), Agent()
            verdict = assert_type(await agent.refund("1", 40), Verdict | None)
            assert verdict is not None
            assert (await client.decision(verdict.decision_id)).target == "Agent/1"
            with pytest.raises(Paused):
                await agent.refund("2", 740)
            slow = asyncio.create_task(agent.refund("slow", 41))
            await waiting.wait()
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert agent.amounts == (40, 41)
            latest = await anext(client.decisions(target="Agent/slow"))
            details = [one.details async for one in client.timeline(latest.decision_id)]
            assert details[-1]["details"] == {"exception": "CancelledError"}

    asyncio.run(work())


def test_over_tls_only_a_certificate_that_is_trusted_will_do(
    point: Point, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_proxy(point.service.port, tmp_path) as (port, certificate):
        try:
            for trusted, host in ((False, "localhost"), (True, "127.0.0.1"), (True, "localhost")):
                transport._certificates.cache_clear()
                if trusted:
                    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
                with Client(f"https://{host}:{port}", **ATTRIBUTION) as client:
                    if trusted and host == "localhost":
                        assert client.decide(**refund_of(740)).verdict == "PAUSE"
                        assert asyncio.run(_decided(f"https://{host}:{port}")) == "PAUSE"
                    else:
                        with pytest.raises(Unavailable, match=r"(?i)certificate verify failed") as caught:
                            client.decide(**refund_of(740))
                        assert isinstance(caught.value, NotTrusted)
                        assert ("base_url" if trusted else "SSL_CERT_FILE") in str(caught.value.hint)
                        with pytest.raises(NotTrusted, match=re.escape(caught.value.message)):
                            asyncio.run(_decided(f"https://{host}:{port}"))
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nowhere.pem"))
            transport._certificates.cache_clear()
            with pytest.raises(CannotSend, match="cannot be read"):
                Client(f"https://localhost:{port}")
        finally:
            transport._certificates.cache_clear()


async def _decided(url: str) -> str:
    async with AsyncClient(url, **ATTRIBUTION) as client:
        return (await client.decide(**refund_of(740))).verdict


def test_where_nobody_answers_nothing_is_done_unless_that_was_chosen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []
    with Client(f"http://127.0.0.1:{free_port()}", "mdt_secret", deadline=0.3) as client:

        @governed(client=client, intent="i", target="t")
        def careful() -> None:
            done.append("careful")

        @governed(client=client, intent="i", target="t", on_unavailable="proceed", report_outcome=True)
        def daring() -> None:
            assert current_verdict() is None
            done.append("daring")

        with caplog.at_level("DEBUG"):
            with pytest.raises(Unavailable) as caught:
                careful()
            daring()
    assert done == ["daring"]
    assert caught.value.fields["tries"] >= 2
    assert "daring is called without a verdict: no answer after" in caplog.text
    assert "secret" not in caplog.text + str(caught.value) + str(caught.value.as_dict())


class Later:
    """An object whose call is a coroutine: what it does, it does after the call."""

    async def __call__(self) -> None: ...


class Several:
    """An object whose call acts when it is iterated over."""

    def __call__(self) -> Iterator[int]:
        yield 1


def test_what_cannot_be_governed_is_refused_when_it_is_decorated() -> None:
    with Client("http://localhost:1") as client:
        asynchronous = AsyncClient("http://localhost:1")
        chosen: Any = {"client": client, "intent": "i", "target": "t"}

        async def coroutine() -> None: ...
        def generator() -> Iterator[int]:
            yield 1

        def plain(order: str) -> str:
            return order

        refused: list[tuple[Any, dict[str, Any], str]] = [
            (coroutine, {}, "AsyncClient"),
            (Later(), {}, "AsyncClient"),
            (functools.partial(Later()), {}, "AsyncClient"),
            (Several(), {}, "govern what it calls"),
            (plain, {"client": asynchronous}, "a Client"),
            (generator, {}, "govern what it calls"),
            (Till, {}, "govern what it calls"),
            (staticmethod(plain), {}, "govern what it calls"),
            (plain, {"target": lambda amount: amount}, "wants amount"),
            (plain, {"on_unavailable": "whatever"}, "'raise' or 'proceed'"),
        ]
        for function, changes, said in refused:
            with pytest.raises(TypeError, match=said):
                governed(**{**chosen, **changes})(function)
        assert asyncio.iscoroutinefunction(governed(**{**chosen, "client": asynchronous})(Later()))
        asyncio.run(asynchronous.close())
