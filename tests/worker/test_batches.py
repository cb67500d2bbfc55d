"""Batch handlers: results, named failures, bisect, flushes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.worker.support import Clock, working

import taskyard
from taskyard import (
    Batch,
    BatchFailed,
    DiscardMessage,
    FailMessage,
    Retry,
    RetryMessage,
    State,
    TaskFailed,
    Yard,
    current_context,
)

AT_ONCE = Retry(3, "constant", delay=0)


class Calls:
    """What a batch handler was called with."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def note(self, batch: Any) -> None:
        self.batches.append(list(batch))

    @property
    def times(self) -> Counter[int]:
        """How often each message was in a batch."""
        return Counter(number for batch in self.batches for number in batch)


@pytest.fixture
def calls() -> Calls:
    return Calls()


def totals(yard: Yard) -> dict[str, int]:
    (counts,) = yard.counts()
    return {name: count for name, count in counts.totals.items() if count}


# Results


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_result_per_message(yard: Yard, calls: Calls, is_async: bool) -> None:
    def double(numbers: list[int]) -> list[int]:
        calls.note(numbers)
        return [number * 2 for number in numbers]

    async def adouble(numbers: list[int]) -> list[int]:
        return double(numbers)

    task = yard.task(batch=10, name="double")(adouble if is_async else double)
    results = task.enqueue_many(range(25))
    yard.run_worker(burst=True, concurrency=1)
    assert [len(batch) for batch in calls.batches] == [10, 10, 5]
    assert [result.get(0) for result in results] == [number * 2 for number in range(25)]


def test_tuples_and_sequences(yard: Yard) -> None:
    seen: list[type] = []

    @yard.task(batch=10, name="tuple")  # type: ignore[arg-type]
    def of_tuple(numbers: tuple[int, ...]) -> tuple[int, ...]:
        seen.append(type(numbers))
        return numbers

    result = of_tuple.enqueue(1)  # type: ignore[call-overload]
    yard.run_worker(burst=True)
    assert seen == [tuple]
    assert result.get(0) == 1


def test_none_is_a_result_for_all(yard: Yard) -> None:
    @yard.task(batch=10, name="maybe")
    def maybe(numbers: list[int]) -> list[int] | None:
        return None

    results = maybe.enqueue_many(range(3))
    yard.run_worker(burst=True)
    assert [result.get(0) for result in results] == [None] * 3


@pytest.mark.parametrize("answer", [[1, 2], [], [1, 2, 3, 4], {"a": 1}, "abc", 3, (1, 2)])
def test_a_wrong_number_of_results_loses_nothing(yard: Yard, calls: Calls, answer: Any) -> None:
    @yard.task(batch=10, name="wrong")
    def wrong(numbers: list[int]) -> Any:
        calls.note(numbers)
        return answer

    results = wrong.enqueue_many(range(3))
    yard.run_worker(burst=True)
    assert calls.batches == [[0, 1, 2]]
    for result in results:
        with pytest.raises(TaskFailed, match="it got 3 messages and returned"):
            result.get(0)
    letters = yard.dead.list()
    assert {letter.failure.reason for letter in letters} == {"wrong number of results"}
    assert [letter.id for letter in letters] == [result.id for result in results]


# Naming the ones that failed


def test_some_are_named(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=10, name="save", retry=Retry(1, "constant", delay=0))
    def save(numbers: list[int]) -> list[str] | None:
        calls.note(numbers)
        if current_context().attempt > 1:
            return [f"again {number}" for number in numbers]
        raise BatchFailed(
            {
                1: ValueError("bad"),
                2: "a text",
                3: RetryMessage(0),
                4: DiscardMessage(),
                5: FailMessage("closed"),
            },
            {0: "zero", 6: "six"},
        )

    results = list(save.enqueue_many(range(8)))
    yard.run_worker(burst=True)
    assert calls.batches == [list(range(8)), [1, 2, 3]]
    assert [str(result.status()) for result in results] == [
        *["done"] * 4,
        "discarded",
        "dead",
        *["done"] * 2,
    ]
    assert [results[index].get(0) for index in (0, 1, 2, 3, 6, 7)] == [
        "zero",
        "again 1",
        "again 2",
        "again 3",
        "six",
        None,
    ]


def test_what_was_named_is_in_the_dead_letter(yard: Yard) -> None:
    @yard.task(batch=10, name="save", retry=0)
    def save(numbers: list[int]) -> None:
        error = ValueError("row 1 is bad")
        raise BatchFailed({1: error, 2: "row 2 is bad"})

    save.enqueue_many(range(4))
    yard.run_worker(burst=True)
    assert [letter.failure.message for letter in yard.dead.list()] == [
        "row 1 is bad",
        "row 2 is bad",
    ]


def test_nobody_is_named(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=10, name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        raise BatchFailed({})

    save.enqueue_many(range(4))
    yard.run_worker(burst=True)
    assert calls.batches == [[0, 1, 2, 3]]
    assert totals(yard)["done"] == 4


@pytest.mark.parametrize("index", [4, -1, 100])
def test_a_wrong_index_loses_nothing(yard: Yard, calls: Calls, index: int) -> None:
    @yard.task(batch=10, name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        raise BatchFailed({0: "bad", index: "who?"})

    save.enqueue_many(range(4))
    yard.run_worker(burst=True)
    letters = yard.dead.list()
    assert len(letters) == 4
    assert {letter.failure.message for letter in letters} == {
        f"the handler named message {index} of a batch of 4"
    }


@pytest.mark.parametrize("index", ["0", 1.0, None, True])
def test_an_index_that_is_none_loses_nothing(yard: Yard, calls: Calls, index: Any) -> None:
    @yard.task(batch=10, name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        raise BatchFailed({index: "who?"})

    save.enqueue_many(range(4))
    yard.run_worker(burst=True)
    assert len(yard.dead.list()) == 4
    assert calls.batches == [[0, 1, 2, 3]]


@pytest.mark.parametrize("results", [[1, 2, 3, 4], {9: 1}, {"0": 1}])
def test_odd_results_beside_named_ones_do_not_stop_the_worker(yard: Yard, results: Any) -> None:
    @yard.task(batch=10, name="save", retry=0, result_ttl=60)
    def save(numbers: list[int]) -> None:
        raise BatchFailed({0: "bad"}, results)

    save.enqueue_many(range(4))
    yard.run_worker(burst=True)
    (counts,) = yard.counts()
    assert (counts.waiting, counts.running, counts.delayed) == (0, 0, 0)


def test_a_verdict_is_for_the_entire_batch(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=10, name="save", retry=0, result_ttl=60)
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        if current_context().attempt == 1:
            taskyard.retry()
        if numbers[0] == 0:
            taskyard.discard()

    results = list(save.enqueue_many(range(4)))
    yard.run_worker(burst=True)
    assert calls.batches == [[0, 1, 2, 3]] * 2
    assert {result.status() for result in results} == {State.DISCARDED}


# Bisect


@pytest.mark.parametrize("bad", [0, 42, 99])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_one_bad_of_a_hundred(yard: Yard, calls: Calls, bad: int, is_async: bool) -> None:
    def save(numbers: list[int]) -> list[int]:
        calls.note(numbers)
        if bad in numbers:
            raise ValueError(f"{bad} is bad")
        return numbers

    async def asave(numbers: list[int]) -> list[int]:
        return save(numbers)

    task = yard.task(batch=100, retry=Retry(2, "constant", delay=0), name="save")(
        asave if is_async else save
    )
    results = list(task.enqueue_many(range(100)))
    yard.run_worker(burst=True, concurrency=1)
    done: Counter[int] = Counter()
    for batch in calls.batches:
        if bad not in batch:
            done.update(batch)
    assert done == Counter(number for number in range(100) if number != bad)
    for number, result in enumerate(results):
        if number == bad:
            with pytest.raises(TaskFailed, match=f"{bad} is bad"):
                result.get(0)
        else:
            assert result.get(0) == number
    assert calls.batches[-2:] == [[bad], [bad]]  # its two retries, alone
    assert totals(yard)["retried"] == 2
    assert totals(yard)["dead"] == 1
    assert len(calls.batches) <= 1 + 14 + 2


def test_a_rerun_by_bisect_is_no_attempt_of_the_good_ones(yard: Yard) -> None:
    seen: list[tuple[int, int]] = []

    @yard.task(batch=4, retry=0, name="save")
    def save(numbers: list[int]) -> None:
        seen.extend((info.attempt, info.delivery) for info in current_context().messages)
        if 0 in numbers:
            raise ValueError

    save.enqueue_many(range(4))
    yard.run_worker(burst=True)
    assert set(seen) == {(1, 1)}


def test_when_all_are_bad_the_whole_backs_off_and_ends_in_singles(
    yard: Yard, calls: Calls, clock: Clock
) -> None:
    @yard.task(batch=8, retry=Retry(2, "constant", delay=60, jitter=0), name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        raise ConnectionError("the database is down")

    save.enqueue_many(range(8))
    yard.run_worker(burst=True)
    everything = list(range(8))
    assert calls.batches == [everything, everything[:4], everything[4:]]
    calls.batches.clear()
    yard.run_worker(burst=True)
    assert calls.batches == []  # not before the back-off is over
    clock.forward(61)
    yard.run_worker(burst=True)
    assert calls.batches == [everything, everything[:4], everything[4:]]
    calls.batches.clear()
    clock.forward(61)
    yard.run_worker(burst=True)
    assert [batch for batch in calls.batches if len(batch) == 1] == [[n] for n in everything]
    assert len(calls.batches) == 15
    letters = yard.dead.list()
    assert sorted(letter.attempts for letter in letters) == [3] * 8


def test_on_the_last_attempt_only_the_bad_ones_die(yard: Yard, calls: Calls) -> None:
    bad = {0, 7}

    @yard.task(batch=8, retry=Retry(1, "constant", delay=0), name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        if bad.intersection(numbers):
            raise ValueError

    results = save.enqueue_many(range(8))
    yard.run_worker(burst=True)
    assert len(results) == 8
    assert totals(yard)["done"] == 6
    assert totals(yard)["dead"] == 2


def test_results_of_the_halves_come_together(yard: Yard) -> None:
    @yard.task(batch=8, retry=0, name="save")
    def save(numbers: list[int]) -> list[str]:
        if 5 in numbers:
            raise ValueError
        return [f"{len(numbers)}/{number}" for number in numbers]

    results = list(save.enqueue_many(range(8)))
    yard.run_worker(burst=True)
    values = [result.get(0) for index, result in enumerate(results) if index != 5]
    assert values == ["4/0", "4/1", "4/2", "4/3", "1/4", "2/6", "2/7"]


def test_what_cannot_be_read_does_not_hinder_the_rest(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=8, name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)

    elsewhere = yard.remote("save", batch=True)
    elsewhere.enqueue_many([1, "two", 3])
    yard.run_worker(burst=True)
    assert calls.batches == [[1, 3]]
    (letter,) = yard.dead.list()
    assert letter.failure.reason == "unreadable payload"


# Flushes


def flushes(yard: Yard) -> dict[str, int]:
    return {name[6:]: count for name, count in totals(yard).items() if name.startswith("flush_")}


def test_burst_flushes_what_still_waits_to_fill(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=Batch(10, within=3600), name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)

    save.enqueue_many(range(25))
    yard.run_worker(burst=True, concurrency=1)
    assert [len(batch) for batch in calls.batches] == [10, 10, 5]
    assert flushes(yard) == {"size": 2, "drain": 1}


def test_flush_by_age(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=Batch(10, within=0.05), name="save", result_ttl=60)
    def save(numbers: list[int]) -> None:
        calls.note(numbers)

    with working(yard):
        results = list(save.enqueue_many(range(3)))
        for result in results:
            result.get(20)
    assert calls.batches == [[0, 1, 2]]
    assert flushes(yard) == {"age": 1}


def test_flush_by_size_while_others_wait_to_fill(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=Batch(10, within=3600), name="save", result_ttl=60)
    def save(numbers: list[int]) -> None:
        calls.note(numbers)

    with working(yard):
        results = list(save.enqueue_many(range(13)))
        results[9].get(20)
        assert {result.status() for result in results[:10]} == {State.DONE}
        assert {result.status() for result in results[10:]} == {State.WAITING}
    assert [len(batch) for batch in calls.batches] == [10]
    assert flushes(yard) == {"size": 1}


def test_flush_by_bytes(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=Batch(100, within=3600, bytes=10_000), name="save", result_ttl=60)
    def save(rows: list[bytes]) -> None:
        calls.batches.append([len(row) for row in rows])

    with working(yard):
        results = [save.enqueue(bytes(3000)) for _ in range(4)]
        results[0].get(20)
    assert set(flushes(yard)) == {"bytes"}
    assert all(sum(batch) <= 10_000 for batch in calls.batches)


def test_no_batch_is_larger_than_its_bytes(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=Batch(100, bytes=10_000), name="save")
    def save(rows: list[bytes]) -> None:
        calls.batches.append([len(row) for row in rows])

    save.enqueue_many([bytes(3000)] * 10 + [bytes(50_000)] + [bytes(3000)] * 2)
    yard.run_worker(burst=True, concurrency=1)
    assert sum(map(len, calls.batches)) == 13
    assert all(sum(batch) <= 10_000 for batch in calls.batches if batch != [50_000])
    assert [50_000] in calls.batches


def test_a_batch_has_messages_of_one_shard(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=10, shard=lambda number: number % 3, name="save")
    def save(numbers: list[int]) -> None:
        calls.note(numbers)

    save.enqueue_many(range(60))
    yard.run_worker(burst=True)
    assert sum(map(len, calls.batches)) == 60
    assert all(len({number % 3 for number in batch}) == 1 for batch in calls.batches)
    assert {len(batch) for batch in calls.batches} == {10}


def test_named_messages_of_a_half_are_believed(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=10, name="save", result_ttl=60)
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        if len(numbers) == 4:
            raise RuntimeError("all of them?")
        even = {index: DiscardMessage() for index, number in enumerate(numbers) if number % 2 == 0}
        raise BatchFailed(even, {1: f"saved {numbers[1]}"})

    results = list(save.enqueue_many(range(4)))
    yard.run_worker(burst=True)
    assert calls.batches == [[0, 1, 2, 3], [0, 1], [2, 3]]
    assert [result.status() for result in results] == ["discarded", "done", "discarded", "done"]
    assert results[3].get() == "saved 3"


def test_in_an_ordered_shard_nothing_runs_behind_a_named_message(yard: Yard, calls: Calls) -> None:
    @yard.task(batch=10, name="save", ordered=True, retry=1)
    def save(numbers: list[int]) -> None:
        calls.note(numbers)
        if len(numbers) == 4:
            raise RuntimeError("all of them?")
        if 1 in numbers:
            raise BatchFailed({numbers.index(1): "bad"})

    save.enqueue_many(range(4))
    yard.run_worker(burst=True)
    assert calls.batches == [[0, 1, 2, 3], [0, 1]]
    (counts,) = yard.counts()
    assert (counts.totals["done"], counts.waiting) == (1, 3)
