"""SAQ.

At least once: a sweep finds jobs whose worker died, when their timeout is over, and three tries let
it run them again. `ttl=-1` keeps nothing of a done job. 4, 30 and 100 at once were no faster
when tried; uvloop was.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import saq
import uvloop

from bench.peers.peer import AsyncPeer, Seen


class Peer(AsyncPeer):
    DISTRIBUTIONS = ("saq", "redis")
    SETTINGS = "at least once (sweep), 10 at once, no results, uvloop"

    def __init__(self, url: str, seen: Seen) -> None:
        self._queue = saq.Queue.from_url(url, name="bench")

        async def one(_context: Any, *, n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = one

    @staticmethod
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        return uvloop.run(main)

    async def open(self) -> None:
        await self._queue.connect()

    async def close(self) -> None:
        await self._queue.disconnect()

    async def enqueue(self, n: int, text: str) -> object:
        return await self._queue.enqueue("one", n=n, text=text, ttl=-1, retries=3)

    async def work(self) -> object:
        worker: saq.Worker[Any] = saq.Worker(
            self._queue, functions=[("one", self._one)], concurrency=10
        )
        return await worker.start()
