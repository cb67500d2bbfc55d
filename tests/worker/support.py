"""What the tests of the worker hold it by: yards on any broker, a clock, workers in threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from taskyard import Yard
from taskyard.brokers.base import Broker
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.scheduling import ScheduleTerms
from taskyard.worker import Worker, WorkerSettings
from taskyard.worker.groups import QueueTerms

Another = Callable[..., Yard]

DEADLINE = 20.0
"""Seconds after which something that must happen will not happen any more."""


class Clock:
    """This machine's clock, put forward by hand."""

    def __init__(self) -> None:
        self._ahead = 0

    def __call__(self) -> int:
        return time.time_ns() // 1000 + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += round(seconds * 1e6)


def memory(folder: Path, clock: Clock) -> Broker:
    return MemoryBroker(clock=clock)


def sqlite(folder: Path, clock: Clock) -> Broker:
    # These tests cut no power; waiting for the disk would only make them slow.
    return SQLiteBroker(folder / "yard.db", synchronous="off", clock=clock)


def redis(url: str, clock: Clock) -> Broker:
    from taskyard.brokers.redis import RedisBroker, parse_url

    # A prefix of its own makes an empty broker of a server that others use too.
    return RedisBroker(parse_url(f"{url}?prefix=worker-{uuid.uuid4().hex}"), clock=clock)


EMBEDDED: dict[str, Callable[[Path, Clock], Broker]] = {"memory": memory, "sqlite": sqlite}


def wait_for(event: threading.Event) -> None:
    assert event.wait(DEADLINE), "it did not happen"


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for something that nobody tells of."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold in time"
        time.sleep(0.005)


def cross(barrier: threading.Barrier) -> None:
    barrier.wait(DEADLINE)


@contextmanager
def working(yard: Yard, **settings: Any) -> Iterator[WorkerThread]:
    """A worker in a thread, which is stopped gracefully in the end."""
    thread = WorkerThread(yard, **settings)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
        thread.join()


class WorkerThread:
    """A worker on an event loop in a thread."""

    def __init__(self, yard: Yard, **settings: Any) -> None:
        self.worker = Worker(
            yard.broker,
            yard.tasks.values(),
            WorkerSettings(**settings),
            progress=self._progressed,
            schedules=ScheduleTerms(yard.plans, yard.owned_schedules),
            queues=QueueTerms(yard.queue_rates, yard.queue_bounds),
            middleware=yard.middleware,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._began = threading.Event()
        self._progress = threading.Condition()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._began.set()
            await self.worker.run()

        try:
            asyncio.run(main())
        except BaseException as error:
            self._error = error
            self._began.set()

    def _progressed(self) -> None:
        with self._progress:
            self._progress.notify_all()

    def start(self) -> None:
        self._thread.start()
        wait_for(self._began)

    def stop(self, *, hard: bool = False) -> None:
        """Tell it to stop; when this returns, it knows."""
        told = threading.Event()

        def tell() -> None:
            self.worker.stop(hard=hard)
            told.set()

        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(tell)
            while self._thread.is_alive() and not told.wait(0.05):
                continue

    def join(self) -> None:
        """Wait for its end; raises what it raised."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "the worker does not end"
        if self._error is not None:
            raise self._error

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true, looking whenever the worker made progress."""
        with self._progress:
            assert self._progress.wait_for(true, DEADLINE), "it did not become true"


class Most:
    """The most calls at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.seen = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.seen = max(self.seen, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1
