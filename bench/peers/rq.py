"""RQ.

A job that was begun by a worker that died is marked as failed, and not run again: at most once.
SimpleWorker runs jobs in its own process, where the default one forks for each. `result_ttl=0`
removes a job when it is done; a timeout of -1 saves setting an alarm for each.
"""

from __future__ import annotations

import redis
import rq
from rq.serializers import JSONSerializer

from bench.peers.peer import Seen, SyncPeer

_seen: list[Seen] = []


def one(n: int, text: str) -> None:  # noqa: ARG001
    """RQ finds handlers by where they are."""
    _seen[0]()


class Peer(SyncPeer):
    DISTRIBUTIONS = ("rq", "redis")
    SETTINGS = "at most once, SimpleWorker, JSON, no results, no timeout"
    COUNT = 1_500

    def __init__(self, url: str, seen: Seen) -> None:
        _seen[:] = [seen]
        self._connection = redis.Redis.from_url(url)
        self._queue = rq.Queue(connection=self._connection, serializer=JSONSerializer)

    def enqueue(self, n: int, text: str) -> object:
        return self._queue.enqueue(one, n, text, result_ttl=0, job_timeout=-1)

    def work(self) -> object:
        worker = rq.SimpleWorker(
            [self._queue], connection=self._connection, serializer=JSONSerializer
        )
        return worker.work(logging_level="ERROR")
