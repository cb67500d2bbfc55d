"""Looking at what waits in shards, and taking it out by hand."""

from __future__ import annotations

from taskyard.brokers.base import Back, Group, Retried
from taskyard.brokers.looking import Waiting
from taskyard.brokers.unique import Mode
from taskyard.testing.conformance.harness import TASK, Harness, micros, name

OTHER = Group("other queue", TASK.name)


def waiting(harness: Harness, shard: str | None = None, group: Group = TASK) -> list[Waiting]:
    return harness.run(harness.broker.waiting(group, shard))


def peek(harness: Harness, shard: str, priority: int = 0, **part: int) -> list[str]:
    found = harness.run(harness.broker.peek(TASK, shard, priority, **part))
    assert found == sorted(found, key=lambda message: message.sequence)
    return [name(message) for message in found]


def withdraw(harness: Harness, shard: str, *names: str, priority: int = 0) -> list[str]:
    found = harness.run(harness.broker.peek(TASK, shard, priority))
    places = {message.sequence: name(message) for message in found}
    wanted = [sequence for sequence, one in places.items() if one in names]
    removed = harness.run(harness.broker.withdraw(TASK, shard, priority, [*wanted, 12345]))
    return [places[sequence] for sequence in removed]


def test_what_waits_is_counted_by_shard_and_priority(harness: Harness) -> None:
    harness.declare(TASK, concurrency=1)
    harness.put("a", "b", shard="x")
    harness.put("c", shard="x", priority=-3)
    harness.put("d", shard="y", priority=5)
    harness.put("later", shard="z", delay=10)
    harness.put("e", shard="x", group=OTHER)
    assert waiting(harness) == [("x", -3, 1), ("x", 0, 2), ("y", 5, 1)]
    assert waiting(harness, "x") == [("x", -3, 1), ("x", 0, 2)]
    assert waiting(harness, "z") == []
    assert waiting(harness, group=OTHER) == [("x", 0, 1)]
    assert waiting(harness, group=Group("q", "nobody")) == []
    harness.take()  # the first of x
    assert waiting(harness, "x") == [("x", 0, 2)]


def test_what_waits_is_read_in_order_and_stays(harness: Harness) -> None:
    harness.declare(TASK, concurrency=1)
    harness.put("a", "b", "c", "d", shard="x")
    harness.put("other", shard="x", priority=1)
    assert peek(harness, "x") == ["a", "b", "c", "d"]
    assert peek(harness, "x", first=1, limit=2) == ["b", "c"]
    assert peek(harness, "x", first=4) == []
    assert peek(harness, "x", limit=0) == []
    assert peek(harness, "x", 1) == ["other"]
    assert peek(harness, "y") == []
    harness.settle(harness.take(2), every=Back())  # what came back is read first
    assert peek(harness, "x") == ["a", "b", "c", "d"]
    assert peek(harness, "x", first=1, limit=2) == ["b", "c"]
    assert peek(harness, "x", first=3, limit=9) == ["d"]
    assert harness.work_off() == ["a", "b", "c", "d", "other"]


def test_what_waits_can_be_taken_out(harness: Harness) -> None:
    harness.declare(TASK, concurrency=1)
    harness.put("a", "b", "c", "d", "e", shard="x", keep=60)
    harness.settle(harness.take(2), every=Back())
    assert withdraw(harness, "x", "b", "d") == ["b", "d"]
    assert withdraw(harness, "x", "b") == []
    assert withdraw(harness, "nowhere", "b") == []
    assert harness.states("a", "b", "d") == ["waiting", "cancelled", "cancelled"]
    counts = harness.counts()
    assert (counts.waiting, counts.lanes, harness.total("cancelled")) == (3, 1, 2)
    assert harness.work_off() == ["a", "c", "e"]
    assert harness.counts().lanes == 0


def test_what_is_claimed_cannot_be_taken_out(harness: Harness) -> None:
    harness.declare(TASK, concurrency=1)
    harness.put("a", "b", shard="x")
    found = harness.run(harness.broker.peek(TASK, "x", 0))
    claim = harness.take()
    sequences = [message.sequence for message in found]
    assert harness.run(harness.broker.withdraw(TASK, "x", 0, sequences)) == sequences[1:]
    harness.settle(claim)
    assert harness.total("done") == 1


def test_who_waited_for_a_head_that_backs_off_goes_on_without_it(harness: Harness) -> None:
    harness.declare(TASK, concurrency=1)
    harness.put("a", "b", shard="x")
    harness.settle(harness.take(), every=Retried(micros(60)))
    assert harness.claim() is None
    assert withdraw(harness, "x", "a") == ["a"]
    assert harness.work_off() == ["b"]


def test_what_is_taken_out_releases_its_key(harness: Harness) -> None:
    harness.put_unique(Mode.DONE, "a", shard="x")
    assert harness.put_unique(Mode.DONE, "b", shard="x") == "a"
    assert withdraw(harness, "x", "a") == ["a"]
    assert harness.put_unique(Mode.DONE, "c", shard="x") is None
    assert harness.work_off() == ["c"]
