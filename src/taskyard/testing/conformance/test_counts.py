"""The numbers."""

from __future__ import annotations

import random

import pytest

from taskyard.brokers.base import Back, Dead, Discard, Group, Outcome, Retried
from taskyard.brokers.unique import Mode
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, names

OTHER = Group("orders", "mail")


def test_an_empty_broker_counts_nothing(harness: Harness) -> None:
    assert harness.all_counts() == []


def test_counts_tell_where_messages_are(harness: Harness) -> None:
    begin = harness.clock.now
    harness.put("a", "b", shard="1")
    harness.clock.advance(1)
    harness.put("c", "d", "e", shard="2")
    harness.put("f", shard="3", delay=60)
    harness.take()
    counts = harness.counts()
    assert (counts.waiting, counts.delayed, counts.running, counts.dead) == (4, 1, 1, 0)
    assert (counts.lanes, counts.parked) == (2, 0)
    assert begin <= counts.oldest < begin + 1_000_000
    assert counts.totals["put"] == 6


def test_the_oldest_is_the_oldest_that_waits(harness: Harness) -> None:
    harness.put("a")
    harness.clock.advance(10)
    second = harness.clock.now
    harness.put("b", shard="other")
    harness.take()
    assert harness.counts().oldest == second
    harness.take()
    assert harness.counts().oldest == 0


@pytest.mark.parametrize("shard", ["", "s"])
def test_a_cancelled_message_is_the_oldest_no_more(harness: Harness, shard: str) -> None:
    harness.declare(concurrency=1)
    harness.put("running", shard=shard)
    harness.take()
    harness.put("a", shard=shard, keep=60)
    harness.clock.advance(1)
    second = harness.clock.now
    harness.put("b", shard=shard)
    harness.run(harness.broker.cancel("a"))
    assert harness.counts().oldest == second


def test_what_was_not_put_leaves_its_lane_as_it_is(harness: Harness) -> None:
    harness.declare(size=5, within=100)
    oldest = harness.clock.now
    harness.put_unique(Mode.DONE, "a", shard="s")
    harness.clock.set_back(1)
    assert harness.put_unique(Mode.DONE, "b", shard="s") == "a"
    assert harness.counts().oldest == oldest


def test_groups_are_counted_apart_and_sorted(harness: Harness) -> None:
    groups = [Group("b", "x"), Group("a", "y"), Group("a", "x")]
    for index, group in enumerate(groups):
        harness.put(*(f"m{number}" for number in range(index + 1)), group=group)
    assert [(counts.group, counts.waiting) for counts in harness.all_counts()] == [
        (Group("a", "x"), 3),
        (Group("a", "y"), 2),
        (Group("b", "x"), 1),
    ]


def test_redeliveries_and_losses_are_counted_by_message(harness: Harness) -> None:
    harness.put("a", "b", "c")
    harness.take(3, owner="dead")
    assert harness.total("redelivered") == 0
    harness.reap("dead")
    assert harness.total("lost") == 3
    harness.work_off()
    assert harness.total("redelivered") == 3


def test_what_never_began_is_no_redelivery(harness: Harness) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Back())
    harness.work_off()
    assert harness.total("redelivered") == 0


def test_a_retry_that_waits_is_delayed_outside_an_ordered_lane(harness: Harness) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Retried(60_000_000))
    counts = harness.counts()
    assert (counts.waiting, counts.delayed) == (0, 1)


def test_a_retry_that_blocks_its_lane_waits_in_it(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="s")
    harness.settle(harness.take(), every=Retried(60_000_000))
    counts = harness.counts()
    assert (counts.waiting, counts.delayed, counts.lanes) == (1, 0, 1)


def test_nothing_is_left_of_work_that_is_done(harness: Harness) -> None:
    harness.declare(concurrency=1)
    for index in range(50):
        harness.put(f"a{index}", f"b{index}", shard=str(index), priority=index % 3, keep=10)
        harness.put(f"c{index}", shard=str(index), delay=index)
    harness.clock.advance(60)
    while (claim := harness.claim(7)) is not None:
        assert harness.settle(claim, results=dict.fromkeys(names(claim), b""))
    harness.clock.advance(60)
    assert harness.tidy_records() in (None, 100)
    counts = harness.counts()
    assert (counts.waiting, counts.delayed, counts.running, counts.dead) == (0, 0, 0, 0)
    assert (counts.lanes, counts.parked, counts.oldest) == (0, 0, 0)
    assert harness.next_at() == 0
    assert (counts.totals["put"], counts.totals["done"]) == (150, 150)


def test_each_of_many_groups_is_counted_once(harness: Harness) -> None:
    groups = [Group(f"q{number % 3}", f"t{number:03}") for number in range(120)]
    for number, group in enumerate(groups):
        harness.put(*(f"{number}-{index}" for index in range(number % 4 + 1)), group=group)
    counted = harness.run(harness.broker.counts())
    assert [(counts.group, counts.waiting) for counts in counted] == sorted(
        (group, number % 4 + 1) for number, group in enumerate(groups)
    )


def test_every_message_that_was_put_is_accounted_for(harness: Harness) -> None:
    chance = random.Random(7)
    for group, concurrency in ((TASK, 0), (OTHER, 1)):
        harness.declare(group, concurrency=concurrency, max_deliveries=2)
    for round_ in range(100):
        group = chance.choice([TASK, OTHER])
        harness.put(
            *(f"{round_}-{index}" for index in range(chance.randint(0, 4))),
            group=group,
            shard=str(chance.randint(0, 3)),
            delay=chance.choice([0, 0, 5]),
        )
        for claim in harness.claims(chance.randint(1, 5), groups=[TASK, OTHER], claims=2):
            outcomes = {id_: outcome(chance, id_) for id_ in names(claim)}
            chosen = {id_: chosen for id_, chosen in outcomes.items() if chosen is not None}
            if chance.random() < 0.8:
                harness.settle(claim, chosen)
        if chance.random() < 0.2:
            harness.reap("worker")
        if chance.random() < 0.1:
            harness.retry_dead(limit=2)
            harness.discard_dead(limit=1)
        harness.clock.advance(chance.random())
        for counts in harness.all_counts():
            here = counts.waiting + counts.delayed + counts.running + counts.dead
            totals = counts.totals
            gone = sum(totals.get(key, 0) for key in ("done", "discarded", "dead_dropped"))
            assert totals.get("put", 0) == here + gone


def outcome(chance: random.Random, id_: str) -> Outcome | None:
    return chance.choice(
        [
            None,
            Back(),
            Back(started=True),
            Retried(1_000_000),
            Dead(Failure("failed"), id_),
            Discard(id_),
        ]
    )
