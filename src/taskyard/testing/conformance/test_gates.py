"""Pausing and draining queues, parking shards by hand."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Dead, Group, Outcome, Put, Retried
from taskyard.brokers.lane import Flush, Gate
from taskyard.errors import QueueDraining
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, body, micros

SAME_QUEUE = Group(TASK.queue, "another task")
OTHER = Group("other queue", TASK.name)
FAILURE = Failure("error", "Error", "it failed")


def set_gate(harness: Harness, gate: Gate, queue: str = TASK.queue) -> Gate:
    return harness.run(harness.broker.set_gate(queue, gate))


def park(harness: Harness, shard: str, group: Group = TASK) -> bool:
    return harness.run(harness.broker.park(group, shard))


def gates(harness: Harness) -> dict[Group, Gate]:
    return {counts.group: counts.gate for counts in harness.run(harness.broker.counts())}


# Pausing


def test_a_paused_queue_hands_nothing_out(harness: Harness) -> None:
    harness.put("a")
    harness.put("b", group=SAME_QUEUE)
    harness.put("c", group=OTHER)
    everything = [TASK, SAME_QUEUE, OTHER]
    assert set_gate(harness, Gate.PAUSED) is Gate.OPEN
    assert harness.work_off(groups=everything) == ["c"]
    harness.put("d")
    assert harness.work_off(groups=everything) == []
    assert set_gate(harness, Gate.OPEN) is Gate.PAUSED
    assert sorted(harness.work_off(groups=everything)) == ["a", "b", "d"]


def test_what_runs_goes_on_and_can_be_settled(harness: Harness) -> None:
    harness.put("a", "b")
    first, second = harness.take(), harness.take()
    set_gate(harness, Gate.PAUSED)
    assert harness.extend(first) == []
    harness.settle(first)
    harness.settle(second, every=Back())
    assert harness.total("done") == 1
    assert harness.claim() is None
    set_gate(harness, Gate.OPEN)
    assert harness.work_off() == ["b"]


def test_groups_that_are_made_while_it_is_paused_are_paused(harness: Harness) -> None:
    set_gate(harness, Gate.PAUSED)
    harness.put("a", group=SAME_QUEUE)
    harness.declare(TASK)
    harness.put("b")
    assert harness.work_off(groups=[TASK, SAME_QUEUE]) == []
    set_gate(harness, Gate.OPEN)
    assert sorted(harness.work_off(groups=[TASK, SAME_QUEUE])) == ["a", "b"]


def test_a_gate_is_shown(harness: Harness) -> None:
    harness.put("a")
    harness.put("b", group=OTHER)
    for gate in (Gate.PAUSED, Gate.DRAINING, Gate.OPEN):
        set_gate(harness, gate)
        assert gates(harness) == {TASK: gate, OTHER: Gate.OPEN}


def test_what_becomes_due_waits_for_the_gate(harness: Harness) -> None:
    harness.put("a", delay=5)
    set_gate(harness, Gate.PAUSED)
    harness.clock.advance(5)
    assert harness.claim() is None
    assert harness.next_at() == 0, "no time lets it out"
    set_gate(harness, Gate.OPEN)
    assert harness.work_off() == ["a"]


def test_a_retry_does_not_pass_the_gate(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="s")
    harness.settle(harness.take(), every=Retried(micros(1)))
    set_gate(harness, Gate.PAUSED)
    harness.clock.advance(2)
    assert harness.claim() is None
    set_gate(harness, Gate.OPEN)
    assert harness.work_off() == ["a"]


def test_a_lost_claim_does_not_pass_the_gate(harness: Harness) -> None:
    harness.put("a")
    harness.take(lease=1)
    set_gate(harness, Gate.PAUSED)
    harness.clock.advance(2)
    assert harness.claim() is None
    set_gate(harness, Gate.OPEN)
    assert harness.work_off() == ["a"]


def test_a_sleeper_is_not_woken_for_what_it_cannot_get(harness: Harness) -> None:
    set_gate(harness, Gate.PAUSED)
    sleeper = harness.sleeper()
    assert harness.claim(listener=sleeper) is None
    harness.put("a")
    assert sleeper.sleeps_on()
    set_gate(harness, Gate.OPEN)
    assert sleeper.is_woken()
    assert harness.work_off() == ["a"]


def test_the_drain_of_a_worker_does_not_pass_a_paused_gate(harness: Harness) -> None:
    harness.declare(size=10, within=60)
    harness.put("a")
    set_gate(harness, Gate.PAUSED)
    assert harness.claim(10, drain=True) is None


# Draining


def test_a_draining_queue_takes_nothing(harness: Harness) -> None:
    harness.put("a")
    assert set_gate(harness, Gate.DRAINING) is Gate.OPEN
    with pytest.raises(QueueDraining, match=f"{TASK.queue!r} is draining"):
        harness.put("b")
    with pytest.raises(QueueDraining):
        harness.put("b", delay=5)
    with pytest.raises(QueueDraining):
        harness.put("b", group=Group(TASK.queue, "a new task"))
    harness.put("c", group=OTHER)
    assert harness.work_off() == ["a"]
    set_gate(harness, Gate.OPEN)
    harness.put("d")
    assert harness.work_off() == ["d"]


def test_of_a_call_that_goes_to_a_draining_queue_too_nothing_is_stored(harness: Harness) -> None:
    harness.put("first")
    set_gate(harness, Gate.DRAINING)
    puts = [Put(SAME_QUEUE, [body("a")]), Put(TASK, [body("b")])]
    with pytest.raises(QueueDraining):
        harness.put_all(*puts)
    assert harness.work_off(groups=[TASK, SAME_QUEUE]) == ["first"]


def test_batches_of_a_draining_queue_do_not_wait(harness: Harness) -> None:
    harness.declare(size=10, within=60)
    harness.put("a", "b")
    assert harness.claim(10) is None
    set_gate(harness, Gate.DRAINING)
    claim = harness.take(10)
    assert claim.lanes[0].flush is Flush.DRAIN
    harness.settle(claim)


def test_a_sleeper_is_woken_to_drain(harness: Harness) -> None:
    harness.declare(size=10, within=60)
    harness.put("a")
    sleeper = harness.sleeper()
    assert harness.claim(10, listener=sleeper) is None
    set_gate(harness, Gate.DRAINING)
    assert sleeper.is_woken()


def test_what_comes_back_is_let_in(harness: Harness) -> None:
    harness.put("a", "b", "c", "d")
    claim = harness.take(4)
    set_gate(harness, Gate.DRAINING)
    outcomes: dict[str, Outcome] = {"a": Back(), "b": Retried(micros(1)), "c": Dead(FAILURE)}
    harness.settle(claim, outcomes)
    harness.clock.advance(1)
    assert sorted(harness.work_off()) == ["a", "b"]
    assert harness.retry_dead() == 1
    assert harness.work_off() == ["c"]


# Parking by hand


def test_a_parked_shard_is_held_until_it_is_released(harness: Harness) -> None:
    harness.put("a", shard="s")
    harness.put("b", shard="t")
    assert park(harness, "s")
    assert not park(harness, "s")
    assert harness.counts().parked_shards == ["s"]
    harness.put("c", shard="s")
    assert harness.work_off() == ["b"]
    assert harness.release("s")
    assert harness.work_off() == ["a", "c"]


def test_an_empty_shard_can_be_parked(harness: Harness) -> None:
    harness.declare(concurrency=1)
    assert park(harness, "s")
    harness.put("a", shard="s")
    assert harness.claim() is None
    assert harness.counts().parked == 1
    assert harness.release("s")
    assert harness.work_off() == ["a"]
    assert not harness.release("s")


def test_a_shard_that_is_worked_on_can_be_parked(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    claim = harness.take()
    assert park(harness, "s")
    harness.settle(claim)
    assert harness.claim() is None
    assert harness.release("s")
    assert harness.work_off() == ["b"]


def test_shards_of_a_group_that_nobody_knows_yet(harness: Harness) -> None:
    assert park(harness, "s", OTHER)
    harness.put("a", shard="s", group=OTHER)
    harness.put("b", shard="t", group=OTHER)
    assert harness.work_off(groups=[OTHER]) == ["b"]
