"""Query strings and cursors: whatever comes in, the answer is a value or a 400."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mandate.controlplane.access.principal import EVERYBODY, acting_as
from mandate.controlplane.api import cursor, query
from mandate.controlplane.api.guard import is_loopback_name
from mandate.controlplane.api.problems import KINDS, Problem
from mandate.controlplane.store import Position, Selection

END = ("2026-01-31 12:00:00.5+00", "6f1c0a52-8f7e-4a55-9f0b-8d1f0c1f7a10")
NAMES = [parameter.name for parameter in query.EVENTS]


@pytest.fixture(autouse=True)
def _everybody() -> Iterator[None]:
    """Requests act for somebody; without tokens for everybody."""
    with acting_as(EVERYBODY):
        yield


def refused(raw: bytes) -> str:
    with pytest.raises(Problem) as caught:
        query.selection(raw, query.EVENTS, cursor.DECISIONS)
    assert caught.value.kind.status == 400
    return caught.value.kind.name


def test_every_filter_arrives_in_canonical_form() -> None:
    given = {
        "organization_id": "00000000-0000-0000-0000-00000000000A",
        "domain": "Finance & Billing",
        "verdict": "BLOCK",
        "intent": "a=b&c",
        "stage": "pre_commit",
        "actor": "Zoë 漢字",
        "target": "100%",
        "scope_id": "finance.prod",
        "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-01t01:00:00.25+02:00",
        "limit": "500",
    }
    found = query.selection(urlencode(given).encode(), query.EVENTS, cursor.DECISIONS)
    assert (found.limit, found.domain, found.scope_id) == (500, "Finance & Billing", "finance.prod")
    assert found.filters == {
        "organization_id": "00000000-0000-0000-0000-00000000000a",
        "verdict": "BLOCK",
        "intent": "a=b&c",
        "stage": "pre_commit",
        "actor": "Zoë 漢字",
        "target": "100%",
        "since": "2026-01-01T00:00:00+00:00",
        "until": "2026-01-01T01:00:00.250000+02:00",
    }


def test_nothing_given_means_the_first_fifty() -> None:
    assert query.selection(b"", query.EVENTS, cursor.DECISIONS) == Selection(50)


@pytest.mark.parametrize(
    "raw",
    [
        b"organization_id=1",
        b"organization_id={00000000-0000-0000-0000-000000000001}",
        b"verdict=block",
        b"verdict=",
        b"stage=done",
        b"intent=",
        b"domain=" + b"x" * 1001,
        b"limit=0",
        b"limit=501",
        b"limit=-1",
        b"limit=1.0",
        b"limit=1e2",
        b"limit=%D9%A1",  # ARABIC-INDIC DIGIT ONE
        b"limit=" + b"9" * 5000,
        b"since=2026-01-01",
        b"since=2026-01-01T00:00:00",
        b"since=2026-01-01T00:00:00+00:00",  # the + is a space
        b"since=2026-02-30T00:00:00Z",
        b"since=2026-01-01T00:00:60Z",
        b"since=0000-01-01T00:00:00Z",
        b"until=infinity",
        b"until=now",
        b"cursor=",
        b"cursor=abc",
        b"cursor=" + b"A" * 5000,
    ],
)
def test_what_cannot_be_meant_is_named(raw: bytes) -> None:
    assert refused(raw) == "malformed-parameter"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"domian=finance", "unknown-parameter"),
        (b"Domain=finance", "unknown-parameter"),
        (b"decision_id=x", "unknown-parameter"),
        (b"domain=a&domain=a", "repeated-parameter"),
        (b"limit=1&limit=1", "repeated-parameter"),
        (b"domain", "malformed-request"),
        (b"actor=%00", "malformed-request"),
        (b"actor=a%FFb", "malformed-request"),
        (b"actor=%ED%A0%80", "malformed-request"),  # a lone surrogate
        (b"actor=%", "malformed-request"),
        (b"actor=%zz", "malformed-request"),
        (b"%00=1", "malformed-request"),
    ],
)
def test_what_is_not_a_parameter_is_refused(raw: bytes, kind: str) -> None:
    assert refused(raw) == kind


def outcome(raw: bytes) -> Selection | Problem:
    try:
        return query.selection(raw, query.EVENTS, cursor.DECISIONS)
    except Problem as problem:
        return problem


@given(st.binary(max_size=200))
def test_any_bytes_give_a_selection_or_a_400(raw: bytes) -> None:
    found = outcome(raw)
    assert isinstance(found, Selection) or found.kind.status == 400


@given(st.sampled_from(NAMES), st.text(max_size=60))
def test_any_value_gives_a_selection_or_a_400(name: str, value: str) -> None:
    found = outcome(f"{name}={quote(value, safe='', errors='replace')}".encode())
    if isinstance(found, Selection):
        assert "\0" not in "".join([*found.filters.values(), found.domain or "", found.scope_id or ""])
    else:
        assert found.kind.status == 400


OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=OFFSETS))
def test_every_rfc_3339_time_keeps_its_instant(moment: datetime) -> None:
    assert datetime.fromisoformat(query.timestamp(moment.isoformat())) == moment


@given(st.tuples(st.text(), st.text()))
def test_a_cursor_comes_back_as_it_went(end: tuple[str, str]) -> None:
    text = cursor.encode(end, cursor.DOMAINS, {})
    found = cursor.decode(text, cursor.DOMAINS, {})
    assert found is None or found == end


def test_a_cursor_holds_for_its_own_list_and_filters_only() -> None:
    text = cursor.encode(END, cursor.DECISIONS, {"domain": "finance"})
    assert cursor.decode(text, cursor.DECISIONS, {"domain": "finance"}) == Position(*END)
    assert cursor.decode(text, cursor.DECISIONS, {"domain": "hr"}) is None
    assert cursor.decode(text, cursor.DECISIONS, {}) is None
    assert cursor.decode(text, cursor.VERDICTS, {"domain": "finance"}) is None


@pytest.mark.parametrize("at", range(0, 100, 7))
def test_an_edited_cursor_is_refused(at: int) -> None:
    text = cursor.encode(END, cursor.DECISIONS, {})
    edited = text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]
    assert cursor.decode(edited, cursor.DECISIONS, {}) is None


@pytest.mark.parametrize("first", ["now()", "2026-01-31", "'; DROP TABLE x", "2026-01-31 12:00:00+01"])
def test_a_forged_cursor_must_still_be_a_position(first: str) -> None:
    text = cursor.encode((first, END[1]), cursor.DECISIONS, {})
    assert cursor.decode(text, cursor.DECISIONS, {}) is None


@pytest.mark.parametrize("document", ["null", "[]", "{}", '["a","b"]', '["a","b",3]', "[" * 3000])
def test_a_cursor_of_another_shape_is_refused(document: str) -> None:
    text = base64.urlsafe_b64encode(document.encode()).decode().rstrip("=")
    assert cursor.decode(text, cursor.DECISIONS, {}) is None


@pytest.mark.parametrize(
    "time", ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "12026-01-01 00:00:00+00"]
)
def test_times_that_only_postgresql_knows_are_positions(time: str) -> None:
    text = cursor.encode((time, END[1]), cursor.DECISIONS, {})
    assert cursor.decode(text, cursor.DECISIONS, {}) == (time, END[1])


def test_no_problem_of_a_caller_looks_like_trouble_in_the_log() -> None:
    named = json.dumps([kind.name for kind in KINDS])
    assert not [word for word in ("error", "exception", "fail") if word in named]


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True),
        ("localhost:3000", True),
        ("LOCALHOST.", True),
        ("mandate.localhost:3000", True),
        ("127.0.0.1:3000", True),
        ("127.8.9.1", True),
        ("[::1]:3000", True),
        ("example.com", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("192.168.0.1:3000", False),
        ("[fe80::1]", False),
        ("localhost:3000:1", False),
        ("localhost@example.com", False),
        ("", False),
    ],
)
def test_only_loopback_names_are_answered(host: str, ours: bool) -> None:
    assert is_loopback_name(host) is ours
