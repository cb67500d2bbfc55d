"""Results: waiting, states, failures as data, expiry, and waiting where it could deadlock."""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.worker.support import Clock, wait_for, working

from taskyard import Result, ResultTimeout, Retry, State, TaskDiscarded, TaskFailed, Yard
from taskyard.errors import EnqueueError, NotFound, ResultNotKept, ResultWaitRefused


def test_a_result_is_waited_for(yard: Yard) -> None:
    waiting = threading.Event()
    go = threading.Event()
    got: list[int] = []

    @yard.task(name="slow")
    def slow(number: int) -> int:
        waiting.set()
        wait_for(go)
        return number

    with working(yard):
        result = slow.enqueue(5)
        thread = threading.Thread(target=lambda: got.append(result.get(20)))
        thread.start()
        wait_for(waiting)
        assert got == []
        go.set()
        thread.join(20)
    assert got == [5]


async def test_and_without_blocking_the_loop(yard: Yard) -> None:
    go = threading.Event()

    @yard.task(name="slow")
    def slow(number: int) -> int:
        wait_for(go)
        return number

    with working(yard):
        results = [await slow.aenqueue(number) for number in range(3)]
        gathered = asyncio.gather(*(result.aget(20) for result in results))
        await asyncio.sleep(0)
        assert not gathered.done()
        go.set()
        assert await gathered == [0, 1, 2]
        assert await results[0].astatus() is State.DONE
    await yard.aclose()


def test_many_wait_for_the_same(yard: Yard) -> None:
    go = threading.Event()
    got: list[int] = []

    @yard.task(name="slow")
    def slow(number: int) -> int:
        wait_for(go)
        return number

    with working(yard):
        result = slow.enqueue(5)
        threads = [threading.Thread(target=lambda: got.append(result.get(20))) for _ in range(8)]
        for thread in threads:
            thread.start()
        go.set()
        for thread in threads:
            thread.join(20)
    assert got == [5] * 8


@pytest.mark.parametrize("timeout", [0, 0.02, -1])
async def test_a_timeout(yard: Yard, timeout: float) -> None:
    @yard.task(name="never")
    def never(number: int) -> int:
        return number

    result = never.enqueue(1)
    with pytest.raises(ResultTimeout, match=f"is still waiting after {timeout} s"):
        result.get(timeout)
    with pytest.raises(TimeoutError):
        await result.aget(timeout)
    await yard.aclose()


def test_a_waiter_that_is_woken_for_nothing_waits_on(yard: Yard) -> None:
    @yard.task(name="late")
    def late(number: int) -> int:
        return number

    result = late.enqueue(3)
    with ThreadPoolExecutor(2) as threads:
        waiting = [
            threads.submit(result.get, 20),
            threads.submit(lambda: asyncio.run(_got(yard.result(result.id)))),
        ]
        for _ in range(3):
            other = late.enqueue(0, delay=3600)
            with pytest.raises(ResultTimeout):
                other.get(0.02)
        assert not any(future.done() for future in waiting)
        yard.run_worker(burst=True)
        assert [future.result(20) for future in waiting] == [3, 3]


async def _got(result: Result[Any]) -> Any:
    return await result.aget(20)


def test_every_state(yard: Yard, clock: Clock) -> None:
    running, go = threading.Event(), threading.Event()

    @yard.task(name="do", retry=Retry(1, "constant", delay=60))
    def do(what: str) -> str:
        from taskyard import discard

        if what == "run":
            running.set()
            wait_for(go)
        if what == "retry":
            raise ValueError
        if what == "discard":
            discard()
        return what

    @yard.task(name="die", retry=0)
    def die(what: str) -> str:
        raise ValueError(what)

    waiting = do.enqueue("run")
    delayed = do.enqueue("later", delay=3600)
    assert (waiting.status(), delayed.status()) == (State.WAITING, State.DELAYED)
    with working(yard):
        wait_for(running)
        assert waiting.status() is State.RUNNING
        go.set()
        assert waiting.get(20) == "run"
        dead, discarded = die.enqueue("die"), do.enqueue("discard")
        with pytest.raises(TaskFailed):
            dead.get(20)
        with pytest.raises(TaskDiscarded):
            discarded.get(20)
    retrying = do.enqueue("retry")
    yard.run_worker(burst=True)
    found = [result.status() for result in (waiting, dead, discarded, retrying)]
    assert found == [State.DONE, State.DEAD, State.DISCARDED, State.RETRYING]
    assert [result.failure() is None for result in (waiting, dead, discarded, retrying)] == [
        True,
        False,
        True,
        True,
    ]
    assert str(State.RETRYING) == "retrying"


def test_values_come_back_by_the_annotation(yard: Yard) -> None:
    @yard.task(name="paths")
    def paths(names: list[str]) -> dict[str, tuple[Path, ...]]:
        return {name: (Path(name), Path("/")) for name in names}

    result = paths.enqueue(["a", "b"])
    yard.run_worker(burst=True)
    assert result.get(0) == {"a": (Path("a"), Path("/")), "b": (Path("b"), Path("/"))}


class OddError(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


def test_a_failure_is_data(yard: Yard) -> None:
    @yard.task(name="odd", retry=0)
    def odd(number: int) -> int:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise OddError(number, 2) from error

    result = odd.enqueue(1)
    yard.run_worker(burst=True)
    with pytest.raises(TaskFailed) as failed:
        result.get(0)
    failure = failed.value.failure
    assert failure == result.failure()
    assert failure.reason == "failed"
    assert failure.kind == f"{__name__}.OddError"
    assert failure.message == "1 and 2"
    assert "raise OddError(number, 2) from error" in failure.traceback
    assert "KeyError: 'inner'" in failure.traceback
    text = str(failed.value)
    assert text.startswith(f"message {result.id} failed (failed): {__name__}.OddError: 1 and 2")
    assert "Remote traceback:\nTraceback (most recent call last):" in text
    again = pickle.loads(pickle.dumps(failed.value))
    assert (str(again), again.failure) == (text, failure)


def test_a_result_expires(yard: Yard, clock: Clock) -> None:
    @yard.task(name="do", result_ttl=60)
    def do(number: int) -> int:
        return number

    result = do.enqueue(1)
    clock.forward(3600)  # waiting does not count
    yard.run_worker(burst=True)
    assert result.get(0) == 1
    clock.forward(30)
    assert result.get(0) == 1
    clock.forward(31)
    for ask in (result.status, result.failure, lambda: result.get(0), lambda: result.get(20)):
        with pytest.raises(NotFound, match="its time to live is over"):
            ask()


@pytest.mark.parametrize("timeout", [None, 0, 5])
def test_a_task_without_results_says_so_at_once(yard: Yard, timeout: float | None) -> None:
    @yard.task(name="do")
    def do(number: int) -> None: ...

    result = do.enqueue(1)
    with pytest.raises(ResultNotKept, match="Declare the task with result_ttl=3600"):
        result.get(timeout)


def test_none_is_a_result_where_it_is_kept(yard: Yard) -> None:
    @yard.task(name="do", result_ttl=60)
    def do(number: int) -> None: ...

    result = do.enqueue(1)
    yard.run_worker(burst=True)
    assert result.get(0) is None
    assert result.status() is State.DONE


def test_the_result_of_a_remote_task(yard: Yard) -> None:
    @yard.task(name="double")
    def double(number: int) -> int:
        return number * 2

    here = double.enqueue(4, id="here")
    elsewhere = yard.remote("double")
    yard.run_worker(burst=True)
    assert elsewhere.result(here.id).get(0) == 8


# Inside handlers


def test_waiting_inside_a_handler_is_refused(yard: Yard) -> None:
    @yard.task(name="inner")
    def inner(number: int) -> int:
        return number

    @yard.task(name="outer", retry=0)
    def outer(number: int) -> int:
        return inner.enqueue(number).get(timeout=5)

    @yard.task(name="async", retry=0)
    async def aouter(number: int) -> int:
        return await (await inner.aenqueue(number)).aget(timeout=5)

    results: list[Result[int]] = [outer.enqueue(1), aouter.enqueue(2)]
    yard.run_worker(burst=True)
    for result in results:
        with pytest.raises(
            TaskFailed, match=r"ResultWaitRefused: waiting .* can deadlock"
        ) as failed:
            result.get(0)
        assert "inside_handler=True" in failed.value.failure.message
    assert ResultWaitRefused.__name__ in failed.value.failure.kind


def test_looking_without_waiting_is_allowed_inside_a_handler(yard: Yard) -> None:
    @yard.task(name="inner")
    def inner(number: int) -> int:
        return number

    @yard.task(name="outer", retry=0)
    def outer(number: int) -> tuple[int, str]:
        result = inner.result("inner")
        return result.get(timeout=0), str(result.status())

    inner.enqueue(7, id="inner")
    yard.run_worker(burst=True)
    looked = outer.enqueue(1)
    yard.run_worker(burst=True)
    assert looked.get(0) == (7, "done")


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_waiting_inside_a_handler_can_be_allowed(yard: Yard, is_async: bool) -> None:
    @yard.task(name="inner")
    def inner(number: int) -> int:
        return number + 1

    def outer(number: int) -> int:
        return inner.enqueue(number).get(timeout=20, inside_handler=True) * 10

    async def aouter(number: int) -> int:
        result = await inner.aenqueue(number)
        return await result.aget(timeout=20, inside_handler=True) * 10

    task: Any = yard.task(name="outer", retry=0)(aouter if is_async else outer)
    with working(yard, concurrency=2):
        assert task.enqueue(1).get(20) == 20


def test_helper_threads_of_a_handler_are_their_own(yard: Yard) -> None:
    @yard.task(name="outer", retry=0)
    def outer(number: int) -> str:
        found: list[str] = []

        def look() -> None:
            try:
                yard.result("nope").get(0)
            except NotFound:
                found.append("not found")

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return found[0]

    result = outer.enqueue(1)
    yard.run_worker(burst=True)
    assert result.get(0) == "not found"


# Kept for a time of its own


def test_a_result_is_kept_for_as_long_as_its_call_says(yard: Yard, clock: Clock) -> None:
    @yard.task(name="echo", result_ttl=100)
    def echo(number: int) -> int:
        return number

    short = echo.enqueue(1, result_ttl=10)
    many = echo.enqueue_many([2, 3], result_ttl=timedelta(seconds=1000))
    usual = echo.enqueue(4)
    yard.run_worker(burst=True)
    clock.forward(11)
    assert [result.status() for result in (*many, usual)] == [State.DONE] * 3
    with pytest.raises(NotFound):
        short.get(0)
    clock.forward(100)
    assert [result.get(0) for result in many] == [2, 3]
    with pytest.raises(NotFound):
        usual.get(0)


def test_a_task_that_keeps_no_results_keeps_none_of_a_call_either(yard: Yard) -> None:
    @yard.task(name="nothing")
    def nothing() -> None: ...

    with pytest.raises(EnqueueError, match="keeps no results"):
        nothing.enqueue(result_ttl=10)
    with pytest.raises(EnqueueError, match="result_ttl must be more than 0 seconds"):
        yard.task(name="one")(lambda: 1).enqueue(result_ttl=0)


def test_the_dead_letter_of_a_message_is_found(yard: Yard) -> None:
    @yard.task(name="bad", queue="q", retry=0)
    def bad(number: int) -> int:
        raise ValueError(number)

    results = bad.enqueue_many(range(3))
    yard.run_worker(burst=True)
    for number, result in enumerate(results):
        letter = yard.dead.find(result.id, queue="q")
        assert letter is not None
        assert (letter.id, letter.failure.message) == (result.id, str(number))
        assert yard.dead.find(result.id) == letter
    assert yard.dead.find(results[0].id, queue="other") is None
    assert yard.dead.find("nobody") is None
