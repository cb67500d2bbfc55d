"""Dramatiq.

At least once, as always. One thread: two, four and eight were no faster when tried, nor was
prefetching fewer. Of the middleware only what tries failed messages again: that was a fifth faster
than with age and time limits, callbacks and pipelines, which no message here has.
"""

from __future__ import annotations

import os
import threading

os.environ["dramatiq_queue_prefetch"] = "1000"  # noqa: SIM112 - its own spelling

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries

from bench.peers.peer import Seen, SyncPeer


class Peer(SyncPeer):
    DISTRIBUTIONS = ("dramatiq", "redis")
    SETTINGS = "at least once, 1 thread, prefetch 1000, only the Retries middleware"
    COUNT = 20_000

    def __init__(self, url: str, seen: Seen) -> None:
        self._broker = RedisBroker(url=url, middleware=[Retries()])

        def one(n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = dramatiq.actor(one, broker=self._broker)

    def enqueue(self, n: int, text: str) -> object:
        return self._one.send(n, text)

    def work(self) -> object:
        dramatiq.Worker(self._broker, worker_threads=1).start()
        return threading.Event().wait()
