"""Ordered shards, order groups, shard concurrency, priorities."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.worker.support import Another, Clock, Most, cross, working

from taskyard import Retry, State, Yard, current_context


def by_shard(events: list[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for shard, number in events:
        found.setdefault(shard, []).append(number)
    return found


ITEMS = [(shard, number) for number in range(40) for shard in ("a", "b", "c")]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_each_shard_is_in_order(yard: Yard, is_async: bool) -> None:
    events: list[tuple[str, int]] = []
    running: dict[str, int] = {}

    def note(shard: str, number: int) -> None:
        running[shard] = running.get(shard, 0) + 1
        assert running[shard] == 1
        events.append((shard, number))
        running[shard] -= 1

    async def anote(shard: str, number: int) -> None:
        note(shard, number)

    task = yard.task(name="note", shard="shard", ordered=True)(anote if is_async else note)
    task.enqueue_many(ITEMS)
    yard.run_worker(burst=True)
    assert by_shard(events) == {shard: list(range(40)) for shard in "abc"}
    assert yard.dead.list() == []


def test_block_retries_in_place_and_nothing_overtakes(yard: Yard) -> None:
    events: list[tuple[str, int]] = []
    failures = {("a", 3): 2, ("b", 0): 99}

    @yard.task(name="note", shard="shard", ordered=True, retry=Retry(2, "constant", delay=0))
    def note(shard: str, number: int) -> None:
        events.append((shard, number))
        if failures.get((shard, number), 0) > 0:
            failures[shard, number] -= 1
            raise ValueError

    note.enqueue_many(ITEMS)
    yard.run_worker(burst=True)
    found = by_shard(events)
    assert found["a"] == [0, 1, 2, 3, 3, 3, *range(4, 40)]
    assert found["b"] == [0, 0, 0, *range(1, 40)]  # out of retries: dead, and on
    assert found["c"] == list(range(40))
    assert len(yard.dead.list()) == 1


def test_a_head_that_backs_off_holds_its_shard_and_no_other(yard: Yard, clock: Clock) -> None:
    events: list[tuple[str, int]] = []

    @yard.task(
        name="note", shard="shard", ordered=True, retry=Retry(5, "constant", delay=60, jitter=0)
    )
    def note(shard: str, number: int) -> None:
        events.append((shard, number))
        if (shard, number) == ("a", 1) and current_context().attempt == 1:
            raise ValueError

    note.enqueue_many([item for item in ITEMS if item[1] < 3])
    yard.run_worker(burst=True)
    assert by_shard(events) == {"a": [0, 1], "b": [0, 1, 2], "c": [0, 1, 2]}
    clock.forward(30)
    yard.run_worker(burst=True)
    assert by_shard(events)["a"] == [0, 1]
    clock.forward(31)
    yard.run_worker(burst=True)
    assert by_shard(events)["a"] == [0, 1, 1, 2]


def test_skip_goes_on_at_once(yard: Yard) -> None:
    events: list[tuple[str, int]] = []

    @yard.task(name="note", shard="shard", ordered=True, on_error="skip")
    def note(shard: str, number: int) -> None:
        events.append((shard, number))
        if number % 10 == 3:
            raise ValueError

    note.enqueue_many(ITEMS)
    yard.run_worker(burst=True)
    assert by_shard(events) == {shard: list(range(40)) for shard in "abc"}
    assert len(yard.dead.list()) == 12


def test_park_holds_the_shard_until_it_is_released(yard: Yard) -> None:
    events: list[tuple[str, int]] = []
    broken = True

    @yard.task(
        name="note",
        shard="shard",
        ordered=True,
        on_error="park",
        retry=Retry(1, "constant", delay=0),
        result_ttl=60,
    )
    def note(shard: str, number: int) -> None:
        events.append((shard, number))
        if broken and (shard, number) == ("a", 1):
            raise ValueError

    results = list(note.enqueue_many([item for item in ITEMS if item[1] < 3]))
    yard.run_worker(burst=True)
    assert by_shard(events) == {"a": [0, 1, 1], "b": [0, 1, 2], "c": [0, 1, 2]}
    (counts,) = yard.counts()
    assert (counts.parked, counts.waiting, counts.dead) == (1, 2, 0)
    assert results[3].status() is State.WAITING
    yard.run_worker(burst=True)
    assert by_shard(events)["a"] == [0, 1, 1]
    broken = False
    assert yard.release(note, "a") is True
    assert yard.release(note, "a") is False
    yard.run_worker(burst=True)
    assert by_shard(events)["a"] == [0, 1, 1, 1, 2]
    assert {result.status() for result in results} == {State.DONE}


def test_a_released_head_that_fails_again_parks_again(yard: Yard) -> None:
    attempts: list[int] = []

    @yard.task(name="note", ordered=True, on_error="park", retry=0)
    def note(number: int) -> None:
        attempts.append(current_context().attempt)
        raise ValueError

    note.enqueue(1)
    for _ in range(3):
        yard.run_worker(burst=True)
        assert yard.release("note")
    assert len(attempts) == 3


# Batches in order


def batches_of(yard: Yard, bad: set[int], **options: Any) -> tuple[list[list[int]], list[int]]:
    """What an ordered batch handler was called with, and what it did."""
    calls: list[list[int]] = []
    done: list[int] = []

    @yard.task(name="save", batch=8, ordered=True, **options)
    def save(numbers: list[int]) -> None:
        calls.append(numbers)
        if bad.intersection(numbers):
            raise ValueError
        done.extend(numbers)

    save.enqueue_many(range(16))
    yard.run_worker(burst=True)
    return calls, done


def test_an_ordered_batch_runs_nothing_behind_its_bad_one(yard: Yard, clock: Clock) -> None:
    bad = {5}
    calls, done = batches_of(yard, bad, retry=Retry(3, "constant", delay=60, jitter=0))
    assert done == [0, 1, 2, 3, 4]
    assert calls == [[*range(8)], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5]]
    bad.clear()
    clock.forward(61)
    yard.run_worker(burst=True)
    assert done == list(range(16))


def test_an_ordered_batch_that_skips_runs_all_good_ones_once(yard: Yard) -> None:
    _, done = batches_of(yard, {5, 6, 15}, on_error="skip")
    assert done == [number for number in range(16) if number not in {5, 6, 15}]
    assert len(yard.dead.list()) == 3


def test_an_ordered_batch_whose_bad_one_is_out_of_retries_goes_on(yard: Yard) -> None:
    _, done = batches_of(yard, {5}, retry=0)
    assert done == [number for number in range(16) if number != 5]
    assert len(yard.dead.list()) == 1


def test_an_ordered_batch_parks_at_its_bad_one(yard: Yard) -> None:
    bad = {5}
    _, done = batches_of(yard, bad, retry=0, on_error="park")
    assert done == [0, 1, 2, 3, 4]
    bad.clear()
    yard.release("save")
    yard.run_worker(burst=True)
    assert done == list(range(16))


# Order groups


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_tasks_of_an_order_are_interleaved_as_they_came(yard: Yard, is_async: bool) -> None:
    events: list[tuple[str, str, int]] = []

    def declare(name: str) -> Any:
        def handler(user: str, amount: int) -> None:
            events.append((name, user, amount))

        async def ahandler(user: str, amount: int) -> None:
            handler(user, amount)

        return yard.task(name=name, ordered=True, order="account", shard="user")(
            ahandler if is_async else handler
        )

    deposit, withdraw = declare("deposit"), declare("withdraw")
    expected = []
    for amount in range(30):
        for user in ("ann", "bob"):
            task = deposit if amount % 3 else withdraw
            task.enqueue(user, amount)
            expected.append((task.name, user, amount))
    yard.run_worker(burst=True)
    for user in ("ann", "bob"):
        assert [event for event in events if event[1] == user] == [
            event for event in expected if event[1] == user
        ]


def test_batches_of_an_order_change_with_the_task(yard: Yard) -> None:
    calls: list[tuple[str, list[int]]] = []

    def declare(name: str) -> Any:
        def handler(numbers: list[int]) -> None:
            calls.append((name, numbers))

        return yard.task(name=name, ordered=True, order="account", batch=10)(handler)

    deposit, withdraw = declare("deposit"), declare("withdraw")
    deposit.enqueue_many([1, 2, 3])
    withdraw.enqueue(4)
    deposit.enqueue_many([5, 6])
    yard.run_worker(burst=True)
    assert calls == [("deposit", [1, 2, 3]), ("withdraw", [4]), ("deposit", [5, 6])]


def test_a_message_of_an_order_that_no_worker_knows_waits_in_its_place(
    yard: Yard, another: Another
) -> None:
    events: list[int] = []

    def note(number: int) -> None:
        events.append(number)

    other = another()
    options: dict[str, Any] = {"ordered": True, "order": "account"}
    first = other.task(name="first", **options)(note)
    second = other.task(name="second", **options)(note)
    first.enqueue(1)
    second.enqueue(2)
    first.enqueue(3)
    yard.task(name="first", **options)(note)
    yard.run_worker(burst=True)
    assert events in ([], [1])  # nothing overtakes the 2
    other.run_worker(burst=True)
    assert events == [1, 2, 3]


# Shard concurrency and priorities


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_shard_concurrency_bounds_each_shard(yard: Yard, limit: int) -> None:
    most = {"a": Most(), "b": Most()}
    together = threading.Barrier(limit)

    @yard.task(name="fair", shard="shard", shard_concurrency=limit)
    def fair(shard: str, number: int) -> None:
        with most[shard].one_more():
            if shard == "a":
                cross(together)  # only so many at a time, and really so many

    fair.enqueue_many([("a", number) for number in range(6)])
    fair.enqueue_many([("b", number) for number in range(6)])
    yard.run_worker(burst=True, concurrency=6)
    assert most["a"].seen == limit
    assert most["b"].seen <= limit


def test_priorities_first_and_in_order_within(yard: Yard) -> None:
    events: list[tuple[int, int]] = []

    @yard.task(name="note")
    def note(priority: int, number: int) -> None:
        events.append((priority, number))

    items = [(priority, number) for number in range(10) for priority in (5, -5, 0)]
    note.enqueue_many(items, priority=lambda item: item[0])
    yard.run_worker(burst=True, concurrency=1)
    assert events == sorted(items)


def test_a_tasks_priority_counts_among_tasks(yard: Yard) -> None:
    events: list[str] = []

    def declare(name: str, priority: int) -> Any:
        def handler(number: int) -> None:
            events.append(name)

        return yard.task(name=name, priority=priority)(handler)

    low, high = declare("low", 5), declare("high", -5)
    low.enqueue_many(range(20))
    high.enqueue_many(range(20))
    yard.run_worker(burst=True, concurrency=1)
    assert events == ["high"] * 20 + ["low"] * 20


def test_a_message_that_is_put_while_others_run_goes_by_its_priority(yard: Yard) -> None:
    events: list[str] = []

    @yard.task(name="note", ordered=True, shard="shard", result_ttl=60)
    def note(what: str, shard: str) -> None:
        events.append(what)
        if what == "first":
            note.enqueue("urgent", shard, priority=-1)

    with working(yard, concurrency=1):
        note.enqueue("first", "a").get(20)
        note.enqueue("later", "a").get(20)
    assert events == ["first", "urgent", "later"]
