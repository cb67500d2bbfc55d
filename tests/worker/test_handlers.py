"""Kinds of handlers, what they are told, and what they can decide."""

from __future__ import annotations

import asyncio
import functools
import threading
from datetime import timedelta
from typing import Any

import pytest
from tests.worker.support import working

import taskyard
from taskyard import (
    Context,
    DiscardMessage,
    FailMessage,
    Retry,
    RetryMessage,
    State,
    TaskDiscarded,
    TaskFailed,
    Yard,
    current_context,
)
from taskyard.errors import NotFound

# Kinds of handlers


def test_plain_and_async_handlers(yard: Yard) -> None:
    @yard.task(name="double")
    def double(number: int) -> int:
        return number * 2

    @yard.task(name="triple")
    async def triple(number: int) -> int:
        await asyncio.sleep(0)
        return number * 3

    results = [*double.enqueue_many(range(20)), *triple.enqueue_many(range(20))]
    yard.run_worker(burst=True)
    assert [result.get(0) for result in results] == [
        *(number * 2 for number in range(20)),
        *(number * 3 for number in range(20)),
    ]


def test_sync_handlers_run_in_threads_and_async_ones_on_one_loop(yard: Yard) -> None:
    seen: dict[str, set[str]] = {"sync": set(), "async": set()}

    @yard.task(name="sync")
    def sync(number: int) -> None:
        seen["sync"].add(threading.current_thread().name)

    @yard.task(name="async")
    async def async_(number: int) -> None:
        seen["async"].add(threading.current_thread().name)

    sync.enqueue_many(range(20))
    async_.enqueue_many(range(20))
    yard.run_worker(burst=True, concurrency=2)
    assert {name.rpartition("_")[0] for name in seen["sync"]} == {"taskyard-handler"}
    assert seen["async"] == {threading.main_thread().name}


def test_arguments_by_name_and_by_default(yard: Yard) -> None:
    seen: list[Any] = []

    @yard.task(name="call")
    def call(a: int, b: str = "b", *, c: float = 0.5, **more: int) -> None:
        seen.append((a, b, c, more))

    call.enqueue(1)
    call.enqueue(1, "x", c=2.0, d=4)
    call.enqueue(b="y", a=3)
    call.enqueue_many([(5,), {"a": 6, "c": 1.5}])
    yard.run_worker(burst=True, concurrency=1)
    assert seen == [
        (1, "b", 0.5, {}),
        (1, "x", 2.0, {"d": 4}),
        (3, "y", 0.5, {}),
        (5, "b", 0.5, {}),
        (6, "b", 1.5, {}),
    ]


def test_callable_objects_and_partials(yard: Yard) -> None:
    class Adder:
        def __call__(self, number: int) -> int:
            return number + 1

    class AsyncAdder:
        async def __call__(self, number: int) -> int:
            return number + 2

    async def add(left: int, right: int) -> int:
        return left + right

    results = [
        yard.task(name="adder")(Adder()).enqueue(1),
        yard.task(name="async")(AsyncAdder()).enqueue(1),
        yard.task(name="partial")(functools.partial(add, 3)).enqueue(1),
    ]
    yard.run_worker(burst=True)
    assert [result.get(0) for result in results] == [2, 3, 4]


def test_a_decorator_that_hides_async_does_not_lose_messages(yard: Yard) -> None:
    ran: list[int] = []

    async def save(number: int) -> None:
        ran.append(number)

    @functools.wraps(save)
    def wrapped(number: int) -> Any:
        return save(number)

    yard.task(name="save", retry=0)(wrapped).enqueue(1)
    yard.run_worker(burst=True)
    (letter,) = yard.dead.list()
    assert ran == []
    assert letter.failure.kind == "TypeError"
    assert "awaitable" in letter.failure.message


def test_a_result_that_cannot_be_sent_is_a_dead_letter(yard: Yard) -> None:
    @yard.task(name="open")
    def open_(number: int) -> Any:
        return threading.Lock()

    result = open_.enqueue(1)
    yard.run_worker(burst=True)
    with pytest.raises(TaskFailed, match=r"task 'open': the result: .*lock"):
        result.get(0)


# Context


def test_what_a_handler_is_told(yard: Yard) -> None:
    seen: list[Context] = []

    @yard.task(name="note", queue="notes", shard="user", priority=7)
    def note(user: str) -> None:
        seen.append(current_context())
        assert current_context() is seen[-1]

    result_ids = [note.enqueue("ann", id=f"n-{number}").id for number in range(5)]
    yard.run_worker(burst=True, concurrency=1)
    assert [context.message_id for context in seen] == result_ids
    for context in seen:
        assert (context.task, context.queue, context.shard) == ("note", "notes", "ann")
        assert (context.attempt, context.delivery, context.redelivered) == (1, 1, False)
        assert (context.lost, context.timed_out, context.cancelled) == (False, False, False)
        assert context.message.priority == 7
        assert list(context.messages) == [context.message]
        assert context.token > 0
    sequences = [context.sequence for context in seen]
    assert sequences == sorted(set(sequences))


def test_tokens_rise_from_claim_to_claim(yard: Yard) -> None:
    tokens: list[int] = []

    @yard.task(name="note", ordered=True, shard="user", retry=Retry(9, "constant", delay=0))
    def note(user: str) -> None:
        tokens.append(current_context().token)
        if len(tokens) < 5:
            raise ValueError

    note.enqueue("ann")
    yard.run_worker(burst=True)
    assert len(tokens) == 5
    assert tokens == sorted(set(tokens))


def test_attempts_and_deliveries_count_up(yard: Yard) -> None:
    seen: list[tuple[int, int, bool]] = []

    @yard.task(name="flaky", retry=Retry(3, "constant", delay=0))
    def flaky(number: int) -> None:
        context = current_context()
        seen.append((context.attempt, context.delivery, context.redelivered))
        if len(seen) < 4:
            raise ValueError

    flaky.enqueue(1)
    yard.run_worker(burst=True)
    assert seen == [(1, 1, False), (2, 2, True), (3, 3, True), (4, 4, True)]


def test_the_context_of_a_batch(yard: Yard) -> None:
    seen: list[tuple[list[str], list[int], str, list[int]]] = []

    @yard.task(name="save", batch=10)
    def save(numbers: list[int]) -> None:
        context = current_context()
        seen.append(
            (
                [info.id for info in context.messages],
                [info.sequence for info in context.messages],
                context.message_id,
                numbers,
            )
        )

    save.enqueue_many(range(5), id=lambda number: f"n-{number}")
    yard.run_worker(burst=True)
    ((ids, sequences, first, numbers),) = seen
    assert ids == [f"n-{number}" for number in numbers] == [f"n-{number}" for number in range(5)]
    assert sequences == sorted(set(sequences))
    assert first == "n-0"


def test_no_context_outside_of_handlers() -> None:
    with pytest.raises(NotFound, match=r"current_context\(\) is for handlers"):
        current_context()


def test_contexts_do_not_leak_between_concurrent_handlers(yard: Yard) -> None:
    together: list[asyncio.Barrier] = []

    @yard.task(name="async")
    async def async_(number: int) -> tuple[int, str, str]:
        if not together:
            together.append(asyncio.Barrier(4))
        before = current_context().message_id
        await together[0].wait()
        inside = await asyncio.create_task(ask())
        await asyncio.sleep(0)
        assert current_context().message_id == before
        return number, before, inside

    async def ask() -> str:
        return current_context().message_id

    results = async_.enqueue_many(range(8), id=lambda number: f"n-{number}")
    yard.run_worker(burst=True, concurrency=4)
    assert [result.get(0) for result in results] == [
        (number, f"n-{number}", f"n-{number}") for number in range(8)
    ]


# Decisions


def test_retry_discard_and_fail(yard: Yard) -> None:
    @yard.task(name="decide", retry=0)
    def decide(what: str) -> str:
        context = current_context()
        if context.attempt > 1:
            return f"attempt {context.attempt}"
        match what:
            case "retry":
                taskyard.retry()
            case "retry soon":
                context.retry(timedelta(0))
            case "raise retry":
                raise RetryMessage(0)
            case "discard":
                taskyard.discard("not needed")
            case "fail":
                taskyard.fail("the account is closed")
            case "raise discard":
                raise DiscardMessage
        raise FailMessage("half \ud800 a pair")

    whats = ["retry", "retry soon", "raise retry", "discard", "raise discard", "fail", "raise fail"]
    results = list(decide.enqueue_many(whats))
    yard.run_worker(burst=True)
    assert [str(result.status()) for result in results] == [
        *["done"] * 3,
        *["discarded"] * 2,
        *["dead"] * 2,
    ]
    assert results[0].get(0) == results[1].get(0) == results[2].get(0) == "attempt 2"
    with pytest.raises(TaskDiscarded, match=f"message {results[3].id} was discarded"):
        results[3].get(0)
    failure = results[5].failure()
    assert failure is not None
    assert (failure.reason, failure.summary()) == ("failed by handler", "the account is closed")
    (counts,) = yard.counts()
    assert counts.totals["discarded"] == 2
    assert counts.dead == 2


async def test_the_same_in_async_handlers(yard: Yard) -> None:
    @yard.task(name="decide", retry=0)
    async def decide(what: str) -> int:
        if what == "retry" and current_context().attempt == 1:
            taskyard.retry()
        if what == "discard":
            taskyard.discard()
        if what == "fail":
            taskyard.fail("no")
        return current_context().attempt

    results = list(decide.enqueue_many(["retry", "discard", "fail", "none"]))
    with working(yard):
        assert await results[0].aget(20) == 2
        with pytest.raises(TaskDiscarded):
            await results[1].aget(20)
        with pytest.raises(TaskFailed):
            await results[2].aget(20)
        assert await results[3].aget(20) == 1
    await yard.aclose()


def test_a_retry_function_decides(yard: Yard) -> None:
    def decide(context: Context, error: BaseException) -> Any:
        if isinstance(error, KeyError):
            return None
        if isinstance(error, ValueError):
            return 0 if context.attempt < 3 else DiscardMessage
        return "garbage"

    @yard.task(name="flaky", retry=decide)
    def flaky(what: str) -> int:
        raise {"key": KeyError, "value": ValueError, "os": OSError}[what](what)

    results = list(flaky.enqueue_many(["key", "value", "os"]))
    yard.run_worker(burst=True)
    assert [result.status() for result in results] == [State.DEAD, State.DISCARDED, State.DEAD]
    failure = results[2].failure()
    assert failure is not None
    assert failure.kind == "OSError"
    assert "it answered 'garbage'" in failure.traceback


# Handlers that raise what one does not expect


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(5)], ids=repr
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_no_exception_of_a_handler_ends_the_worker(
    yard: Yard, error: BaseException, is_async: bool
) -> None:
    def sync(number: int) -> int:
        if number == 1:
            raise error
        return number

    async def async_(number: int) -> int:
        return sync(number)

    task = yard.task(name="raises", retry=0)(async_ if is_async else sync)
    results = list(task.enqueue_many(range(3)))
    yard.run_worker(burst=True)
    assert [results[0].get(0), results[2].get(0)] == [0, 2]
    with pytest.raises(TaskFailed):
        results[1].get(0)


def test_a_handler_that_raises_cancelled_error_itself_has_failed(yard: Yard) -> None:
    @yard.task(name="raises", retry=0)
    async def raises(how: str) -> str:
        if how == "raise":
            raise asyncio.CancelledError
        if how == "await":
            task = asyncio.create_task(asyncio.sleep(60))
            task.cancel()
            await task
        return how

    results = list(raises.enqueue_many(["raise", "await", "none"]))
    yard.run_worker(burst=True, concurrency=1)
    assert [str(result.status()) for result in results] == ["dead", "dead", "done"]
    failure = results[0].failure()
    assert failure is not None
    assert failure.kind.endswith("CancelledError")


def test_payloads_that_do_not_fit_are_dead_letters_with_the_reason(yard: Yard) -> None:
    ran: list[int] = []

    @yard.task(name="take")
    def take(number: int) -> None:
        ran.append(number)

    elsewhere = yard.remote("take")
    elsewhere.enqueue("text", id="wrong")
    elsewhere.enqueue(1, 2, 3, id="many")
    elsewhere.enqueue(7, id="right")
    yard.run_worker(burst=True, concurrency=1)
    assert ran == [7]
    letters = yard.dead.list()
    assert [letter.id for letter in letters] == ["wrong", "many"]
    assert {letter.failure.reason for letter in letters} == {"unreadable payload"}
    assert "argument 'number'" in letters[0].failure.message
