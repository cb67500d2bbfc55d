"""Running operations on a connection: from any thread, or from an event loop."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from sqlite3 import Connection
from typing import Any, Generic, TypeAlias, TypeVar

from taskyard.brokers.base import Operation
from taskyard.brokers.sqlite.database import Database, Settings
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.wakeup import Doorbell, Doorbells

__all__ = ["Read", "SQLiteAsyncDriver", "SQLiteDriver", "Write"]

T = TypeVar("T")

SLOW_POLL = 0.25
"""Seconds between looks at the file's version, for wake-ups that did not arrive."""


class Write(Generic[T]):
    """A step that is one write transaction."""

    __slots__ = ("step",)

    def __init__(self, step: Callable[[Transaction], T]) -> None:
        self.step = step

    def on(self, database: Database) -> T:
        """Run it."""
        return database.write(self.step)


class Read(Generic[T]):
    """A step that reads one consistent view."""

    __slots__ = ("step",)

    def __init__(self, step: Callable[[Connection], T]) -> None:
        self.step = step

    def on(self, database: Database) -> T:
        """Run it."""
        return database.read(self.step)


AnyStep: TypeAlias = Write[Any] | Read[Any]


class _Runner:
    """Runs operations on a connection that is opened when needed, and again after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._pid = 0
        self._abandoned: list[Database] = []

    def database(self) -> Database:
        if self._pid != os.getpid():
            if self._database is not None:
                self._database.abandon()
                self._abandoned.append(self._database)  # garbage collection would close it
            self._database = None
            self._pid = os.getpid()
        if self._database is None:
            self._database = Database(self._settings)
        return self._database

    def run(self, operation: Operation[T]) -> T:
        reply: Any = None
        try:
            step: AnyStep = next(operation)
            while True:
                try:
                    reply = step.on(self.database())
                except BaseException as error:  # noqa: BLE001 - the operation decides
                    step = operation.throw(error)
                else:
                    step = operation.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    def version(self) -> int:
        return self.database().version()

    def close(self) -> None:
        if self._database is not None and self._pid == os.getpid():
            self._database.close()
        self._database = None


class SQLiteDriver:
    """Runs operations in the calling thread, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner = _Runner(settings)
        self._lock = threading.Lock()
        # A fork copies a lock that another thread may hold just then, and never releases there.
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()

    def run(self, operation: Operation[T]) -> T:
        """See `Driver.run`."""
        with self._lock:
            return self._runner.run(operation)

    def listener(self) -> SQLiteListener:
        """See `Driver.listener`."""
        return SQLiteListener(self._settings, self._version, None)

    def _version(self) -> int:
        with self._lock:
            return self._runner.version()

    def close(self) -> None:
        """See `Driver.close`."""
        with self._lock:
            self._runner.close()


class SQLiteAsyncDriver:
    """Runs whole operations in one thread of its own.

    A hop to the thread for every statement would cost five times as much, and hold the write
    lock while the loop does something else.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner = _Runner(settings)
        self._thread = ThreadPoolExecutor(1, "taskyard-sqlite")

    async def run(self, operation: Operation[T]) -> T:
        """See `AsyncDriver.run`."""
        loop = asyncio.get_running_loop()
        # A cancelled await leaves the thread alone: the transaction ends by itself.
        return await loop.run_in_executor(self._thread, self._runner.run, operation)

    def listener(self) -> SQLiteListener:
        """See `AsyncDriver.listener`."""
        return SQLiteListener(self._settings, self._runner.version, self._thread)

    async def close(self) -> None:
        """See `AsyncDriver.close`."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._runner.close)
        self._thread.shutdown()


class SQLiteListener:
    """Sleeps at a socket, and looks at the file's version now and then.

    `version` must ask the connection that runs the operations: only the writes of others
    change it then.
    """

    def __init__(
        self,
        settings: Settings,
        version: Callable[[], int],
        thread: ThreadPoolExecutor | None,
    ) -> None:
        self._version = version
        self._thread = thread
        self._bells = Doorbells(settings.beside("-wake"))
        self._bell: Doorbell | None = self._bells.bell()
        self._seen = -1
        self.name = self._bell.name if self._bell is not None else ""

    def wait(self, timeout: float) -> bool:
        """See `Listener.wait`."""
        end = time.monotonic() + timeout
        while True:
            remaining = end - time.monotonic()
            if self._rang(max(0.0, min(remaining, SLOW_POLL))) or self._changed(self._version()):
                return True
            if remaining <= SLOW_POLL:
                return False

    def _rang(self, timeout: float) -> bool:
        if self._bell is None:
            time.sleep(timeout)
            return False
        ready, _, _ = select.select([self._bell.socket], [], [], timeout)
        if ready:
            self._bell.clear()
        return bool(ready)

    def _changed(self, version: int) -> bool:
        changed = self._seen not in (-1, version)
        self._seen = version
        return changed

    async def wait_async(self, timeout: float) -> bool:
        """See `Listener.wait_async`."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        while True:
            remaining = end - loop.time()
            if await self._rang_async(loop, max(0.0, min(remaining, SLOW_POLL))):
                return True
            if self._changed(await loop.run_in_executor(self._thread, self._version)):
                return True
            if remaining <= SLOW_POLL:
                return False

    async def _rang_async(self, loop: asyncio.AbstractEventLoop, timeout: float) -> bool:
        if self._bell is None:
            await asyncio.sleep(timeout)
            return False
        rang = asyncio.Event()
        loop.add_reader(self._bell.socket, rang.set)
        try:
            async with asyncio.timeout(timeout):
                await rang.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._bell.socket)
        self._bell.clear()
        return True

    def close(self) -> None:
        """See `Listener.close`."""
        if self._bell is not None:
            self._bell.close()
        self._bells.close()
