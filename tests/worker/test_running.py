"""Starting, stopping and going on: settings, graceful stop, leases, a broker that fails, logs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from tests.worker.support import DEADLINE, Another, WorkerThread, until, wait_for, working

from taskyard import Handler, Retry, State, TaskFailed, Yard, current_context
from taskyard.brokers.base import (
    AsyncDriver,
    Broker,
    Listener,
    Operation,
    Settlement,
    Step,
    Want,
)
from taskyard.errors import (
    BrokerError,
    BrokerInaccessible,
    BrokerUnavailable,
    CorruptDatabase,
    PolicyConflict,
    WorkerError,
)
from taskyard.message import Failure
from taskyard.worker import Worker, WorkerSettings

NAN = float("nan")

# Settings


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"concurrency": 0}, "concurrency must be a whole number from 1 to 10,000, not 0"),
        ({"concurrency": -1}, "concurrency must be"),
        ({"concurrency": 2.0}, "concurrency must be"),
        ({"concurrency": True}, "concurrency must be"),
        ({"concurrency": "8"}, "concurrency must be"),
        ({"processes": -1}, "processes must be a whole number from 0 to 1,000, not -1"),
        ({"processes": 1.5}, "processes must be"),
        ({"lease": 0}, "lease must be from 0.1 to 86400 seconds, not 0"),
        ({"lease": NAN}, "lease must be from 0.1"),
        ({"lease": "30"}, "lease must be"),
        ({"lease": True}, "lease must be"),
        ({"grace": -1}, "grace must be from 0 to 86400 seconds, not -1"),
        ({"grace": float("inf")}, "grace must be"),
        ({"slice": 0}, "slice must be from 0.001 to 60 seconds, not 0"),
        ({"max_messages": 0}, "max_messages must be a whole number from 1"),
        ({"max_memory": 0.5}, "max_memory must be a whole number from 1"),
        ({"nope": 1}, "nope"),
        ({"threads": 4, "nope": 1}, "a worker has no setting nope, threads"),
    ],
)
def test_wrong_settings(yard: Yard, settings: dict[str, Any], text: str) -> None:
    yard.task(name="do")(lambda number: None)
    with pytest.raises(WorkerError) as caught:
        yard.run_worker(burst=True, **settings)
    assert text in str(caught.value)


def test_a_yard_without_tasks(yard: Yard) -> None:
    yard.remote("elsewhere").enqueue(1)
    with pytest.raises(WorkerError, match="there are no tasks to work on: declare some with"):
        yard.run_worker(burst=True)
    assert yard.counts()[0].waiting == 1


def test_memory_cannot_have_processes() -> None:
    yard = Yard("memory://")
    yard.task(name="do")(lambda number: None)
    with pytest.raises(WorkerError, match=r"memory:// lives in one process.*sqlite:///yard.db"):
        yard.run_worker(processes=2)


def test_nothing_to_do_is_the_end_of_a_burst(yard: Yard) -> None:
    yard.task(name="do")(lambda number: None)
    yard.run_worker(burst=True)


def test_a_burst_does_what_its_handlers_put(yard: Yard) -> None:
    seen: list[int] = []

    @yard.task(name="down")
    def down(number: int) -> None:
        seen.append(number)
        if number:
            down.enqueue(number - 1)

    down.enqueue(30)
    yard.run_worker(burst=True)
    assert seen == list(range(30, -1, -1))


def test_max_messages(yard: Yard) -> None:
    seen: list[int] = []

    @yard.task(name="do")
    def do(number: int) -> None:
        seen.append(number)

    do.enqueue_many(range(500))
    yard.run_worker(max_messages=10, concurrency=1)  # not a burst: it ends by itself
    assert 10 <= len(seen) < 500
    (counts,) = yard.counts()
    assert (counts.waiting, counts.running) == (500 - len(seen), 0)
    yard.run_worker(burst=True, concurrency=1)
    assert seen == list(range(500))


def test_fail_fast(yard: Yard) -> None:
    @yard.task(name="do", retry=0)
    def do(number: int) -> None:
        raise ValueError(f"no {number}")

    do.enqueue_many(range(5), id=lambda number: f"n-{number}")
    with pytest.raises(WorkerError, match="message n-0 of task 'do', failed: ValueError: no 0"):
        yard.run_worker(burst=True, concurrency=1, fail_fast=True)
    assert yard.counts()[0].waiting == 4


def test_failing_at_some_dead_letters_only(yard: Yard) -> None:
    @yard.task(name="do", retry=0)
    def do(number: int) -> None:
        if number % 2:
            raise ValueError(f"no {number}")

    def serious(failure: Failure) -> bool:
        return failure.message == "no 3"

    do.enqueue_many(range(10), id=lambda number: f"n-{number}")
    with pytest.raises(WorkerError, match="stopped at a dead letter: message n-3 of task 'do'"):
        yard.run_worker(burst=True, concurrency=1, fail_fast=serious)


# Stopping


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_graceful_stop_finishes_what_runs_and_gives_the_rest_back(
    yard: Yard, is_async: bool
) -> None:
    running, go = threading.Event(), threading.Event()
    seen: list[tuple[int, int, int]] = []

    def do(number: int) -> int:
        context = current_context()
        seen.append((number, context.attempt, context.delivery))
        if number == 60:
            running.set()
            wait_for(go)
        return number

    async def ado(number: int) -> int:
        return await asyncio.to_thread(do, number)

    results = list(
        yard.task(name="do", ordered=True)(ado if is_async else do).enqueue_many(range(100))
    )
    worker = WorkerThread(yard)
    worker.start()
    wait_for(running)
    worker.stop()
    go.set()
    worker.join()
    (counts,) = yard.counts()
    assert [number for number, _, _ in seen] == list(range(61))
    assert results[60].get(0) == 60
    assert (counts.waiting, counts.running, counts.totals["done"]) == (39, 0, 61)
    yard.run_worker(burst=True)
    assert seen == [(number, 1, 1) for number in range(100)]  # given back uncounted


def test_when_the_grace_time_is_over_async_work_is_cancelled_and_given_back(yard: Yard) -> None:
    running = threading.Event()
    seen: list[tuple[int, bool]] = []
    cancelled: list[bool] = []

    @yard.task(name="do")
    async def do(number: int) -> int:
        context = current_context()
        seen.append((context.attempt, context.redelivered))
        running.set()
        if not context.redelivered:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
        return number

    result = do.enqueue(1)
    with working(yard, grace=0):
        wait_for(running)
    assert cancelled == [True]
    assert result.status() is State.WAITING
    yard.run_worker(burst=True)
    assert seen == [(1, False), (1, True)]  # it may have run in part, but has not failed
    assert result.get(0) == 1


def test_a_hard_stop_does_not_wait_for_a_sync_handler(yard: Yard) -> None:
    running, go = threading.Event(), threading.Event()
    seen: list[tuple[int, bool]] = []

    @yard.task(name="do")
    def do(number: int) -> int:
        context = current_context()
        seen.append((context.attempt, context.redelivered))
        running.set()
        wait_for(go)
        return number

    result = do.enqueue(1)
    worker = WorkerThread(yard)
    worker.start()
    wait_for(running)
    worker.stop()
    worker.stop(hard=True)
    worker.until(lambda: result.status() is State.WAITING)
    go.set()
    worker.join()
    yard.run_worker(burst=True)
    assert seen == [(1, False), (1, True)]
    assert result.get(0) == 1


def test_after_a_hard_stop_a_batch_is_not_searched_for_its_bad_message(yard: Yard) -> None:
    running, go = threading.Event(), threading.Event()
    calls: list[int] = []

    @yard.task(name="save", batch=8, result_ttl=60)
    def save(numbers: list[int]) -> None:
        calls.append(len(numbers))
        running.set()
        wait_for(go)
        raise ValueError

    (result, *_) = save.enqueue_many(range(8))
    worker = WorkerThread(yard)
    worker.start()
    wait_for(running)
    worker.stop(hard=True)
    worker.until(lambda: result.status() is State.WAITING)
    go.set()
    worker.join()
    for thread in threading.enumerate():
        if thread.name.startswith("taskyard-handler"):
            thread.join(DEADLINE)
    assert calls == [8]


def test_a_handler_class_that_hangs_while_it_starts_does_not_keep_the_worker(yard: Yard) -> None:
    starting = threading.Event()

    class Hangs(Handler[int]):
        async def start(self) -> None:
            starting.set()
            await asyncio.sleep(60)

        async def handle(self, number: int) -> int:
            return number

    result = yard.task(name="hangs")(Hangs).enqueue(1)
    with working(yard, grace=0):
        wait_for(starting)
    assert result.status() is State.WAITING


def test_an_idle_worker_stops(yard: Yard) -> None:
    yard.task(name="do")(lambda number: None)
    with working(yard):
        pass


def test_a_worker_that_was_stopped_before_it_began_does_nothing(yard: Yard) -> None:
    seen: list[int] = []
    yard.task(name="do")(seen.append).enqueue(1)

    async def main() -> None:
        worker = Worker(yard.broker, yard.tasks.values(), WorkerSettings())
        worker.stop()
        await worker.run()

    asyncio.run(main())
    assert seen == []


# Unknown tasks, and other declarations


def test_an_unknown_task_waits_for_a_worker_that_knows_it(yard: Yard, another: Another) -> None:
    seen: list[int] = []
    yard.task(name="known")(seen.append).enqueue(1)
    yard.remote("later").enqueue(2)
    yard.run_worker(burst=True)
    assert seen == [1]
    assert {counts.group.name: counts.waiting for counts in yard.counts()} == {
        "known": 0,
        "later": 1,
    }
    assert yard.dead.list() == []
    newer = another()
    newer.task(name="later")(seen.append)
    newer.run_worker(burst=True)
    assert seen == [1, 2]


def test_a_worker_that_knows_it_takes_it_while_another_idles(yard: Yard, another: Another) -> None:
    done = threading.Event()
    yard.task(name="known")(lambda number: None)
    newer = another()
    newer.task(name="later")(lambda number: done.set())
    with working(yard), working(newer):
        yard.remote("later").enqueue(2)
        wait_for(done)


def test_a_worker_of_another_concurrency_is_refused(another: Another) -> None:
    def declare(limit: int) -> Yard:
        yard = another()
        yard.task(name="do", shard_concurrency=limit)(lambda number: None)
        return yard

    old, new = declare(1), declare(2)
    old.tasks["do"].enqueue(1)
    with pytest.raises(PolicyConflict, match="still there"):
        new.run_worker(burst=True)
    old.run_worker(burst=True)
    new.run_worker(burst=True)  # nothing waits any more
    new.tasks["do"].enqueue(2)
    assert new.counts()[0].waiting == 1


def test_a_worker_brings_a_new_policy_that_is_no_conflict(another: Another) -> None:
    calls: list[list[int]] = []

    def declare(size: int) -> Yard:
        yard = another()

        @yard.task(name="do", batch=size)
        def do(numbers: list[int]) -> None:
            calls.append(numbers)

        return yard

    declare(2).tasks["do"].enqueue_many(range(6))
    declare(3).run_worker(burst=True, concurrency=1)
    assert calls == [[0, 1, 2], [3, 4, 5]]


# Leases


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_lease_is_renewed_while_a_handler_runs(
    yard: Yard, another: Another, is_async: bool
) -> None:
    """A handler that runs for longer than its lease is neither lost nor delivered again."""
    seen: list[tuple[int, bool]] = []
    running = threading.Event()

    def do(number: int) -> None:
        context = current_context()
        running.set()
        threading.Event().wait(2.5)
        seen.append((context.delivery, context.lost))

    async def ado(number: int) -> None:
        await asyncio.to_thread(do, number)

    result = yard.task(name="do", result_ttl=60)(ado if is_async else do).enqueue(1)
    with working(yard, lease=2):  # as long as a busy machine may hold the renewal up
        wait_for(running)
        other = another()
        other.task(name="do", result_ttl=60)(do)
        with working(other, lease=2):  # would take it
            assert result.get(20) is None
    assert seen == [(1, False)]
    assert yard.counts()[0].totals.get("lost", 0) == 0


class Unsettling:
    """A broker that stores no settlements for a while, and does everything else.

    Attributes:
        settles: set when it does.
        renewals: how often leases were renewed.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.settles = threading.Event()
        self.renewals = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        if settlements and not self.settles.is_set():
            raise BrokerUnavailable("it is too much at once")
        return self._broker.step(settlements, want)

    def extend(self, *args: Any) -> Operation[list[int]]:
        self.renewals += 1
        return self._broker.extend(*args)


def test_a_lease_is_renewed_until_the_settlement_is_stored(another: Another, yard: Yard) -> None:
    """What has ended does not run again because telling the broker of it takes long."""
    broker: Any = Unsettling(yard.broker)
    seen: list[int] = []

    def do(number: int) -> None:
        seen.append(current_context().delivery)

    yard.task(name="do")(do)
    failing = another(broker)
    result = failing.task(name="do", result_ttl=60)(do).enqueue(1)
    with working(failing, lease=2):
        until(lambda: bool(seen))
        with working(yard, lease=2):  # would take it
            until(lambda: broker.renewals >= 4 or len(seen) > 1)  # by then the lease would be over
            broker.settles.set()
            assert result.get(20) is None
    assert seen == [1]
    assert yard.counts()[0].totals.get("lost", 0) == 0


class Late:
    """A broker whose answer to a question for claims takes long.

    Attributes:
        ahead: seconds by which it is later.
        renewed: set when leases were renewed.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.ahead = 0.0
        self.renewed = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        step = yield from self._broker.step(settlements, want)
        self.ahead += 101
        return step

    def extend(self, *args: Any) -> Operation[list[int]]:
        self.renewed.set()
        return self._broker.extend(*args)


def test_the_lease_of_what_comes_late_is_renewed_at_once(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker: Any = Late(yard.broker)
    yard.use(broker)
    monkeypatch.setattr("taskyard.worker.pool.time", broker)
    renewed: list[bool] = []
    # Else that would be in 90 seconds, and the handler does not wait so long.
    yard.task(name="do")(lambda number: renewed.append(broker.renewed.wait(DEADLINE))).enqueue(1)
    yard.run_worker(burst=True, lease=300)
    assert renewed == [True]


class Partial:
    """A broker of which a part cannot be asked for claims when something is settled."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        if not settlements:
            return (yield from self._broker.step([], want))
        step = yield from self._broker.step(settlements, None)
        return Step(step.lost, [], step.now, step.now, partial=True)


def test_a_burst_goes_on_where_not_everywhere_could_be_looked(yard: Yard) -> None:
    broker: Any = Partial(yard.broker)
    yard.use(broker)
    done: list[int] = []
    yard.task(name="do")(done.append).enqueue_many([1, 2, 3])
    yard.run_worker(burst=True, concurrency=1)
    assert sorted(done) == [1, 2, 3]


class Once:
    """A broker that fails once, when something is settled.

    Attributes:
        steps: of each step, how much it settles, and whether it wants claims.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.steps: list[tuple[int, bool]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        self.steps.append((len(settlements), want is not None))
        if settlements and self.steps.count((1, True)) == 1 and self.steps[-1][1]:
            raise BrokerUnavailable("an answer was lost")
        return self._broker.step(settlements, want)


def test_after_a_failure_what_is_done_is_settled_before_more_is_claimed(yard: Yard) -> None:
    """If answers go on being lost, each would cost the claims that it tells of."""
    broker: Any = Once(yard.broker)
    yard.use(broker)
    done: list[int] = []
    yard.task(name="do")(done.append).enqueue_many([1, 2, 3])
    yard.run_worker(burst=True, concurrency=1)
    assert sorted(done) == [1, 2, 3]
    assert broker.steps[:4] == [(0, True), (1, True), (1, False), (0, True)]
    assert yard.counts()[0].totals.get("lost", 0) == 0


class Flaky:
    """A broker that fails for a while."""

    def __init__(self, broker: Broker, error: BrokerError | None = None) -> None:
        self._broker = broker
        self.error = error or BrokerUnavailable("the disk is full")
        self.failures = 0
        self.failed = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def async_driver(self) -> AsyncDriver:
        return FlakyDriver(self, self._broker.async_driver())

    def maybe_fail(self) -> None:
        if self.failures:
            self.failures -= 1
            if not self.failures:
                self.failed.set()
            raise self.error


HOUSEKEEPING = {"attend", "mail", "retire", "reap", "tidy"}


class FlakyDriver:
    def __init__(self, broker: Flaky, driver: AsyncDriver) -> None:
        self._broker = broker
        self._driver = driver

    async def run(self, operation: Operation[Any]) -> Any:
        if operation.__name__ not in HOUSEKEEPING:  # it may come at any time
            try:
                self._broker.maybe_fail()
            except BrokerError:
                operation.close()
                raise
        return await self._driver.run(operation)

    def listener(self) -> Listener:
        return self._driver.listener()

    async def close(self) -> None:
        await self._driver.close()


def test_a_broker_that_fails_for_a_while_costs_nothing(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    flaky = Flaky(yard.broker)
    yard.use(flaky)
    seen: list[int] = []

    @yard.task(name="do")
    def do(number: int) -> int:
        seen.append(current_context().delivery)
        flaky.failures = max(flaky.failures, 1)
        return number

    @yard.task(name="first")
    def first(number: int) -> int:
        return number

    with working(yard):
        assert first.enqueue(0).get(20) == 0
        results = [do.enqueue(number) for number in range(3)]
        assert [result.get(20) for result in results] == [0, 1, 2]
        wait_for(flaky.failed)
    assert seen == [1, 1, 1]
    messages = {record.getMessage() for record in caplog.records}
    assert "the broker failed, trying again in 0.1 s: the disk is full" in messages


def test_a_broker_that_is_away_at_the_start_is_waited_for(yard: Yard) -> None:
    flaky = Flaky(yard.broker)
    yard.use(flaky)
    done: list[int] = []

    @yard.task(name="do")
    def do(number: int) -> None:
        done.append(number)

    do.enqueue(1)
    flaky.failures = 1
    yard.run_worker(burst=True)
    assert done == [1]


def test_a_broker_that_cannot_be_used_at_the_start_is_an_error(yard: Yard) -> None:
    flaky = Flaky(yard.broker, BrokerInaccessible("it is read-only"))
    yard.use(flaky)
    yard.task(name="do")(lambda number: None)
    flaky.failures = 1
    with pytest.raises(BrokerInaccessible, match="read-only"):
        yard.run_worker(burst=True)


def test_a_broken_store_ends_the_worker_with_its_own_error(yard: Yard) -> None:
    flaky = Flaky(yard.broker, CorruptDatabase("the file is damaged"))
    yard.use(flaky)

    def do(number: int) -> None:
        flaky.failures = 1

    yard.task(name="do")(do).enqueue(1)
    with pytest.raises(CorruptDatabase, match="damaged"):
        yard.run_worker(burst=True)


# Logs


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "taskyard")
    return caplog


def test_a_dead_letter_is_logged_with_fields_and_without_payload(
    yard: Yard, logged: pytest.LogCaptureFixture
) -> None:
    @yard.task(name="pay", queue="money", retry=Retry(1, "constant", delay=0))
    def pay(card: str) -> None:
        raise ValueError("declined")

    pay.enqueue("4111-1111", id="order-17")
    yard.run_worker(burst=True)
    (record,) = [record for record in logged.records if record.levelno == logging.ERROR]
    assert record.name == "taskyard.worker"
    assert record.getMessage() == "message order-17 of task pay is dead: failed (ValueError)"
    fields = vars(record)
    assert {name: fields[name] for name in ("message_id", "task", "queue", "reason", "error")} == {
        "message_id": "order-17",
        "task": "pay",
        "queue": "money",
        "reason": "failed",
        "error": "ValueError",
    }
    assert "4111-1111" not in logged.text
    assert "4111-1111" not in repr([vars(record) for record in logged.records])


def test_logs_name_the_attempt(yard: Yard, logged: pytest.LogCaptureFixture) -> None:
    @yard.task(name="pay", retry=Retry(1, "constant", delay=0))
    def pay(card: str) -> None:
        raise ValueError("declined")

    pay.enqueue("4111-1111")
    yard.run_worker(burst=True)
    attempts = [vars(r)["attempt"] for r in logged.records if hasattr(r, "attempt")]
    assert attempts == [1, 2]


def test_start_and_end_are_logged(yard: Yard, logged: pytest.LogCaptureFixture) -> None:
    yard.task(name="do")(lambda number: None).enqueue_many(range(3))
    yard.run_worker(burst=True, concurrency=3)
    texts = [record.getMessage() for record in logged.records]
    assert any(text.endswith("started: 3 slots") for text in texts)
    assert any(text.endswith("ended after 3 messages") for text in texts)


def test_failures_say_so_to_who_waits(yard: Yard) -> None:
    @yard.task(name="do", retry=0)
    def do(number: int) -> int:
        raise ValueError(number)

    with working(yard), pytest.raises(TaskFailed, match="ValueError: 5"):
        do.enqueue(5).get(20)


def test_what_was_not_started_is_given_back_at_once_when_stopped(yard: Yard) -> None:
    began, may_end = threading.Event(), threading.Event()

    @yard.task(name="do")
    def do(number: int) -> None:
        if number == 500:
            began.set()
            may_end.wait(30)

    do.enqueue_many(range(1000))
    with working(yard, concurrency=1) as worker:
        assert began.wait(30)
        worker.stop()
        until(lambda: yard.counts()[0].running <= 1)
        assert yard.counts()[0].waiting == 499
        may_end.set()


def test_what_ended_is_settled_though_the_last_of_its_claim_takes_long(yard: Yard) -> None:
    may_end = threading.Event()

    @yard.task(name="do")
    def do(number: int) -> int:
        if number == 999:
            may_end.wait(30)
        return number

    results = do.enqueue_many(range(1000))
    with working(yard, concurrency=1):
        assert results[998].get(20) == 998
        until(lambda: yard.counts()[0].running == 1)
        may_end.set()
        assert results[999].get(20) == 999


def test_a_handler_sees_that_its_message_was_given_back(yard: Yard) -> None:
    began, given_back = threading.Event(), threading.Event()
    seen = []

    @yard.task(name="do", ordered=True)
    def do(number: int) -> None:
        began.set()
        given_back.wait(30)
        seen.append(current_context().cancelled)

    do.enqueue(1)
    with working(yard, concurrency=1, grace=0) as worker:
        assert began.wait(30)
        worker.stop()
        until(lambda: yard.counts()[0].running == 0)
        given_back.set()
    until(lambda: seen == [True])
