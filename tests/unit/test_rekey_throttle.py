"""The pace of a throttled copy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mandate.rekey.throttle import pause_seconds


@pytest.mark.parametrize("share", [None, 1.0, 2.0])
def test_without_a_throttle_it_never_rests(share: float | None) -> None:
    assert pause_seconds(10, share) == 0


@given(st.floats(0, 1), st.floats(0.2, 0.99))
def test_working_is_the_share_of_the_whole(worked: float, share: float) -> None:
    rest = pause_seconds(worked, share)
    assert worked == pytest.approx(share * (worked + rest), abs=1e-9)


def test_one_rest_is_never_so_long_that_nobody_can_change_it() -> None:
    assert pause_seconds(3600, 0.01) == 5
