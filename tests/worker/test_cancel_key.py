"""Cancelling by what was enqueued, where keys are made of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.worker.support import until, working

from taskyard import Batch, Cancelled, State, TaskCancelled, Unique, Yard, current_context
from taskyard.errors import EnqueueError

Call = tuple[Sequence[Any], dict[str, Any]]


def call(*args: Any, **kwargs: Any) -> Call:
    return args, kwargs


def lower(path: str, size: int = 5) -> str:
    return path.lower()


@pytest.mark.parametrize(
    ("unique", "put", "meant", "other"),
    [
        ("path", call("a"), call("a", 9), call("b")),
        (("size", "path"), call("a", 3), call(size=3, path="a"), call("a", 4)),
        (lower, call("A"), call("a"), call("b")),
        (True, call("a"), call(path="a", size=5), call("a", 6)),
        (True, call("a", unique_key=("k", 1)), call(unique_key=("k", 1)), call("a")),
        (None, call("a", unique_key=7), call(unique_key=7), call("a", unique_key=8)),
    ],
    ids=["one", "two", "function", "all", "given", "only given"],
)
def test_the_arguments_say_which_message(
    yard: Yard, unique: Any, put: Call, meant: Call, other: Call
) -> None:
    ran: list[str] = []

    @yard.task(name="index", unique=unique)
    def index(path: str, size: int = 5) -> str:
        ran.append(path)
        return path

    result = index.enqueue(*put[0], **put[1])
    assert index.cancel(*other[0], **other[1]).outcome is Cancelled.UNKNOWN
    assert index.cancel(*meant[0], **meant[1]).outcome is Cancelled.REMOVED
    assert result.status() is State.CANCELLED
    with pytest.raises(TaskCancelled):
        result.get()
    assert index.cancel(*meant[0], **meant[1]).outcome is Cancelled.UNKNOWN
    assert index.enqueue(*put[0], **put[1]).created
    yard.run_worker(burst=True)
    assert ran == [put[0][0]]


async def test_the_same_without_blocking(yard: Yard) -> None:
    @yard.task(name="index", unique="path")
    def index(path: str) -> str:
        return path

    await index.aenqueue("a", delay=60)
    assert (await index.acancel("b")).outcome is Cancelled.UNKNOWN
    assert (await index.acancel("a")).outcome is Cancelled.REMOVED
    await index.aenqueue("a", shard="s")
    assert (await index.options(shard="s").acancel("a")).outcome is Cancelled.REMOVED
    await yard.aclose()


def test_shards_are_made_as_when_it_was_enqueued(yard: Yard) -> None:
    @yard.task(name="index", unique="path", shard="user")
    def index(user: int, path: str) -> str:
        return path

    results = [index.enqueue(1, "a"), index.enqueue(2, "a"), index.enqueue(1, "a", shard="x")]
    assert index.cancel(3, "a").outcome is Cancelled.UNKNOWN
    assert index.cancel(2, path="a").outcome is Cancelled.REMOVED
    assert index.cancel(path="a", shard="x").outcome is Cancelled.REMOVED
    assert index.cancel(unique_key="a", shard=1).outcome is Cancelled.REMOVED
    assert {result.status() for result in results} == {State.CANCELLED}
    with pytest.raises(EnqueueError, match="the shard key 'user' cannot be made"):
        index.cancel(unique_key="a")


def test_elements_of_batches_and_tasks_of_an_order(yard: Yard) -> None:
    @yard.task(name="rows", unique="id", batch=Batch(10, within=60))
    def rows(items: list[dict[str, int]]) -> list[int]:
        return [item["id"] for item in items]

    @yard.task(name="first", unique="user", order="user", shard="user", ordered=True)
    def first(user: int) -> int:
        return user

    @yard.task(name="second", unique="user", order="user", shard="user", ordered=True)
    def second(user: int) -> int:
        return user

    row, *_ = rows.enqueue_many([{"id": 1}, {"id": 2}])
    assert rows.cancel({"id": 1}).outcome is Cancelled.REMOVED
    assert row.status() is State.CANCELLED
    results = [first.enqueue(1), second.enqueue(1)]
    assert second.cancel(1).outcome is Cancelled.REMOVED
    assert [result.status() for result in results] == [State.WAITING, State.CANCELLED]
    remote = yard.remote("first", queue="default", order="user")
    assert remote.cancel(unique_key=1, shard=1).outcome is Cancelled.REMOVED


def test_a_handler_argument_of_that_name_is_one(yard: Yard) -> None:
    @yard.task(name="index", unique="shard")
    def index(shard: str) -> str:
        return shard

    index.enqueue("a")
    assert index.cancel(shard="a").outcome is Cancelled.REMOVED


def test_what_runs_is_told(yard: Yard) -> None:
    started = threading.Event()

    @yard.task(name="index", unique="path")
    def index(path: str) -> str:
        started.set()
        until(lambda: current_context().cancelled, 20)
        current_context().raise_if_cancelled()
        return path

    with working(yard):
        result = index.enqueue("a")
        assert started.wait(20)
        told = index.cancel("a")
        assert told.outcome is Cancelled.TOLD
        assert told.worker
        with pytest.raises(TaskCancelled):
            result.get(timeout=20)
    assert index.enqueue("a").created


@pytest.mark.parametrize("mode", ["window", "debounce"])
def test_windows_and_debounced_messages_begin_anew(yard: Yard, mode: Any) -> None:
    times = {"window": {"window": 60}, "debounce": {"delay": 60}}

    @yard.task(name="index", unique=Unique("path", mode=mode, **times[mode]))
    def index(path: str) -> str:
        return path

    result = index.enqueue("a")
    assert index.cancel("a").outcome is Cancelled.REMOVED
    assert result.status() is State.CANCELLED
    assert index.enqueue("a").created


# Wrong use


def test_a_task_without_keys(yard: Yard) -> None:
    @yard.task(name="plain")
    def plain(path: str) -> str:
        return path

    result = plain.enqueue("a")
    with pytest.raises(
        EnqueueError, match=r"'plain' is not declared as unique.*yard\.cancel\(id\)"
    ):
        plain.cancel("a")
    with pytest.raises(EnqueueError, match="not declared as unique"):
        yard.remote("plain").cancel("a")
    assert result.status() is State.WAITING


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((object(),), {}, "a unique key must be a str, int"),
        ((["a"],), {}, "a unique key must be a str, int"),
        ((), {}, "the unique key 'path' cannot be made of this"),
        (("a",), {"unique_key": {}}, "a unique key must be a str, int"),
        (("a",), {"unique_key": len}, "may be a function only for enqueue_many"),
        (("a",), {"shard": len}, "may be a function only for enqueue_many"),
        (("a",), {"shard": object()}, "a shard key must be"),
        (("a",), {"delay": 5}, "delay= is no part of that"),
        (("a",), {"id": "x"}, r"id= is no part of that.*yard\.cancel\(id\)"),
        (("a",), {"due": datetime.now(UTC)}, "due= is no part of that"),
    ],
)
def test_what_makes_no_key(
    yard: Yard, args: Sequence[Any], options: dict[str, Any], message: str
) -> None:
    @yard.task(name="index", unique="path")
    def index(path: Any) -> str:
        return str(path)

    with pytest.raises(EnqueueError, match=message):
        index.cancel(*args, **options)
