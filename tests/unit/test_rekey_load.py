"""The throttle's decisions: quick to back off, slow to speed up, and never on what it cannot read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mandate.cli.rekey_load import limits as asked
from mandate.errors import UsageError
from mandate.rekey.load import Decision, Limits, Signals, decide, latency_limit, nth_largest, quantile

LIMITS = Limits(lag_seconds=5, lag_bytes=1000, wal_rate=1e6, sessions=4, latency=10)
GOOD = Signals(latency=1, baseline=1)
BAD = replace(GOOD, latency=20)

amounts = st.floats(0, 1e9, allow_nan=False)
signals = st.builds(
    Signals,
    lag_seconds=amounts,
    lag_bytes=st.integers(0, 10**9),
    wal_rate=amounts,
    sessions=st.integers(0, 1000),
    latency=amounts,
    baseline=st.floats(0.01, 100),
)
limits = st.builds(
    Limits,
    lag_seconds=st.none() | amounts,
    lag_bytes=st.none() | st.integers(0, 10**9),
    wal_rate=st.none() | amounts,
    sessions=st.none() | st.integers(0, 1000),
    latency=st.none() | st.floats(0.1, 1e6),
)
decisions = st.builds(Decision, share=st.floats(0, 1), reason=st.none() | st.text(max_size=9))


@given(
    signals,
    limits,
    decisions,
    st.sampled_from(["lag_seconds", "lag_bytes", "wal_rate", "sessions", "latency"]),
    amounts,
)
def test_a_worse_signal_never_allows_more(
    before: Signals, limits: Limits, last: Decision, which: str, more: float
) -> None:
    worse = replace(before, **{which: getattr(before, which) + int(more)})
    assert decide(worse, limits, last).share <= decide(before, limits, last).share


@given(signals, limits, decisions, st.data())
def test_what_cannot_be_read_stops_everything_and_is_named(
    found: Signals, limits: Limits, last: Decision, data: st.DataObject
) -> None:
    if limits.wanted:
        name = data.draw(st.sampled_from(sorted(limits.wanted)))
        decided = decide(replace(found, unreadable={name: "permission denied"}), limits, last)
        assert decided.share == 0
        assert decided.reason == f"cannot read {name}: permission denied"


@given(signals, decisions)
def test_what_is_not_limited_need_not_be_read(found: Signals, last: Decision) -> None:
    only_lag = Limits(latency_ratio=None)
    unreadable = {"WAL rate": "timeout", "active sessions": "timeout", "latency": "timeout"}
    assert decide(replace(found, unreadable=unreadable), only_lag, last) == decide(found, only_lag, last)


@given(signals, limits, decisions)
def test_a_share_is_a_share_and_has_its_reason(found: Signals, limits: Limits, last: Decision) -> None:
    decided = decide(found, limits, last)
    assert 0 <= decided.share <= 1
    assert (decided.reason is None) == (decided.share == 1)


@given(st.floats(0.11, 1))
def test_one_bad_reading_costs_more_than_one_good_one_gives_back(share: float) -> None:
    backed_off = decide(BAD, LIMITS, Decision(share))
    assert backed_off.share <= share / 2
    assert decide(GOOD, LIMITS, backed_off).share < share


def test_it_takes_one_reading_to_halve_and_ten_to_come_back() -> None:
    decided = decide(BAD, LIMITS, Decision())
    assert decided.share == 0.5
    good = 0
    while decided.share < 1:
        decided = decide(GOOD, LIMITS, decided)
        good += 1
    assert good >= 10
    assert decided == Decision()


def test_bad_readings_in_succession_stop_it_and_good_ones_let_it_begin_again() -> None:
    decided = Decision()
    for _ in range(6):
        decided = decide(BAD, LIMITS, decided)
    assert decided.share == 0
    again = decide(GOOD, LIMITS, decided)
    assert 0 < again.share < 0.1
    assert "20.0 ms" in str(again.reason)


def test_near_the_limit_nothing_changes() -> None:
    assert decide(replace(GOOD, latency=9.5), LIMITS, Decision(0.3, "why")).share == 0.3


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (replace(GOOD, lag_seconds=6), "replication is 6.0 s behind, limit 5 s"),
        (replace(GOOD, lag_bytes=2 << 20), "replication is 2.0 MiB behind"),
        (replace(GOOD, sessions=5), "5 active sessions, limit 4"),
        (replace(GOOD, latency=31), "a commit takes 31.0 ms, limit 10.0 ms"),
    ],
)
def test_beyond_a_hard_limit_it_stops_at_once_and_says_so(found: Signals, said: str) -> None:
    decided = decide(found, LIMITS, Decision())
    assert decided.share == 0
    assert said in str(decided.reason)


def test_as_many_sessions_as_are_allowed_slow_nothing() -> None:
    assert decide(replace(GOOD, sessions=4), LIMITS, Decision()) == Decision()


def test_the_latency_limit_is_relative_but_not_below_its_floor() -> None:
    assert latency_limit(10, Limits()) == 15
    assert latency_limit(0.1, Limits()) == Limits().latency_floor
    assert latency_limit(10, Limits(latency=7)) == 7
    assert latency_limit(10, Limits(latency_ratio=None)) is None


def test_one_slow_probe_is_no_alarm() -> None:
    assert nth_largest([1, 1, 1, 900], 2) == 1
    assert nth_largest([900], 2) == 0
    assert quantile([float(n) for n in range(1, 101)], 0.97) == 97
    assert quantile([4.0], 0.97) == 4


# -- options -----------------------------------------------------------------------------------------


def test_options_become_limits() -> None:
    assert asked(None, None, None, None, False) == Limits()
    assert asked(None, None, None, None, True) is None
    assert asked("1.5s", None, None, None, False) == Limits(lag_seconds=1.5, lag_bytes=None)
    assert asked("64MiB", "50MB", 7, 12.5, False) == Limits(
        lag_seconds=None, lag_bytes=64 << 20, wal_rate=50_000_000, sessions=7, latency=12.5
    )


@pytest.mark.parametrize(
    "text", ["", "soon", "-1s", "0", "-5MB", "nan", "1e999", "9" * 400 + "MB", "5 MB; DROP", "9" * 99 + "s"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--max-lag"):
        asked(text, None, None, None, False)
    with pytest.raises(UsageError, match="--max-wal-rate"):
        asked(None, text, None, None, False)


def test_no_throttle_with_a_limit_is_a_contradiction() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        asked(None, None, 3, None, True)
