"""taskyard, with a synchronous handler of single messages, and its default settings."""

from __future__ import annotations

from bench.peers.peer import Seen, SyncPeer
from taskyard import Yard


class Peer(SyncPeer):
    DISTRIBUTIONS = ("taskyard", "redis")
    SETTINGS = "at least once, defaults"
    COUNT = 200_000

    def __init__(self, url: str, seen: Seen) -> None:
        self._yard = Yard(url)

        @self._yard.task(name="one")
        def one(n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = one

    def enqueue(self, n: int, text: str) -> object:
        return self._one.enqueue(n, text)

    def fill(self, numbers: range, text: str) -> None:
        self._one.enqueue_many((n, text) for n in numbers)

    def work(self) -> None:
        self._yard.run_worker()
