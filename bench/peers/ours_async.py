"""taskyard, with an asynchronous handler of single messages, and its default settings."""

from __future__ import annotations

from bench.peers.peer import AsyncPeer, Seen
from taskyard import Yard
from taskyard.worker import Worker, WorkerSettings


class Peer(AsyncPeer):
    DISTRIBUTIONS = ("taskyard", "redis")
    SETTINGS = "at least once, defaults"
    COUNT = 200_000

    def __init__(self, url: str, seen: Seen) -> None:
        self._yard = Yard(url)

        @self._yard.task(name="one")
        async def one(n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = one

    async def open(self) -> None:
        """It connects when it is first used."""

    async def close(self) -> None:
        await self._yard.aclose()

    async def enqueue(self, n: int, text: str) -> object:
        return await self._one.aenqueue(n, text)

    async def fill(self, numbers: range, text: str) -> None:
        await self._one.aenqueue_many((n, text) for n in numbers)

    async def work(self) -> None:
        worker = Worker(self._yard.broker, self._yard.tasks.values(), WorkerSettings())
        await worker.run()
