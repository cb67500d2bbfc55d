"""A worker that is told to stop while its broker does not answer."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.worker.support import WorkerThread, wait_for

from taskyard import Yard
from taskyard.brokers.base import Operation
from taskyard.brokers.memory import MemoryBroker


class SilentDriver:
    """Answers until it is told not to; then for no call, and not even its own end."""

    def __init__(self, broker: SilentBroker) -> None:
        self._broker = broker
        self._driver = MemoryBroker.async_driver(broker)

    async def run(self, operation: Operation[Any]) -> Any:
        if self._broker.silent:
            self._broker.asked[operation.__name__].set()
            await asyncio.Event().wait()
        return await self._driver.run(operation)

    def listener(self) -> Any:
        return self._driver.listener()

    async def close(self) -> None:
        if self._broker.silent:
            await asyncio.Event().wait()

    def shut_down(self) -> None:
        self._broker.shut_down.set()


class SilentBroker(MemoryBroker):
    """A broker that may fall silent.

    Attributes:
        silent: whether it has.
        asked: set by the name of an operation, when it is asked in spite of that.
        shut_down: set when nobody waits for it any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.silent = False
        self.asked: dict[str, threading.Event] = defaultdict(threading.Event)
        self.shut_down = threading.Event()

    def async_driver(self) -> Any:
        return SilentDriver(self)


@pytest.fixture
def broker() -> SilentBroker:
    return SilentBroker()


@pytest.fixture
def yard(broker: SilentBroker) -> Yard:
    return Yard(broker)


@contextmanager
def running(yard: Yard, **settings: Any) -> Iterator[WorkerThread]:
    """A worker that ends, or the test fails."""
    thread = WorkerThread(yard, **settings)
    thread.start()
    yield thread
    thread.join()


def test_before_it_has_started(yard: Yard, broker: SilentBroker) -> None:
    yard.task(name="task")(print)
    broker.silent = True
    with running(yard) as thread:
        wait_for(broker.asked["declare"])
        thread.stop()
    wait_for(broker.shut_down)


def test_while_it_asks_for_work(yard: Yard, broker: SilentBroker) -> None:
    task = yard.task(name="task")(lambda: None)
    task.enqueue()
    with running(yard) as thread:
        thread.until(lambda: yard.driver.run(broker.counts())[0].totals["done"] == 1)
        broker.silent = True
        task.enqueue()  # wakes it
        wait_for(broker.asked["step"])
        thread.stop()
    wait_for(broker.shut_down)


@pytest.mark.parametrize("hard", [False, True])
def test_with_results_that_it_cannot_store(
    yard: Yard, broker: SilentBroker, hard: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @yard.task
    def task() -> None:
        broker.silent = True

    task.enqueue()
    with running(yard, grace=600 if hard else 0.1) as thread:
        wait_for(broker.asked["step"])
        thread.stop()
        thread.stop(hard=hard)
    wait_for(broker.shut_down)
    assert "what became of 1 claims is not stored" in caplog.text
