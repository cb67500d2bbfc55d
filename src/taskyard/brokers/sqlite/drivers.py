"""Running operations on a connection: from any thread, or from an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from sqlite3 import Connection
from typing import Any, Generic, TypeAlias, TypeVar

from taskyard.brokers.base import Operation
from taskyard.brokers.sqlite.database import Database, Settings
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.wakeup import Doorbell, Doorbells
from taskyard.errors import BrokerError

__all__ = ["Read", "SQLiteAsyncDriver", "SQLiteDriver", "SQLiteListener", "Write"]

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
    """Runs operations on a connection that is opened when needed, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database | None = None
        self._lock = threading.Lock()
        _runners.add(self)

    def _opened(self) -> Database:
        if self._database is None:
            self._database = Database(self._settings)
        return self._database

    def run(self, operation: Operation[T]) -> T:
        with self._lock:
            return self._run(operation)

    def _run(self, operation: Operation[T]) -> T:
        reply: Any = None
        try:
            step: AnyStep = next(operation)
            while True:
                try:
                    reply = step.on(self._opened())
                except BaseException as error:  # noqa: BLE001 - the operation decides
                    step = operation.throw(error)
                else:
                    step = operation.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value

    def version(self) -> int:
        with self._lock:
            return self._opened().version()

    def leave(self, name: str) -> None:
        """Forget a sleeper; what cannot be forgotten now is tidied away later."""
        with contextlib.suppress(BrokerError):
            self.run(_leave(name))

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def before_fork(self) -> None:
        self._lock.acquire()
        self._close()

    def after_fork(self) -> None:
        self._lock.release()


def _leave(name: str) -> Operation[None]:
    # Whoever was woken is forgotten already: mostly this needs no turn at writing.
    if (yield Read(partial(_is_listening, name=name))):
        yield Write(lambda tx: tx.leave(name))


def _is_listening(connection: Connection, name: str) -> bool:
    found = connection.execute("SELECT 1 FROM taskyard_listener WHERE name = ? LIMIT 1", (name,))
    return found.fetchone() is not None


class _Forks:
    """Closes every connection before a fork; each side opens its own when it needs one.

    SQLite counts its locks per process and file. A child that inherits a connection, even if it
    never uses it, believes in locks that only the parent holds: when the parent closes, the log
    that the child writes to is deleted, and what it stored is lost.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._held: list[_Runner] = []

    def before(self) -> None:
        self._one_at_a_time.acquire()
        self._held = list(_runners)
        for runner in self._held:
            runner.before_fork()

    def after(self) -> None:
        held, self._held = self._held, []
        for runner in held:
            runner.after_fork()
        self._one_at_a_time.release()


_runners: weakref.WeakSet[_Runner] = weakref.WeakSet()

if hasattr(os, "register_at_fork"):
    _forks = _Forks()
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after, after_in_child=_forks.after
    )


class SQLiteDriver:
    """Runs operations in the calling thread, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runner = _Runner(settings)

    def run(self, operation: Operation[T]) -> T:
        """See `Driver.run`."""
        return self._runner.run(operation)

    def listener(self) -> SQLiteListener:
        """See `Driver.listener`."""
        return SQLiteListener(self._settings, self._runner, None)

    def close(self) -> None:
        """See `Driver.close`."""
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
        self._pid = os.getpid()

    def _own_thread(self) -> ThreadPoolExecutor:
        if self._pid != os.getpid():  # a thread does not come along into a child
            self._thread = ThreadPoolExecutor(1, "taskyard-sqlite")
            self._pid = os.getpid()
        return self._thread

    async def run(self, operation: Operation[T]) -> T:
        """See `AsyncDriver.run`."""
        loop = asyncio.get_running_loop()
        # Without the shield, an operation that still queues for the thread would be dropped.
        return await asyncio.shield(
            loop.run_in_executor(self._own_thread(), self._runner.run, operation)
        )

    def listener(self) -> SQLiteListener:
        """See `AsyncDriver.listener`."""
        return SQLiteListener(self._settings, self._runner, self._own_thread())

    async def close(self) -> None:
        """See `AsyncDriver.close`."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._own_thread(), self._runner.close)
        self._thread.shutdown()

    def shut_down(self) -> None:
        """See `AsyncDriver.shut_down`."""
        self._own_thread().submit(self._runner.close)
        self._thread.shutdown()


class SQLiteListener:
    """Sleeps at a socket, and looks at the file's version now and then.

    Arguments:
        settings: of the file.
        runner: the one that runs the operations: only the writes of others change its version.
        thread: where it runs them; None: in the calling thread.
    """

    def __init__(
        self, settings: Settings, runner: _Runner, thread: ThreadPoolExecutor | None
    ) -> None:
        self._runner = runner
        self._thread = thread
        self._bells = Doorbells(settings.beside("-wake"))
        self._bell: Doorbell | None = self._bells.bell()
        self._closed = False
        self._seen = -1
        self._looks = True
        self.name = self._bell.name if self._bell is not None else ""
        # Before the operation that finds nothing: what changes after that one must be noticed.
        self._in_thread(self._changed)

    def _in_thread(self, call: Callable[[], object]) -> None:
        if self._thread is None:
            with contextlib.suppress(BrokerError):
                call()
        else:
            with contextlib.suppress(RuntimeError):  # the driver is closed
                self._thread.submit(call)

    def ignore_changes(self) -> None:
        """See `Listener.ignore_changes`."""
        self._looks = self._bell is None

    def wait(self, timeout: float) -> bool:
        """See `Listener.wait`."""
        if not self._looks:
            return self._rang(timeout)
        end = time.monotonic() + timeout
        while True:
            remaining = end - time.monotonic()
            if self._rang(max(0.0, min(remaining, SLOW_POLL))) or self._changed():
                return True
            if remaining <= SLOW_POLL:
                return False

    def _rang(self, timeout: float) -> bool:
        if self._bell is None:
            time.sleep(timeout)
            return False
        rang = self._bell.rings(timeout)
        if rang:
            self._bell.clear()
        return rang

    def _changed(self) -> bool:
        before, self._seen = self._seen, self._runner.version()
        return before != self._seen

    async def wait_async(self, timeout: float, also: asyncio.Event | None = None) -> bool:
        """See `Listener.wait_async`."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event() if also is None else also
        if not self._looks:
            return await self._rang_async(loop, timeout, event)
        end = loop.time() + timeout
        while True:
            remaining = end - loop.time()
            if await self._rang_async(loop, max(0.0, min(remaining, SLOW_POLL)), event):
                return True
            if await loop.run_in_executor(self._thread, self._changed):
                return True
            if remaining <= SLOW_POLL:
                return False

    async def _rang_async(
        self, loop: asyncio.AbstractEventLoop, timeout: float, rang: asyncio.Event
    ) -> bool:
        if self._bell is not None:
            loop.add_reader(self._bell.socket, rang.set)
        try:
            async with asyncio.timeout(timeout):
                await rang.wait()
        except TimeoutError:
            return False
        finally:
            if self._bell is not None:
                loop.remove_reader(self._bell.socket)
        if self._bell is not None:
            self._bell.clear()
        return True

    def close(self) -> None:
        """See `Listener.close`."""
        if self._closed:
            return
        self._closed = True
        if self._bell is not None:
            self._bell.close()
            self._in_thread(partial(self._runner.leave, self.name))
        self._bells.close()
