"""Cancelling what waits and what runs, and telling how far it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from tests.worker.support import WorkerThread, until, wait_for, working

from taskyard import (
    Batch,
    BatchFailed,
    Cancelled,
    Middleware,
    Progress,
    Result,
    Retry,
    Settled,
    State,
    TaskCancelled,
    TaskyardError,
    Yard,
    current_context,
)
from taskyard.errors import NotFound, ResultNotKept
from taskyard.worker import worker


@pytest.fixture(autouse=True)
def quick_pulse(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker hears of what is cancelled soon."""
    monkeypatch.setattr(worker, "PULSE", 0.05)


def is_seen(holds: Callable[[], bool]) -> None:
    """Wait, in a handler, for what only the context says."""
    until(holds, 20)


# What waits


def test_a_waiting_message_is_never_run(yard: Yard) -> None:
    ran: list[str] = []

    @yard.task(name="note")
    def note(name: str) -> str:
        ran.append(name)
        return name

    results = [note.enqueue(name) for name in "abc"]
    assert results[1].cancel().outcome is Cancelled.REMOVED
    assert yard.cancel(results[2].id).outcome is Cancelled.REMOVED
    yard.run_worker(burst=True)
    assert ran == ["a"]
    assert [result.status() for result in results] == [State.DONE, *[State.CANCELLED] * 2]
    with pytest.raises(TaskCancelled, match=results[1].id):
        results[1].get()
    assert results[0].cancel().outcome is Cancelled.ENDED
    assert results[0].get() == "a"
    assert yard.counts()[0].totals["cancelled"] == 2


async def test_the_same_without_blocking(yard: Yard) -> None:
    @yard.task(name="note")
    def note(name: str) -> str:
        return name

    first, second = await note.aenqueue("a"), await note.aenqueue("b", delay=60)
    assert (await first.acancel()).outcome is Cancelled.REMOVED
    assert (await yard.acancel(second.id)).outcome is Cancelled.REMOVED
    with pytest.raises(TaskCancelled):
        await second.aget()
    assert await first.aprogress() is None
    assert await yard.aprogress(first.id) is None
    await yard.aclose()


def test_a_message_without_a_record_is_noted(yard: Yard) -> None:
    ran: list[str] = []

    @yard.task(name="note")
    def note(name: str) -> None:
        ran.append(name)

    cancelled = note.enqueue("a")
    note.enqueue("b")
    assert cancelled.cancel().outcome is Cancelled.NOTED
    yard.run_worker(burst=True)
    assert ran == ["b"]
    assert yard.counts()[0].totals["cancelled"] == 1


def test_what_a_result_knows_nothing_of_is_not_noted(yard: Yard) -> None:
    @yard.task(name="note")
    def note(name: str) -> str:
        return name

    assert note.result("nobody").cancel().outcome is Cancelled.UNKNOWN


# What runs


def test_an_asynchronous_handler_is_cancelled(yard: Yard) -> None:
    began = threading.Event()
    ended: list[str] = []

    @yard.task(name="sleep")
    async def sleep(name: str) -> str:
        if name == "next":
            return name
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)
        return "never"

    with working(yard, concurrency=1) as thread:
        results = [sleep.enqueue(name) for name in ("long", "next")]
        wait_for(began)
        cancellation = results[0].cancel()
        assert cancellation.outcome is Cancelled.TOLD
        assert cancellation.worker == thread.worker.owner
        with pytest.raises(TaskCancelled):
            results[0].get(timeout=20)
        assert results[1].get(timeout=20) == "next"
    assert ended == ["long"]
    assert yard.counts()[0].totals == {**yard.counts()[0].totals, "cancelled": 1, "done": 1}


def test_others_of_its_claim_go_on(yard: Yard) -> None:
    began, names = threading.Event(), [str(index) for index in range(20)]

    @yard.task(name="sleep")
    async def sleep(name: str) -> str:
        if name == "0":
            began.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return name

    with working(yard, concurrency=1):
        results = list(sleep.enqueue_many(names))
        wait_for(began)
        results[0].cancel()
        assert [result.get(timeout=20) for result in results[1:]] == names[1:]


def test_a_handler_that_finishes_all_the_same_is_done(yard: Yard) -> None:
    began = threading.Event()

    @yard.task(name="sleep", result_ttl=60)
    async def sleep(name: str) -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # cleaning up is not cancelled again
        return f"{name}, tidied up"

    with working(yard, concurrency=1):
        results = [sleep.enqueue("a")]
        wait_for(began)
        results[0].cancel()
        assert results[0].get(timeout=20) == "a, tidied up"


def test_a_timeout_beside_it_makes_no_difference(yard: Yard) -> None:
    began = threading.Event()

    @yard.task(name="sleep", timeout=60)
    async def sleep(name: str) -> str:
        began.set()
        async with asyncio.timeout(50):
            await asyncio.Event().wait()
        return name

    with working(yard, concurrency=1):
        result = sleep.enqueue("a")
        wait_for(began)
        result.cancel()
        with pytest.raises(TaskCancelled):
            result.get(timeout=20)


@pytest.mark.parametrize("error", [None, ValueError("its own")])
def test_a_synchronous_handler_sees_it(yard: Yard, error: Exception | None) -> None:
    began, runs = threading.Event(), 0

    @yard.task(name="work", retry=Retry(5, delay=0))
    def work(name: str) -> str:
        nonlocal runs
        runs += 1
        context = current_context()
        assert not context.cancelled
        began.set()
        is_seen(lambda: context.cancelled)
        assert context.was_cancelled
        assert not context.lost
        if error is not None:
            raise error
        context.raise_if_cancelled()
        return name

    with working(yard):
        result = work.enqueue("a")
        wait_for(began)
        assert yard.cancel(result.id).outcome is Cancelled.TOLD
        with pytest.raises(TaskCancelled):
            result.get(timeout=20)
    assert runs == 1
    assert yard.counts()[0].totals["cancelled"] == 1


def test_a_synchronous_handler_may_pass_it_over(yard: Yard) -> None:
    began = threading.Event()

    @yard.task(name="work")
    def work(name: str) -> str:
        began.set()
        is_seen(lambda: current_context().cancelled)
        return name

    with working(yard):
        result = work.enqueue("a")
        wait_for(began)
        result.cancel()
        assert result.get(timeout=20) == "a"


def test_a_running_message_without_a_record_is_told(yard: Yard) -> None:
    began, ended = threading.Event(), threading.Event()

    @yard.task(name="work")
    def work(name: str) -> None:
        began.set()
        is_seen(lambda: current_context().cancelled)
        ended.set()
        current_context().raise_if_cancelled()

    with working(yard):
        result = work.enqueue("a")
        wait_for(began)
        assert result.cancel().outcome is Cancelled.TOLD
        wait_for(ended)
    assert yard.counts()[0].totals["cancelled"] == 1


def test_a_worker_that_dies_after_it_was_told(yard: Yard) -> None:
    began, release, runs = threading.Event(), threading.Event(), 0

    @yard.task(name="work", result_ttl=60)
    def work(name: str) -> str:
        nonlocal runs
        runs += 1
        began.set()
        release.wait(20)
        return name

    dying = WorkerThread(yard)
    dying.start()
    result = work.enqueue("a")
    wait_for(began)
    assert result.cancel().outcome is Cancelled.TOLD
    assert yard.driver.run(yard.broker.reap([dying.worker.owner])) == 1  # as its supervisor would
    assert result.status() is State.CANCELLED
    release.set()
    dying.stop()
    dying.join()
    yard.run_worker(burst=True)
    assert runs == 1
    assert result.status() is State.CANCELLED


def test_a_retry_chain_stops(yard: Yard) -> None:
    runs = 0

    @yard.task(name="fail", retry=Retry(10, delay=3600))
    def fail() -> str:
        nonlocal runs
        runs += 1
        raise ValueError

    result = fail.enqueue()
    yard.run_worker(burst=True)
    assert result.status() is State.RETRYING
    assert result.cancel().outcome is Cancelled.REMOVED
    yard.run_worker(burst=True)
    assert runs == 1


# Batches


def test_a_batch_sees_which_of_it_were_cancelled(yard: Yard) -> None:
    began = threading.Event()
    cancelled: list[list[str]] = []

    @yard.task(name="save", batch=Batch(3), result_ttl=60, retry=Retry(5, delay=0))
    def save(names: list[str]) -> list[str]:
        context = current_context()
        began.set()
        is_seen(lambda: bool(context.cancelled_messages))
        cancelled.append([info.id for info in context.cancelled_messages])
        assert not context.cancelled  # the others want to be run
        ids = [info.id for info in context.messages]
        left_out = {ids.index(id_): "cancelled" for id_ in cancelled[-1]}
        raise BatchFailed(left_out, results={0: names[0], 2: names[2]})

    results = list(save.enqueue_many(list("abc")))
    with working(yard):
        wait_for(began)
        assert results[1].cancel().outcome is Cancelled.TOLD
        assert [results[0].get(timeout=20), results[2].get(timeout=20)] == ["a", "c"]
        with pytest.raises(TaskCancelled):
            results[1].get(timeout=20)
    assert cancelled == [[results[1].id]]


@pytest.mark.parametrize("number", [1, 2])
def test_an_asynchronous_batch_is_cancelled_with_all_of_it(yard: Yard, number: int) -> None:
    began, go_on = threading.Event(), threading.Event()

    @yard.task(name="save", batch=Batch(2), result_ttl=60)
    async def save(names: list[str]) -> list[str]:
        began.set()
        await asyncio.to_thread(go_on.wait, 20)
        return names

    results = list(save.enqueue_many(list("ab")))
    with working(yard, concurrency=1):
        wait_for(began)
        for result in results[:number]:
            assert result.cancel().outcome is Cancelled.TOLD
        if number == 2:
            for result in results:
                with pytest.raises(TaskCancelled):
                    result.get(timeout=20)
        go_on.set()
        if number == 1:
            assert [result.get(timeout=20) for result in results] == ["a", "b"]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_cancelled_message_is_left_out_when_its_batch_is_run_again(
    yard: Yard, ordered: bool
) -> None:
    began, calls = threading.Event(), []

    @yard.task(name="save", batch=Batch(4), result_ttl=60, ordered=ordered, shard=lambda _: "s")
    def save(names: list[str]) -> list[str]:
        calls.append("".join(names))
        if len(calls) == 1:
            began.set()
            is_seen(lambda: bool(current_context().cancelled_messages))
            raise ValueError("one of them was cancelled")
        return names

    results = list(save.enqueue_many(list("abcd")))
    with working(yard, concurrency=1):
        wait_for(began)
        results[1].cancel()
        assert [results[at].get(timeout=20) for at in (0, 2, 3)] == ["a", "c", "d"]
    assert results[1].status() is State.CANCELLED
    assert calls == ["abcd", "acd"]


# Middleware


def test_middleware_hears_of_it(yard: Yard) -> None:
    states: list[State] = []

    class Watching(Middleware):
        def settled(self, event: Settled) -> None:
            states.extend(message.state for message in event.messages)

    yard.use_middleware(Watching())
    began = threading.Event()

    @yard.task(name="sleep", result_ttl=60)
    async def sleep() -> None:
        began.set()
        await asyncio.Event().wait()

    with working(yard):
        result = sleep.enqueue()
        wait_for(began)
        result.cancel()
        with pytest.raises(TaskCancelled):
            result.get(timeout=20)
    assert states == [State.CANCELLED]


# Progress


def test_progress_is_seen_while_it_runs_and_after(yard: Yard) -> None:
    told, go_on = threading.Event(), threading.Event()

    @yard.task(name="work")
    def work() -> str:
        context = current_context()
        for number in range(1000):
            context.progress(number, 1000)
        context.progress(1000, 2000, "half way")
        told.set()
        go_on.wait(20)
        context.progress(2000)
        return "done"

    def seen(result: Result[str]) -> tuple[float | None, float | None, str] | None:
        progress = result.progress()
        return progress and (progress.done, progress.total, progress.note)

    with working(yard):
        result = work.enqueue()
        wait_for(told)
        until(lambda: seen(result) == (1000, 2000, "half way"))
        first = yard.progress(result.id)
        assert first is not None
        go_on.set()
        assert result.get(timeout=20) == "done"
    last = yard.progress(result.id)
    assert last == Progress(2000, None, "", last.at if last else 0)
    assert last is not None
    assert last.at > first.at


def test_a_heartbeat_renews_the_time(yard: Yard) -> None:
    beat, go_on = threading.Event(), threading.Event()

    @yard.task(name="work", result_ttl=60)
    async def work() -> None:
        context = current_context()
        context.heartbeat()
        await asyncio.to_thread(go_on.wait, 20)
        context.progress(1)
        context.heartbeat()
        beat.set()

    with working(yard):
        result = work.enqueue()
        until(lambda: result.progress() is not None)
        first = result.progress()
        assert first == Progress(at=first.at if first else 0)
        go_on.set()
        result.get(timeout=20)
    last = result.progress()
    assert last is not None
    assert first is not None
    assert (last.done, last.at > first.at) == (1, True)


def test_progress_without_a_record_goes_nowhere(yard: Yard) -> None:
    @yard.task(name="work")
    def work() -> None:
        current_context().progress(1, 2)
        current_context().heartbeat()

    result = work.enqueue()
    yard.run_worker(burst=True)
    assert yard.counts()[0].totals["done"] == 1
    with pytest.raises(ResultNotKept):
        result.progress()
    with pytest.raises(NotFound):
        yard.progress(result.id)


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [(("1",), "done="), ((1, "2"), "total="), ((1, 2, 3), "note="), ((10**400,), "done=")],
)
def test_progress_of_the_wrong_kind(yard: Yard, arguments: tuple[object, ...], wrong: str) -> None:
    errors: list[str] = []

    @yard.task(name="work")
    def work() -> None:
        with pytest.raises(TaskyardError) as raised:
            current_context().progress(*arguments)  # type: ignore[arg-type]
        errors.append(str(raised.value))

    work.enqueue()
    yard.run_worker(burst=True)
    assert len(errors) == 1
    assert wrong in errors[0]


def test_any_text_can_be_a_note(yard: Yard) -> None:
    @yard.task(name="work", result_ttl=60)
    def work() -> None:
        current_context().progress(1, note="\ud800" + "x" * 2000)

    result = work.enqueue()
    yard.run_worker(burst=True)
    progress = result.progress()
    assert progress is not None
    assert progress.note == "\\ud800" + "x" * 999
