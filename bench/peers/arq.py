"""arq.

At least once. It polls, by default twice a second; here every 5 ms, so that pick-up is not half a
second. 100 and 400 jobs at once, and uvloop, were no faster when tried.
"""

from __future__ import annotations

from typing import Any

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker, func

from bench.peers.peer import AsyncPeer, Seen


class Peer(AsyncPeer):
    DISTRIBUTIONS = ("arq", "redis")
    SETTINGS = "at least once, 20 jobs at once, polls every 5 ms, no results"
    _pool: ArqRedis

    def __init__(self, url: str, seen: Seen) -> None:
        self._settings = RedisSettings.from_dsn(url)

        async def one(_context: Any, n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = func(one, name="one")

    async def open(self) -> None:
        self._pool = await create_pool(self._settings)

    async def close(self) -> None:
        await self._pool.aclose()

    async def enqueue(self, n: int, text: str) -> object:
        return await self._pool.enqueue_job("one", n, text)

    async def work(self) -> object:
        worker = Worker(
            [self._one],
            redis_settings=self._settings,
            max_jobs=20,
            poll_delay=0.005,
            keep_result=0,
            log_results=False,
        )
        return await worker.async_run()
