"""Batches: when they are handed out, and why."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Claim, Group, Retried
from taskyard.brokers.lane import Flush
from tests.conformance.harness import TASK, Harness, micros, names

OTHER = Group("orders", "mail")


@pytest.fixture(autouse=True)
def batches_of_three_within_five_seconds(harness: Harness) -> None:
    harness.declare(size=3, within=5)


def reasons(claim: Claim) -> list[Flush | None]:
    return [lane.flush for lane in claim.lanes]


def test_a_batch_waits_to_fill(harness: Harness) -> None:
    harness.put("a", "b")
    assert harness.claim(3) is None
    harness.put("c")
    claim = harness.take(3)
    assert (names(claim), reasons(claim)) == (["a", "b", "c"], [Flush.SIZE])
    assert harness.flushed() == {"size": 1}


def test_a_batch_does_not_wait_for_ever(harness: Harness) -> None:
    harness.put("a")
    harness.clock.advance(3)
    harness.put("b")
    harness.clock.advance(1.9)
    assert harness.claim(3) is None
    harness.clock.advance(0.1)
    claim = harness.take(3)
    assert (names(claim), reasons(claim)) == (["a", "b"], [Flush.AGE])
    assert harness.flushed() == {"age": 1}


def test_the_broker_says_when_a_batch_is_old_enough(harness: Harness) -> None:
    begin = harness.clock.now
    harness.put("a")
    harness.clock.advance(1)
    harness.put("b")
    assert harness.next_at() == begin + micros(5)


def test_a_batch_is_full_when_its_bytes_are(harness: Harness) -> None:
    harness.declare(size=100, within=5, bytes=250)
    harness.put("a", "b", size=100)
    assert harness.claim(100) is None
    harness.put("c", size=100)
    claim = harness.take(100)
    assert (names(claim), reasons(claim)) == (["a", "b", "c"], [Flush.BYTES])
    assert harness.flushed() == {"bytes": 1}


def test_only_full_batches_are_handed_out_before_their_time(harness: Harness) -> None:
    harness.put(*"abcdefgh")
    claim = harness.take(100)
    assert (names(claim), reasons(claim)) == (list("abcdef"), [Flush.SIZE])
    assert harness.claim(100) is None
    harness.put("i")
    assert names(harness.take(100)) == list("ghi")


def test_the_rest_of_a_lane_is_as_old_as_its_oldest_message(harness: Harness) -> None:
    harness.put("a", "b", "c")
    harness.clock.advance(2)
    begin = harness.clock.now
    harness.put("d")
    assert names(harness.take(100)) == list("abc")
    assert harness.next_at() == begin + micros(5)


def test_each_lane_fills_for_itself(harness: Harness) -> None:
    for shard in "12":
        harness.put(f"a{shard}", f"b{shard}", shard=shard)
    assert harness.claim(100) is None
    harness.put("c2", shard="2")
    assert names(harness.take(100)) == ["a2", "b2", "c2"]


def test_a_claim_may_hold_batches_of_several_lanes(harness: Harness) -> None:
    for shard in "12":
        harness.put(*(f"{letter}{shard}" for letter in "abc"), shard=shard)
    harness.put("x", shard="3")
    claim = harness.take(100)
    assert [(lane.shard, len(lane.messages)) for lane in claim.lanes] == [("1", 3), ("2", 3)]
    assert harness.flushed() == {"size": 2}


def test_a_draining_worker_gets_what_still_waits_to_fill(harness: Harness) -> None:
    harness.put("a", shard="1")
    harness.put("b", shard="2")
    claim = harness.take(100, drain=True)
    assert (names(claim), reasons(claim)) == (["a", "b"], [Flush.DRAIN, Flush.DRAIN])
    assert harness.flushed() == {"drain": 2}


def test_a_draining_worker_gets_full_batches_too(harness: Harness) -> None:
    harness.put("x", shard="1")
    harness.put("a", "b", "c", shard="2")
    claims = harness.claims(100, claims=9, drain=True)
    assert sorted(name for claim in claims for name in names(claim)) == ["a", "b", "c", "x"]
    assert harness.flushed() == {"size": 1, "drain": 1}


def test_draining_does_not_free_what_may_not_run(harness: Harness) -> None:
    harness.declare(OTHER, size=3, within=5, concurrency=1)
    harness.put("blocked", shard="blocked", group=OTHER)
    harness.put("parked", shard="parked", group=OTHER)
    blocked, parked = harness.claims(1, claims=2, drain=True, groups=[OTHER])
    harness.settle(blocked, every=Retried(60_000_000))
    harness.settle(parked, every=Back(park=True))
    harness.put("running", shard="held", group=OTHER)
    harness.take(drain=True, groups=[OTHER])
    harness.put("held", shard="held", group=OTHER)
    harness.put("delayed", delay=60, group=OTHER)
    assert harness.claims(9, claims=9, drain=True, groups=[OTHER]) == []


def test_batches_of_ordered_lanes_wait_and_drain(harness: Harness) -> None:
    harness.declare(OTHER, size=2, within=5, concurrency=1)
    harness.put("a", "b", "c", shard="s", group=OTHER)
    claim = harness.take(2, groups=[OTHER])
    assert names(claim) == ["a", "b"]
    assert harness.claim(2, groups=[OTHER], drain=True) is None
    harness.settle(claim)
    assert harness.claim(2, groups=[OTHER]) is None
    assert names(harness.take(2, groups=[OTHER], drain=True)) == ["c"]


def test_a_batch_that_was_given_back_is_still_full(harness: Harness) -> None:
    harness.put("a", "b", "c")
    harness.settle(harness.take(3), every=Back())
    assert names(harness.take(3)) == ["a", "b", "c"]


def test_a_rest_that_was_given_back_waits_no_longer_than_its_age(harness: Harness) -> None:
    harness.put("a", "b", "c")
    harness.settle(harness.take(3), {"b": Back()})
    assert harness.claim(3) is None
    harness.clock.advance(5.001)
    assert names(harness.take(3)) == ["b"]


def test_delayed_messages_fill_a_batch_when_they_are_due(harness: Harness) -> None:
    harness.put("a", "b")
    harness.put("c", delay=1)
    assert harness.claim(3) is None
    harness.clock.advance(1)
    assert names(harness.take(3)) == ["a", "b", "c"]


def test_a_clock_set_back_does_not_hold_a_batch(harness: Harness) -> None:
    harness.put("a")
    harness.clock.set_back(3600)
    harness.put("b")
    harness.clock.advance(5)
    assert sorted(harness.work_off(3)) == ["a", "b"]


def test_a_batch_that_was_ready_may_go_after_the_clock_was_set_back(harness: Harness) -> None:
    harness.put("a", "b", "c")
    harness.clock.set_back(3600)
    claim = harness.take(3)
    assert (names(claim), reasons(claim)) == (["a", "b", "c"], [Flush.SIZE])


def test_a_clock_set_forward_flushes(harness: Harness) -> None:
    harness.put("a")
    harness.clock.advance(3600)
    assert reasons(harness.take(3)) == [Flush.AGE]


def test_a_group_that_never_waits_has_no_reason(harness: Harness) -> None:
    harness.declare(OTHER, size=3)
    harness.put("a", group=OTHER)
    assert reasons(harness.take(3, groups=[OTHER])) == [None]
    assert harness.counts(OTHER).totals.get("flush_size", 0) == 0
    assert harness.flushed() == {}


def test_a_batch_larger_than_the_claim_is_handed_out_in_parts(harness: Harness) -> None:
    harness.put("a", "b", "c")
    assert names(harness.take(2)) == ["a", "b"]
    harness.clock.advance(5.001)
    assert names(harness.take(2)) == ["c"]


def test_batches_go_by_priority(harness: Harness) -> None:
    harness.put("d", "e", "f", shard="1", priority=1)
    harness.put("a", "b", "c", shard="2", priority=0)
    assert names(harness.take(3)) == ["a", "b", "c"]


def test_many_lanes_grow_old_together(harness: Harness) -> None:
    for index in range(1200):
        harness.put(f"m{index}", shard=str(index))
    harness.clock.advance(6)
    seen: list[str] = []
    while (step := harness.step([], harness.want(1000))).claims:
        seen += names(step.claims[0])
    assert len(seen) == 1200
    assert harness.flushed() == {"age": 1200}
    assert harness.counts(TASK).waiting == 0
