"""Batches: when they are handed out, and why."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Claim, Group, Put, Retried
from taskyard.brokers.lane import Flush
from taskyard.testing.conformance.harness import TASK, Harness, body, micros, names

OTHER = Group("orders", "mail")


@pytest.fixture
def batching(harness: Harness) -> Harness:
    """A broker whose messages wait for batches of three, five seconds at most."""
    harness.declare(size=3, within=5)
    return harness


def reasons(claim: Claim) -> list[Flush | None]:
    return [lane.flush for lane in claim.lanes]


def test_a_batch_waits_to_fill(batching: Harness) -> None:
    batching.put("a", "b")
    assert batching.claim(3) is None
    batching.put("c")
    claim = batching.take(3)
    assert (names(claim), reasons(claim)) == (["a", "b", "c"], [Flush.SIZE])
    assert batching.flushed() == {"size": 1}


def test_a_batch_does_not_wait_for_ever(batching: Harness) -> None:
    batching.put("a")
    batching.clock.advance(3)
    batching.put("b")
    batching.clock.advance(1.9)
    assert batching.claim(3) is None
    batching.clock.advance(0.1)
    claim = batching.take(3)
    assert (names(claim), reasons(claim)) == (["a", "b"], [Flush.AGE])
    assert batching.flushed() == {"age": 1}


SHARDS = ["", "B", "a", "é", "\ufffd", "\U00010000"]
"""In the order of their UTF-8 bytes."""


@pytest.mark.parametrize("drain", [False, True])
def test_lanes_of_one_time_go_by_group_and_shard(harness: Harness, *, drain: bool) -> None:
    groups = [OTHER, TASK]
    for group in groups:
        harness.declare(group=group, size=3, within=5)
    everything = [Put(group, [body(shard)], shard) for shard in SHARDS for group in groups]
    harness.put_all(*reversed(everything))
    harness.clock.advance(4 if drain else 5)
    claims = harness.claims(1, groups=groups, claims=20, drain=drain)
    order = [(claim.group, lane.shard) for claim in claims for lane in claim.lanes]
    assert order == [(group, shard) for group in groups for shard in SHARDS]


def test_the_broker_says_when_a_batch_is_old_enough(batching: Harness) -> None:
    begin = batching.clock.now
    batching.put("a")
    batching.clock.advance(1)
    batching.put("b")
    assert batching.next_at() == begin + micros(5)


def test_a_batch_is_full_when_its_bytes_are(batching: Harness) -> None:
    batching.declare(size=100, within=5, bytes=250)
    batching.put("a", "b", size=100)
    assert batching.claim(100) is None
    batching.put("c", size=100)
    claim = batching.take(100)
    assert (names(claim), reasons(claim)) == (["a", "b", "c"], [Flush.BYTES])
    assert batching.flushed() == {"bytes": 1}


def test_only_full_batches_are_handed_out_before_their_time(batching: Harness) -> None:
    batching.put(*"abcdefgh")
    claim = batching.take(100)
    assert (names(claim), reasons(claim)) == (list("abcdef"), [Flush.SIZE])
    assert batching.claim(100) is None
    batching.put("i")
    assert names(batching.take(100)) == list("ghi")


def test_the_rest_of_a_lane_is_as_old_as_its_oldest_message(batching: Harness) -> None:
    batching.put("a", "b", "c")
    batching.clock.advance(2)
    begin = batching.clock.now
    batching.put("d")
    assert names(batching.take(100)) == list("abc")
    assert batching.next_at() == begin + micros(5)


def test_each_lane_fills_for_itself(batching: Harness) -> None:
    for shard in "12":
        batching.put(f"a{shard}", f"b{shard}", shard=shard)
    assert batching.claim(100) is None
    batching.put("c2", shard="2")
    assert names(batching.take(100)) == ["a2", "b2", "c2"]


def test_a_claim_may_hold_batches_of_several_lanes(batching: Harness) -> None:
    for shard in "12":
        batching.put(*(f"{letter}{shard}" for letter in "abc"), shard=shard)
    batching.put("x", shard="3")
    claim = batching.take(100)
    assert [(lane.shard, len(lane.messages)) for lane in claim.lanes] == [("1", 3), ("2", 3)]
    assert batching.flushed() == {"size": 2}


def test_a_draining_worker_gets_what_still_waits_to_fill(batching: Harness) -> None:
    batching.put("a", shard="1")
    batching.put("b", shard="2")
    claim = batching.take(100, drain=True)
    assert (names(claim), reasons(claim)) == (["a", "b"], [Flush.DRAIN, Flush.DRAIN])
    assert batching.flushed() == {"drain": 2}


def test_a_draining_worker_gets_what_waits_behind_a_suspect(batching: Harness) -> None:
    batching.put("suspect", shard="a")
    batching.take(1, drain=True, owner="lost")
    batching.reap("lost")
    batching.put("innocent", shard="b")
    assert names(batching.take(1, drain=True, alone=False)) == ["innocent"]


def test_a_draining_worker_gets_full_batches_too(batching: Harness) -> None:
    batching.put("x", shard="1")
    batching.put("a", "b", "c", shard="2")
    claims = batching.claims(100, claims=9, drain=True)
    assert sorted(name for claim in claims for name in names(claim)) == ["a", "b", "c", "x"]
    assert batching.flushed() == {"size": 1, "drain": 1}


def test_draining_does_not_free_what_may_not_run(batching: Harness) -> None:
    batching.declare(OTHER, size=3, within=5, concurrency=1)
    batching.put("blocked", shard="blocked", group=OTHER)
    batching.put("parked", shard="parked", group=OTHER)
    blocked, parked = batching.claims(1, claims=2, drain=True, groups=[OTHER])
    batching.settle(blocked, every=Retried(60_000_000))
    batching.settle(parked, every=Back(park=True))
    batching.put("running", shard="held", group=OTHER)
    batching.take(drain=True, groups=[OTHER])
    batching.put("held", shard="held", group=OTHER)
    batching.put("delayed", delay=60, group=OTHER)
    assert batching.claims(9, claims=9, drain=True, groups=[OTHER]) == []


def test_batches_of_ordered_lanes_wait_and_drain(batching: Harness) -> None:
    batching.declare(OTHER, size=2, within=5, concurrency=1)
    batching.put("a", "b", "c", shard="s", group=OTHER)
    claim = batching.take(2, groups=[OTHER])
    assert names(claim) == ["a", "b"]
    assert batching.claim(2, groups=[OTHER], drain=True) is None
    batching.settle(claim)
    assert batching.claim(2, groups=[OTHER]) is None
    assert names(batching.take(2, groups=[OTHER], drain=True)) == ["c"]


def test_a_batch_that_was_given_back_is_still_full(batching: Harness) -> None:
    batching.put("a", "b", "c")
    batching.settle(batching.take(3), every=Back())
    assert names(batching.take(3)) == ["a", "b", "c"]


def test_a_rest_that_was_given_back_waits_no_longer_than_its_age(batching: Harness) -> None:
    batching.put("a", "b", "c")
    batching.settle(batching.take(3), {"b": Back()})
    assert batching.claim(3) is None
    batching.clock.advance(5.001)
    assert names(batching.take(3)) == ["b"]


def test_delayed_messages_fill_a_batch_when_they_are_due(batching: Harness) -> None:
    batching.put("a", "b")
    batching.put("c", delay=1)
    assert batching.claim(3) is None
    batching.clock.advance(1)
    assert names(batching.take(3)) == ["a", "b", "c"]


def test_a_clock_set_back_does_not_hold_a_batch(batching: Harness) -> None:
    batching.put("a")
    batching.clock.set_back(3600)
    batching.put("b")
    batching.clock.advance(5)
    assert sorted(batching.work_off(3)) == ["a", "b"]


def test_a_batch_that_was_ready_may_go_after_the_clock_was_set_back(batching: Harness) -> None:
    batching.put("a", "b", "c")
    batching.clock.set_back(3600)
    claim = batching.take(3)
    assert (names(claim), reasons(claim)) == (["a", "b", "c"], [Flush.SIZE])


def test_what_was_ready_by_age_stays_so_when_the_clock_is_set_back(batching: Harness) -> None:
    batching.put("a")
    batching.clock.advance(5)
    assert batching.claim(3, groups=[OTHER]) is None, "but its lane is ready from here on"
    batching.clock.set_back(3)
    assert reasons(batching.take(3)) == [Flush.AGE]


def test_a_clock_set_forward_flushes(batching: Harness) -> None:
    batching.put("a")
    batching.clock.advance(3600)
    assert reasons(batching.take(3)) == [Flush.AGE]


def test_a_group_that_never_waits_has_no_reason(batching: Harness) -> None:
    batching.declare(OTHER, size=3)
    batching.put("a", group=OTHER)
    assert reasons(batching.take(3, groups=[OTHER])) == [None]
    assert batching.counts(OTHER).totals.get("flush_size", 0) == 0
    assert batching.flushed() == {}


def test_a_batch_larger_than_the_claim_is_handed_out_in_parts(batching: Harness) -> None:
    batching.put("a", "b", "c")
    assert names(batching.take(2)) == ["a", "b"]
    batching.clock.advance(5.001)
    assert names(batching.take(2)) == ["c"]


def test_batches_go_by_priority(batching: Harness) -> None:
    batching.put("d", "e", "f", shard="1", priority=1)
    batching.put("a", "b", "c", shard="2", priority=0)
    assert names(batching.take(3)) == ["a", "b", "c"]


def test_many_lanes_grow_old_together(batching: Harness) -> None:
    for index in range(1200):
        batching.put(f"m{index}", shard=str(index))
    batching.clock.advance(6)
    seen: list[str] = []
    while (step := batching.step([], batching.want(1000))).claims:
        seen += names(step.claims[0])
    assert len(seen) == 1200
    assert batching.flushed() == {"age": 1200}
    assert batching.counts(TASK).waiting == 0


def test_a_full_batch_is_not_split_to_fill_a_claim(harness: Harness) -> None:
    harness.declare(size=3, within=5)
    harness.put("a", "b", "c", shard="1")
    harness.put("d", "e", "f", shard="2")
    first = harness.take(5)
    assert names(first) == ["a", "b", "c"]
    assert names(harness.take(5)) == ["d", "e", "f"]
