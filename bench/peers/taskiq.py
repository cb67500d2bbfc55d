"""taskiq, with taskiq-redis.

At least once: its broker on streams, the only one of its plain Redis brokers that
acknowledges. uvloop was a tenth faster when tried; 20 and 500 tasks at once made no difference.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import uvloop
from taskiq.acks import AcknowledgeType
from taskiq.api import run_receiver_task
from taskiq_redis import RedisStreamBroker

from bench.peers.peer import AsyncPeer, Seen


class Peer(AsyncPeer):
    DISTRIBUTIONS = ("taskiq", "taskiq-redis", "redis")
    SETTINGS = "at least once (stream broker), 100 tasks at once, reads 100, no results, uvloop"

    def __init__(self, url: str, seen: Seen) -> None:
        self._broker = RedisStreamBroker(url, xread_count=100)

        async def one(n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = self._broker.register_task(one, task_name="one")

    @staticmethod
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        return uvloop.run(main)

    async def open(self) -> None:
        await self._broker.startup()

    async def close(self) -> None:
        await self._broker.shutdown()

    async def enqueue(self, n: int, text: str) -> object:
        return await self._one.kiq(n, text)

    async def work(self) -> object:
        return await run_receiver_task(
            self._broker,
            max_async_tasks=100,
            max_prefetch=100,
            validate_params=False,
            ack_time=AcknowledgeType.WHEN_EXECUTED,
        )
