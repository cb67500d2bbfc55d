"""Calls in an event loop, and runs in one."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import taskyard
from taskyard.dispatch import conduct
from taskyard.dispatch.outcome import Outcome, Status
from taskyard.dispatch.result import Run
from taskyard.errors import RunFailed


async def same(item: Any) -> Any:
    return item


async def odd_fails(item: int) -> int:
    await asyncio.sleep(0)
    if item % 2:
        raise ValueError(f"{item} is odd")
    return item


async def numbers(number: int) -> AsyncIterator[int]:
    for item in range(number):
        await asyncio.sleep(0)
        yield item


def test_an_async_function_needs_no_kind() -> None:
    run = taskyard.run(same, 1000)
    assert run.info.kind == "async"
    assert run.results() == list(range(1000))


def test_what_a_call_raises_is_its_outcome() -> None:
    run = taskyard.run(odd_fails, 4, workers=2)
    assert run.results(default=None) == [0, None, 2, None]
    failure = next(run.failures())
    assert failure.error is not None
    assert "in odd_fails" in failure.error.traceback
    assert "taskyard" not in failure.error.traceback


def test_as_many_calls_as_workers_are_under_way_at_once() -> None:
    under_way = most = 0

    async def call(_: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001)
        under_way -= 1

    taskyard.run(call, 100, workers=7)
    assert most == 7


def test_calls_that_never_wait_let_others_run() -> None:
    """The first call waits for a timer, which fires while thousands of others run."""
    ended: list[int] = []

    async def call(item: int) -> None:
        if item == 0:
            await asyncio.sleep(0.002)
        ended.append(item)

    taskyard.run(call, iter(range(200_000)), workers=2)
    assert ended.index(0) < 200_000 - 1


def test_a_function_that_is_not_async_fails_with_a_reason() -> None:
    run = taskyard.run(lambda item: item, 2, kind="async")
    assert run.counts.failed == 2
    failure = next(run.failures())
    assert failure.error is not None
    assert failure.error.kind == "TypeError"


def test_a_lambda_may_make_coroutines() -> None:
    assert taskyard.run(lambda item: same(item + 1), 2, kind="async").results() == [1, 2]


def test_a_call_that_takes_too_long_is_cancelled() -> None:
    cancelled = []

    async def call(item: int) -> int:
        if item == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
        return item

    run = taskyard.run(call, 3, timeout=0.5)
    assert run.results(default=None) == [0, None, 2]
    assert cancelled == [1]
    (failure,) = run.failures()
    assert failure.error is not None
    assert failure.error.summary == "TimeoutError: it took longer than its timeout of 0.5 s"


def test_a_timeout_of_the_functions_own_is_told_apart() -> None:
    async def call(_: int) -> None:
        raise TimeoutError("mine")

    (failure,) = taskyard.run(call, 1, timeout=5).failures()
    assert failure.error is not None
    assert failure.error.message == "mine"


def test_a_call_that_cancels_itself_has_failed() -> None:
    async def call(item: int) -> int:
        if item == 0:
            raise asyncio.CancelledError
        return item

    run = taskyard.run(call, 3, workers=1)
    assert (run.counts.completed, run.counts.failed) == (2, 1)


def test_failed_calls_are_tried_again() -> None:
    tried: dict[int, int] = {}

    async def call(item: int) -> int:
        tried[item] = tried.get(item, 0) + 1
        if tried[item] <= item:
            raise ValueError(item)
        return item

    run = taskyard.run(call, 4, retries=2)
    assert run.results(default="failed") == [0, 1, 2, "failed"]


def test_what_outlives_the_grace_is_cancelled() -> None:
    async def call(_: int) -> None:
        await asyncio.Event().wait()

    # All three are to begin within the runtime, however busy the machine is.
    run = taskyard.run(call, 5, workers=3, runtime=1.5, grace=0.05)
    assert run.counts.cancelled == 3
    assert run.counts.undispatched == 2
    assert {outcome.status for outcome in run.log} == {Status.CANCELLED}


async def test_arun_in_a_running_loop() -> None:
    loop = asyncio.get_running_loop()
    loops = set()

    async def call(item: int) -> int:
        loops.add(asyncio.get_running_loop())
        return item

    run = await taskyard.arun(call, 100)
    assert run.results() == list(range(100))
    assert loops == {loop}


@pytest.mark.parametrize("kind", ["threads", "async"])
async def test_items_may_be_async(kind: Any) -> None:
    function = same if kind == "async" else (lambda item: item)
    run = await taskyard.arun(function, numbers(50), kind=kind)
    assert run.results() == list(range(50))


@pytest.mark.parametrize("kind", ["threads", "async"])
def test_items_may_be_async_outside_of_loops(kind: Any) -> None:
    function = same if kind == "async" else (lambda item: item)
    assert taskyard.run(function, numbers(50), kind=kind).results() == list(range(50))


def test_async_items_are_read_as_calls_begin() -> None:
    taken = begun = 0
    ahead: list[int] = []

    async def items() -> AsyncIterator[int]:
        nonlocal taken
        for taken in range(1, 11):
            yield taken

    def call(_: int) -> None:
        nonlocal begun
        begun += 1
        ahead.append(taken - begun)
        threading.Event().wait(0.005)

    taskyard.run(call, items(), workers=1)
    assert max(ahead) <= 1


async def test_async_items_that_raise_end_the_run() -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        raise KeyError("no more")

    with pytest.raises(RunFailed, match="the items raised KeyError") as raised:
        await taskyard.arun(same, items())
    assert raised.value.run.counts.completed == 1


def test_an_async_generator_is_closed_when_the_run_ends() -> None:
    closed = threading.Event()

    async def items() -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                yield number
        finally:
            closed.set()

    def enough(_: object) -> None:
        raise ValueError("enough")

    with pytest.raises(RunFailed, match="enough"):
        taskyard.run(same, items(), on_result=enough)
    assert closed.wait(10)


async def test_callbacks_may_be_async() -> None:
    seen: list[Any] = []

    async def on_result(outcome: Outcome) -> None:
        await asyncio.sleep(0)
        seen.append(outcome.id)

    async def on_done(run: Run) -> None:
        await asyncio.sleep(0)
        seen.append(run)

    run = await taskyard.arun(same, 3, on_result=on_result, on_done=on_done, workers=1)
    assert seen == [1, 2, 3, run]


async def test_a_run_that_is_cancelled_cancels_its_calls() -> None:
    begun, cancelled = asyncio.Event(), []

    async def call(item: int) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    task = asyncio.ensure_future(taskyard.arun(call, 10, workers=2))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled
    assert len(cancelled) <= 2


async def test_the_loop_goes_on_meanwhile() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.ensure_future(count())
    await taskyard.arun(lambda _: threading.Event().wait(0.02), 2)
    task.cancel()
    assert turns > 2


async def test_two_runs_in_one_loop() -> None:
    runs = await asyncio.gather(*(taskyard.arun(same, number) for number in (10, 20)))
    assert [run.counts.completed for run in runs] == [10, 20]


def test_a_loop_that_is_blocked_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "PATIENCE", 0.1)
    release = threading.Event()

    async def call(_: int) -> None:
        release.wait(30)  # what no coroutine should do

    try:
        run = taskyard.run(call, 3, runtime=0.05, grace=0.05)
    finally:
        release.set()
    assert run.counts.completed == 0
    assert run.counts.total == 3
