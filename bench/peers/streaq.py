"""streaQ.

At least once. Results cannot be turned off, but `ttl=0` stores none. 16 and 400 at once, and
the default event loop, were no faster when tried.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

import streaq
import uvloop

from bench.peers.peer import AsyncPeer, Seen


class Peer(AsyncPeer):
    DISTRIBUTIONS = ("streaq", "coredis")
    SETTINGS = "at least once, 100 at once, prefetch 100, no results, uvloop"
    COUNT = 3_000

    def __init__(self, url: str, seen: Seen) -> None:
        self._worker: streaq.Worker[None] = streaq.Worker(
            redis_url=url, queue_name="bench", concurrency=100, prefetch=100, handle_signals=False
        )
        self._stack = AsyncExitStack()

        async def one(n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = self._worker.task(ttl=0, name="one", silent=True)(one)

    @staticmethod
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        return uvloop.run(main)

    async def open(self) -> None:
        await self._stack.enter_async_context(self._worker)

    async def close(self) -> None:
        await self._stack.aclose()

    async def enqueue(self, n: int, text: str) -> object:
        return await self._one.enqueue(n, text)

    async def work(self) -> object:
        await self._stack.aclose()  # the worker connects by itself
        return await self._worker.run_async()
