"""`testing.inline`: what is enqueued runs at once, as a worker runs it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import taskyard
from taskyard import Handler, Retry, State, TaskFailed, Unique, Yard, testing
from taskyard.errors import TestingError
from taskyard.testing import Clock, InlineYard

START = datetime(2030, 1, 1, 8, tzinfo=UTC)


@pytest.fixture
def yard() -> Yard:
    """One whose server nobody has started."""
    return Yard("redis://127.0.0.1:1/0")


@pytest.fixture
def inline(yard: Yard) -> Iterator[InlineYard]:
    with testing.inline(yard, clock=Clock(START)) as inline:
        yield inline


def test_it_runs_in_this_thread_before_enqueue_returns(yard: Yard, inline: InlineYard) -> None:
    ran: list[tuple[int, int]] = []

    @yard.task(name="double")
    def double(number: int) -> int:
        ran.append((number, threading.get_ident()))
        return number * 2

    @yard.task(name="halve")
    async def halve(number: int) -> float:
        await asyncio.sleep(0)
        ran.append((number, threading.get_ident()))
        return number / 2

    here = threading.get_ident()
    result = double.enqueue(1)
    assert ran == [(1, here)]
    assert (result.get(), result.status()) == (2, State.DONE)
    assert halve.enqueue(3).get() == 1.5
    assert ran[1:] == [(3, here)]
    assert [result.get() for result in double.enqueue_many([5, 6])] == [10, 12]
    assert inline.report.done == 4
    assert [one.args for one in inline.enqueued(double)] == [(1,), (5,), (6,)]


async def test_on_an_event_loop(yard: Yard, inline: InlineYard) -> None:
    loops = []

    @yard.task(name="asynchronous")
    async def asynchronous(number: int) -> int:
        loops.append(asyncio.get_running_loop())
        return number

    @yard.task(name="synchronous")
    def synchronous() -> int:
        return 2

    assert await (await asynchronous.aenqueue(1)).aget() == 1
    assert await (await synchronous.aenqueue()).aget() == 2
    assert synchronous.enqueue().get() == 2
    assert loops == [asyncio.get_running_loop()]
    results = await asyncio.gather(*map(asynchronous.aenqueue, range(5)))
    assert [await result.aget() for result in results] == [0, 1, 2, 3, 4]


async def test_an_asynchronous_handler_cannot_run_in_a_synchronous_enqueue_on_a_loop(
    yard: Yard, inline: InlineYard
) -> None:
    @yard.task(name="work")
    async def work() -> int:
        return 1

    with pytest.raises(TestingError, match=r"await work\.aenqueue"):
        work.enqueue(id="one")
    await work.aenqueue(id="two")
    assert await work.result("one").aget() == 1
    assert await work.result("two").aget() == 1


def test_the_event_loop_of_a_thread_stays_what_it_was(yard: Yard) -> None:
    @yard.task(name="work")
    async def work() -> None: ...

    own = asyncio.new_event_loop()
    asyncio.set_event_loop(own)
    try:
        with testing.inline(yard):
            work.enqueue()
            assert asyncio.get_event_loop() is own
        assert asyncio.get_event_loop() is own
    finally:
        asyncio.set_event_loop(None)
        own.close()


@pytest.mark.parametrize("kind", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("on_loop", [False, True])
def test_what_handlers_enqueue_has_run_when_the_first_enqueue_returns(
    yard: Yard, inline: InlineYard, kind: str, on_loop: bool
) -> None:
    ran: list[str] = []

    @yard.task(name="leaf")
    async def leaf(name: str) -> None:
        ran.append(name)

    @yard.task(name="plain leaf")
    def plain_leaf(name: str) -> None:
        ran.append(name)

    @yard.task(name="synchronous")
    def synchronous() -> None:
        leaf.enqueue("a")
        plain_leaf.enqueue("b")

    @yard.task(name="asynchronous")
    async def asynchronous() -> None:
        await leaf.aenqueue("a")
        leaf.enqueue("b")
        plain_leaf.enqueue("c")
        await asyncio.to_thread(leaf.enqueue, "d")

    async def begin() -> None:
        await yard.tasks[kind].aenqueue()

    asyncio.run(begin()) if on_loop else yard.tasks[kind].enqueue()
    assert sorted(ran) == (["a", "b"] if kind == "synchronous" else ["a", "b", "c", "d"])


def test_an_ordered_shard_is_worked_off_in_order(yard: Yard, inline: InlineYard) -> None:
    ran: list[str] = []

    @yard.task(name="step", shard="user", ordered=True)
    def step(user: str, number: int) -> None:
        if number < 3:
            step.enqueue(user, number + 1)
        ran.append(f"end of {number}")

    step.enqueue("ada", 1)
    assert ran == ["end of 1", "end of 2", "end of 3"]


def test_threads_run_what_they_enqueue(yard: Yard, inline: InlineYard) -> None:
    ran: list[int] = []

    @yard.task(name="inner")
    async def inner() -> None:
        ran.append(threading.get_ident())

    @yard.task(name="outer")
    def outer() -> None:
        inner.enqueue()
        ran.append(threading.get_ident())

    def work() -> None:
        for _ in range(20):
            outer.enqueue()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(ran) == 160
    assert threading.get_ident() not in ran


def test_a_buffered_block_runs_at_its_end(yard: Yard, inline: InlineYard) -> None:
    ran: list[int] = []

    @yard.task(name="work")
    def work(number: int) -> None:
        ran.append(number)
        if number == 1:
            work.enqueue(3)

    with yard.buffered():
        work.enqueue(1)
        work.enqueue(2)
        assert ran == []
    assert sorted(ran) == [1, 2, 3]


# Nobody waits


def test_retries_and_delays_take_no_time(yard: Yard, inline: InlineYard) -> None:
    ran = []

    @yard.task(name="flaky", retry=Retry(count=2, backoff="constant", delay=600, jitter=0))
    def flaky() -> str:
        ran.append(inline.clock.now - START)
        if len(ran) < 3:
            raise ZeroDivisionError
        return "done"

    assert flaky.enqueue(delay=3600).get() == "done"
    hour, pause = timedelta(hours=1), timedelta(minutes=10)
    assert ran == [hour, hour + pause, hour + 2 * pause]


def test_what_waits_within_a_handler_takes_nothing_from_it(yard: Yard, inline: InlineYard) -> None:
    ran: list[bool] = []

    @yard.task(name="inner")
    def inner() -> None: ...

    @yard.task(name="outer")
    def outer() -> str:
        inner.enqueue(delay=90 * 86_400)
        ran.append(taskyard.current_context().lost)
        return "done"

    assert outer.enqueue().get() == "done"
    assert ran == [False]


def test_batches_do_not_wait_to_fill(yard: Yard, inline: InlineYard) -> None:
    batches: list[list[int]] = []

    @yard.task(name="save", batch=taskyard.Batch(size=3, within=60))
    def save(rows: list[int]) -> None:
        batches.append(rows)

    save.enqueue(0)
    save.enqueue_many(range(1, 6))
    assert batches == [[0], [1, 2, 3], [4, 5]]
    assert inline.clock.now == START


def test_a_paused_queue_runs_when_it_is_resumed(yard: Yard, inline: InlineYard) -> None:
    @yard.task(name="work")
    def work() -> int:
        return 1

    yard.pause("default")
    result = work.enqueue()
    with pytest.raises(TestingError):
        result.get()
    yard.resume("default")
    assert result.get() == 1


def test_schedules_run_only_when_they_are_fired(yard: Yard, inline: InlineYard) -> None:
    ran: list[str] = []

    @yard.task(name="tick")
    def tick() -> None:
        ran.append("tick")

    yard.schedules.add(tick, when=taskyard.every(60))
    tick.enqueue(delay=600)
    assert ran == ["tick"]
    yard.schedules.fire("tick")
    assert ran == ["tick", "tick"]


# Errors


def test_enqueue_raises_what_the_handler_raised(yard: Yard, inline: InlineYard) -> None:
    attempts: list[int] = []

    @yard.task(name="work", retry=2)
    def work() -> None:
        attempts.append(taskyard.current_context().attempt)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        work.enqueue()
    assert attempts == [1, 2, 3]
    assert raised.traceback[-1].name == "work"
    assert "attempt 3: it is dead" in raised.value.__notes__[-1]


async def test_aenqueue_raises_it_too(yard: Yard, inline: InlineYard) -> None:
    @yard.task(name="work", retry=0)
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work.aenqueue()


def test_errors_can_be_kept(yard: Yard) -> None:
    @yard.task(name="work", retry=0)
    def work() -> int:
        raise ZeroDivisionError

    with testing.inline(yard, raise_errors=False) as inline:
        result = work.enqueue()
        with pytest.raises(TaskFailed, match="ZeroDivisionError"):
            result.get()
        assert len(yard.dead.list()) == 1
        [failure] = inline.report.failures
        assert isinstance(failure.error, ZeroDivisionError)
        assert yard.dead.retry() == 1
        assert inline.report.dead == 2


def test_the_error_of_what_a_handler_enqueued_comes_out_at_the_end(
    yard: Yard, inline: InlineYard
) -> None:
    ran: list[str] = []

    @yard.task(name="inner", retry=0)
    def inner() -> None:
        raise ZeroDivisionError

    @yard.task(name="outer")
    def outer() -> None:
        inner.enqueue()
        ran.append("outer")

    with pytest.raises(ZeroDivisionError):
        outer.enqueue()
    assert ran == ["outer"], "an error of another message is none of its own"


def test_each_enqueue_raises_its_own_errors(yard: Yard, inline: InlineYard) -> None:
    @yard.task(name="work", retry=0)
    def work(good: bool) -> bool:
        if not good:
            raise ZeroDivisionError
        return good

    with pytest.raises(ZeroDivisionError):
        work.enqueue(False)
    assert work.enqueue(True).get() is True


def test_what_never_ends_is_told(yard: Yard) -> None:
    @yard.task(name="again")
    def again() -> None:
        again.options(delay=60).enqueue()

    with (
        testing.inline(yard, limit=20),
        pytest.raises(TestingError, match="no end in sight"),
    ):
        again.enqueue()


def test_a_long_chain_of_handlers_is_no_deep_one(yard: Yard, inline: InlineYard) -> None:
    ran: list[int] = []

    @yard.task(name="chain")
    def chain(left: int) -> None:
        ran.append(left)
        if left:
            chain.enqueue(left - 1)

    chain.enqueue(1000)
    assert sorted(ran) == list(range(1001))


def test_handler_classes(yard: Yard, inline: InlineYard) -> None:
    lives: list[str] = []

    class Save(Handler[str]):
        @classmethod
        def create(cls) -> Any:
            return cls()

        def start(self) -> None:
            lives.append("start")

        def handle(self, message: str, /) -> None:
            lives.append(message)

        def stop(self) -> None:
            lives.append("stop")

    save = yard.task(name="save")(Save)
    save.enqueue("a")
    assert lives == ["start", "a", "stop"]

    async def on_loop() -> None:
        await save.aenqueue("b")

    asyncio.run(on_loop())
    assert lives == ["start", "a", "stop", "start", "b", "stop"]


def test_a_background_task_of_a_handler_is_by_itself(yard: Yard, inline: InlineYard) -> None:
    tasks: list[asyncio.Task[Any]] = []
    ran: list[str] = []

    @yard.task(name="inner", retry=0)
    async def inner() -> None:
        ran.append("inner")
        raise ZeroDivisionError

    @yard.task(name="outer")
    async def outer() -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await inner.aenqueue()

        tasks.append(asyncio.create_task(later()))

    async def main() -> None:
        await outer.aenqueue()
        with pytest.raises(ZeroDivisionError):
            await tasks[0]

    asyncio.run(main())
    assert ran == ["inner"]


# Unique keys


def test_a_unique_message_runs_at_once_and_frees_its_key(yard: Yard) -> None:
    ran: list[tuple[str, bool]] = []

    @yard.task(name="index", unique="path")
    def index(path: str, depth: int) -> None:
        ran.append((path, depth > 0 and index.enqueue(path, depth - 1).created))

    @yard.task(name="build", unique=Unique("path", mode="debounce", delay=60))
    def build(path: str) -> None:
        ran.append((path, True))

    with testing.inline(yard) as jobs:
        assert index.enqueue("a", 1).created
        assert index.enqueue("a", 0).created
        assert ran == [("a", False), ("a", False)], "its own key was held within the handler"
        assert build.enqueue("b").created
        assert build.enqueue("b").created
        assert ran[2:] == [("b", True), ("b", True)]
        assert [found.delay for found in jobs.enqueued(build)] == [60, 60]
