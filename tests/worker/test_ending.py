"""Workers that end by themselves: after so many messages, or when there is nothing."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from tests.worker.support import Another, Clock, WorkerThread, wait_for, working

from taskyard import Retry, Yard
from taskyard.brokers.base import Back, Dead, Retried, Settlement
from taskyard.errors import WorkerError
from taskyard.message import Failure
from taskyard.worker.quota import Quota

FAR = 3600.0


class Pool:
    def __init__(self) -> None:
        self.notified = 0

    def notify(self) -> None:
        self.notified += 1


def test_a_quota_is_shared_exactly() -> None:
    quota, one, two = Quota(10), Pool(), Pool()
    assert quota.left_for(one) == 10
    quota.take(10)
    assert quota.left_for(two) == 0
    quota.give_back(4)  # six came
    assert (one.notified, two.notified) == (0, 1)
    assert quota.left_for(two) == 4
    dead = Dead(Failure("bad"))
    quota.settle(6, Settlement(1, {1: Retried(5), 2: Back(), 3: dead}))
    assert (quota.ended, quota.left_for(one)) == (4, 6)
    quota.take(6)
    quota.lose(5)
    assert (quota.ended, quota.is_used_up) == (9, False)
    quota.settle(1, Settlement(2))
    assert quota.is_used_up


def test_without_a_limit_a_quota_counts_nothing() -> None:
    quota, pool = Quota(None), Pool()
    quota.take(5)
    quota.give_back(5)
    quota.settle(5, Settlement(1))
    quota.lose(1)
    assert (quota.left_for(pool), quota.ended, quota.is_used_up) == (None, 0, False)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_limit_is_exact(yard: Yard, concurrency: int) -> None:
    seen: list[int] = []

    @yard.task(name="do")
    def do(number: int) -> None:
        seen.append(number)

    @yard.task(name="many", batch=7, queue="other")
    def many(numbers: list[int]) -> None:
        seen.extend(numbers)

    do.enqueue_many(range(300))
    many.enqueue_many(range(300))
    yard.run_worker(limit=1, concurrency=concurrency)
    assert len(seen) == 1
    yard.run_worker(limit=252, concurrency=concurrency)
    assert len(seen) == 253
    yard.run_worker(limit=10, queues={"default": concurrency, "other": concurrency})
    assert len(seen) == 263
    assert sum(counts.waiting for counts in yard.counts()) == 600 - 263
    assert sum(counts.running for counts in yard.counts()) == 0


def test_a_limit_does_not_count_what_is_tried_again(yard: Yard) -> None:
    tried: Counter[int] = Counter()

    @yard.task(name="do", retry=Retry(5, backoff="constant", delay=0), ordered=True)
    def do(number: int) -> None:
        tried[number] += 1
        if number == 1 and tried[number] < 3:
            raise ValueError("not yet")
        if number == 2:
            raise ValueError("never")

    do.enqueue_many(range(5))
    yard.run_worker(limit=3)
    assert tried == {0: 1, 1: 3, 2: 6}  # the last one is a dead letter: it ended, too
    (counts,) = yard.counts()
    assert (counts.waiting, counts.delayed, counts.dead) == (2, 0, 1)


def test_a_worker_ends_when_its_queues_were_empty_for_long_enough(
    yard: Yard, another: Another
) -> None:
    seen: list[int] = []

    @yard.task(name="do")
    def do(number: int) -> None:
        seen.append(number)
        if number:
            do.enqueue(number - 1, delay=0.2)  # longer than the worker is idle for

    elsewhere = another()
    elsewhere.remote("unknown", queue="elsewhere").enqueue(1)
    do.enqueue(2)
    yard.run_worker(idle=0.1)
    assert seen == [2, 1, 0]


def test_what_somebody_else_runs_is_not_nothing(yard: Yard, another: Another) -> None:
    running, go = threading.Event(), threading.Event()

    @yard.task(name="do")
    def do(number: int) -> None:
        running.set()
        wait_for(go)

    idle = another(yard.broker)
    idle.task(name="do")(lambda number: None)
    do.enqueue(1)
    with working(yard):
        wait_for(running)
        waiting = WorkerThread(idle, idle=0.05)
        looks = []
        look = waiting.worker._are_empty

        async def are_empty(driver: Any) -> bool:
            looks.append(await look(driver))
            if len(looks) == 3:
                go.set()
            return looks[-1]

        waiting.worker._are_empty = are_empty  # type: ignore[method-assign]
        waiting.start()
        waiting.join()
    assert looks[:3] == [False] * 3
    assert looks[-1]


def test_messages_of_the_far_future_keep_an_idle_worker(yard: Yard, clock: Clock) -> None:
    seen: list[int] = []

    @yard.task(name="do")
    def do(number: int) -> None:
        seen.append(number)

    do.enqueue(1, delay=FAR)

    async def work() -> None:
        thread = WorkerThread(yard, idle=0.05)
        looked = threading.Event()
        look = thread.worker._are_empty

        async def are_empty(driver: Any) -> bool:
            empty = await look(driver)
            looked.set()
            return empty

        thread.worker._are_empty = are_empty  # type: ignore[method-assign]
        thread.start()
        await asyncio.to_thread(wait_for, looked)
        clock.forward(FAR)
        thread.worker.notify()
        await asyncio.to_thread(thread.join)

    asyncio.run(work())
    assert seen == [1]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"limit": 0}, "limit must be a whole number from 1"),
        ({"idle": -1}, "idle must be from 0 to 86400 seconds"),
        ({"limit": 5, "processes": 2}, "limit ends one worker, but a supervisor"),
        ({"idle": 5, "processes": 2}, "idle ends one worker, but a supervisor"),
    ],
)
def test_wrong_ends(yard: Yard, settings: dict[str, Any], text: str) -> None:
    yard.task(name="do")(lambda number: None)
    with pytest.raises(WorkerError) as caught:
        yard.run_worker(**settings)
    assert text in str(caught.value)
