"""What a rate limit allows."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskyard.brokers.rate import (
    UNLIMITED,
    Limited,
    QueueRate,
    Rate,
    Scope,
    clamped,
    handed_out,
    latest_with_token,
    refund,
    share,
    spend,
    token_at,
    tokens,
    what_holds,
)

NOW = 1_700_000_000_000_000
SECOND = 1_000_000
SLOW = Rate(1, SECOND, 1)
BURST = Rate(2, SECOND, 5)
"""Two a second, five at once."""


@pytest.mark.parametrize(
    ("rate", "tat", "count", "at"),
    [
        (SLOW, 0, 1, NOW),
        (SLOW, NOW - 1, 1, NOW),
        (SLOW, NOW, 1, NOW),
        (SLOW, NOW + 1, 0, NOW + 1),
        (SLOW, NOW + SECOND, 0, NOW + SECOND),
        (SLOW, NOW + 9 * SECOND, 0, NOW + SECOND),
        (BURST, 0, 5, NOW),
        (BURST, NOW + 1, 4, NOW),
        (BURST, NOW + SECOND // 2, 4, NOW),
        (BURST, NOW + 2 * SECOND, 1, NOW),
        (BURST, NOW + 2 * SECOND + 1, 0, NOW + 1),
        (BURST, NOW + 99 * SECOND, 0, NOW + SECOND // 2),
        (Rate(3, SECOND, 1), NOW + 333_334, 0, NOW + 333_334),
        (Rate(3, SECOND, 3), NOW, 3, NOW),
        (Rate(10**6, SECOND, 10), NOW + 3, 7, NOW),
        (Rate(1, 86_400 * SECOND, 2), NOW + 86_400 * SECOND, 1, NOW),
    ],
)
def test_how_many_now_and_when_the_next(rate: Rate, tat: int, count: int, at: int) -> None:
    assert tokens(tat, rate, NOW) == count
    assert token_at(tat, rate, NOW) == at


@pytest.mark.parametrize(
    ("tat", "rate", "remembered"),
    [
        (0, BURST, 0),
        (NOW, BURST, 0),
        (NOW + 1, BURST, NOW + 1),
        (NOW + 2_500_000, BURST, NOW + 2_500_000),
        (NOW + 2_500_001, BURST, NOW + 2_500_000),
        (NOW + 9, None, 0),
    ],
)
def test_what_is_remembered(tat: int, rate: Rate | None, remembered: int) -> None:
    assert clamped(tat, rate, NOW) == remembered


@pytest.mark.parametrize(
    ("tat", "count", "after"),
    [
        (0, 1, NOW + SECOND // 2),
        (NOW - 5, 2, NOW + SECOND),
        (NOW + 7, 3, NOW + 7 + 3 * SECOND // 2),
        (NOW + 99 * SECOND, 1, NOW + 3 * SECOND),
    ],
)
def test_what_is_spent(tat: int, count: int, after: int) -> None:
    assert spend(tat, BURST, NOW, count) == after


@pytest.mark.parametrize(
    ("ago", "taken", "count", "came_back"),
    [
        (0, 2, 2, SECOND),
        (0, 2, 1, SECOND // 2),
        (SECOND // 4, 1, 1, SECOND // 4),
        (SECOND - 1, 2, 1, 1),
        (SECOND, 2, 1, 0),
        (SECOND, 4, 1, SECOND // 2),
        (SECOND, 4, 4, SECOND),
        (SECOND // 2, 1, 1, 0),
        (-5, 1, 1, SECOND // 2),
        (99 * SECOND, 4, 4, 0),
    ],
)
def test_what_is_given_back(ago: int, taken: int, count: int, came_back: int) -> None:
    tat = NOW + 2 * SECOND
    assert refund(tat, BURST, NOW, NOW - ago, taken, count) == tat - came_back


def test_what_is_given_back_of_a_full_bucket() -> None:
    assert refund(0, BURST, NOW, NOW, 1, 1) == 0


@pytest.mark.parametrize(
    ("set_at", "since"),
    [(0, NOW), (NOW + 6, NOW), (NOW + 7, 0), (NOW + 8, 0)],
)
def test_nothing_is_given_back_to_a_limit_that_was_set_since(set_at: int, since: int) -> None:
    token, full = NOW + 7, NOW + 2 * SECOND
    assert handed_out(NOW, token, set_at) == since
    after = refund(full, BURST, NOW, since, 2, 2)
    assert after == (full - SECOND if since else full)
    assert handed_out(0, token, set_at) == 0


def test_nothing_is_given_back_of_what_was_not_limited_however_slow_it_is() -> None:
    slow = Rate(1, 86_400 * SECOND, 10)
    full = NOW + slow.filling
    assert refund(full, slow, NOW, 0, 100_000, 1) == full


def test_parts() -> None:
    assert share(BURST, 1) is BURST
    assert share(BURST, 2) == Rate(2, 2 * SECOND, 2)
    assert share(BURST, 8) == Rate(2, 8 * SECOND, 1)


def test_which_limit_holds() -> None:
    assert what_holds(None, None) is None
    assert what_holds(SLOW, None) is SLOW
    assert what_holds(SLOW, BURST) is BURST
    assert what_holds(None, BURST) is BURST
    assert what_holds(SLOW, UNLIMITED) is None


def test_the_limits_of_a_queue() -> None:
    rate = QueueRate().with_rate(SLOW, 1, declared=True)
    assert (rate.limit, rate.set_at) == (SLOW, 1)
    assert rate.with_rate(SLOW, 2, declared=False).set_at == 1, "it holds as before"
    rate = rate.with_rate(BURST, 3, declared=False).with_rate(None, 4, declared=True)
    assert (rate.limit, rate.set_at) == (BURST, 3)
    assert rate.with_rate(None, 5, declared=False).limit is None


def test_what_a_limit_is_about() -> None:
    assert Limited("q").scope is Scope.QUEUE
    assert Limited("q", "t").scope is Scope.TASK
    assert Limited("q", "t", shards=True).scope is Scope.SHARD


rates = st.builds(
    Rate,
    count=st.integers(1, 10**6) | st.floats(0.01, 10**6),
    per=st.integers(SECOND, 3600 * SECOND),
    burst=st.integers(1, 10) | st.integers(1, 100_000),
)
tats = st.integers(-(10**7), 10**7) | st.integers(-(10**12), 10**12)


@given(rates, tats)
def test_when_the_next_token_is_there_it_is_there(rate: Rate, ahead: int) -> None:
    tat = NOW + ahead
    at = token_at(tat, rate, NOW)
    assert NOW <= at <= NOW + math.ceil(rate.interval)
    remembered = clamped(tat, rate, NOW)
    assert tokens(remembered, rate, at) >= 1
    assert at == NOW or tokens(remembered, rate, at - 1) == 0
    assert (tokens(tat, rate, NOW) > 0) == (at == NOW)


@given(rates, tats)
def test_a_claim_takes_exactly_what_fits(rate: Rate, ahead: int) -> None:
    tat = NOW + ahead
    count = tokens(tat, rate, NOW)
    assert 0 <= count <= rate.burst
    assert tokens(spend(tat, rate, NOW, count), rate, NOW) == 0
    assert spend(tat, rate, NOW, count) <= NOW + rate.filling


@given(rates, tats)
def test_the_last_tat_with_a_token(rate: Rate, ahead: int) -> None:
    tat = NOW + ahead
    assert (tokens(tat, rate, NOW) > 0) == (tat <= latest_with_token(rate, NOW))


def test_a_full_bucket_holds_the_burst() -> None:
    for rate in (Rate(3, SECOND, 7), Rate(0.7, SECOND, 100), Rate(999_983, SECOND, 100_000)):
        assert tokens(0, rate, NOW) == rate.burst


moves = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "give back", "give back", "change"]),
        st.integers(0, 5_000_000) | st.sampled_from([0, 1, 250_000, 500_000]),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=60,
)


@example(
    Rate(18, 10 * SECOND, 2),
    [
        ("take", 0, 1),
        ("take", 500_000, 1),
        ("give back", 0, 2),
        ("take", 0, 1),
        ("take", 55_557, 1),
    ],
)
@example(
    Rate(1, SECOND, 10),
    [("take", 0, 10), ("change", 0, 4), ("take", 0, 9), ("give back", 0, 10), ("take", 0, 9)],
)
@given(
    st.builds(
        Rate,
        count=st.integers(1, 20) | st.floats(0.1, 20),
        per=st.sampled_from([SECOND, 10 * SECOND]),
        burst=st.integers(1, 12),
    ),
    moves,
)
def test_never_more_than_the_burst_and_the_rate(
    rate: Rate, moves: list[tuple[str, int, int]]
) -> None:
    """In any window since a change, of what is not given back unstarted."""
    tat, now, set_at = 0, NOW, 0
    claims: list[list[int]] = []  # when, how many, how many did not come back
    for what, passed, wanted in moves:
        now += passed
        if what == "take":
            count = min(wanted, tokens(tat, rate, now))
            if count:
                tat = spend(tat, rate, now, count)
                claims.append([now, count, count])
        elif what == "change":
            check_windows(rate, claims[set_at:])
            rate = Rate(wanted, SECOND, 1 + wanted // 2)
            set_at = len(claims)
        elif claims:
            token = wanted % len(claims) + 1
            claim = claims[token - 1]
            back = min(wanted, claim[2])
            if back:
                since = handed_out(claim[0], token, set_at)
                tat = refund(tat, rate, now, since, claim[1], back)
                claim[1] -= back
                claim[2] -= back
        tat = clamped(tat, rate, now)
    check_windows(rate, claims[set_at:])


def check_windows(rate: Rate, claims: list[list[int]]) -> None:
    for first in range(len(claims)):
        started = 0
        for at, _, count in claims[first:]:
            started += count
            # A microsecond for the last one: times are whole.
            most = rate.burst + (at - claims[first][0] + 1) / rate.interval
            assert started <= most + 1e-6
