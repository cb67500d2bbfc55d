"""The same work through taskyard's public interface, with its default settings.

A `path` is that of an SQLite file, or the URL of a Redis server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.payload import FIRST, TEXT, Item, batches
from taskyard import RateLimit, Task, Yard
from taskyard.bounding import OnOverflow
from taskyard.brokers.base import GroupWant, Want

Seen = Callable[[int], None]


def open_yard(path: str | Path) -> Yard:
    logging.getLogger("taskyard").setLevel(logging.ERROR)
    return Yard(str(path) if "://" in str(path) else f"sqlite:///{path}")


def bound(yard: Yard, max_length: int, overflow: OnOverflow) -> None:
    """Bound the queue, and each of its shards; 0: not at all."""
    if max_length:
        yard.queue("default", max_length=max_length, shard_max_length=max_length, overflow=overflow)


def batch_task(
    yard: Yard,
    seen: Seen,
    *,
    shards: int = 0,
    ordered: bool = False,
    batch: int = 100,
    limited: bool = False,
    unique: bool = False,
) -> Task[..., Any]:
    """A handler of up to so many messages; `limited`: by rate limits that never bind."""

    def rows(items: list[Item]) -> None:
        seen(len(items))

    policy: dict[str, Any] = {"batch": batch}
    if shards:
        policy.update(shard="n", ordered=ordered)
    if limited:
        never = RateLimit(1_000_000, burst=1_000_000)
        policy.update(rate=never, shard_rate=never)
    if unique:
        policy["unique"] = "n"
    task: Task[..., Any] = yard.task(name="rows", **policy)(rows)
    return task


def sync_task(yard: Yard, seen: Seen) -> Task[..., Any]:
    """A handler of one message, in a thread."""

    def one(n: int, text: str) -> None:  # noqa: ARG001
        seen(1)

    return yard.task(name="one")(one)


def async_task(yard: Yard, seen: Seen) -> Task[..., Any]:
    """A handler of one message, on the event loop."""

    async def one(n: int, text: str) -> None:  # noqa: ARG001
        seen(1)

    return yard.task(name="one")(one)


def result_task(yard: Yard, seen: Seen) -> Task[..., Any]:
    """A handler whose results are kept."""

    def one(n: int, text: str) -> int:  # noqa: ARG001
        seen(1)
        return n

    return yard.task(name="one")(one)


KINDS: dict[str, Callable[..., Task[..., Any]]] = {
    "batch": batch_task,
    "sync": sync_task,
    "async": async_task,
    "result": result_task,
}


def _nobody(_: int) -> None: ...


def _store(task: Task[..., Any], parts: Iterable[list[Item]]) -> float:
    began = perf_counter()
    for part in parts:
        task.enqueue_many(part)
    return perf_counter() - began


def put(
    path: str,
    count: int,
    size: int = 100,
    shards: int = 0,
    ordered: bool = False,
    seed: int = 7,
    unique: bool = False,
    max_length: int = 0,
    overflow: OnOverflow = "raise",
) -> dict[str, Any]:
    """Store messages with `enqueue_many`, so many per call."""
    yard = open_yard(path)
    bound(yard, max_length, overflow)
    task = batch_task(yard, _nobody, shards=shards, ordered=ordered, unique=unique)
    task.enqueue_many([Item(FIRST - 1, TEXT)])  # opens the file and declares the task
    seconds = _store(task, batches(count, size, shards, seed))
    yard.close()
    return {"rate": count / seconds, "bytes": body_length()}


def fill(path: str, count: int, shards: int = 0) -> dict[str, Any]:
    """Store messages for others to run, ordered if in shards; fast, since nobody measures it.

    Each shard gets its first message in random order, then shard after shard gets its others.
    """
    yard = open_yard(path)
    task = batch_task(yard, _nobody, shards=shards, ordered=bool(shards))
    parts: Iterable[list[Item]] = batches(count, 1000, shards)
    if shards:
        first = [item for part in batches(shards, 1000, shards) for item in part]
        others = (item for item in first for _ in range(count // shards - 1))
        parts = [first, others]  # type: ignore[list-item]
    _store(task, parts)
    yard.close()
    return {}


def body_length() -> int:
    """The bytes of a message as it is stored, which is the same everywhere."""
    yard = Yard("memory://")
    task = batch_task(yard, _nobody)
    task.enqueue_many([Item(FIRST, TEXT)])
    want = Want([GroupWant(task.group)], owner="bench", lease=1_000_000, drain=True)
    claim = yard.driver.run(yard.broker.step([], want)).claims[0]
    return len(claim.lanes[0].messages[0][1].body)


def put_one_by_one(path: str, count: int) -> dict[str, Any]:
    """Store messages with `enqueue`."""
    yard = open_yard(path)
    task = sync_task(yard, _nobody)
    task.enqueue(FIRST, TEXT)
    began = perf_counter()
    for n in range(FIRST, FIRST + count):
        task.enqueue(n, TEXT)
    seconds = perf_counter() - began
    yard.close()
    return {"rate": count / seconds}


def drain(
    path: str,
    count: int,
    kind: str = "batch",
    batch: int = 100,
    shards: int = 0,
    ordered: bool = False,
    via: str = "",
    limited: bool = False,
    unique: bool = False,
    max_length: int = 0,
) -> dict[str, Any]:
    """Store messages, then time a whole worker that runs them all; `via`: its way to them."""
    handled: list[int] = []
    yard = open_yard(path)
    bound(yard, max_length, "raise")
    more: dict[str, Any] = {}
    if kind == "batch":
        more = {
            "shards": shards,
            "ordered": ordered,
            "batch": batch,
            "limited": limited,
            "unique": unique,
        }
    task = KINDS[kind](yard, handled.append, **more)
    _store(task, batches(count, 100, shards))
    yard.use(via or yard.broker)
    seconds = _worker_seconds(yard)
    assert sum(handled) == count, f"{sum(handled)} of {count} messages were handled"
    return {"rate": count / seconds}


def drain_some(path: str, most: int, shards: int = 0, ordered: bool = False) -> dict[str, Any]:
    """Run up to `most` messages of what waits.

    What a worker takes to start and end without any message is taken off: it would weigh more on
    a short queue than on a long one.
    """
    handled: list[int] = []
    empty = open_yard(f"{path}-empty")
    batch_task(empty, _nobody)
    nothing = min(_worker_seconds(empty) for _ in range(5))
    yard = open_yard(path)
    batch_task(yard, handled.append, shards=shards, ordered=ordered)
    seconds = _worker_seconds(yard, max_messages=most)
    return {"rate": sum(handled) / (seconds - nothing), "messages": sum(handled)}


def _worker_seconds(yard: Yard, **settings: Any) -> float:
    began = perf_counter()
    yard.run_worker(burst=True, **settings)
    return perf_counter() - began
