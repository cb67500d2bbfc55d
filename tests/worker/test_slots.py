"""Slots: how much runs at a time, of which queues, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.worker.support import Most, cross, wait_for, working

from taskyard import Task, Yard
from taskyard.errors import WorkerError


def handler_of(most: Most, together: threading.Barrier) -> Any:
    def handler(number: int) -> None:
        with most.one_more():
            cross(together)  # really so many at a time; one more would make `most` larger

    return handler


@pytest.mark.parametrize("slots", [1, 3])
def test_concurrency_bounds_sync_handlers(yard: Yard, slots: int) -> None:
    most = Most()
    task = yard.task(name="note")(handler_of(most, threading.Barrier(slots)))
    task.enqueue_many(range(slots * 4))
    yard.run_worker(burst=True, concurrency=slots)
    assert most.seen == slots


@pytest.mark.parametrize("slots", [1, 3])
def test_concurrency_bounds_async_handlers(yard: Yard, slots: int) -> None:
    most = Most()
    together: list[asyncio.Barrier] = []

    @yard.task(name="note")
    async def note(number: int) -> None:
        if not together:
            together.append(asyncio.Barrier(slots))
        with most.one_more():
            async with asyncio.timeout(20):
                await together[0].wait()

    note.enqueue_many(range(slots * 4))
    yard.run_worker(burst=True, concurrency=slots)
    assert most.seen == slots


def test_concurrency_is_for_all_tasks_together(yard: Yard) -> None:
    most, together = Most(), threading.Barrier(2)
    tasks = [
        yard.task(name=name, queue=name)(handler_of(most, together)) for name in ("a", "b", "c")
    ]
    for task in tasks:
        task.enqueue_many(range(4))
    yard.run_worker(burst=True, concurrency=2)
    assert most.seen == 2


def test_concurrency_per_queue(yard: Yard) -> None:
    mosts = {"a": Most(), "b": Most()}
    for name, slots in (("a", 3), ("b", 1)):
        task = yard.task(name=name, queue=name)(handler_of(mosts[name], threading.Barrier(slots)))
        task.enqueue_many(range(slots * 4))
    yard.run_worker(burst=True, queues={"a": 3, "b": 1}, concurrency=1)
    assert {name: most.seen for name, most in mosts.items()} == {"a": 3, "b": 1}


def numbered(yard: Yard, queue: str, events: list[str]) -> Task[[int], None]:
    def handler(number: int) -> None:
        events.append(queue)

    return yard.task(name=f"of {queue}", queue=queue)(handler)


@pytest.mark.parametrize("chosen", [["a"], ("a", "c"), {"b": 2}, None])
def test_only_the_chosen_queues_are_served(yard: Yard, chosen: Any) -> None:
    events: list[str] = []
    for queue in "abc":
        numbered(yard, queue, events).enqueue_many(range(5))
    yard.run_worker(burst=True, queues=chosen)
    assert sorted(set(events)) == sorted(chosen or "abc")
    assert len(events) == 5 * len(chosen or "abc")


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        (["nope"], "no task uses the queue nope; the queues are a, b"),
        (["a", "x", "y"], "no task uses the queues x, y; the queues are a, b"),
        ({"nope": 1}, "no task uses the queue nope"),
        ([], "queues is empty: name at least one, or leave it out for all"),
        ({}, "queues is empty: name at least one, or leave it out for all"),
        ("a", "queues must be a list of names or a mapping, not 'a'"),
        ({"a": 0}, "the concurrency of queue 'a' must be a whole number from 1 to 10,000, not 0"),
        ({"a": "2"}, "the concurrency of queue 'a' must be a whole number"),
        ({"a": True}, "the concurrency of queue 'a' must be a whole number"),
        ([1], "queues must be"),
        (5, "queues must be"),
        ({1: 1}, "queues must be"),
    ],
)
def test_wrong_queues(yard: Yard, chosen: Any, text: str) -> None:
    for queue in "ab":
        numbered(yard, queue, [])
    with pytest.raises(WorkerError) as caught:
        yard.run_worker(burst=True, queues=chosen)
    assert text in str(caught.value)


def test_burst_ends_only_when_all_queues_are_empty(yard: Yard) -> None:
    """What one queue's handler puts into another queue is work that can be done now."""
    events: list[str] = []
    gate = threading.Event()

    @yard.task(name="last", queue="a")
    def last(number: int) -> None:
        events.append("last")

    @yard.task(name="first", queue="b")
    def first(number: int) -> None:
        gate.wait(0.2)  # let the other queue's slots find nothing
        events.append("first")
        last.enqueue(number)

    first.enqueue(1)
    yard.run_worker(burst=True, queues={"a": 1, "b": 1})
    assert events == ["first", "last"]


def test_a_slow_message_does_not_hold_fast_ones_hostage(yard: Yard) -> None:
    events: list[str] = []
    all_fast = threading.Event()
    lock = threading.Lock()

    @yard.task(name="work")
    def work(what: str) -> None:
        if what == "slow":
            with lock:
                events.append("slow begins")
            wait_for(all_fast)
        with lock:
            events.append(what)
            if events.count("fast") == 200:
                all_fast.set()

    work.enqueue_many(["fast"] * 100 + ["slow"] + ["fast"] * 100)
    yard.run_worker(burst=True, concurrency=2)
    assert events[-1] == "slow"
    assert events.count("fast") == 200


def test_the_same_for_async_handlers_on_one_loop(yard: Yard) -> None:
    events: list[str] = []
    all_fast: list[asyncio.Event] = []

    @yard.task(name="work")
    async def work(what: str) -> None:
        if not all_fast:
            all_fast.append(asyncio.Event())
        if what == "slow":
            async with asyncio.timeout(20):
                await all_fast[0].wait()
        events.append(what)
        if events.count("fast") == 200:
            all_fast[0].set()

    work.enqueue_many(["fast"] * 100 + ["slow"] + ["fast"] * 100)
    yard.run_worker(burst=True, concurrency=2)
    assert events[-1] == "slow"
    assert events.count("fast") == 200


def test_what_is_given_back_is_not_counted(yard: Yard) -> None:
    seen: list[tuple[int, int]] = []
    all_fast = threading.Event()

    from taskyard import current_context

    @yard.task(name="work")
    def work(what: str) -> None:
        context = current_context()
        if what == "slow":
            wait_for(all_fast)
        seen.append((context.attempt, context.delivery))
        if len(seen) == 200:
            all_fast.set()

    work.enqueue_many(["fast"] * 100 + ["slow"] + ["fast"] * 100)
    yard.run_worker(burst=True, concurrency=2)
    assert seen == [(1, 1)] * 201
    (counts,) = yard.counts()
    assert counts.totals.get("redelivered", 0) == 0


def test_shards_are_served_in_turn(yard: Yard) -> None:
    """A tenant with many messages does not keep the others waiting."""
    events: list[str] = []

    @yard.task(name="work", shard="tenant", ordered=True)
    def work(tenant: str, number: int) -> None:
        events.append(tenant)

    work.enqueue_many([("big", number) for number in range(2000)])
    work.enqueue_many([(f"small {number}", 0) for number in range(20)])
    yard.run_worker(burst=True, concurrency=1)
    last_small = max(index for index, tenant in enumerate(events) if tenant != "big")
    assert last_small < 1500


def test_an_idle_worker_is_woken_by_a_message(yard: Yard) -> None:
    @yard.task(name="double")
    def double(number: int) -> int:
        return number * 2

    with working(yard):
        for number in range(20):
            assert double.enqueue(number).get(20) == number * 2
