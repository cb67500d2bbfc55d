"""shared/rules.lua decides as brokers/lane.py does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.redis.scripts.fragments import Fragment
from tests.servers.server import RedisServer

from taskyard.brokers.lane import (
    Flush,
    GroupPolicy,
    LaneState,
    cap_after_loss,
    flush,
    is_given_up,
    place,
    take,
)

MANY = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

NOW = 1_700_000_000_000_000
LARGEST = 2**53 - 1

# Few values, so that many of them are alike or next to each other; and some that are very large.
times = st.sampled_from([0, 1, NOW - 1, NOW, NOW + 1, NOW + 5, 2 * NOW]) | st.integers(
    0, LARGEST // 2
)
numbers = st.integers(0, 5) | st.integers(0, 10_000) | st.sampled_from([2**31, 2**32, 2**40])
sizes = st.integers(1, 5) | st.integers(1, 10_000) | st.just(2**32)

policies = st.builds(
    GroupPolicy,
    size=sizes,
    within=st.sampled_from([0, 1, 5]) | st.integers(0, 10**12),
    bytes=numbers,
    concurrency=st.integers(0, 3),
    max_deliveries=st.integers(1, 4),
)
lanes = st.builds(
    LaneState,
    waiting=numbers,
    bytes=numbers,
    oldest=times,
    held=st.integers(0, 4),
    blocked=times,
    parked=st.booleans(),
)


def table(policy: GroupPolicy) -> dict[str, Any]:
    return {
        "size": policy.size,
        "within": policy.within,
        "bytes": policy.bytes,
        "concurrency": policy.concurrency,
        "max_deliveries": policy.max_deliveries,
    }


def state(lane: LaneState) -> dict[str, Any]:
    return {name: getattr(lane, name) for name in lane.__struct_fields__}


@pytest.fixture
def rules(redis_server: RedisServer) -> Fragment:
    return Fragment(
        redis_server.client(),
        "rules",
        """
        local what, first, second, third, fourth, fifth = unpack(case, 1, 6)
        if what == 'place' then
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
        head="local now",
    )


@MANY
@given(st.lists(st.tuples(lanes, policies, times), min_size=1, max_size=20))
def test_places(rules: Fragment, cases: list[tuple[LaneState, GroupPolicy, int]]) -> None:
    replies = rules(*(("place", state(lane), table(policy), now) for lane, policy, now in cases))
    for reply, (lane, policy, now) in zip(replies, cases, strict=True):
        assert tuple(reply) == place(lane, policy, now)


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
