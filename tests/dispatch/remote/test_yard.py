"""Calls through a yard's queue, whose results are streamed back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.server import RedisServer
from tests.worker.support import until, working

from taskyard import Yard, run, stream
from taskyard.brokers.cancelling import Cancelled
from taskyard.dispatch.outcome import Status
from taskyard.dispatch.remote.yard import YardEngine
from taskyard.errors import PolicyError, QueueFull, RunFailed
from taskyard.task import Task

LONG = 30.0


@pytest.fixture(params=["memory", "sqlite", "redis"])
def yard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Yard]:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        url = server.url
    else:
        url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/yard.db"}[request.param]
    with Yard(url) as made:
        yield made


def double(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return 2 * number


def test_results_come_back(yard: Yard) -> None:
    task = yard.task(retry=0)(double)
    with working(yard):
        done = run(task, range(2500), on=yard)  # more than are in the queue at a time
    assert (done.counts.completed, done.counts.failed) == (2499, 1)
    assert done.results(default=None) == [None if n == 3 else 2 * n for n in range(2500)]
    [failed] = done.failures()
    assert failed.error is not None
    assert (failed.id, failed.error.summary) == (4, "ValueError: three")
    assert 'raise ValueError("three")' in failed.error.traceback
    assert failed.error.traceback.count("ValueError: three") == 1
    assert (done.info.kind, done.info.function) == ("yard", f"{__name__}:double")
    assert done.report().total == 2500


def test_items_are_taken_as_there_is_room(yard: Yard) -> None:
    task = yard.task(retry=0)(double)
    taken = iter(range(10, 10_000_000))
    with working(yard):
        outcomes = stream(task, taken, on=yard, workers=10, window=20)
        assert [next(outcomes).value % 2 for _ in range(100)] == [0] * 100
        outcomes.close()
    assert next(taken) < 400


def test_a_plan_is_followed(yard: Yard) -> None:
    task = yard.task(retry=0)(double)
    with working(yard):
        done = run(task, range(10, 60), on=yard, rate=200)
    assert done.counts.completed == 50
    for outcome in done.log:
        assert outcome.started >= outcome.planned
        assert outcome.planned == pytest.approx(done.started + (outcome.id - 1) / 200)


def test_unique_messages_answer_all_who_wait(yard: Yard) -> None:
    gate = threading.Event()

    @yard.task(name="index", unique=lambda number: number % 2)
    def index(number: int) -> int:
        assert gate.wait(LONG)
        return number % 2

    with working(yard):
        threading.Timer(0.2, gate.set).start()
        done = run(index, 6, on=yard)
    assert done.results() == [0, 1, 0, 1, 0, 1]


def test_what_is_cancelled_in_the_queue_is_told(yard: Yard) -> None:
    task = yard.task(unique=str)(double)
    outcomes = stream(task, [1], on=yard)
    cancelling = threading.Thread(
        target=lambda: until(lambda: task.cancel(1).outcome is Cancelled.REMOVED)
    )
    cancelling.start()
    assert [outcome.status for outcome in outcomes] == [Status.CANCELLED]
    cancelling.join()


def test_a_run_that_is_left_cancels_what_waits(yard: Yard) -> None:
    task = yard.task(retry=0)(double)
    done = run(task, 5, on=yard, runtime=1.5, grace=0.5)
    assert done.counts.cancelled == 5
    assert all(counts.waiting == 0 for counts in yard.counts())


def test_an_item_that_does_not_fit_fails_alone(yard: Yard) -> None:
    task = yard.task(retry=0)(double)
    with working(yard):
        done = run(task, [1, "x", 2, object()], on=yard)
    assert done.results(default=None) == [2, None, 4, None]
    errors = [outcome.error for outcome in done.failures() if outcome.error]
    assert [error.kind for error in errors] == ["PayloadError", "PayloadError"]


def test_what_is_stored_while_the_run_is_left_is_taken_back(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = yard.task(retry=0)(double)
    stored, left = threading.Event(), threading.Event()
    enqueue, give_up = Task.enqueue_many, YardEngine._give_up

    def enqueued(self: Any, items: Any) -> Any:
        results = enqueue(self, items)
        stored.set()
        assert left.wait(LONG)
        return results

    def given_up(self: Any, status: Status) -> Any:
        assert stored.wait(LONG)
        try:
            return give_up(self, status)
        finally:
            left.set()

    monkeypatch.setattr(Task, "enqueue_many", enqueued)
    monkeypatch.setattr(YardEngine, "_give_up", given_up)
    done = run(task, 5, on=yard, runtime=1, grace=0.1)
    assert done.counts.completed == 0
    assert all(counts.waiting == 0 for counts in yard.counts())


def test_a_full_queue_ends_the_run_with_what_it_has(yard: Yard) -> None:
    task = yard.task(retry=0)(double)
    yard.bound("default", max_length=2, overflow="raise")
    with pytest.raises(RunFailed) as caught:
        run(task, 5, on=yard)
    assert isinstance(caught.value.__cause__, QueueFull)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"retries": 1}, "retries= of a run does not hold for messages"),
        ({"timeout": 1}, "timeout= of a run does not hold for messages"),
        ({"context": True}, "context=True is for calls of this process"),
        ({"kind": "threads"}, "kind='threads' is about this machine"),
    ],
)
def test_what_is_the_tasks_affair_is_refused(options: dict[str, Any], message: str) -> None:
    with Yard("memory://") as yard, pytest.raises(PolicyError, match=message):
        run(yard.task(double), 1, on=yard, **options)


def test_only_a_task_of_the_yard_will_do() -> None:
    with Yard("memory://") as yard, Yard("memory://") as other:
        with pytest.raises(PolicyError, match="runs tasks of that yard"):
            run(double, 1, on=yard)
        with pytest.raises(PolicyError, match="runs tasks of that yard"):
            run(other.task(double), 1, on=yard)

        @yard.task
        def quiet(number: int) -> None: ...

        with pytest.raises(PolicyError, match="'quiet' keeps no results"):
            run(quiet, 1, on=yard)
        with pytest.raises(PolicyError, match="on must be a Yard"):
            run(double, 1, on="redis://localhost")
