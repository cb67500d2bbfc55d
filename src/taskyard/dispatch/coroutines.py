"""The engine of asyncio: coroutines, all in one loop.

Everything here runs in the loop's thread but what other threads ask for: they have it called there.
What has ended is handed over once per turn of the loop.

**Closed loop.** As many workers as there may be calls share one iterator over the calls that were
taken last, as threads do. A worker whose calls never wait lets others run every millisecond.

**Open loop.** One coroutine waits for the instants and starts a task for each call.
"""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any, Literal

from taskyard.dispatch.alarm import Alarm, alarm
from taskyard.dispatch.calls import Call, late, next_delay
from taskyard.dispatch.engine import Chunk, Finished, Job, Sink, Source
from taskyard.dispatch.outcome import CallError, Status

__all__ = ["AsyncEngine"]

TURN = 0.001
"""Seconds after which a worker whose calls do not wait lets others run."""
MOST = 1024
"""Calls that are taken at once, at most."""
PARTING = 1.0
"""Seconds that cancelled calls have to clean up before nobody waits for them."""

Pairs = Iterator[tuple[int, Any]]


class _Running:
    """Who makes calls, and the one that is under way."""

    __slots__ = ("call", "gone", "id", "planned", "started", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.id = 0  # 0: none is
        self.started = 0.0
        self.planned: float | None = None
        self.call: Call | None = None
        self.gone = False  # nobody waits for it any longer


class AsyncEngine:
    """Makes calls in an event loop.

    Arguments:
        job: what to do.
        loop: the loop; None: one of its own, in a thread of its own.
    """

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.job = job
        self.limited = 0
        self._behind = False  # an instant went by while all workers were busy
        self._careful = job.retry is not None or job.context or job.timeout is not None
        self._given = loop
        self._loop: asyncio.AbstractEventLoop
        self._source: Source
        self._sink: Sink
        self._workers: set[_Running] = set()
        self._stopping = False
        self._told = False
        self._main: asyncio.Task[None] | None = None
        self._pairs: Pairs | None = zip((), (), strict=False)
        self._size = 1
        self._took = 0.0
        self._alarm: Alarm | None = None
        self._renew()

    def _renew(self) -> None:
        self._ids: list[int] = []
        self._started = array("d")
        self._ended = array("d")
        self._planned = array("d")
        self._values: list[Any] = []
        self._failures: dict[int, CallError] = {}
        self._statuses: dict[int, Status] = {}
        self._metadata: dict[int, dict[str, Any]] = {}
        self._attempts: dict[int, int] = {}

    def prepare(self) -> None:
        """A loop is there as soon as it is needed."""

    def start(self, source: Source, sink: Sink) -> None:
        self._source, self._sink = source, sink
        if self._given is not None:
            self._begin()
        else:
            run = partial(copy_context().run, self._run_loop)
            threading.Thread(target=run, name="taskyard-run", daemon=True).start()

    def tend(self) -> None:
        """Nothing is to be done: the loop does it."""

    def stop(self) -> None:
        self._call(self._stop)

    def abandon(self) -> None:
        self._call(self._abandon)

    def busy(self) -> int:
        return sum(worker.id > 0 for worker in list(self._workers))

    def close(self) -> None:
        self._call(self._close)

    # The loop.

    def _run_loop(self) -> None:
        async def main() -> None:
            self._begin()
            assert self._main is not None  # noqa: S101 - it has just begun
            await asyncio.wait({self._main})

        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - ours: the run cannot go on
            self._end(error)

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._change = asyncio.Event()
        self._slot = asyncio.Event()
        self._source.on_change(lambda: self._call(self._change.set))
        self._main = asyncio.ensure_future(self._serve_all())

    def _call(self, function: Callable[[], object]) -> None:
        # Where the loop is closed, or has not begun, there is nothing to tell.
        with suppress(RuntimeError, AttributeError):
            self._loop.call_soon_threadsafe(function)

    async def _serve_all(self) -> None:
        error: BaseException | None = None
        try:
            if self.job.open_loop:
                await self._serve_plan()
            else:
                self._hire()
            while tasks := {worker.task for worker in self._workers if worker.task is not None}:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if not task.cancelled() and task.exception() is not None:
                        raise task.exception()  # type: ignore[misc] # it is one
        except asyncio.CancelledError:
            pass
        except BaseException as raised:  # noqa: BLE001 - ours: the run cannot go on
            error = raised
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if self._told:
            return
        self._told = True
        self._flush()
        self._sink.end(error)

    def _stop(self) -> None:
        self._stopping = True
        if self._pairs is not None:
            deque(self._pairs, maxlen=0)
        if self._alarm is not None:
            self._alarm.wake()
        self._change.set()
        self._slot.set()

    def _abandon(self) -> None:
        self._stop()
        for worker in list(self._workers):
            if worker.task is not None:
                worker.task.cancel()
        self._loop.call_later(PARTING, self._leave)

    def _leave(self) -> None:
        if self._told:
            return
        for worker in list(self._workers):
            if worker.id:
                self._note(worker, None, status=Status.CANCELLED)
                worker.gone = True
        self._end(None)

    def _close(self) -> None:
        for worker in list(self._workers):
            if worker.task is not None:
                worker.task.cancel()
        if self._main is not None:
            self._main.cancel()

    def _hire(self) -> None:
        worker = _Running()
        self._workers.add(worker)
        worker.task = asyncio.ensure_future(self._employ(worker))

    async def _employ(self, worker: _Running) -> None:
        try:
            await self._serve(worker)
        finally:
            self._workers.discard(worker)

    # What has ended.

    def _note(
        self,
        worker: _Running,
        value: Any,
        error: BaseException | None = None,
        status: Status | None = None,
    ) -> None:
        if worker.gone:
            return
        at = len(self._ids)
        if at == 0:
            self._loop.call_soon(self._flush)
        self._ids.append(worker.id)
        self._started.append(worker.started)
        self._values.append(value)
        if worker.planned is not None:
            self._planned.append(worker.planned)
        if error is not None:
            self._failures[at] = CallError.of(error)
        if status is not None:
            self._statuses[at] = status
        if (call := worker.call) is not None:
            if call.metadata:
                self._metadata[at] = call.metadata
            if call.attempt > 1:
                self._attempts[at] = call.attempt
        self._ended.append(monotonic())
        worker.id, worker.call = 0, None

    def _flush(self) -> None:
        if not self._ids:
            return
        finished = Finished(
            self._ids,
            self._started,
            self._ended,
            self._values,
            self._planned or None,
            self._failures,
            self._statuses,
            self._metadata,
            self._attempts,
        )
        self._renew()
        self._sink.put(finished)

    # Calls.

    async def _make(self, worker: _Running, item: Any) -> None:
        """Make the call of a worker, as often as it takes."""
        job = self.job
        planned = None if worker.planned is None else worker.planned + self._source.offset
        call = worker.call = Call(worker.id, planned)
        worker.started = monotonic()
        while True:
            try:
                made: Awaitable[Any] = (
                    job.function(item, call) if job.context else job.function(item)
                )
                value = await (made if job.timeout is None else _within(made, job.timeout))
            except BaseException as error:
                if _is_cancelled(error):
                    self._note(worker, None, status=Status.CANCELLED)
                    raise
                delay = None if self._stopping else next_delay(job.retry, error, call)
                if delay is None or not await self._pause(worker, delay, error):
                    self._note(worker, None, error)
                    return
                call.attempt += 1
            else:
                self._note(worker, value)
                return

    async def _pause(self, worker: _Running, delay: float, error: BaseException) -> bool:
        try:
            await asyncio.sleep(delay)
        except asyncio.CancelledError:
            self._note(worker, None, error)
            raise
        return not self._stopping

    # Closed loop.

    async def _serve(self, worker: _Running) -> None:
        pairs: Pairs | None = None
        while (pairs := await self._next_pairs(pairs)) is not None:
            if self._careful:
                await self._work_with_care(worker, pairs)
            else:
                await self._work(worker, pairs)

    async def _work(self, worker: _Running, pairs: Pairs) -> None:
        function, clock = self.job.function, monotonic
        now = clock()
        due = now + TURN
        while True:
            try:
                for id_, item in pairs:
                    worker.id = id_
                    worker.started = now
                    value = await function(item)
                    now = clock()
                    if worker.gone:
                        return
                    ids = self._ids
                    if not ids:
                        self._loop.call_soon(self._flush)
                    ids.append(id_)
                    self._started.append(worker.started)
                    self._values.append(value)
                    self._ended.append(now)
                    worker.id = 0
                    if now > due:
                        await asyncio.sleep(0)
                        now = clock()
                        due = now + TURN
                return
            except BaseException as error:
                if _is_cancelled(error):
                    if worker.id:
                        self._note(worker, None, status=Status.CANCELLED)
                    raise
                self._note(worker, None, error)
                if (now := clock()) > due:
                    await asyncio.sleep(0)
                    now = clock()
                    due = now + TURN

    async def _work_with_care(self, worker: _Running, pairs: Pairs) -> None:
        due = monotonic() + TURN
        for id_, item in pairs:
            worker.id = id_
            await self._make(worker, item)
            if worker.gone:
                return
            if monotonic() > due:
                await asyncio.sleep(0)
                due = monotonic() + TURN

    async def _next_pairs(self, used: Pairs | None) -> Pairs | None:
        while self._pairs is used and used is not None:
            self._adapt()
            # One by one until all workers are there, or calls would wait for those that are not.
            hiring = len(self._workers) < self.job.workers
            chunk = await self._take(1 if hiring else self._size, used)
            self._took = monotonic()
            if chunk is False:
                continue
            if chunk is None:
                self._pairs = None
                return None
            self._pairs = zip(chunk.ids, chunk.items, strict=False)
            if hiring:
                self._hire()
        return self._pairs

    async def _take(self, limit: int, used: Pairs | None = None) -> Chunk | Literal[False] | None:
        """Take calls; False: somebody else has, meanwhile."""
        while not self._stopping:
            self._change.clear()
            chunk = self._source.poll(limit)
            if chunk is not False:
                return chunk
            await self._change.wait()
            if used is not None and self._pairs is not used:
                return False
        return None

    def _adapt(self) -> None:
        elapsed = monotonic() - self._took
        if elapsed < TURN / 2:
            self._size = min(MOST, self._size * 2)
        elif elapsed > TURN * 2:
            self._size = max(1, int(self._size * TURN / elapsed))

    # Open loop.

    async def _serve_plan(self) -> None:
        clock = self._alarm = alarm()
        try:
            while isinstance(chunk := await self._take(MOST), Chunk):
                planned = chunk.planned or [monotonic()] * len(chunk.ids)
                due = monotonic() + TURN
                for id_, item, instant in zip(chunk.ids, chunk.items, planned, strict=True):
                    if instant > monotonic():
                        self._behind = False
                        await clock.wait(instant)
                        due = monotonic() + TURN
                    elif monotonic() > due:
                        await asyncio.sleep(0)
                        due = monotonic() + TURN
                    if not await self._find_slot():
                        return
                    self._begin_call(id_, item, instant)
        finally:
            self._alarm = None
            clock.close()

    async def _find_slot(self) -> bool:
        full = len(self._workers) >= self.job.workers
        self._behind = self._behind or full
        self.limited += self._behind
        if full:
            while len(self._workers) >= self.job.workers and not self._stopping:
                self._slot.clear()
                await self._slot.wait()
        return not self._stopping

    def _begin_call(self, id_: int, item: Any, planned: float) -> None:
        worker = _Running()
        worker.planned = planned
        self._workers.add(worker)
        worker.task = asyncio.ensure_future(self._call_once(worker, id_, item))

    async def _call_once(self, worker: _Running, id_: int, item: Any) -> None:
        worker.id = id_
        try:
            await self._make(worker, item)
        finally:
            self._workers.discard(worker)
            if not self._slot.is_set():
                self._slot.set()


async def _within(made: Awaitable[Any], timeout: float) -> Any:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await made
    except TimeoutError:
        if limit.expired():
            raise late(timeout) from None
        raise


def _is_cancelled(error: BaseException) -> bool:
    """Whether the task was cancelled from outside, rather than its function."""
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError)
    return cancelled and task is not None and task.cancelling() > 0
