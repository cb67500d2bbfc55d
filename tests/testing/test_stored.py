"""`testing.stored`: messages wait until the test has them run, by a clock that it moves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import taskyard
from taskyard import (
    Batch,
    Handler,
    Middleware,
    RateLimit,
    Retry,
    State,
    TaskFailed,
    Unique,
    Yard,
    every,
    testing,
)
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.errors import BrokerError, NotFound, TestingError
from taskyard.testing import Clock, StoredYard

START = datetime(2030, 1, 1, 8, tzinfo=UTC)


@pytest.fixture
def yard() -> Yard:
    """One whose server nobody has started."""
    return Yard("redis://127.0.0.1:1/0")


@pytest.fixture
def test_yard(yard: Yard) -> Iterator[StoredYard]:
    with testing.stored(yard, clock=Clock(START)) as test_yard:
        yield test_yard


# Looking at what was enqueued


def test_what_is_enqueued_waits_and_can_be_looked_at(yard: Yard, test_yard: StoredYard) -> None:
    ran: list[str] = []

    @yard.task(name="greet", queue="mail", shard="name")
    def greet(name: str, polite: bool = False) -> None:
        ran.append(name)

    @yard.task(name="other")
    def other() -> None: ...

    first = greet.enqueue("ada", polite=True, priority=3)
    other.enqueue()
    greet.enqueue(name="bob", delay=90)
    greet.enqueue("eve", due=START + timedelta(minutes=1))

    one, two, three = test_yard.enqueued(greet)
    assert (one.task, one.args, dict(one.kwargs)) == ("greet", ("ada", True), {})
    assert (one.id, one.queue, one.shard, one.priority) == (first.id, "mail", "ada", 3)
    assert (one.delay, one.at) == (0, START)
    assert (two.args, two.delay) == (("bob",), 90)
    assert (three.args, three.delay) == (("eve",), 60)
    assert [found.task for found in test_yard.enqueued()] == ["greet", "other", "greet", "greet"]
    assert len(test_yard.enqueued("other")) == 1
    assert ran == []


def test_many_and_batches_and_tasks_of_other_programs_can_be_looked_at(
    yard: Yard, test_yard: StoredYard
) -> None:
    @yard.task(name="save", batch=10)
    def save(rows: list[int]) -> None: ...

    save.enqueue_many(range(3))
    with yard.buffered():
        save.enqueue(3)
    yard.remote("elsewhere", queue="far").enqueue({"a": 1}, b=[2])
    assert [found.args for found in test_yard.enqueued(save)] == [(0,), (1,), (2,), (3,)]
    [foreign] = test_yard.enqueued("elsewhere")
    assert (foreign.queue, foreign.args, foreign.kwargs) == ("far", ({"a": 1},), {"b": [2]})


def test_what_is_refused_was_not_enqueued(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="add")
    def add() -> int:
        return 1

    add.enqueue(id="one")
    with pytest.raises(taskyard.TaskyardError):
        add.enqueue(id="one")
    assert len(test_yard.enqueued()) == 1


def test_what_a_unique_key_kept_back_was_not_enqueued(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="index", unique="path")
    def index(path: str) -> None: ...

    @yard.task(name="remind", unique=Unique(mode="window", window=60))
    def remind() -> None: ...

    first, second = index.enqueue("a"), index.enqueue("a")
    index.enqueue_many(["a", "b"])
    assert (second.id, second.created) == (first.id, False)
    assert [found.args for found in test_yard.enqueued(index)] == [("a",), ("b",)]
    assert test_yard.run_until_idle().done == 2
    assert index.enqueue("a").created
    remind.enqueue()
    test_yard.run_until_idle()
    remind.enqueue()
    test_yard.run_until_idle(until=timedelta(seconds=60))
    remind.enqueue()
    assert len(test_yard.enqueued(remind)) == 2


def test_debounced_messages_are_put_off(yard: Yard, test_yard: StoredYard) -> None:
    ran: list[str] = []

    @yard.task(name="build", unique=Unique("name", mode="debounce", delay=2, max_delay=5))
    def build(name: str, text: str) -> None:
        ran.append(text)

    for index in range(5):
        build.enqueue("page", str(index))
        test_yard.run_until_idle(until=timedelta(seconds=1))
    assert [found.delay for found in test_yard.enqueued(build)] == [2, 2, 2, 2, 1]
    assert ran == ["4"]


def test_a_schedule_whose_message_is_kept_back_puts_none(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="tidy", unique=True, rate=RateLimit(1, per=600))
    def tidy() -> None: ...

    yard.schedule(tidy, when=every(60))
    report = test_yard.run_until_idle(until=timedelta(minutes=5, seconds=1))
    assert (report.scheduled, report.done, report.left) == (2, 1, 1)


# Running it


def test_it_runs_in_order_in_this_thread_with_what_handlers_enqueue(
    yard: Yard, test_yard: StoredYard
) -> None:
    ran: list[tuple[str, int]] = []

    @yard.task(name="second")
    async def second(name: str) -> None:
        ran.append((name, threading.get_ident()))

    @yard.task(name="first")
    def first(name: str) -> str:
        ran.append((name, threading.get_ident()))
        second.enqueue(f"{name} again")
        return name.upper()

    results = first.enqueue_many(["a", "b"])
    report = test_yard.run_until_idle()
    here = threading.get_ident()
    assert {thread for _, thread in ran} == {here}
    names = [name for name, _ in ran]
    assert [name for name in names if "again" not in name] == ["a", "b"]
    assert [name for name in names if "again" in name] == ["a again", "b again"]
    assert [result.get() for result in results] == ["A", "B"]
    assert (report.done, report.left, report.next_at) == (4, 0, None)
    assert str(report) == "4 done, 0 retried, 0 dead, 0 discarded, 0 left"
    assert [attempt.id for attempt in report.of(first)] == [result.id for result in results]
    assert test_yard.run_until_idle().attempts == ()


async def test_on_an_event_loop(yard: Yard, test_yard: StoredYard) -> None:
    loops = []

    @yard.task(name="asynchronous")
    async def asynchronous() -> int:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return 1

    @yard.task(name="synchronous")
    def synchronous() -> int:
        return 2

    one, two = await asynchronous.aenqueue(), synchronous.enqueue()
    with pytest.raises(TestingError, match="arun_until_idle"):
        test_yard.run_until_idle()
    report = await test_yard.arun_until_idle()
    assert (report.done, loops) == (2, [asyncio.get_running_loop()])
    assert (await one.aget(), await two.aget()) == (1, 2)


async def test_a_cancelled_run_gives_back_what_it_was_at(yard: Yard, test_yard: StoredYard) -> None:
    began = asyncio.Event()
    calls = []

    @yard.task(name="hang")
    async def hang() -> None:
        calls.append(taskyard.current_context().redelivered)
        began.set()
        if len(calls) == 1:
            await asyncio.sleep(1000)

    hang.enqueue()
    running = asyncio.create_task(test_yard.arun_until_idle())
    await began.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await test_yard.arun_until_idle()).done == 1
    assert calls == [False, True]


def test_asynchronous_handlers_keep_their_event_loop(yard: Yard, test_yard: StoredYard) -> None:
    loops = set()

    @yard.task(name="note")
    async def note() -> None:
        loops.add(asyncio.get_running_loop())

    for _ in range(2):
        note.enqueue()
        test_yard.run_until_idle()
    assert len(loops) == 1


def test_handler_classes_live_as_long_as_a_run(yard: Yard, test_yard: StoredYard) -> None:
    lives: list[str] = []

    class Save(Handler[str]):
        def start(self) -> None:
            lives.append("start")

        def handle(self, message: str, /) -> None:
            lives.append(message)

        async def stop(self) -> None:
            lives.append("stop")

    save = yard.task(name="save", linger=60)(Save)
    save.enqueue_many(["a", "b"])
    test_yard.run_until_idle()
    assert lives == ["start", "a", "b", "stop"]


def test_middleware_is_told(yard: Yard, test_yard: StoredYard) -> None:
    told: list[str] = []

    class Teller(Middleware):
        def claimed(self, claim: taskyard.Claimed) -> None:
            told.append(f"claimed {claim.messages}")

        def settled(self, settled: taskyard.Settled) -> None:
            told.append(f"settled {settled.messages[0].state}")

    yard.use_middleware(Teller())

    @yard.task(name="noop")
    def noop() -> None:
        told.append("ran")

    noop.enqueue()
    test_yard.run_until_idle()
    assert told == ["claimed 1", "ran", "settled done"]


# Errors


def test_the_error_of_a_message_comes_out_when_everything_has_run(
    yard: Yard, test_yard: StoredYard
) -> None:
    ran: list[int] = []

    @yard.task(name="work", retry=0)
    def work(number: int) -> None:
        if number < 2:
            raise ZeroDivisionError(number)
        ran.append(number)

    work.enqueue_many(range(3))
    with pytest.raises(ZeroDivisionError, match="0") as raised:
        test_yard.run_until_idle()
    assert ran == [2]
    [note] = raised.value.__notes__
    assert "task 'work', attempt 1: it is dead; 1 more failed" in note
    assert raised.traceback[-1].name == "work"


def test_an_attempt_that_failed_raises_though_it_would_be_tried_again(
    yard: Yard, test_yard: StoredYard
) -> None:
    @yard.task(name="work")
    def work() -> None:
        raise ZeroDivisionError

    work.enqueue()
    with pytest.raises(ZeroDivisionError) as raised:
        test_yard.run_until_idle()
    assert "tried again later" in raised.value.__notes__[0]


def test_errors_can_be_kept(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="work", retry=0)
    def work() -> int:
        raise ZeroDivisionError

    result = work.enqueue()
    report = test_yard.run_until_idle(raise_errors=False)
    assert (report.dead, report.done) == (1, 0)
    [failure] = report.failures
    assert failure.id == result.id
    assert failure.state is State.DEAD
    assert isinstance(failure.error, ZeroDivisionError)
    with pytest.raises(TaskFailed):
        result.get()
    assert [letter.id for letter in yard.dead.list()] == [result.id]


def test_the_errors_of_single_messages_of_a_batch_are_told_apart(
    yard: Yard, test_yard: StoredYard
) -> None:
    @yard.task(name="save", batch=10, retry=0)
    def save(rows: list[int]) -> None:
        raise taskyard.BatchFailed({1: ValueError("one"), 2: taskyard.DiscardMessage()})

    save.enqueue_many(range(3))
    report = test_yard.run_until_idle(raise_errors=False)
    assert [attempt.state for attempt in report.attempts] == ["done", "dead", "discarded"]
    assert [repr(attempt.error) for attempt in report.failures] == ["ValueError('one')"]


def test_what_a_handler_asks_for_is_no_error(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="later")
    def later() -> None:
        taskyard.retry(60)

    @yard.task(name="never")
    def never() -> None:
        taskyard.discard()

    later.enqueue()
    never.enqueue()
    report = test_yard.run_until_idle()
    assert (report.retried, report.discarded, report.left, report.failures) == (1, 1, 1, [])
    assert report.next_at == START + timedelta(minutes=1)


def test_what_ends_without_its_handler_raises_too(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="news", expires=60)
    def news() -> None: ...

    news.enqueue()
    test_yard.clock.advance(61)
    with pytest.raises(TaskFailed, match="expired"):
        test_yard.run_until_idle()


def test_a_parked_shard_raises_and_stays(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="pay", shard="user", ordered=True, on_error="park", retry=0)
    def pay(user: str) -> None:
        raise ZeroDivisionError

    pay.enqueue("ada")
    with pytest.raises(ZeroDivisionError):
        test_yard.run_until_idle()
    assert test_yard.run_until_idle().left == 1
    assert yard.release(pay, "ada")
    assert test_yard.run_until_idle(raise_errors=False).failures[0].state is State.WAITING


def test_ctrl_c_ends_the_test_and_not_the_message(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="work")
    def work() -> None:
        raise KeyboardInterrupt

    work.enqueue()
    with pytest.raises(KeyboardInterrupt):
        test_yard.run_until_idle(raise_errors=False)


def test_a_synchronous_handler_is_told_that_its_time_is_over(
    yard: Yard, test_yard: StoredYard
) -> None:
    @yard.task(name="slow", timeout=0.02, retry=0)
    def slow() -> None:
        never = threading.Event()
        while not taskyard.current_context().timed_out:
            never.wait(0.001)

    @yard.task(name="slow too", timeout=0.02, retry=0)
    async def slow_too() -> None:
        await asyncio.sleep(1000)

    slow.enqueue()
    slow_too.enqueue()
    report = test_yard.run_until_idle(raise_errors=False)
    assert [letter.failure.reason for letter in yard.dead.list()] == ["timeout", "timeout"]
    assert all(isinstance(attempt.error, TimeoutError) for attempt in report.failures)


# Time


def test_the_clock_stands_still_unless_it_is_moved(yard: Yard, test_yard: StoredYard) -> None:
    ran = []

    @yard.task(name="remind")
    def remind() -> None:
        ran.append(test_yard.clock.now)

    remind.enqueue(delay=3600)
    report = test_yard.run_until_idle()
    assert (report.done, report.left, report.next_at) == (0, 1, START + timedelta(hours=1))
    test_yard.clock.advance(3599.9)
    assert test_yard.run_until_idle().done == 0
    test_yard.clock.advance(timedelta(seconds=0.1))
    assert test_yard.run_until_idle().done == 1
    assert ran == [START + timedelta(hours=1)]


def test_advance_jumps_from_one_time_to_the_next(yard: Yard, test_yard: StoredYard) -> None:
    ran = []

    @yard.task(name="flaky", retry=Retry(count=3, backoff="constant", delay=100, jitter=0))
    def flaky() -> str:
        ran.append((test_yard.clock.now - START).total_seconds())
        if len(ran) < 4:
            raise ZeroDivisionError
        return "done"

    result = flaky.enqueue(delay=86_400 * 365)
    report = test_yard.run_until_idle(advance=True)
    year = 86_400 * 365
    assert ran == [year, year + 100, year + 200, year + 300]
    assert (report.retried, report.done, result.get()) == (3, 1, "done")
    assert [attempt.number for attempt in report.attempts] == [1, 2, 3, 4]


def test_ordered_shards_wait_for_the_next_attempt_of_their_head(
    yard: Yard, test_yard: StoredYard
) -> None:
    ran: list[str] = []

    @yard.task(name="step", shard="user", ordered=True, retry=1)
    def step(user: str, text: str) -> None:
        ran.append(text)
        if ran == ["a"]:
            raise ZeroDivisionError

    step.enqueue("ada", "a")
    step.enqueue("ada", "b")
    test_yard.run_until_idle(raise_errors=False)
    assert ran == ["a"]
    test_yard.run_until_idle(advance=True)
    assert ran == ["a", "a", "b"]


def test_batches_wait_to_fill_by_the_clock(yard: Yard, test_yard: StoredYard) -> None:
    batches: list[list[int]] = []

    @yard.task(name="save", batch=Batch(size=3, within=5))
    def save(rows: list[int]) -> None:
        batches.append(rows)

    save.enqueue_many(range(4))
    assert test_yard.run_until_idle().left == 1
    assert batches == [[0, 1, 2]]
    test_yard.clock.advance(5)
    test_yard.run_until_idle()
    assert batches == [[0, 1, 2], [3]]
    save.enqueue(4)
    test_yard.run_until_idle(advance=True)
    assert batches[2:] == [[4]]
    assert test_yard.clock.now == START + timedelta(seconds=10)


def test_results_expire_by_the_clock(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="add", result_ttl=60)
    def add() -> int:
        return 1

    result = add.enqueue()
    test_yard.run_until_idle()
    assert result.get() == 1
    test_yard.clock.advance(61)
    with pytest.raises(NotFound):
        result.get()


def test_the_clock_can_be_set_back(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="work")
    def work() -> None: ...

    work.enqueue(delay=60)
    test_yard.clock.set_back(3600)
    work.enqueue()
    assert test_yard.run_until_idle().done == 1
    assert test_yard.run_until_idle(advance=True).done == 1
    assert test_yard.clock.now == START + timedelta(seconds=60)


def test_schedules_go_by_the_clock(yard: Yard) -> None:
    ran = []

    @yard.task(name="report")
    def report(kind: str) -> None:
        ran.append((kind, test_yard.clock.now))

    yard.schedule(report, "daily", when=taskyard.cron("0 3 * * *"))
    with testing.stored(yard, clock=Clock(START)) as test_yard:
        assert test_yard.run_until_idle().scheduled == 0
        done = test_yard.run_until_idle(until=START + timedelta(days=2))
        assert (done.scheduled, done.done) == (2, 2)
        assert test_yard.clock.now == START + timedelta(days=2)
        nights = [START.replace(day=day, hour=3) for day in (2, 3)]
        assert ran == [("daily", night) for night in nights]
        assert test_yard.enqueued(report)[0].id == "report@2030-01-02T03:00:00Z"
        test_yard.clock.travel_to(START + timedelta(days=10))
        assert test_yard.run_until_idle().scheduled == 1, "the latest of what was missed"


def test_schedules_alone_keep_nothing_going(yard: Yard, test_yard: StoredYard) -> None:
    ran: list[str] = []

    @yard.task(name="tick")
    def tick() -> None:
        ran.append("tick")

    @yard.task(name="late")
    def late() -> None:
        ran.append("late")

    yard.schedule(tick, when=every(60))
    late.enqueue(delay=60)
    test_yard.run_until_idle(advance=True, schedules=False)
    assert ran == ["late"]
    ran.clear()
    test_yard.clock.travel_to(START)
    late.enqueue(delay=150)
    test_yard.run_until_idle(advance=True)
    assert ran == ["tick", "tick", "late"]
    test_yard.run_until_idle(until=timedelta(seconds=60))
    assert ran == ["tick", "tick", "late", "tick"]


def test_catching_up_on_many_instants(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="tick")
    def tick() -> None: ...

    yard.schedule(tick, when=every(1), catch_up="all")
    test_yard.run_until_idle()
    test_yard.clock.advance(500)
    assert test_yard.run_until_idle().done == 500


def test_a_yard_that_goes_on_for_ever(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="again")
    def again() -> None:
        again.enqueue(delay=60)

    again.enqueue()
    with pytest.raises(TestingError, match=r"21 attempts \(21 of 'again'\).*until="):
        test_yard.run_until_idle(advance=True, limit=20)
    report = test_yard.run_until_idle(until=timedelta(minutes=5, seconds=30))
    assert (report.done, report.left) == (5, 1)
    assert report.next_at == test_yard.clock.now + timedelta(seconds=30)


def test_more_is_due_than_a_step_takes(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="work")
    def work(number: int) -> None: ...

    work.enqueue_many(range(3000), delay=5)
    assert test_yard.run_until_idle(advance=True, limit=3000).done == 3000


def test_what_a_paused_queue_has_does_not_hide_what_others_have(
    yard: Yard, test_yard: StoredYard
) -> None:
    @yard.task(name="paused", queue="paused")
    def paused(number: int) -> None: ...

    @yard.task(name="work")
    def work() -> None: ...

    paused.enqueue_many(range(3000), delay=5)
    work.enqueue(delay=6)
    yard.pause("paused")
    test_yard.clock.advance(10)
    report = test_yard.run_until_idle()
    assert (report.done, report.left) == (1, 3000)


def test_what_no_clock_can_do_is_told() -> None:
    clock = Clock(START)
    with pytest.raises(TestingError, match="set_back"):
        clock.advance(-1)
    with pytest.raises(TestingError, match="advance"):
        clock.set_back(timedelta(seconds=-1))
    for wrong in ("soon", float("nan"), float("inf"), None):
        with pytest.raises(TestingError, match="seconds"):
            clock.advance(wrong)  # type: ignore[arg-type]
    with pytest.raises(TestingError, match="datetime"):
        clock.travel_to(60)  # type: ignore[arg-type]
    assert clock.now == START
    clock.travel_to(datetime(2031, 1, 1))  # noqa: DTZ001 - local time is what is tried
    assert clock.now.timestamp() == datetime(2031, 1, 1).timestamp()  # noqa: DTZ001


def test_what_is_no_yard_or_no_clock_is_told(yard: Yard) -> None:
    for make in (testing.stored, testing.inline):
        with pytest.raises(TestingError, match="Yard"):
            make("sqlite:///yard.db")  # type: ignore[arg-type]
        with pytest.raises(TestingError, match="Clock"):
            make(yard, clock=START)  # type: ignore[arg-type]


# Waiting, and the yard's own broker


def test_waiting_for_what_does_not_run_is_an_error(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="add")
    def add() -> int:
        return 1

    result = add.enqueue()
    with pytest.raises(TestingError, match="run_until_idle"):
        result.get()
    with pytest.raises(TestingError, match="run_until_idle"):
        asyncio.run(_get(result))
    with pytest.raises(taskyard.ResultTimeout):
        result.get(timeout=0)
    assert result.status() is State.WAITING


async def _get(result: taskyard.Result[int]) -> int:
    return await result.aget(10)


def test_a_worker_ends_with_a_clear_error(yard: Yard, test_yard: StoredYard) -> None:
    @yard.task(name="work")
    def work() -> None: ...

    with pytest.raises(TestingError, match="using"):
        yard.run_worker()


def test_the_yard_has_its_own_broker_back(yard: Yard) -> None:
    @yard.task(name="work")
    def work() -> int:
        return 1

    own = yard.broker
    with contextlib.suppress(ZeroDivisionError), testing.stored(yard) as test_yard:
        result = work.enqueue()
        raise ZeroDivisionError
    assert yard.broker is own
    with pytest.raises(TestingError, match=r"redis://127\.0\.0\.1:1"):
        test_yard.run_until_idle()
    with pytest.raises(BrokerError, match="belongs to memory"):
        result.get(timeout=0)


def test_each_block_begins_empty(yard: Yard) -> None:
    @yard.task(name="work")
    def work() -> None: ...

    for _ in range(2):
        with testing.stored(yard) as test_yard:
            work.enqueue()
            assert len(test_yard.enqueued()) == 1
            assert test_yard.run_until_idle().done == 1


def test_another_broker_within_the_block_is_noticed(yard: Yard) -> None:
    with testing.stored(yard) as test_yard:
        yard.use("memory://")
        with pytest.raises(TestingError, match=r"yard\.use"):
            test_yard.run_until_idle()


def test_using_another_broker_for_a_while(yard: Yard) -> None:
    @yard.task(name="add")
    def add(a: int) -> int:
        return a + 1

    own = yard.broker
    with yard.using("memory://"):
        result = add.enqueue(1)
        yard.run_worker(burst=True)
        assert result.get() == 2
    assert yard.broker is own


def test_two_yards_share_a_clock(yard: Yard) -> None:
    other, ran = Yard("memory://"), []

    @other.task(name="work")
    def work() -> None:
        ran.append("work")

    with testing.stored(yard) as first, testing.stored(other, clock=first.clock) as second:
        work.enqueue(delay=60)
        first.clock.advance(60)
        second.run_until_idle()
    assert ran == ["work"]


def test_other_brokers_take_the_clock(tmp_path: object) -> None:
    clock = Clock(START)
    yard = Yard(SQLiteBroker(f"{tmp_path}/yard.db", clock=clock))

    @yard.task(name="work")
    def work() -> int:
        return 1

    with yard:
        result = work.enqueue(delay=60)
        yard.run_worker(burst=True)
        assert result.status() is State.DELAYED
        clock.advance(60)
        yard.run_worker(burst=True)
        assert result.get() == 1
