"""The worker: binds threads that have requests, and runs their handlers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence
from typing import Any

from taskyard.compat.sharded_queue.changes import watching
from taskyard.compat.sharded_queue.drivers import Coordinator
from taskyard.compat.sharded_queue.handlers import (
    Handler,
    awaited,
    check_handler,
    defined_handlers,
    name_of,
)
from taskyard.compat.sharded_queue.queue import Queue
from taskyard.compat.sharded_queue.settings import settings
from taskyard.compat.sharded_queue.tasks import make_task
from taskyard.errors import PolicyError
from taskyard.task import BatchTask
from taskyard.worker import Worker as CoreWorker
from taskyard.worker import WorkerSettings
from taskyard.worker.run import stopped_by_signals

__all__ = ["Worker"]

log = logging.getLogger("taskyard.sharded_queue")

PATIENCE = 5.0
"""Seconds after which a handler is asked again that could not say its batch size."""
LEASE = 30.0
"""Seconds for which a worker keeps a thread without a sign of life, at most."""


class Worker:
    """Handles the requests of a queue, a batch at a time.

    Arguments:
        coordinator: of any kind, also one of its own per worker: that no two workers have one
            thread is the storage's.
        queue: whose requests.
    """

    def __init__(self, coordinator: Coordinator, queue: Queue[Any]) -> None:
        if not isinstance(queue, Queue):
            raise PolicyError(f"a worker needs a coordinator and a Queue, not {queue!r}")
        self.coordinator = coordinator
        self.queue = queue

    async def loop(
        self, limit: int | None = None, handler: type[Handler[Any]] | None = None
    ) -> None:
        """Handle requests, until SIGTERM or until it is cancelled.

        Cancelled, it gives the batch back that it handles; at SIGTERM it finishes that first.

        Arguments:
            limit: requests that are handled at most. It returns when they are, or when it has
                handled some and all has been empty for `worker_empty_limit` ×
                `worker_empty_pause` seconds.
            handler: only requests of this one; None: of all that are defined, also later.

        Raises:
            PolicyError: a setting, or something of a handler, is wrong, or `handler` is none.
            WorkerError: the limit is no whole number.
            BrokerError: the storage cannot be used at all.
        """
        if handler is not None:
            check_handler(handler)
        if isinstance(limit, int | float) and limit <= 0:
            return
        await _Loop(self.queue, limit, handler).run()


class _Loop:
    """One call of `loop`: a worker of the core, made anew when what it works by has changed."""

    def __init__(
        self, queue: Queue[Any], limit: int | None, handler: type[Handler[Any]] | None
    ) -> None:
        self._queue = queue
        self._left = limit
        self._handler = handler
        self._core: CoreWorker | None = None
        self._ending = False
        self._outdated = False
        self._handled = False
        self._changed = asyncio.Event()
        self._asking: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(self._note_change)

        with stopped_by_signals(self, _signals()), watching(tell):
            try:
                while not self._ending:
                    self._changed.clear()
                    self._outdated = False
                    tasks = await self._tasks()
                    if tasks:
                        await self._work(tasks)
                    else:
                        await self._changed.wait()
            finally:
                self._forget_asking()

    def stop(self, *, hard: bool = False) -> None:
        """End after the batch that is handled now; with `hard`, give that back."""
        self._ending = True
        self._changed.set()
        if self._core is not None:
            self._core.stop(hard=hard)

    def _note_change(self) -> None:
        self._outdated = True
        self._changed.set()
        if self._core is not None:
            self._core.stop()

    async def _tasks(self) -> list[BatchTask[Any, None]]:
        storage, tasks = self._queue.storage, []
        for handler in defined_handlers():
            if self._handler not in (None, handler):
                continue
            try:
                size = await _batch_size(handler)
            except Exception:  # the user's; others are not kept waiting for it
                log.exception(
                    "requests of %s are left waiting for %s s: it could not say its batch size",
                    name_of(handler),
                    PATIENCE,
                )
                self._ask_again()
                continue
            tasks.append(make_task(storage.yard, handler, storage.serializer, size))
        return tasks

    def _ask_again(self) -> None:
        """Ask handlers once more, in a while."""
        self._forget_asking()
        self._asking = asyncio.get_running_loop().call_later(PATIENCE, self._note_change)

    def _forget_asking(self) -> None:
        if self._asking is not None:
            self._asking.cancel()

    async def _work(self, tasks: Sequence[BatchTask[Any, None]]) -> None:
        core = CoreWorker(self._queue.storage.broker, tasks, _worker_settings(self._left))
        if self._outdated or self._ending:
            return
        self._core = core
        try:
            await _run(core)
        finally:
            self._core = None
        if self._left is not None:
            self._left -= core.quota.ended
            self._handled = self._handled or core.quota.ended > 0
            if self._left == 0 or (self._handled and not self._outdated):
                self._ending = True
        if core.dismissed:
            self._ending = True


async def _run(core: CoreWorker) -> None:
    """Run a worker; cancelled, let it give back what it has, and leave its threads."""
    running = asyncio.create_task(core.run())
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        core.stop(hard=True)
        while not running.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({running})
        raise


async def _batch_size(handler: type[Handler[Any]]) -> int | None:
    if handler.batch_size is Handler.batch_size:
        return None
    size: int | None = await awaited((await awaited(handler.create())).batch_size())
    return size


def _worker_settings(limit: int | None) -> WorkerSettings:
    idle = settings.worker_empty_limit * settings.worker_empty_pause
    return WorkerSettings(
        concurrency=1,
        lease=min(LEASE, settings.coordinator_timeout),
        inboxes=False,
        limit=limit,
        idle=None if limit is None else idle,
    )


def _signals() -> list[signal.Signals]:
    """SIGTERM, unless the program does something of its own about it."""
    return [signal.SIGTERM] if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else []
