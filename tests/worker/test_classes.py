"""Handler classes: their life cycle, and what follows when a part of it fails."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from tests.worker.support import wait_for, working

from taskyard import Handler, State, TaskFailed, Yard


class Log:
    """What happened, by instance."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.stopped = threading.Event()

    def of(self, shard: str) -> list[str]:
        return [event for event in self.events if event.endswith(f":{shard}")]


def sync_class(log: Log) -> type[Handler[str]]:
    class Sync(Handler[str]):
        @classmethod
        def create(cls) -> Sync:
            log.events.append("create")
            return cls()

        def start(self) -> None:
            log.events.append("start")

        def handle(self, message: str) -> str:
            log.events.append(f"handle {message}")
            return message

        def stop(self) -> None:
            log.events.append("stop")
            log.stopped.set()

    return Sync


def async_class(log: Log) -> type[Handler[str]]:
    class Async(Handler[str]):
        @classmethod
        async def create(cls) -> Async:
            await asyncio.sleep(0)
            log.events.append("create")
            return cls()

        async def start(self) -> None:
            await asyncio.sleep(0)
            log.events.append("start")

        async def handle(self, message: str) -> str:
            await asyncio.sleep(0)
            log.events.append(f"handle {message}")
            return message

        async def stop(self) -> None:
            await asyncio.sleep(0)
            log.events.append("stop")
            log.stopped.set()

    return Async


def mixed_class(log: Log) -> type[Handler[str]]:
    """An async life around a synchronous handle()."""

    class Mixed(Handler[str]):
        @classmethod
        async def create(cls) -> Mixed:
            log.events.append("create")
            return cls()

        async def start(self) -> None:
            log.events.append("start")

        def handle(self, message: str) -> str:
            log.events.append(f"handle {message}")
            return message

        async def stop(self) -> None:
            log.events.append("stop")
            log.stopped.set()

    return Mixed


@pytest.mark.parametrize("make", [sync_class, async_class, mixed_class])
def test_the_life_of_an_instance(yard: Yard, make: Any) -> None:
    log = Log()
    task = yard.task(name="class", ordered=True, shard=lambda message: "one")(make(log))
    results = list(task.enqueue_many(["a", "b", "c"]))
    yard.run_worker(burst=True)
    assert log.events == ["create", "start", "handle a", "handle b", "handle c", "stop"]
    assert [result.get(0) for result in results] == ["a", "b", "c"]


def test_the_default_life_is_an_instance_without_arguments(yard: Yard) -> None:
    class Plain(Handler[int]):
        def handle(self, number: int) -> int:
            return number + 1

    result = yard.task(name="plain")(Plain).enqueue(1)
    yard.run_worker(burst=True)
    assert result.get(0) == 2


def test_an_instance_per_shard(yard: Yard) -> None:
    seen: dict[str, set[int]] = {}
    made = []

    class Counting(Handler[str]):
        def __init__(self) -> None:
            made.append(self)

        def handle(self, shard: str) -> None:
            seen.setdefault(shard, set()).add(id(self))

    task = yard.task(name="counting", shard=lambda shard: shard, ordered=True)(Counting)
    task.enqueue_many(["a", "b", "c", "a", "b", "a"] * 20)
    yard.run_worker(burst=True)
    assert {shard: len(instances) for shard, instances in seen.items()} == {"a": 1, "b": 1, "c": 1}
    assert len(made) == 3


@pytest.mark.parametrize("make", [sync_class, async_class])
def test_an_instance_is_kept_while_messages_keep_coming(yard: Yard, make: Any) -> None:
    log = Log()
    task = yard.task(name="class", linger=60)(make(log))
    with working(yard):
        for number in range(5):
            task.enqueue(str(number)).get(20)
        assert log.events == ["create", "start", *(f"handle {number}" for number in range(5))]
    assert log.events[-1] == "stop"
    assert log.events.count("stop") == 1


def test_an_instance_is_stopped_after_it_lingered(yard: Yard) -> None:
    log = Log()
    task = yard.task(name="class", linger=0.01)(sync_class(log))
    with working(yard):
        task.enqueue("a").get(20)
        wait_for(log.stopped)
        log.stopped.clear()
        task.enqueue("b").get(20)
        wait_for(log.stopped)
    assert log.events == [
        "create",
        "start",
        "handle a",
        "stop",
        "create",
        "start",
        "handle b",
        "stop",
    ]


def test_batches_in_a_class(yard: Yard) -> None:
    calls: list[list[int]] = []

    class Saver(Handler[list[int]]):
        def handle(self, numbers: list[int]) -> list[int]:
            calls.append(numbers)
            return [number * 2 for number in numbers]

    results = yard.task(name="saver", batch=3)(Saver).enqueue_many(range(7))
    yard.run_worker(burst=True, concurrency=1)
    assert calls == [[0, 1, 2], [3, 4, 5], [6]]
    assert [result.get(0) for result in results] == [number * 2 for number in range(7)]


@pytest.mark.parametrize("part", ["create", "start"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    "kind", [OSError, SystemExit, asyncio.CancelledError], ids=lambda kind: kind.__name__
)
def test_an_error_while_starting_fails_the_messages_and_is_tried_again(
    yard: Yard, part: str, is_async: bool, kind: type[BaseException]
) -> None:
    broken = {part}
    events: list[str] = []

    def happens(what: str) -> None:
        events.append(what)
        if what in broken:
            raise kind("no connection")

    class Sync(Handler[int]):
        @classmethod
        def create(cls) -> Sync:
            happens("create")
            return cls()

        def start(self) -> None:
            happens("start")

        def handle(self, number: int) -> int:
            return number

    class Async(Handler[int]):
        @classmethod
        async def create(cls) -> Async:
            happens("create")
            return cls()

        async def start(self) -> None:
            happens("start")

        async def handle(self, number: int) -> int:
            return number

    task = yard.task(name="class", retry=0)(Async if is_async else Sync)
    first = task.enqueue(1)
    yard.run_worker(burst=True)
    with pytest.raises(TaskFailed) as failed:
        first.get(0)
    failure = failed.value.failure
    assert failure.kind.rpartition(".")[2] == kind.__name__
    assert "in happens" in failure.traceback
    assert "taskyard/worker" not in failure.traceback
    assert "concurrent/futures" not in failure.traceback
    broken.clear()
    second = task.enqueue(2)
    yard.run_worker(burst=True)
    assert second.get(0) == 2


def test_an_error_while_starting_is_retried_by_the_policy(yard: Yard) -> None:
    from taskyard import Retry

    tries = []

    class Late(Handler[int]):
        def start(self) -> None:
            tries.append(1)
            if len(tries) < 3:
                raise ConnectionError

        def handle(self, number: int) -> int:
            return number

    result = yard.task(name="late", retry=Retry(5, "constant", delay=0))(Late).enqueue(1)
    yard.run_worker(burst=True)
    assert result.get(0) == 1
    assert len(tries) == 3


@pytest.mark.parametrize("made", [None, 5, "handler"])
def test_a_create_that_makes_no_handler(yard: Yard, made: Any) -> None:
    class Forgetful(Handler[int]):
        @classmethod
        def create(cls) -> Any:
            return made

        def handle(self, number: int) -> int:
            return number

    result = yard.task(name="forgetful", retry=0)(Forgetful).enqueue(1)
    yard.run_worker(burst=True)
    with pytest.raises(TaskFailed, match=r"create\(\) returned"):
        result.get(0)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_error_while_stopping_is_logged(
    yard: Yard, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Sync(Handler[int]):
        def handle(self, number: int) -> int:
            return number

        def stop(self) -> None:
            raise OSError("cannot flush")

    class Async(Handler[int]):
        async def handle(self, number: int) -> int:
            return number

        async def stop(self) -> None:
            raise OSError("cannot flush")

    result = yard.task(name="class")(Async if is_async else Sync).enqueue(1)
    yard.run_worker(burst=True)
    assert result.status() is State.DONE
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == "stop() of a handler of task class raised"
    assert "cannot flush" in str(record.exc_info and record.exc_info[1])


def test_an_instance_outlives_a_failed_message(yard: Yard) -> None:
    log = Log()

    class Failing(sync_class(log)):  # type: ignore[misc]
        def handle(self, message: str) -> str:
            super().handle(message)
            if message == "bad":
                raise ValueError
            return message

    task = yard.task(name="class", retry=0)(Failing)
    task.enqueue_many(["a", "bad", "b"])
    yard.run_worker(burst=True, concurrency=1)
    assert log.events == ["create", "start", "handle a", "handle bad", "handle b", "stop"]
