"""Huey.

A message leaves the server when a worker takes it: at most once. One worker thread: two
and four were no faster when tried. It blocks in Redis, so there is no polling to tune.
"""

from __future__ import annotations

import huey

from bench.peers.peer import Seen, SyncPeer


class Peer(SyncPeer):
    DISTRIBUTIONS = ("huey", "redis")
    SETTINGS = "at most once, 1 thread, no results, no periodic tasks"
    COUNT = 20_000

    def __init__(self, url: str, seen: Seen) -> None:
        self._huey = huey.RedisHuey("bench", url=url, results=False)

        @self._huey.task(name="one")
        def one(n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = one

    def enqueue(self, n: int, text: str) -> object:
        return self._one(n, text)

    def work(self) -> object:
        consumer = self._huey.create_consumer(
            workers=1, periodic=False, check_worker_health=False, scheduler_interval=60
        )
        return consumer.run()
