"""What is measured beside much that waits: a small tenant, an idle worker.

A `path` is that of an SQLite file, or the URL of a Redis server.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, NamedTuple

from bench.payload import TEXT
from bench.redis_server import connect
from bench.yards import open_yard
from taskyard import Task, Yard, every

FEW = 10
BUSY = 1_000
"""The large tenant's messages that are done before the small one puts its own."""
DAY = 86_400.0
SETTLING = 2.0
"""Seconds that a worker gets to start."""


class Order(NamedTuple):
    """What a handler gets."""

    tenant: str
    text: str


class Tenants:
    """Two tenants of one worker: when the messages of the small one are done.

    Arguments:
        yard: where they wait.
        batch: messages of a handler call; 1: the handler takes single ones.
    """

    def __init__(self, yard: Yard, batch: int) -> None:
        self._yard = yard
        self._large = self._small = 0
        self._put_at = 0.0
        self._large_at_put = 0
        self.seconds = 0.0
        self.others = 0
        self.task: Task[..., Any]
        if batch > 1:
            self.task = yard.task(name="work", shard="tenant", batch=batch)(self.work_many)
        else:
            self.task = yard.task(name="work", shard="tenant")(self.work)

    def work(self, tenant: str, text: str) -> None:  # noqa: ARG002
        """Handle one message."""
        if tenant == "small":
            self._small += 1
            if self._small == FEW:
                self.seconds = time.perf_counter() - self._put_at
                self.others = self._large - self._large_at_put
                os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._large += 1
            if self._large == BUSY:
                threading.Thread(target=self._put_few).start()

    def work_many(self, orders: list[Order]) -> None:
        """Handle a batch."""
        for order in orders:
            self.work(*order)

    def _put_few(self) -> None:
        self._large_at_put = self._large
        self._put_at = time.perf_counter()
        self.task.enqueue_many([Order("small", TEXT)] * FEW)


def tenants(path: str, count: int, batch: int = 1) -> dict[str, Any]:
    """How long ten messages take from their put to the end of the last, while a worker is busy
    with many of another tenant; and how many of those it does meanwhile."""
    yard = open_yard(path)
    found = Tenants(yard, batch)
    for _ in range(0, count, 1000):
        found.task.enqueue_many([Order("large", TEXT)] * 1000)
    yard.run_worker()
    return {"seconds": found.seconds, "others": found.others}


def fill(path: str, delayed: int, schedules: int) -> dict[str, Any]:
    """Store what is for later."""
    yard = open_yard(path)
    task = _later(yard)
    for first in range(0, delayed, 1000):
        task.enqueue_many(range(min(1000, delayed - first)), delay=DAY + first)
    for number in range(schedules):
        yard.schedules.add(task, number, when=every(1000 * DAY), name=f"s{number}")
    yard.close()
    return {}


def _later(yard: Yard) -> Task[..., Any]:
    def later(number: int) -> None: ...

    return yard.task(name="later")(later)


def idle(path: str, seconds: float) -> dict[str, Any]:
    """The share of a core that a worker takes which has nothing to do; and its server, if any."""
    yard = open_yard(path)
    _later(yard).enqueue(0)
    yard.close()
    shares: dict[str, float] = {}

    def watch() -> None:
        time.sleep(SETTLING)
        began, server = time.process_time(), _server_time(path)
        time.sleep(seconds)
        shares["share"] = (time.process_time() - began) / seconds
        shares["server"] = (_server_time(path) - server) / seconds
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    yard.run_worker()
    return shares


def _server_time(path: str) -> float:
    if "://" not in path:
        return 0.0
    with connect(path) as client:
        used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])
