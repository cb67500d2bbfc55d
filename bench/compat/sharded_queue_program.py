"""The same program on the original and on taskyard: it takes whichever its environment has.

Nothing else is imported but the standard library, redis-py and that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from redis.asyncio import Redis  # of each environment

from bench.child import send

package = import_module(
    "sharded_queue" if find_spec("sharded_queue") else "taskyard.compat.sharded_queue"
)
drivers = package  # where the newest version has another module for them
with contextlib.suppress(ModuleNotFoundError):
    drivers = import_module(f"{package.__name__}.drivers")


class _Progress:
    """What the handler tells: how many requests it got."""

    def __init__(self) -> None:
        self.handled = 0
        self.wanted = 0
        self.done = asyncio.Event()


_progress = _Progress()


class NotifyRequest(NamedTuple):
    user_id: int
    threads: int


class NotifyHandler(package.Handler):
    @classmethod
    async def route(cls, *requests: NotifyRequest) -> list[Any]:
        return [package.Route(request.user_id % request.threads, 0) for request in requests]

    async def handle(self, *requests: NotifyRequest) -> None:
        _progress.handled += len(requests)
        if _progress.handled >= _progress.wanted:
            _progress.done.set()


def register(url: str, threads: int, count: int, at_once: int, seconds: float) -> dict[str, Any]:
    """Requests a second that are registered, so many with a call, for so long at most."""
    return asyncio.run(_register(url, threads, count, at_once, seconds))


def drain(url: str, threads: int, count: int, batch: int, seconds: float) -> None:
    """Requests a second that one worker handles, for so long at most; they are there before."""
    asyncio.run(_drain(url, threads, count, batch, seconds))


async def _register(
    url: str, threads: int, count: int, at_once: int, seconds: float
) -> dict[str, Any]:
    redis = Redis.from_url(url, decode_responses=True)
    queue = package.Queue(drivers.RedisStorage(redis))
    await queue.register(NotifyHandler, *[NotifyRequest(n, threads) for n in range(threads)])
    calls = [
        [NotifyRequest(n, threads) for n in range(first, first + at_once)]
        for first in range(0, count, at_once)
    ]
    put, begin = 0, time.perf_counter()
    for requests in calls:
        await queue.register(NotifyHandler, *requests)
        put += len(requests)
        if time.perf_counter() - begin > seconds:
            break
    return {"value": put / (time.perf_counter() - begin), "count": put + threads}


async def _drain(url: str, threads: int, count: int, batch: int, seconds: float) -> None:
    _progress.wanted = count
    redis = Redis.from_url(url, decode_responses=True)
    queue = package.Queue(drivers.RedisStorage(redis))
    for first in range(0, count, 10_000):
        requests = [NotifyRequest(n, threads) for n in range(first, min(first + 10_000, count))]
        await _fill(queue, requests, threads)
    begin = time.perf_counter()
    working = asyncio.create_task(_worker(redis, queue, batch).loop())
    try:
        await asyncio.wait_for(_progress.done.wait(), seconds)
    except TimeoutError:
        if working.done():
            working.result()
    handled = _progress.handled
    send({"value": handled / (time.perf_counter() - begin), "count": handled})
    os._exit(0)  # the original goes on when its loop is cancelled


async def _fill(queue: Any, requests: list[NotifyRequest], threads: int) -> None:
    """Register by thread: the original takes for ever where a call has many threads."""
    for thread in range(threads):
        own = requests[thread::threads]
        for first in range(0, len(own), 1000):
            await queue.register(NotifyHandler, *own[first : first + 1000])


def _worker(redis: Any, queue: Any, batch: int) -> Any:
    if hasattr(package, "WorkerSettings"):  # the newest version
        settings = package.WorkerSettings()
        if batch:
            settings.batch_size = batch
        return package.Worker(drivers.RedisLock(redis), queue, settings=settings)
    if batch:
        package.settings.worker_batch_size = batch
    return package.Worker(drivers.RedisCoordinator(redis), queue)
