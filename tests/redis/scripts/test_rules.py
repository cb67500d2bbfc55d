"""shared/rules.lua decides as brokers/lane.py does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.redis.scripts.fragments import Fragment, text_of
from tests.servers.server import RedisServer

from taskyard.brokers.lane import (
    Flush,
    GroupPolicy,
    LaneState,
    cap_after_loss,
    flush,
    is_given_up,
    is_held_up,
    place,
    take,
)
from taskyard.brokers.rate import Rate, clamped, handed_out, refund, share, spend, token_at, tokens

MANY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

NOW = 1_700_000_000_000_000
LARGEST = 2**53 - 1

# Few values, so that many of them are alike or next to each other; and some that are very large.
times = st.sampled_from([0, 1, NOW - 1, NOW, NOW + 1, NOW + 5, 2 * NOW]) | st.integers(
    0, LARGEST // 2
)
numbers = st.integers(0, 5) | st.integers(0, 10_000) | st.sampled_from([2**31, 2**32, 2**40])
sizes = st.integers(1, 5) | st.integers(1, 10_000) | st.just(2**32)

# At most one message per microsecond, and at most a century until a bucket is full.
rates = st.builds(
    Rate,
    count=st.integers(1, 10**6) | st.floats(0.001, 10**6),
    per=st.integers(10**6, 10**9),
    burst=st.integers(1, 10) | st.integers(1, 10**6),
).filter(lambda rate: rate.count <= rate.per and rate.filling < 3_155_760_000_000_000)

policies = st.builds(
    GroupPolicy,
    size=sizes,
    within=st.sampled_from([0, 1, 5]) | st.integers(0, 10**12),
    bytes=numbers,
    concurrency=st.integers(0, 3),
    max_deliveries=st.integers(1, 4),
    shard_rate=st.none() | rates,
    minimum=st.sampled_from([0, 0, 1, 3]) | numbers,
    lead=st.sampled_from([0, 1, 5]) | st.integers(0, 10**12),
)
lanes = st.builds(
    LaneState,
    waiting=numbers,
    bytes=numbers,
    oldest=times,
    held=st.integers(0, 4),
    blocked=times,
    parked=st.booleans(),
    tat=times,
    deadline=times,
)


def table(policy: GroupPolicy) -> dict[str, Any]:
    return {
        "size": policy.size,
        "within": policy.within,
        "bytes": policy.bytes,
        "concurrency": policy.concurrency,
        "max_deliveries": policy.max_deliveries,
        "rate": stored(policy.shard_limit),
        "minimum": policy.minimum,
        "lead": policy.lead,
    }


def stored(rate: Rate | None) -> Any:
    return False if rate is None else [rate.count, rate.per, rate.burst]


def state(lane: LaneState) -> dict[str, Any]:
    return {name: getattr(lane, name) for name in lane.__struct_fields__}


@pytest.fixture
def rules(redis_server: RedisServer) -> Fragment:
    return Fragment(
        redis_server.client(),
        "rules",
        """
        local what, first, second, third, fourth, fifth = unpack(case, 1, 6)
        if type(second) == 'table' then
            second.shard_limit = gcra.read(second.rate, 1)
        end
        if what == 'gcra' then
            now = third
            local limit = gcra.read(first, second)
            local tat, since, taken, count, token, set_at = unpack(fourth)
            since = gcra.handed_out(since, token, set_at)
            return {gcra.clamped(tat, limit), gcra.tokens(tat, limit), gcra.token_at(tat, limit),
                gcra.spend(tat, limit, count), gcra.refund(tat, limit, since, taken, count)}
        elseif what == 'held up' then
            now = third
            return held_up(first, second) and 1 or 0
        elseif what == 'place' then
            now = third
            return {place(first, second)}
        elseif what == 'flush' then
            now = third
            return flush_reason(first, second) or false
        elseif what == 'take' then
            return take_count(first, second, third, fourth, fifth)
        elseif what == 'cap' then
            return cap_after_loss(first)
        end
        return is_given_up(first, second, third, fourth) and 1 or 0
        """,
        head="local now\n" + text_of("shared/rate"),
    )


@MANY
@given(st.lists(st.tuples(lanes, policies, times), min_size=1, max_size=20))
def test_places(rules: Fragment, cases: list[tuple[LaneState, GroupPolicy, int]]) -> None:
    replies = rules(*(("place", state(lane), table(policy), now) for lane, policy, now in cases))
    for reply, (lane, policy, now) in zip(replies, cases, strict=True):
        assert tuple(reply) == place(lane, policy, now)


@MANY
@given(st.lists(st.tuples(lanes, policies, times), min_size=1, max_size=20))
def test_what_holds_lanes_up(
    rules: Fragment, cases: list[tuple[LaneState, GroupPolicy, int]]
) -> None:
    replies = rules(*(("held up", state(lane), table(policy), now) for lane, policy, now in cases))
    for reply, (lane, policy, now) in zip(replies, cases, strict=True):
        assert reply == is_held_up(lane, policy, now)


@MANY
@given(
    st.lists(
        st.tuples(
            rates,
            st.integers(1, 8),
            st.integers(0, 2 * NOW),
            st.sampled_from([-(10**7), -1, 0, 1, 10**6, 10**7, 10**9]),
            st.integers(0, 10**9),
            st.integers(1, 10_000),
            st.integers(1, 10_000),
            st.sampled_from([NOW - 1, NOW, NOW + 1]),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_tokens(
    rules: Fragment, cases: list[tuple[Rate, int, int, int, int, int, int, int]]
) -> None:
    replies = rules(
        *(
            ("gcra", stored(rate), parts, now, [now + ahead, now - ago, taken, count, NOW, set_at])
            for rate, parts, now, ahead, ago, taken, count, set_at in cases
        )
    )
    for reply, (rate, parts, now, ahead, ago, taken, count, set_at) in zip(
        replies, cases, strict=True
    ):
        limit, tat = share(rate, parts), now + ahead
        since = handed_out(now - ago, NOW, set_at)
        assert reply == [
            clamped(tat, limit, now),
            tokens(tat, limit, now),
            token_at(tat, limit, now),
            spend(tat, limit, now, count),
            refund(tat, limit, now, since, taken, count),
        ]


@MANY
@given(st.lists(st.tuples(lanes, policies, times), min_size=1, max_size=20))
def test_why_a_batch_is_ready(
    rules: Fragment, cases: list[tuple[LaneState, GroupPolicy, int]]
) -> None:
    replies = rules(*(("flush", state(lane), table(policy), now) for lane, policy, now in cases))
    for reply, (lane, policy, now) in zip(replies, cases, strict=True):
        expected = flush(lane, policy, now)
        assert reply == (None if expected is None else expected.encode())


@MANY
@given(
    st.lists(
        st.tuples(lanes, policies, sizes, st.sampled_from(Flush), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_how_much_a_claim_takes(
    rules: Fragment, cases: list[tuple[LaneState, GroupPolicy, int, Flush, bool]]
) -> None:
    replies = rules(
        *(
            ("take", state(lane), table(policy), room, reason, begun)
            for lane, policy, room, reason, begun in cases
        )
    )
    for reply, (lane, policy, room, reason, begun) in zip(replies, cases, strict=True):
        assert reply == take(lane, policy, room, reason, begun=begun)


def test_caps(rules: Fragment) -> None:
    claimed = [*range(1, 1000), 10_000, 2**31, 2**40 + 1]
    assert rules(*(("cap", number) for number in claimed)) == [*map(cap_after_loss, claimed)]


def test_who_is_given_up(rules: Fragment) -> None:
    cases = [
        (GroupPolicy(max_deliveries=most), claimed, singled_out, losses)
        for most in range(1, 4)
        for claimed in (1, 2)
        for singled_out in (False, True)
        for losses in range(5)
    ]
    replies = rules(*(("given up", table(policy), *rest) for policy, *rest in cases))
    for reply, (policy, claimed, singled_out, losses) in zip(replies, cases, strict=True):
        expected = is_given_up(policy, claimed=claimed, singled_out=singled_out, losses=losses)
        assert reply == expected
