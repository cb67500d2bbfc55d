"""`stream`: outcomes as they come, in bounded memory."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psutil
import pytest

import taskyard
from taskyard.errors import RunFailed


def same(item: Any) -> Any:
    return item


def test_outcomes_come_with_their_items() -> None:
    seen = {outcome.item: outcome.value for outcome in taskyard.stream(lambda x: x * 2, range(100))}
    assert seen == {number: number * 2 for number in range(100)}


def test_outcomes_in_the_order_of_the_items() -> None:
    second_ended = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert second_ended.wait(10)
        second_ended.set()
        return item

    found = taskyard.stream(call, range(500), order="items", workers=3, window=50)
    assert [outcome.value for outcome in found] == list(range(500))


def test_outcomes_as_they_come() -> None:
    looked_at = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert looked_at.wait(10)
        return item

    seen = []
    for outcome in taskyard.stream(call, 2, workers=2):
        seen.append(outcome.value)
        looked_at.set()
    assert seen == [1, 0]


@pytest.mark.parametrize("order", ["items", "completed"])
def test_no_more_is_taken_than_fits_into_the_window(order: Any) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1, 1001):
            taken = number
            yield number

    looked_at, most = 0, 0
    for _ in taskyard.stream(same, items(), window=20, workers=4, order=order):
        most = max(most, taken - looked_at)
        looked_at += 1
    assert looked_at == taken == 1000
    assert most <= 20


def test_leaving_the_loop_ends_the_run() -> None:
    begun = itertools.count()
    with taskyard.stream(lambda _: next(begun), itertools.count(), window=10, workers=2) as stream:
        for outcome in stream:
            if outcome.id > 50:
                break
    assert next(begun) < 100
    assert stream.counts.completed > 50
    assert list(stream) == []


def test_a_stream_that_is_thrown_away_leaves_no_thread() -> None:
    before = threading.active_count()
    next(iter(taskyard.stream(same, itertools.count(), workers=2)))
    for thread in threading.enumerate():
        if thread.name == "taskyard-run":
            thread.join(10)
    assert threading.active_count() <= before


def test_an_error_of_the_items_is_raised_after_the_outcomes() -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise KeyError("no more")

    stream = taskyard.stream(same, items())
    seen = []
    with pytest.raises(RunFailed, match="the items raised"):
        seen.extend(outcome.value for outcome in stream)
    # `extend` keeps what came before.
    assert sorted(seen) == list(range(10))
    assert stream.counts.completed == 10


def test_an_error_in_the_body_ends_the_run() -> None:
    def consume() -> None:
        with taskyard.stream(same, itertools.count(), workers=2) as stream:
            for _ in stream:
                raise LookupError

    with pytest.raises(LookupError):
        consume()


async def test_a_stream_in_an_event_loop() -> None:
    async def call(item: int) -> int:
        await asyncio.sleep(0)
        return item

    async def items() -> AsyncIterator[int]:
        for number in range(100):
            yield number

    stream = taskyard.stream(call, items(), order="items", window=10, workers=10)
    assert [outcome.value async for outcome in stream] == list(range(100))


async def test_leaving_an_async_loop_ends_the_run() -> None:
    async def call(item: int) -> int:
        return item

    async with taskyard.stream(call, itertools.count(), window=10, workers=10) as stream:
        async for outcome in stream:
            if outcome.id > 50:
                break
    assert stream.counts.completed > 50


def test_memory_is_bounded_by_the_window() -> None:
    process = psutil.Process()
    number = 300_000
    stream = taskyard.stream(lambda item: [item], iter(range(number)), window=1000)
    for _ in itertools.islice(stream, 50_000):
        pass
    before = process.memory_info().rss
    assert sum(1 for _ in stream) == number - 50_000
    assert process.memory_info().rss - before < 10 << 20


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["threads", "async"])
def test_ten_million_calls_are_made_in_bounded_memory(kind: Any) -> None:
    async def asame(item: Any) -> Any:
        return item

    process, number = psutil.Process(), 10_000_000
    before = most = process.memory_info().rss
    function = asame if kind == "async" else same
    for outcome in taskyard.stream(function, iter(range(number)), kind=kind, window=1000):
        if outcome.id % 100_000 == 0:
            most = max(most, process.memory_info().rss)
    assert most - before < 50 << 20


def test_a_timeout_is_noticed_while_outcomes_keep_coming() -> None:
    release = threading.Event()
    seen: list[int] = []

    def call(item: int) -> None:
        if item == 0:
            release.wait(30)

    outcomes = taskyard.stream(call, range(3000), window=40, workers=2, timeout=0.05)
    try:
        for outcome in outcomes:
            seen.append(outcome.id)
            time.sleep(0.001)  # slower than the calls, so that there is always another outcome
    finally:
        release.set()
    assert sorted(seen) == list(range(1, 3001))
    assert seen.index(1) < 2000
