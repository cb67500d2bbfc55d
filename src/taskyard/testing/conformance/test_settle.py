"""Settling claims."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Dead, Discard, Outcome, Retried
from taskyard.message import Failure
from taskyard.testing.conformance.harness import Harness, deliveries, names

BROKEN = Failure("failed", "ValueError", "it is broken")


def test_what_is_done_is_gone(harness: Harness) -> None:
    harness.put("a", "b")
    assert harness.settle(harness.take(2))
    assert harness.claim() is None
    assert harness.total("done") == 2


def test_a_message_that_never_began_goes_back_as_it_was(harness: Harness) -> None:
    harness.put("a")
    before = deliveries(claim := harness.take())
    harness.settle(claim, every=Back())
    assert deliveries(harness.take()) == before


def test_a_message_that_began_counts_as_delivered(harness: Harness) -> None:
    harness.put("a")
    (before,) = deliveries(claim := harness.take())
    harness.settle(claim, every=Back(started=True))
    (after,) = deliveries(harness.take())
    assert (after.deliveries, after.attempts, after.losses) == (1, 0, 0)
    assert after.sequence == before.sequence


def test_every_message_has_its_own_end(harness: Harness) -> None:
    harness.put("done", "back", "dead", "gone", "again", keep=60)
    harness.settle(
        harness.take(5),
        {
            "back": Back(),
            "dead": Dead(BROKEN, "dead", "save"),
            "gone": Discard("gone"),
            "again": Retried(1_000_000),
        },
        results={"done": b"42"},
    )
    counts = harness.counts()
    assert (counts.waiting, counts.delayed, counts.running, counts.dead) == (1, 1, 0, 1)
    totals = counts.totals
    assert [totals.get(key, 0) for key in ("done", "dead", "discarded", "retried")] == [1, 1, 1, 1]
    states = [harness.state(id_) for id_ in ("done", "back", "dead", "gone")]
    assert states == ["done", "waiting", "dead", "discarded"]


def test_a_discarded_message_leaves_nothing_but_a_number(harness: Harness) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Discard())
    assert harness.claim() is None
    assert harness.dead() == []
    assert harness.total("discarded") == 1


def test_a_claim_is_settled_once(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take()
    assert harness.settle(claim)
    assert not harness.settle(claim, every=Back())
    assert harness.claim() is None


def test_a_token_that_never_was_is_lost(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take()
    claim.token += 1000
    assert not harness.settle(claim)


def test_a_lost_settlement_does_not_hinder_others(harness: Harness) -> None:
    harness.put("a", "b", "c")
    first, second, third = harness.claims(1, claims=3)
    harness.settle(second)
    step = harness.step(
        [harness.settlement(claim) for claim in (first, second, third)], harness.want()
    )
    assert step.lost == [second.token]
    assert harness.total("done") == 3


@pytest.mark.parametrize(
    "outcome", [None, Back(started=True, park=True), Retried(0), Dead(BROKEN, "a"), Discard("a")]
)
def test_whoever_lost_the_lease_changes_nothing(harness: Harness, outcome: Outcome | None) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s", keep=60)
    late = harness.take(2, owner="late")
    harness.reap("late")
    harness.put("c", shard="s")
    before = harness.all_counts(), harness.records("a", "b")
    assert not harness.settle(late, every=outcome, results={"a": b"?"}, records=True)
    assert (harness.all_counts(), harness.records("a", "b")) == before
    current = harness.take(5)
    assert names(current) == ["a"]
    assert not harness.settle(late, every=outcome, keep=["a"])
    assert harness.settle(current)
    assert harness.work_off() == ["b", "c"]


# A part of a claim


def test_what_is_kept_stays_claimed(harness: Harness) -> None:
    harness.put(*"abcd")
    claim = harness.take(4)
    assert harness.settle(claim, keep="bd")
    assert harness.counts().running == 2
    assert harness.total("done") == 2
    assert harness.claim() is None
    assert harness.settle(claim, {"d": Back()})
    assert harness.total("done") == 3
    assert harness.work_off() == ["d"]


def test_a_claim_may_be_settled_in_many_parts(harness: Harness) -> None:
    harness.put(*"abcdef")
    claim = harness.take(6)
    left = list("abcdef")
    while left:
        left.pop(0)
        assert harness.settle(claim, keep=left)
    assert not harness.settle(claim)
    assert harness.total("done") == 6


def test_an_ordered_lane_stays_held_while_a_part_of_it_runs(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put(*"abcd", shard="s")
    claim = harness.take(3)
    harness.settle(claim, {"b": Back(), "c": Back()}, keep=["a"])
    assert harness.claim() is None
    harness.settle(claim)
    assert harness.work_off() == list("bcd")


def test_a_lane_of_which_nothing_is_kept_is_released(harness: Harness) -> None:
    harness.declare(concurrency=1)
    for shard in "12":
        harness.put(f"a{shard}", f"b{shard}", shard=shard)
    claim = harness.take(4)
    assert names(claim) == ["a1", "b1", "a2", "b2"]
    harness.settle(claim, {"b1": Back(), "b2": Back()}, keep=["a2"])
    assert names(other := harness.take(4)) == ["b1"]
    assert harness.claim(4) is None
    harness.settle(claim)
    assert names(harness.take(4)) == ["b2"]
    assert harness.settle(other)


def test_a_kept_message_may_still_get_every_outcome(harness: Harness) -> None:
    harness.put(*"abcd", keep=60)
    claim = harness.take(4)
    harness.settle(claim, keep="abc")
    harness.settle(claim, {"a": Dead(BROKEN, "a")}, keep="bc")
    harness.settle(claim, {"b": Discard("b")}, keep="c")
    harness.settle(claim, results={"c": b"3"})
    assert [harness.state(id_) for id_ in "abc"] == ["dead", "discarded", "done"]


def test_only_what_is_still_kept_is_lost_with_a_claim(harness: Harness) -> None:
    harness.put(*"abcd")
    harness.settle(harness.take(4, owner="dead"), keep="cd")
    harness.reap("dead")
    claim = harness.take(4)
    assert names(claim)[0] == "c"
    assert harness.total("done") == 2
    assert harness.counts().waiting + len(claim) == 2


def test_what_goes_back_while_a_part_still_runs_can_be_claimed_at_once(harness: Harness) -> None:
    harness.put(*"abc", shard="s")
    claim = harness.take(3)
    harness.settle(claim, {"b": Back()}, keep=["a"])
    assert names(harness.take()) == ["b"]
    assert harness.settle(claim)


# Parking


def test_a_parked_lane_waits_for_its_release(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    harness.put("x", shard="other")
    harness.settle(harness.take(), every=Back(started=True, park=True))
    assert harness.work_off() == ["x"]
    harness.clock.advance(1_000_000)
    harness.put("c", shard="s")
    assert harness.claim() is None
    assert harness.counts().parked == 1
    assert harness.release("s")
    assert harness.counts().parked == 0
    assert harness.work_off() == ["a", "b", "c"]


def test_only_a_parked_lane_is_released(harness: Harness) -> None:
    assert not harness.release("unknown")
    harness.put("a", shard="s")
    assert not harness.release("s")
    harness.settle(harness.take(), every=Back(park=True))
    assert harness.release("s")
    assert not harness.release("s")


def test_a_lane_without_order_parks_too(harness: Harness) -> None:
    harness.put("a", "b")
    first, second = harness.take(), harness.take()
    harness.settle(first, every=Back(park=True))
    harness.settle(second, every=Back())
    assert harness.claim() is None
    harness.release("")
    assert harness.work_off() == ["a", "b"]
