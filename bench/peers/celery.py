"""Celery.

At least once: `acks_late`. The solo pool runs handlers where messages are received, without handing
them over; a pool of one thread was no faster when tried, nor was prefetching 1 or 1,000. Prefork
and gevent were not tried. Everything that a worker tells other workers about itself is off.
"""

from __future__ import annotations

import celery

from bench.peers.peer import Seen, SyncPeer


class Peer(SyncPeer):
    DISTRIBUTIONS = ("celery", "kombu", "redis")
    SETTINGS = "at least once (acks late), solo pool, prefetch 100, no results, no events"

    def __init__(self, url: str, seen: Seen) -> None:
        self._app = celery.Celery("bench", broker=url)
        self._app.conf.update(
            broker_connection_retry_on_startup=True,
            task_acks_late=True,
            task_ignore_result=True,
            worker_enable_remote_control=False,
            worker_prefetch_multiplier=100,
            worker_send_task_events=False,
        )

        @self._app.task(name="one")
        def one(n: int, text: str) -> None:  # noqa: ARG001
            seen()

        self._one = one

    def enqueue(self, n: int, text: str) -> object:
        return self._one.delay(n, text)

    def work(self) -> object:
        return self._app.Worker(
            pool="solo",
            loglevel="ERROR",
            quiet=True,
            without_gossip=True,
            without_heartbeat=True,
            without_mingle=True,
        ).start()
