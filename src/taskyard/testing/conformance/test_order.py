"""Order in lanes, and fairness between them."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from taskyard.brokers.base import Back, Claim, Dead, Group, Outcome, Retried
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, deliveries, name, names

OTHER = Group("orders", "mail")


def test_never_two_claims_on_an_ordered_lane(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put(*"abc", shard="s")
    claim = harness.take()
    assert harness.claims(10, claims=5) == []
    harness.put("d", shard="s")
    assert harness.claim() is None
    harness.settle(claim)
    assert names(harness.take(10)) == list("bcd")


def test_order_holds_through_give_backs(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put(*"abcde", shard="s")
    harness.settle(harness.take(3), every=Back())
    assert names(harness.take(2)) == ["a", "b"]


def test_a_part_of_a_claim_goes_back_to_its_place(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put(*"abcde", shard="s")
    harness.settle(harness.take(4), {"c": Back(), "b": Back(started=True)})
    assert harness.work_off() == list("bce")


def test_order_holds_through_retries(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put(*"abc", shard="s")
    harness.settle(harness.take(), every=Retried(5_000_000))
    assert harness.claim() is None, "the lane waits behind its head"
    harness.clock.advance(4.9)
    assert harness.claim() is None
    harness.clock.advance(0.1)
    assert harness.work_off() == list("abc")


def test_a_retried_head_keeps_its_place_and_its_age(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="s")
    (before,) = deliveries(claim := harness.take())
    harness.settle(claim, every=Retried(1))
    harness.clock.advance(1)
    (after,) = deliveries(harness.take())
    assert (after.sequence, after.since) == (before.sequence, before.since)
    assert (after.deliveries, after.attempts, after.losses) == (1, 1, 0)


def test_an_ordered_lane_waits_for_the_longest_of_its_retries(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    harness.settle(harness.take(2), {"a": Retried(1_000_000), "b": Retried(3_000_000)})
    harness.clock.advance(2)
    assert harness.claim(2) is None, "b must not be early"
    harness.clock.advance(1)
    assert names(harness.take(2)) == ["a", "b"]


def test_a_retry_in_one_lane_does_not_stop_another(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="1")
    harness.put("b", shard="2")
    harness.settle(harness.take(), every=Retried(60_000_000))
    assert harness.work_off() == ["b"]


def test_order_holds_through_losses(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put(*"abcdefgh", shard="s")
    harness.take(5, owner="dead")
    harness.reap("dead")
    assert harness.work_off() == list("abcdefgh")


def test_messages_given_back_out_of_turn_find_their_places(harness: Harness) -> None:
    harness.put(*"abcdefgh")
    first, second, third = harness.take(2), harness.take(2), harness.take(2)
    harness.settle(second, every=Back())
    harness.settle(third, every=Back(started=True))
    harness.settle(first, every=Back())
    assert harness.work_off(3) == list("abcdefgh")


def test_messages_go_back_to_a_lane_that_was_forgotten_meanwhile(harness: Harness) -> None:
    harness.put("a", shard="s")
    claim = harness.take()
    assert harness.counts().lanes == 0
    harness.put("b", shard="s")
    harness.settle(claim, every=Back())
    assert harness.work_off() == ["a", "b"]


def test_a_retry_without_order_joins_the_tail(harness: Harness) -> None:
    harness.put("a", "b")
    (before,) = deliveries(claim := harness.take())
    harness.settle(claim, every=Retried(1_000_000))
    harness.put("c")
    harness.clock.advance(1)
    claims = harness.claims(1, claims=3)
    assert [names(each) for each in claims] == [["b"], ["c"], ["a"]]
    (after,) = deliveries(claims[-1])
    assert after.sequence > before.sequence
    assert after.since == before.since
    assert (after.deliveries, after.attempts) == (1, 1)


def test_lanes_take_turns(harness: Harness) -> None:
    for shard in "abc":
        harness.put(*(f"{shard}{index}" for index in range(3)), shard=shard)
    assert harness.work_off(1) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


@pytest.mark.parametrize("end", ["lost", "given back"])
def test_lanes_come_back_in_the_order_of_their_claim(harness: Harness, end: str) -> None:
    harness.declare(concurrency=2)
    harness.put("a", "b", shard="full")
    harness.take(1)
    harness.put("c", shard="free")
    claim = harness.take(2, owner="lost")
    assert names(claim) == ["b", "c"]
    if end == "lost":
        harness.reap("lost")
    else:
        harness.settle(claim, every=Back())
    assert harness.work_off(1) == ["b", "c"]


def test_ordered_lanes_take_turns(harness: Harness) -> None:
    harness.declare(concurrency=1)
    for shard in "abc":
        harness.put(*(f"{shard}{index}" for index in range(2)), shard=shard)
    assert harness.work_off(1) == ["a0", "b0", "c0", "a1", "b1", "c1"]


def test_a_busy_lane_does_not_starve_a_new_one(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(100)), shard="busy")
    harness.settle(harness.take(10))
    harness.put("new", shard="quiet")
    first, second = harness.take(10), harness.take(10)
    assert "new" in names(first) + names(second)


def test_groups_take_turns(harness: Harness) -> None:
    harness.put("a1", "a2", "a3")
    harness.put("b1", "b2", group=OTHER)
    assert harness.work_off(1, groups=[OTHER, TASK]) == ["a1", "b1", "a2", "b2", "a3"]


@pytest.mark.parametrize("seed", range(5))
def test_an_ordered_lane_begins_its_messages_in_order_whatever_happens(
    harness: Harness, seed: int
) -> None:
    chance = random.Random(seed)
    harness.declare(concurrency=1, max_deliveries=1000)
    shards = [str(index) for index in range(chance.randint(1, 6))]
    left = [(shard, index) for index in range(12) for shard in shards]
    begun: dict[str, list[int]] = defaultdict(list)
    ended: set[str] = set()
    claims: list[Claim] = []
    for _ in range(3000):
        if len(ended) == 12 * len(shards):
            break
        act = chance.random()
        if left and act < 0.3:
            shard, index = left.pop(0)
            harness.put(f"{shard}:{index}", shard=shard)
        elif act < 0.6:
            owner = str(chance.randint(1, 3))
            claims += harness.claims(chance.randint(1, 9), claims=2, owner=owner, lease=5)
        elif claims and act < 0.9:
            claim = claims.pop(chance.randrange(len(claims)))
            _begin_and_settle(harness, chance, claim, begun, ended)
        elif act < 0.95:
            harness.clock.advance(chance.random() * 4)
        else:
            harness.reap(str(chance.randint(1, 3)))
    assert len(ended) == 12 * len(shards)
    for numbers in begun.values():
        first_starts = list(dict.fromkeys(numbers))
        assert first_starts == sorted(first_starts)


def _begin_and_settle(
    harness: Harness,
    chance: random.Random,
    claim: Claim,
    begun: dict[str, list[int]],
    ended: set[str],
) -> None:
    outcomes: dict[str, Outcome] = {}
    ends: tuple[Outcome, ...]
    for lane in claim.lanes:
        failed = False
        for message in deliveries(lane):
            id_ = name(message)
            if failed:
                outcomes[id_] = Back()
                continue
            begun[lane.shard].append(int(id_.partition(":")[2]))
            if chance.random() < 0.3:
                failed = True
                ends = (Retried(2_000_000), Back(started=True), Dead(Failure("failed"), id_))
                outcomes[id_] = chance.choice(ends)
    if harness.settle(claim, outcomes):
        ended |= {id_ for id_ in names(claim) if isinstance(outcomes.get(id_), (Dead, type(None)))}
