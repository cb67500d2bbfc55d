"""Delays, due times, expiry and timeouts."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.worker.support import Clock, wait_for, working

from taskyard import Batch, Retry, State, TaskFailed, Yard, current_context

# Delays


def test_never_early(yard: Yard, clock: Clock) -> None:
    ran: list[tuple[str, bool]] = []

    @yard.task(name="note")
    def note(name: str, moment: float) -> None:
        ran.append((name, clock() >= moment * 1e6))

    now = clock() / 1e6
    note.enqueue("delayed", now + 600, delay=600)
    note.enqueue("due", now + 1200, due=datetime.fromtimestamp(now + 1200, UTC))
    note.enqueue("timedelta", now + 1800, delay=timedelta(minutes=30))
    note.enqueue("past", 0.0, due=datetime(2000, 1, 1, tzinfo=UTC))
    note.enqueue("zero", 0.0, delay=0)
    for seconds, expected in [
        (0, ["past", "zero"]),
        (500, []),  # far from the instant, as the clock goes on meanwhile
        (200, ["delayed"]),
        (400, []),
        (200, ["due"]),
        (600, ["timedelta"]),
    ]:
        clock.forward(seconds)
        yard.run_worker(burst=True, concurrency=1)
        assert sorted(name for name, _ in ran) == expected
        assert all(in_time for _, in_time in ran)
        ran.clear()


def test_an_idle_worker_wakes_when_a_message_is_due(yard: Yard) -> None:
    times: list[float] = []
    ran = threading.Event()

    @yard.task(name="note")
    def note() -> None:
        times.append(time.time())
        ran.set()

    with working(yard):
        put = time.time()
        note.enqueue(delay=0.1)
        wait_for(ran)
    assert times[0] - put >= 0.1


def test_the_states_of_a_delayed_message(yard: Yard, clock: Clock) -> None:
    @yard.task(name="flaky", retry=Retry(1, "constant", delay=60))
    def flaky(number: int) -> int:
        if current_context().attempt == 1:
            raise ValueError
        return number

    result = flaky.enqueue(1, delay=60)
    assert result.status() is State.DELAYED
    clock.forward(61)
    assert result.status() is State.WAITING
    yard.run_worker(burst=True)
    assert result.status() is State.RETRYING
    clock.forward(61)
    yard.run_worker(burst=True)
    assert result.status() is State.DONE


# Expiry


@pytest.mark.parametrize("batch", [None, 10])
def test_a_message_that_waited_too_long_is_not_run(
    yard: Yard, clock: Clock, batch: int | None
) -> None:
    ran: list[object] = []

    def note(what: list[int]) -> None:
        ran.append(what)

    options: dict[str, Any] = {"batch": batch}
    task: Any = yard.task(name="note", expires=60, result_ttl=600, **options)(note)
    old = task.enqueue([1] if batch is None else 1)
    clock.forward(30)
    yard.run_worker(burst=True)
    assert len(ran) == 1
    assert old.status() is State.DONE
    late = task.enqueue([2] if batch is None else 2)
    clock.forward(61)
    young = task.enqueue([3] if batch is None else 3)
    yard.run_worker(burst=True)
    assert ran[1:] == [[3]]
    assert young.status() is State.DONE
    failure = late.failure()
    assert failure is not None
    assert failure.reason == "expired"
    assert "the task allows 60 s" in failure.message
    assert len(yard.dead.list()) == 1


@pytest.mark.parametrize(("task_allows", "call_allows"), [(None, 60), (10, 60), (3600, 60)])
def test_a_message_may_have_a_time_of_its_own(
    yard: Yard, clock: Clock, task_allows: float | None, call_allows: float
) -> None:
    @yard.task(name="note", expires=task_allows)
    def note(number: int) -> int:
        return number

    late = note.options(expires=call_allows).enqueue(1)
    clock.forward(50)
    in_time = note.enqueue(2, expires=timedelta(seconds=call_allows))
    many = note.enqueue_many([3], expires=call_allows)
    clock.forward(20)
    yard.run_worker(burst=True)
    assert (in_time.get(0), many[0].get(0)) == (2, 3)
    failure = late.failure()
    assert failure is not None
    assert failure.reason == "expired"
    assert failure.message.endswith("; its call allows 60 s")


def test_a_batch_is_handed_out_before_a_message_expires(yard: Yard, clock: Clock) -> None:
    batches: list[list[int]] = []
    ran = threading.Event()

    @yard.task(name="note", batch=Batch(10, within=3600, lead=50))
    def note(numbers: list[int]) -> None:
        batches.append(numbers)
        ran.set()

    note.enqueue(1)
    note.enqueue(2, expires=100)
    clock.forward(55)
    with working(yard):
        wait_for(ran)
    assert batches == [[1, 2]]
    assert yard.counts()[0].totals["flush_deadline"] == 1


def test_a_delay_is_no_waiting(yard: Yard, clock: Clock) -> None:
    @yard.task(name="note", expires=60)
    def note(number: int) -> int:
        return number

    result = note.enqueue(1, delay=3600)
    clock.forward(3610)
    yard.run_worker(burst=True)
    assert result.get(0) == 1


# Timeouts


@pytest.mark.parametrize("retries", [0, 2])
def test_an_async_handler_is_cancelled(yard: Yard, retries: int) -> None:
    cancelled: list[int] = []

    @yard.task(name="slow", timeout=0.03, retry=Retry(retries, "constant", delay=0))
    async def slow(number: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(current_context().attempt)
            raise
        return number

    result = slow.enqueue(1)
    yard.run_worker(burst=True)
    assert cancelled == list(range(1, retries + 2))
    with pytest.raises(TaskFailed) as failed:
        result.get(0)
    failure = failed.value.failure
    assert failure.reason == "timeout"
    assert failure.message == "it took longer than the task's timeout of 0.03 s"
    assert "await asyncio.sleep(60)" in failure.traceback  # where it was
    assert "worker/carrying.py" not in failure.traceback


def test_an_async_handler_that_is_in_time(yard: Yard) -> None:
    @yard.task(name="quick", timeout=30)
    async def quick(number: int) -> int:
        await asyncio.sleep(0)
        return number

    results = quick.enqueue_many(range(20))
    yard.run_worker(burst=True)
    assert [result.get(0) for result in results] == list(range(20))


def test_a_timeout_inside_the_handler_is_not_the_tasks(yard: Yard) -> None:
    @yard.task(name="inner", timeout=30, retry=0)
    async def inner(number: int) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)

    inner.enqueue(1)
    yard.run_worker(burst=True)
    (letter,) = yard.dead.list()
    assert (letter.failure.reason, letter.failure.kind) == ("failed", "TimeoutError")


@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_a_sync_handler_is_told_and_has_failed_when_it_ends(yard: Yard, ends: str) -> None:
    told: list[bool] = []

    @yard.task(name="slow", timeout=0.05, retry=Retry(1, "constant", delay=0))
    def slow(number: int) -> int:
        context = current_context()
        while not context.timed_out:
            time.sleep(0.005)
        told.append(context.cancelled)
        if ends == "raises":
            raise InterruptedError("stopped half-way")
        return number

    result = slow.enqueue(1)
    yard.run_worker(burst=True)
    assert told == [True, True]
    failure = result.failure()
    assert failure is not None
    assert failure.reason == "timeout"
    assert failure.message == "it took longer than the task's timeout of 0.05 s"
    assert ("stopped half-way" in failure.traceback) == (ends == "raises")


def test_sync_handlers_that_are_in_time_are_not_told(yard: Yard) -> None:
    @yard.task(name="quick", timeout=30)
    def quick(number: int) -> bool:
        return current_context().timed_out

    results = quick.enqueue_many(range(50))
    yard.run_worker(burst=True)
    assert not any(result.get(0) for result in results)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_each_call_of_a_bisect_has_the_timeout_for_itself(yard: Yard, is_async: bool) -> None:
    def save(numbers: list[int]) -> list[int]:
        if not is_async:
            time.sleep(0.45)
        if 3 in numbers:
            raise ValueError(3)
        return numbers

    async def asave(numbers: list[int]) -> list[int]:
        await asyncio.sleep(0.45)
        return save(numbers)

    # All five together take longer.
    task = yard.task(name="save", batch=4, timeout=2, retry=0)(asave if is_async else save)
    results = list(task.enqueue_many(range(4)))
    yard.run_worker(burst=True)
    assert [result.get(0) for result in results[:3]] == [0, 1, 2]
    failure = results[3].failure()
    assert failure is not None
    assert (failure.reason, failure.message) == ("failed", "3")
