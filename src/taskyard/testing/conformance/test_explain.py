"""What a broker finds of a message, and what follows from it, in every state."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from taskyard.brokers.base import Back, Dead, Discard, Group, Put, Retried
from taskyard.brokers.explain import explain
from taskyard.brokers.explanation import Explanation, Why
from taskyard.brokers.facts import Facts, Where
from taskyard.brokers.lane import Gate
from taskyard.brokers.rate import Limited, Rate, Scope
from taskyard.brokers.unique import Keys, Mode
from taskyard.brokers.workers import Report, WorkerState
from taskyard.message import Failure, Reason
from taskyard.testing.conformance.harness import TASK, Harness, micros

KEEP = 600.0
FAILURE = Failure(Reason.FAILED, "Error", "it failed")
BOTH = pytest.mark.parametrize("keep", [KEEP, None], ids=["recorded", "not recorded"])


def why(harness: Harness, id_: str) -> Explanation:
    return harness.run(explain(harness.broker, id_))


def find(harness: Harness, id_: str, search: int = 100) -> Facts:
    return harness.run(harness.broker.explain(id_, search=search))


def attend(harness: Harness, name: str = "w", *tasks: str, **report: object) -> None:
    """Let a worker be there that knows these tasks of the queue; `save`, if none is named."""
    made = Report("host", 1, "0", {TASK.queue: list(tasks or (TASK.name,))}, 1, 0)
    packed = msgspec.msgpack.encode(msgspec.structs.replace(made, **report))
    harness.run(harness.broker.workers.attend(name, packed, "", 0))


def at(harness: Harness, seconds: float = 0) -> int:
    return harness.clock.now + micros(seconds)


def microseconds(moment: datetime | None) -> int:
    assert moment is not None
    return round(moment.timestamp() * 1e6)


# What ended


def test_what_is_done(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    harness.settle(harness.take(), results={"a": b"result"})
    harness.clock.advance(1)
    found = why(harness, "a")
    assert (found.reason, found.queue, found.task) == (Why.DONE, TASK.queue, TASK.name)
    assert microseconds(found.since) == at(harness, -1)


def test_what_is_discarded_or_cancelled(harness: Harness) -> None:
    harness.put("a", "b", keep=KEEP)
    harness.settle(harness.take(), {"a": Discard("a")})
    harness.run(harness.broker.cancel("b"))
    assert [why(harness, id_).reason for id_ in "ab"] == [Why.DISCARDED, Why.CANCELLED]


@BOTH
@pytest.mark.parametrize(
    ("reason", "expected"), [(Reason.FAILED, Why.DEAD), (Reason.EXPIRED, Why.EXPIRED)]
)
def test_a_dead_letter(harness: Harness, keep: float | None, reason: Reason, expected: Why) -> None:
    harness.put("a", shard="s", keep=keep)
    failure = Failure(reason, "Error", "it failed")
    harness.settle(harness.take(), {"a": Dead(failure, "a", "save")})
    found = why(harness, "a")
    assert (found.reason, found.failure, found.shard) == (expected, failure, "s")
    assert microseconds(found.since) == at(harness)


def test_one_that_died_of_losses(harness: Harness) -> None:
    harness.declare(max_deliveries=1)
    harness.put("a", keep=KEEP)
    harness.take(lease=1)
    harness.clock.advance(2)
    harness.reap()
    found = why(harness, "a")
    assert found.reason is Why.DEAD
    assert found.failure is not None
    assert found.failure.reason == Reason.WORKER_LOST


def test_a_dead_letter_without_a_record_is_found_behind_others(harness: Harness) -> None:
    ids = [f"m{index}" for index in range(250)]
    harness.put(*ids)
    claim = harness.take(250)
    harness.settle(claim, {id_: Dead(FAILURE, id_, "save") for id_ in ids})
    found = why(harness, "m249")
    assert (found.reason, found.letter) == (Why.DEAD, harness.dead(limit=1000)[-1].number)


# Running


@BOTH
def test_what_runs(harness: Harness, keep: float | None) -> None:
    harness.put("a", "b", "c", shard="s", keep=keep)
    claim = harness.take(2, owner="w1", lease=30)
    harness.clock.advance(10)
    harness.extend(claim, lease=30)
    harness.clock.advance(1)
    found = why(harness, "b")
    assert (found.reason, found.worker, found.messages) == (Why.RUNNING, "w1", 2)
    assert microseconds(found.seen) == at(harness, -1)
    assert microseconds(found.until) == at(harness, 29)
    assert abs(microseconds(found.since) - at(harness, -11)) < 100  # numbers may run ahead
    assert not found.stopping


def test_what_runs_and_is_cancelled(harness: Harness) -> None:
    harness.put("a", "b", keep=KEEP)
    harness.take(2)
    harness.run(harness.broker.cancel("a"))
    assert [why(harness, id_).stopping for id_ in "ab"] == [True, False]


def test_who_holds_a_shard_is_named_in_the_order_of_the_claims(harness: Harness) -> None:
    harness.declare(concurrency=2)
    harness.put("a", "b", "c", shard="s")
    first, second = harness.take(owner="ann", lease=30), harness.take(owner="bob", lease=2)
    assert first.token < second.token
    harness.run(harness.broker.cancel("a"))
    found = find(harness, "a")
    assert found.holder is not None
    assert (found.holder.worker, found.holder.told) == ("ann", True)
    assert [(holder.worker, holder.told) for holder in found.held_by] == [
        ("ann", False),
        ("bob", False),
    ]


def test_it_runs_even_if_its_queue_is_paused_since(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    harness.take()
    harness.run(harness.broker.set_gate(TASK.queue, Gate.PAUSED))
    assert why(harness, "a").reason is Why.RUNNING


# Its time


@BOTH
def test_what_is_delayed(harness: Harness, keep: float | None) -> None:
    harness.put("a", "b", "c", delay=100, shard="s", priority=3, keep=keep)
    found = why(harness, "b")
    assert (found.reason, found.shard, found.priority) == (Why.DELAYED, "s", 3)
    assert microseconds(found.until) == at(harness, 100)


@BOTH
def test_what_is_retried(harness: Harness, keep: float | None) -> None:
    harness.put("a", keep=keep)
    harness.settle(harness.take(), every=Retried(micros(100)), records=keep is not None)
    found = why(harness, "a")
    assert (found.reason, found.attempts) == (Why.RETRYING, 1)
    assert microseconds(found.until) == at(harness, 100)


@BOTH
def test_what_is_due_but_was_not_let_in_waits_at_the_tail(
    harness: Harness, keep: float | None
) -> None:
    attend(harness)
    harness.put("late", delay=100, keep=keep)
    harness.put("a", "b", keep=keep)
    harness.put("not so urgent", priority=1, keep=keep)
    harness.clock.advance(100)
    attend(harness)
    found = why(harness, "late")
    assert (found.reason, found.ahead, found.ahead_priorities) == (Why.BEHIND, 2, (0, 0))


def test_a_due_time_is_told_before_a_paused_queue(harness: Harness) -> None:
    harness.put("a", delay=100, keep=KEEP)
    harness.put("b", keep=KEEP)
    harness.run(harness.broker.set_gate(TASK.queue, Gate.PAUSED))
    assert [why(harness, id_).reason for id_ in "ab"] == [Why.DELAYED, Why.PAUSED]


# Closed


@BOTH
def test_a_parked_shard(harness: Harness, keep: float | None) -> None:
    harness.put("a", shard="s", keep=keep)
    harness.put("b", shard="t", keep=keep)
    harness.run(harness.broker.park(TASK, "s"))
    assert [why(harness, id_).reason for id_ in "ab"] == [Why.PARKED, Why.NO_WORKER]


def test_a_draining_queue_holds_up_nothing(harness: Harness) -> None:
    attend(harness)
    harness.declare(size=5, within=60)
    harness.put("a", keep=KEEP)
    assert why(harness, "a").reason is Why.FILLING
    harness.run(harness.broker.set_gate(TASK.queue, Gate.DRAINING))
    assert why(harness, "a").reason is Why.NEXT


# Its shard


@BOTH
def test_a_blocked_shard(harness: Harness, keep: float | None) -> None:
    harness.declare(concurrency=1)
    harness.put("head", "next", shard="s", keep=keep)
    harness.settle(harness.take(), every=Retried(micros(100)), records=keep is not None)
    head, following = why(harness, "head"), why(harness, "next")
    assert (head.reason, head.attempts) == (Why.RETRYING, 1)
    assert (following.reason, following.head) == (Why.BLOCKED, "head")
    assert head.until == following.until
    assert microseconds(head.until) == at(harness, 100)


def test_the_head_that_failed_is_named_though_a_more_urgent_one_came(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("head", "next", shard="s", keep=KEEP)
    harness.settle(harness.take(), every=Retried(micros(100)), records=True)
    harness.put("urgent", shard="s", priority=-1, keep=KEEP)
    assert why(harness, "head").reason is Why.RETRYING
    assert [why(harness, id_).head for id_ in ("urgent", "next")] == ["head", "head"]


@BOTH
def test_a_busy_shard(harness: Harness, keep: float | None) -> None:
    harness.declare(concurrency=2)
    harness.put("a", "b", "c", "d", shard="s", keep=keep)
    for owner in ("w1", "w2"):
        harness.take(owner=owner, lease=30)
        harness.clock.advance(1)
    harness.put("e", shard="t", keep=keep)
    found = why(harness, "d")
    assert (found.reason, found.worker) == (Why.BUSY, "w1")
    assert abs(microseconds(found.since) - at(harness, -2)) < 100
    assert why(harness, "e").reason is Why.NO_WORKER


# Limits


@pytest.mark.parametrize("scope", Scope)
@BOTH
def test_a_rate_limit(harness: Harness, scope: Scope, keep: float | None) -> None:
    group = "" if scope is Scope.QUEUE else TASK.name
    rate = Rate(1, micros(100), 1)
    harness.declare()
    harness.set_rate(Limited(TASK.queue, group, scope is Scope.SHARD), rate)
    harness.put("a", "b", shard="s", keep=keep)
    assert why(harness, "a").reason is Why.NO_WORKER
    harness.take()
    found = why(harness, "b")
    assert (found.reason, found.limit) == (Why.LIMITED, scope)
    assert microseconds(found.until) == at(harness, 100)
    harness.clock.advance(100)
    assert why(harness, "b").reason is Why.NO_WORKER


# Batches


@BOTH
def test_a_batch_that_fills(harness: Harness, keep: float | None) -> None:
    harness.declare(size=3, within=60, bytes=10_000)
    harness.put("a", keep=keep)
    harness.clock.advance(10)
    harness.put("b", keep=keep)
    found = why(harness, "b")
    assert (found.reason, microseconds(found.until)) == (Why.FILLING, at(harness, 50))
    harness.put("c", keep=keep)
    assert why(harness, "b").reason is Why.NO_WORKER


@BOTH
def test_a_batch_that_fills_until_a_deadline(harness: Harness, keep: float | None) -> None:
    harness.declare(size=5, within=60, minimum=3, lead=2)
    harness.put("a", keep=keep, expires=100)
    assert microseconds(why(harness, "a").until) == at(harness, 60)
    harness.put("b", keep=keep, expires=30, unique=Keys(Mode.DONE, ["key"]))
    found = why(harness, "b")
    assert (found.reason, round((microseconds(found.until) - at(harness)) / 1e6, 3)) == (
        Why.FILLING,
        28,
    )
    harness.put("c", keep=keep)
    assert why(harness, "b").reason is Why.NO_WORKER, "they are enough"


# Workers


def test_nobody_knows_the_task(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    attend(harness, "other", "another task")
    assert why(harness, "a").reason is Why.NO_WORKER
    attend(harness, "w")
    found = why(harness, "a")
    assert (found.reason, found.workers) == (Why.NEXT, 1)
    harness.clock.advance(61)
    assert why(harness, "a").reason is Why.NO_WORKER


def test_a_worker_must_know_all_tasks_of_an_order(harness: Harness) -> None:
    group = Group(TASK.queue, "order")
    harness.declare(group, members=("one", "other"))
    harness.put("a", group=group, task="one", keep=KEEP)
    attend(harness, "w", "one")
    assert why(harness, "a").reason is Why.NO_WORKER
    attend(harness, "w", "one", "other")
    assert why(harness, "a").reason is Why.NEXT


@pytest.mark.parametrize("report", [{"paused": [TASK.queue]}, {"state": WorkerState.STOPPING}])
def test_workers_that_take_nothing(harness: Harness, report: dict[str, object]) -> None:
    harness.put("a", keep=KEEP)
    attend(harness, "w", **report)
    assert why(harness, "a").reason is Why.WORKERS_PAUSED
    attend(harness, "v")
    assert why(harness, "a").reason is Why.NEXT


# Its turn


@BOTH
def test_what_comes_first(harness: Harness, keep: float | None) -> None:
    attend(harness)
    harness.put("a", "b", "c", keep=keep)
    harness.put("d", "e", priority=2, keep=keep)
    harness.put("u", priority=-1, keep=keep)
    harness.settle(harness.take(2), every=Back(started=True))
    found = {id_: why(harness, id_) for id_ in "uabcde"}
    assert [one.ahead for one in found.values()] == [0, 1, 2, 3, 4, 5]
    assert found["u"].reason is Why.NEXT
    assert found["b"].ahead_priorities == (-1, 0)
    assert found["e"].ahead_priorities == (-1, 2)


def test_shards_are_served_by_turns(harness: Harness) -> None:
    attend(harness)
    for shard in ("s", "t", "u"):
        harness.put(f"{shard}1", f"{shard}2", shard=shard, keep=KEEP)
    found = why(harness, "u2")
    assert (found.ahead, found.shards_ahead) == (1, 2)
    harness.take(2)
    assert why(harness, "u2").shards_ahead == 1


def test_a_suspect_waits_for_a_worker_that_runs_nothing_else(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    harness.take(lease=1)
    harness.clock.advance(2)
    harness.reap()
    attend(harness)
    found = why(harness, "a")
    assert (found.reason, found.losses) == (Why.SUSPECT, 1)


# Nothing


def test_what_never_was(harness: Harness) -> None:
    harness.put("other", keep=KEEP)
    found = why(harness, "nobody")
    assert (found.reason, found.searched, found.queue) == (Why.UNKNOWN, True, None)


@pytest.mark.parametrize("id_", ["", "\udc80", "a\0b"])
def test_what_is_no_id(harness: Harness, id_: str) -> None:
    harness.put_all(Put(TASK, [b"unreadable", b""]))
    harness.take()
    assert why(harness, id_).reason is Why.UNKNOWN


def test_a_record_whose_time_is_over(harness: Harness) -> None:
    harness.put("a", keep=1)
    harness.settle(harness.take(), results={"a": b"result"})
    harness.clock.advance(2)
    assert why(harness, "a").reason is Why.UNKNOWN


def test_an_id_that_was_noted(harness: Harness) -> None:
    harness.put("a", "b")
    for id_ in ("a", "nobody"):
        harness.run(harness.broker.cancel(id_))
    assert [why(harness, id_).reason for id_ in ("a", "nobody", "b")] == [
        Why.CANCELLED,
        Why.CANCELLED,
        Why.NO_WORKER,
    ]
    harness.put("nobody")  # a later one: it is not meant
    assert why(harness, "nobody").reason is Why.NO_WORKER


def test_the_search_ends(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(20)))
    harness.put("last", shard="s", priority=9)
    assert find(harness, "last", 5).searched is False
    assert find(harness, "last", 5).group is None
    assert find(harness, "last", 100).where is Where.LANE
    assert find(harness, "nobody", 100).searched


def test_looking_changes_nothing(harness: Harness) -> None:
    harness.declare(concurrency=1, size=3, within=10, shard_rate=Rate(5, micros(1), 5))
    harness.put("a", "b", shard="s", keep=KEEP)
    harness.put("c", delay=5)
    before = harness.all_counts()
    for id_ in ("a", "b", "c", "nobody"):
        why(harness, id_)
    assert harness.all_counts() == before
    harness.clock.advance(100)
    assert sorted(harness.work_off(drain=True)) == ["a", "b", "c"]
