"""Middleware in the worker: when each hook is called, with what, and that it can do no harm."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.worker.support import Clock, WorkerThread, wait_for, working

from taskyard import (
    Batch,
    Claimed,
    Context,
    EnqueueCall,
    Middleware,
    Retry,
    Settled,
    SettledMessage,
    State,
    Yard,
    current_context,
    discard,
    retry,
)
from taskyard.message import Reason

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


class Watching(Middleware):
    """Notes everything in the order in which it happens."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.notes: list[Any] = []
        self.claims: list[Claimed] = []
        self.ended: list[SettledMessage] = []
        self.errors: list[type[BaseException] | None] = []
        self.entered = threading.Event()
        self.left = threading.Event()

    @contextmanager
    def enqueue(self, call: EnqueueCall) -> Iterator[None]:
        call.headers["tenant"] = tenant.get()
        self.notes.append("enqueue")
        yield

    def claimed(self, claim: Claimed) -> None:
        self.claims.append(claim)
        self.notes.append("claimed")

    @contextmanager
    def run(self, context: Context) -> Iterator[None]:
        self.notes.append("run")
        self.entered.set()
        try:
            yield
        except BaseException as error:
            self.errors.append(type(error))
            raise
        else:
            self.errors.append(None)
        finally:
            self.notes.append("ran")
            self.left.set()

    def settled(self, settled: Settled) -> None:
        self.ended += settled.messages
        self.notes.append("settled")

    @property
    def states(self) -> list[State]:
        return [message.state for message in self.ended]


@pytest.fixture
def watching(yard: Yard) -> Watching:
    made = Watching()
    yard.use_middleware(made)
    return made


@pytest.mark.parametrize("is_async", [False, True])
def test_the_order_of_the_hooks(yard: Yard, watching: Watching, is_async: bool) -> None:
    def note(number: int) -> None:
        watching.notes.append(number)

    async def anote(number: int) -> None:
        await asyncio.sleep(0)
        watching.notes.append(number)

    task = yard.task(name="note", shard="number")(anote if is_async else note)
    result = task.enqueue(7)
    yard.run_worker(burst=True)
    assert watching.notes == ["enqueue", "claimed", "run", 7, "ran", "settled"]
    [claim], [message] = watching.claims, watching.ended
    assert (claim.queue, claim.task, claim.messages, claim.redelivered) == ("default", "note", 1, 0)
    assert [(one.shard, one.messages, one.flush) for one in claim.batches] == [("7", 1, None)]
    assert claim.oldest >= 0
    assert (message.task, message.shard, message.state) == ("note", "7", State.DONE)
    assert (message.attempt, message.delivery, message.reason) == (1, 1, "")
    assert message.waited is not None
    assert message.waited >= 0
    assert message.seconds is not None
    assert message.seconds >= 0
    assert message.id == result.id


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_is_one_call(yard: Yard, watching: Watching, is_async: bool) -> None:
    def note(numbers: list[int]) -> None:
        watching.notes.append(len(numbers))

    async def anote(numbers: list[int]) -> None:
        watching.notes.append(len(numbers))

    task: Any = yard.task(name="note", batch=Batch(5, within=60))(anote if is_async else note)
    task.enqueue_many(range(5))
    yard.run_worker(burst=True)
    assert watching.notes == ["enqueue", "claimed", "run", 5, "ran", "settled"]
    [claim] = watching.claims
    assert [(one.messages, one.flush) for one in claim.batches] == [(5, "size")]
    assert watching.states == [State.DONE] * 5


def test_each_call_of_a_search_is_told(yard: Yard, watching: Watching) -> None:
    @yard.task(name="note", batch=4, retry=None)
    def note(numbers: list[int]) -> None:
        if 3 in numbers:
            raise ValueError

    note.enqueue_many(range(4))
    yard.run_worker(burst=True)
    assert watching.errors.count(ValueError) >= 2
    assert None in watching.errors
    assert sorted(watching.states) == [State.DONE] * 3 + [State.RETRYING]


@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_middleware_sets_is_seen_by_its_handler_alone(yard: Yard, is_async: bool) -> None:
    class Tenants(Watching):
        @contextmanager
        def run(self, context: Context) -> Iterator[None]:
            assert tenant.get() == "nobody"
            token = tenant.set(context.message.headers["tenant"])
            yield
            tenant.reset(token)  # in the same context

    middleware = Tenants()
    yard.use_middleware(middleware)
    seen: list[str] = []

    def note() -> None:
        seen.append(tenant.get())

    async def anote() -> None:
        await asyncio.sleep(0)
        seen.append(tenant.get())

    task = yard.task(name="note")(anote if is_async else note)
    for name in ("a", "b"):
        variables = contextvars.copy_context()
        variables.run(tenant.set, name)
        variables.run(task.enqueue)
    yard.run_worker(burst=True, concurrency=1)
    assert seen == ["a", "b"]
    assert middleware.states == [State.DONE] * 2


def test_sync_handlers_are_wrapped_in_their_thread(yard: Yard) -> None:
    threads: list[str] = []

    class Threads(Middleware):
        @contextmanager
        def run(self, context: Context) -> Iterator[None]:
            threads.append(threading.current_thread().name)
            yield

    yard.use_middleware(Threads())

    @yard.task(name="note")
    def note() -> None:
        threads.append(threading.current_thread().name)

    note.enqueue()
    yard.run_worker(burst=True)
    assert threads[0] == threads[1]
    assert threads[0].startswith("taskyard-handler")


def test_the_first_one_is_the_outermost(yard: Yard) -> None:
    notes: list[Any] = []

    class Named(Middleware):
        def __init__(self, name: str) -> None:
            self.name = name

        @contextmanager
        def run(self, context: Context) -> Iterator[None]:
            notes.append(self.name)
            yield
            notes.append(self.name.upper())

    yard.use_middleware(Named("a"))
    yard.use_middleware(Named("b"))

    @yard.task(name="note")
    def note() -> None:
        notes.append(0)

    note.enqueue()
    yard.run_worker(burst=True)
    assert notes == ["a", "b", 0, "B", "A"]


# What becomes of messages


def test_retries_and_a_dead_letter(yard: Yard, watching: Watching, clock: Clock) -> None:
    @yard.task(name="fail", retry=Retry(1, "constant", delay=60, jitter=0))
    def fail() -> None:
        raise ValueError

    fail.enqueue()
    yard.run_worker(burst=True)
    clock.forward(61)
    yard.run_worker(burst=True)
    retried, dead = watching.ended
    assert (retried.state, retried.delay, retried.attempt) == (State.RETRYING, 60, 1)
    assert (dead.state, dead.reason, dead.attempt, dead.delivery) == (
        State.DEAD,
        Reason.FAILED,
        2,
        2,
    )
    assert [claim.redelivered for claim in watching.claims] == [0, 1]
    assert watching.claims[1].oldest > 60
    assert watching.errors == [ValueError, ValueError]


def test_verdicts(yard: Yard, watching: Watching) -> None:
    @yard.task(name="decide")
    def decide(what: str) -> None:
        if what == "discard":
            discard()
        retry(60)

    decide.enqueue("discard")
    yard.run_worker(burst=True)
    decide.enqueue("retry")
    yard.run_worker(burst=True)
    assert watching.states == [State.DISCARDED, State.RETRYING]
    assert watching.ended[1].delay == 60


def test_messages_that_never_ran(yard: Yard, watching: Watching, clock: Clock) -> None:
    @yard.task(name="note", expires=60)
    def note() -> None: ...

    note.enqueue()
    clock.forward(61)
    yard.run_worker(burst=True)
    [message] = watching.ended
    assert (message.state, message.reason) == (State.DEAD, Reason.EXPIRED)
    assert message.waited is None
    assert message.seconds is None
    assert "run" not in watching.notes


@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_is_the_error_of_the_call(yard: Yard, watching: Watching, is_async: bool) -> None:
    def slow() -> None:
        while not current_context().timed_out:
            threading.Event().wait(0.005)

    async def aslow() -> None:
        await asyncio.Event().wait()

    task = yard.task(name="slow", timeout=0.05, retry=0)(aslow if is_async else slow)
    task.enqueue()
    yard.run_worker(burst=True)
    assert [error and error.__name__ for error in watching.errors] == ["HandlerTimeout"]
    assert [message.reason for message in watching.ended] == [Reason.TIMEOUT]


def test_tasks_of_an_order_are_told_apart(yard: Yard, watching: Watching) -> None:
    seen: list[Any] = []

    @yard.task(name="first", order="both", ordered=True, shard="key")
    def first(key: str) -> None:
        seen.append(("first", current_context().message.headers))

    @yard.task(name="second", order="both", ordered=True, shard="key")
    def second(key: str) -> None:
        seen.append(("second", current_context().message.headers))

    first.enqueue("a")
    second.enqueue("a")
    yard.run_worker(burst=True)
    assert seen == [("first", {"tenant": "nobody"}), ("second", {"tenant": "nobody"})]
    assert [(one.task, one.shard) for one in watching.ended] == [("first", "a"), ("second", "a")]
    assert {claim.task for claim in watching.claims} == {"order:both"}


def test_a_dead_letter_keeps_its_headers(yard: Yard, watching: Watching) -> None:
    seen: list[Any] = []

    @yard.task(name="note", retry=0, result_ttl=60)
    def note() -> None:
        seen.append(dict(current_context().message.headers))
        if len(seen) == 1:
            raise ValueError

    result = note.enqueue()
    yard.run_worker(burst=True)
    assert [letter.id for letter in yard.dead.list()] == [result.id]
    assert yard.dead.retry() == 1
    yard.run_worker(burst=True)
    assert seen == [{"tenant": "nobody"}] * 2


def test_what_is_handed_back_is_done_once(yard: Yard, watching: Watching) -> None:
    all_fast, seen = threading.Event(), []

    @yard.task(name="work")
    def work(what: str) -> None:
        if what == "slow":
            wait_for(all_fast)  # other slots must get what was claimed with this one
        seen.append(what)
        if len(seen) == 200:
            all_fast.set()

    ids = work.enqueue_many(["fast"] * 100 + ["slow"] + ["fast"] * 100)
    yard.run_worker(burst=True, concurrency=2)
    done = [message.id for message in watching.ended if message.state is State.DONE]
    assert sorted(done) == sorted(result.id for result in ids)
    given_back = [message for message in watching.ended if message.state is not State.DONE]
    assert {message.state for message in given_back} <= {State.WAITING}
    assert all(message.seconds is None for message in given_back)


def test_a_handler_that_is_cancelled(yard: Yard, watching: Watching) -> None:
    @yard.task(name="wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    wait.enqueue()
    worker = WorkerThread(yard)
    worker.start()
    wait_for(watching.entered)
    worker.stop(hard=True)
    worker.join()
    assert watching.errors == [asyncio.CancelledError]
    [message] = watching.ended
    assert message.state is State.WAITING


def test_a_sync_handler_that_is_left_alone(yard: Yard, watching: Watching) -> None:
    go_on = threading.Event()

    @yard.task(name="wait")
    def wait() -> None:
        wait_for(go_on)

    wait.enqueue()
    worker = WorkerThread(yard, slice=0.05)
    worker.start()
    wait_for(watching.entered)
    worker.stop(hard=True)
    worker.join()
    assert watching.states == [State.WAITING]
    go_on.set()
    wait_for(watching.left)
    assert watching.states == [State.WAITING]  # nothing more is told of it


def test_a_lost_claim_is_not_told_as_settled(yard: Yard, watching: Watching, clock: Clock) -> None:
    started, go_on = threading.Event(), threading.Event()

    @yard.task(name="wait")
    def wait() -> None:
        started.set()
        wait_for(go_on)

    wait.enqueue()
    with working(yard, concurrency=1, lease=30, grace=60) as worker:
        wait_for(started)
        clock.forward(31)
        yard.driver.run(yard.broker.reap())
        worker.stop()
        go_on.set()
        worker.join()
    assert "ran" in watching.notes
    [counts] = yard.counts()
    assert counts.totals["lost"] == 1
    assert watching.ended == []


# Errors


class Failing(Middleware):
    """Fails in a worker wherever it can."""

    def __init__(self, error: type[BaseException], leaving: bool = False) -> None:
        self.error = error
        self.leaving = leaving
        self.calls: list[str] = []

    def claimed(self, claim: Claimed) -> None:
        self.calls.append("claimed")
        raise self.error("claimed")

    @contextmanager
    def run(self, context: Context) -> Iterator[None]:
        self.calls.append("run")
        if not self.leaving:
            raise self.error("run")
        try:
            yield
        finally:
            raise self.error("run")

    def settled(self, settled: Settled) -> None:
        self.calls.append("settled")
        raise self.error("settled")


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit, asyncio.CancelledError])
def test_errors_are_logged_once_and_lose_nothing(
    yard: Yard,
    error: type[BaseException],
    leaving: bool,
    is_async: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing, behind = Failing(error, leaving), Watching()
    yard.use_middleware(failing)
    yard.use_middleware(behind)
    ran: list[int] = []

    def note(number: int) -> int:
        ran.append(number)
        if number == 3:
            raise ValueError
        return number

    async def anote(number: int) -> int:
        return note(number)

    task: Any = yard.task(name="note", retry=0)(anote if is_async else note)
    with caplog.at_level(logging.ERROR, "taskyard.middleware"):
        results = task.enqueue_many(range(4))
        yard.run_worker(burst=True, concurrency=1)
    assert sorted(ran) == [0, 1, 2, 3]
    assert [results[index].status() for index in range(4)] == [State.DONE] * 3 + [State.DEAD]
    # Those behind a call that takes its time may be given back, and are claimed once more.
    ended = [state for state in behind.states if state is not State.WAITING]
    assert sorted(ended) == [State.DEAD] + [State.DONE] * 3
    assert behind.errors.count(ValueError) == 1
    assert set(failing.calls) == {"claimed", "run", "settled"}
    texts = [r.getMessage() for r in caplog.records if r.name == "taskyard.middleware"]
    assert sorted(text.partition(";")[0] for text in texts) == [
        f"a middleware failed in {hook}()" for hook in ("claimed", "run", "settled")
    ]


def test_a_middleware_cannot_hide_a_handlers_error(yard: Yard) -> None:
    class Hiding(Middleware):
        def run(self, context: Context) -> Any:
            class Manager:
                def __enter__(self) -> None: ...

                def __exit__(self, *_: Any) -> bool:
                    return True

            return Manager()

    yard.use_middleware(Hiding())

    @yard.task(name="fail", retry=0)
    def fail() -> None:
        raise ValueError

    fail.enqueue()
    yard.run_worker(burst=True)
    assert [letter.failure.kind for letter in yard.dead.list()] == ["ValueError"]


def test_a_middleware_that_overrides_nothing_costs_nothing(yard: Yard) -> None:
    yard.use_middleware(Middleware())
    yard.task(name="note")(lambda: None)
    assert WorkerThread(yard).worker.hooks is None
