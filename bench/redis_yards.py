"""What is measured on Redis alone, through taskyard's public interface unless it says otherwise.

A `path` is the URL of the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Any

import redis

from bench.crowd import in_coroutines, in_threads
from bench.payload import FIRST, TEXT, Item, batches
from bench.redis_server import connect, used_memory
from bench.yards import batch_task, body_length, open_yard, sync_task
from taskyard import Task, Yard
from taskyard.brokers.base import GroupWant, Retried, Settlement, Want

HOUR = 3600
BLOCKED = 2 * FIRST
"""The shards from here on are those that are blocked."""
DELAYED = 4 * FIRST
"""And from here on those of delayed messages."""


def _nobody(_: int) -> None: ...


def put_threads(path: str, count: int, threads: int) -> dict[str, Any]:
    """Store messages with `enqueue`, from several threads."""
    yard = open_yard(path)
    task = sync_task(yard, _nobody)

    def put_some(first: int, many: int) -> None:
        for n in range(FIRST + first, FIRST + first + many):
            task.enqueue(n, TEXT)

    put_some(0, 1)
    seconds = in_threads(put_some, count, threads)
    yard.close()
    return {"rate": count / seconds}


def put_coroutines(path: str, count: int, coroutines: int) -> dict[str, Any]:
    """Store messages with `aenqueue`, from several coroutines."""
    yard = open_yard(path)
    task = sync_task(yard, _nobody)

    async def put_some(first: int, many: int) -> None:
        for n in range(FIRST + first, FIRST + first + many):
            await task.aenqueue(n, TEXT)

    async def put() -> float:
        await put_some(0, 1)
        seconds = await in_coroutines(put_some, count, coroutines)
        await yard.aclose()
        return seconds

    return {"rate": count / asyncio.run(put())}


def memory(path: str, count: int, shards: int = 0, delay: float = 0) -> dict[str, Any]:
    """The server's memory per message that waits."""
    yard = open_yard(path)
    task = batch_task(yard, _nobody, shards=shards)
    task.enqueue_many([Item(FIRST - 1, TEXT)], delay=delay)  # the scripts, and what each queue has
    yard.close()
    before = used_memory(path)
    for part in batches(count, 1000, shards):
        task.enqueue_many(part, delay=delay)
    yard.close()
    return {"rate": (used_memory(path) - before) / count, "bytes": body_length()}


def cost(path: str, count: int, shards: int = 0, ordered: bool = False) -> dict[str, Any]:
    """What a message costs the server: calls of scripts, and microseconds of its processor.

    Unlike a rate, that hardly depends on what else runs on the machine.
    """
    handled: list[int] = []
    yard = open_yard(path)
    task = batch_task(yard, handled.append, shards=shards, ordered=ordered)
    with connect(path) as client:

        def spent(work: Callable[[], object]) -> tuple[float, float]:
            client.config_resetstat()
            before = _processor(client)
            work()
            used = _processor(client) - before
            calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            return calls / count, used * 1e6 / count

        def put() -> None:
            for part in batches(count, 100, shards):
                task.enqueue_many(part)
            yard.close()

        put_calls, put_us = spent(put)
        drain_calls, drain_us = spent(lambda: yard.run_worker(burst=True))
    assert sum(handled) == count
    return {
        "put_calls": put_calls, "put_us": put_us, "drain_calls": drain_calls, "drain_us": drain_us
    }  # fmt: skip


def _processor(client: redis.Redis) -> float:
    used = client.info("cpu")
    return float(used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"])


# Beside what cannot be served


def crowd(path: str, lanes: int, delayed: int) -> dict[str, Any]:
    """Store what nobody is given: a message in each of many blocked shards, and delayed ones."""
    yard = open_yard(path)
    task = batch_task(yard, _nobody, shards=1, ordered=True)
    for first in range(0, lanes, 1000):
        task.enqueue_many(Item(BLOCKED + first + n, TEXT) for n in range(min(1000, lanes - first)))
    blocked = _block(yard, task)
    assert blocked == lanes, f"{blocked} of {lanes} shards are blocked"
    for first in range(0, delayed, 1000):  # a thousand in each shard
        same = [Item(DELAYED + first, TEXT)] * min(1000, delayed - first)
        task.enqueue_many(same, delay=HOUR)
    yard.close()
    return {}


def _block(yard: Yard, task: Task[..., Any]) -> int:
    # What a worker does whose handler fails at every head, a hundred times faster.
    want = Want([GroupWant(task.group, 1000)], owner="bench", lease=60_000_000, drain=True)
    settlements: list[Settlement] = []
    blocked = 0
    while True:
        step = yard.driver.run(yard.broker.step(settlements, want))
        if not step.claims:
            return blocked
        settlements = []
        for claim in step.claims:
            messages = [message for lane in claim.lanes for _, message in lane.messages]
            outcomes = {message.sequence: Retried(HOUR * 1_000_000) for message in messages}
            settlements.append(Settlement(claim.token, outcomes=dict(outcomes)))
            blocked += len(messages)


def put_and_drain(path: str, count: int) -> dict[str, Any]:
    """Store messages in one ordered shard, then time a whole worker that runs them."""
    handled: list[int] = []
    yard = open_yard(path)
    task = batch_task(yard, handled.append, shards=1, ordered=True)
    task.enqueue_many([Item(FIRST, TEXT)])
    began = perf_counter()
    for part in batches(count, 100, shards=1):
        task.enqueue_many(part)
    put = perf_counter() - began
    yard.close()
    began = perf_counter()
    yard.run_worker(burst=True)
    drain = perf_counter() - began
    assert sum(handled) == count + 1, f"{sum(handled)} of {count + 1} messages were handled"
    return {"put": count / put, "drain": count / drain}
