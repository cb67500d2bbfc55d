"""The engine of threads.

**Closed loop.** All threads share one iterator over the calls that were taken last. `next` of a
`zip` over lists is atomic, so a thread takes a call without a lock, and no call waits for a thread
that is busy while another one is idle. Whoever finds it exhausted takes more: about a millisecond's
worth.

**Open loop.** Leader and followers: one idle thread, the leader, takes the next call and sleeps
until its instant; then another one leads, and it makes the call itself. So nothing is handed over
at the moment that counts. There is always a follower ready, up to the limit of threads.

Both rely on the GIL: that `next` and `append` are atomic, and seen by other threads in their order.

**What cannot be stopped.** A thread whose call takes too long is *abandoned*: its call is put as
failed, another thread takes its place, and it ends by itself when its function returns.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Iterator
from contextvars import copy_context
from functools import partial
from time import monotonic, sleep
from types import CoroutineType
from typing import Any, NamedTuple

from taskyard.dispatch.calls import Call, late, next_delay
from taskyard.dispatch.engine import Finished, Job, Sink, Source
from taskyard.dispatch.outcome import CallError, Status
from taskyard.errors import DispatchError

__all__ = ["ThreadEngine"]

FLUSH = 0.001
"""Seconds for which a busy thread keeps what has ended to itself."""
MOST = 2048
"""Calls that are taken at once, at most."""
INTERRUPTIBLE = 0.02
"""Seconds before its instant from which on a leader sleeps too lightly to be woken."""

Pairs = Iterator[tuple[int, Any]]


class _Again(NamedTuple):
    """A call that is to be tried again by another thread."""

    call: Call
    item: Any
    started: float
    planned: float | None
    error: BaseException
    delay: float


class _Worker:
    """A thread, and what has ended in it.

    The columns grow one by one, `ended` last: so another thread sees at any time which calls have
    ended, and that the one behind them, if there is one, is under way.
    """

    __slots__ = (
        "abandoned",
        "again",
        "attempts",
        "began",
        "call",
        "ended",
        "engine",
        "failures",
        "ids",
        "item",
        "lock",
        "metadata",
        "planned",
        "started",
        "taken",
        "taking",
        "values",
    )

    def __init__(self, engine: ThreadEngine, again: _Again | None = None) -> None:
        self.engine = engine
        self.again = again
        self.lock = threading.Lock()  # held to hand over, and to abandon
        self.abandoned = False
        self.taking = again is None  # waits for calls
        self.call: Call | None = None
        self.item: Any = None
        self.began = 0.0  # of the attempt
        self._renew()

    def _renew(self) -> None:
        self.ids: list[int] = []
        self.started = array("d")
        self.planned = array("d")
        self.ended = array("d")
        self.values: list[Any] = []
        self.failures: dict[int, CallError] = {}
        self.metadata: dict[int, dict[str, Any]] = {}
        self.attempts: dict[int, int] = {}
        self.taken = 0

    def work(self, pairs: Pairs) -> bool:
        """Make calls for a while, with nothing to do for them but that.

        Returns:
            Whether all were made.
        """
        function = self.engine.job.function
        begins, starts = self.ids.append, self.started.append
        returns, ends = self.values.append, self.ended.append
        clock = monotonic
        now = clock()
        due = now + FLUSH
        while now <= due and not self.abandoned:
            try:
                for id_, item in pairs:
                    begins(id_)
                    starts(now)
                    returns(function(item))
                    now = clock()
                    ends(now)
                    if now > due:
                        return False
                return True
            except BaseException as error:  # noqa: BLE001 - the function's; an outcome like any other
                self._fail(error)
                now = clock()
        return False

    def work_with_care(self, pairs: Pairs) -> bool:
        """Make calls for a while that may be tried again, or know themselves.

        Returns:
            Whether all were made.
        """
        due = monotonic() + FLUSH
        for id_, item in pairs:
            self.make(Call(id_), item)
            if self.abandoned or monotonic() > due:
                return False
        return True

    def work_planned(self, id_: int, item: Any, planned: float) -> None:
        """Make a call that was planned."""
        self.planned.append(planned)
        if not self.engine.careful:
            self.work(iter(((id_, item),)))
            return
        self.make(Call(id_, planned + self.engine.offset), item)

    def make(self, call: Call, item: Any, started: float | None = None) -> None:
        """Make one call, as often as it takes."""
        engine, now = self.engine, monotonic()
        self.call, self.item, self.began = call, item, now
        self.ids.append(call.id)
        self.started.append(now if started is None else started)
        value, error = engine.attempt(call, item), None
        while isinstance(value, _Raised):
            error = value.error
            if self.abandoned or (delay := engine.next_delay(error, call)) is None:
                break
            self.began = float("inf")
            if engine.stopped.wait(delay):
                break
            call.attempt += 1
            self.began = monotonic()
            value, error = engine.attempt(call, item), None
        self.call = None
        at = len(self.ended)
        if call.metadata:
            self.metadata[at] = call.metadata
        if call.attempt > 1:
            self.attempts[at] = call.attempt
        if error is not None:
            self._fail(error)
            return
        self.values.append(value)
        self.ended.append(monotonic())

    def _fail(self, error: BaseException) -> None:
        self.failures[len(self.ended)] = CallError.of(error)
        self.values.append(None)
        self.ended.append(monotonic())

    def flush(self) -> bool:
        """Hand over what has ended, by its own thread.

        Returns:
            Whether the thread may go on.
        """
        with self.lock:
            if self.abandoned:
                return False
            finished = self._finished(len(self.ended))
            self._renew()
        self.engine.sink.put(finished)
        # One of many is enough: a function makes them always, or never.
        if finished.values and isinstance(finished.values[0], CoroutineType):
            raise self.engine.not_awaited()
        return True

    def gather(self) -> None:
        """Hand over what has ended while another call runs, by another thread."""
        if len(self.ended) == self.taken or self.abandoned:
            return
        with self.lock:  # so that its own thread does not end the run before this arrives
            self.engine.sink.put(self._finished(len(self.ended)))

    def _finished(self, end: int) -> Finished:
        begin, self.taken = self.taken, end
        if begin == end:
            return Finished((), array("d"), array("d"), [])
        return Finished(
            self.ids[begin:end],
            self.started[begin:end],
            self.ended[begin:end],
            self.values[begin:end],
            self.planned[begin:end] if self.planned else None,
            _between(self.failures, begin, end),
            {},
            _between(self.metadata, begin, end),
            _between(self.attempts, begin, end),
        )

    def runs_since(self) -> float | None:
        """When the attempt began that is under way; None: there is none."""
        at = len(self.ended)
        if self.abandoned or len(self.started) <= at:
            return None
        return self.began if self.engine.careful else self.started[at]

    def give_up(self, error: BaseException | None) -> _Again | None:
        """Wait for the call no longer.

        Arguments:
            error: why it has failed; None: it is cancelled.

        Returns:
            The call, if it is to be tried again.
        """
        with self.lock:
            at = len(self.ended)
            if self.abandoned or len(self.started) <= at:
                return None
            self.abandoned = True
            finished = self._finished(at)
            planned = self.planned[at] if self.planned else None
            id_, started = self.ids[at], self.started[at]
        self.engine.sink.put(finished)
        call = self.call or Call(id_)
        if error is not None and (delay := self.engine.next_delay(error, call)) is not None:
            # Not the same: the thread that was left may still note something.
            call = Call(call.id, call.planned, call.attempt)
            return _Again(call, self.item, started, planned, error, delay)
        self.engine.sink.put(_unfinished(call, started, planned, error))
        return None


def _unfinished(
    call: Call, started: float, planned: float | None, error: BaseException | None
) -> Finished:
    return Finished(
        [call.id],
        array("d", [started]),
        array("d", [monotonic()]),
        [None],
        None if planned is None else array("d", [planned]),
        {} if error is None else {0: CallError.of(error)},
        {0: Status.CANCELLED} if error is None else {},
        {0: dict(call.metadata)} if call.metadata else {},
        {0: call.attempt} if call.attempt > 1 else {},
    )


def _between(given: dict[int, Any], begin: int, end: int) -> dict[int, Any]:
    # Never the worker's own, to which it may add something meanwhile.
    return {at - begin: value for at, value in given.copy().items() if begin <= at < end}


class _Raised(NamedTuple):
    error: BaseException


class ThreadEngine:
    """Makes calls in threads.

    Arguments:
        job: what to do.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.limited = 0
        self.careful = job.retry is not None or job.context
        self.offset = 0.0
        self.stopped = threading.Event()
        self._context = copy_context()
        self.sink: Sink
        self._source: Source
        self._workers: set[_Worker] = set()
        self._mutex = threading.Lock()  # of the set of workers, and of what is counted
        self._broken: BaseException | None = None
        self._told = False
        # Closed loop.
        self._pairs: Pairs | None = zip((), (), strict=False)
        self._taking = threading.Lock()
        self._size = 1
        self._took = 0.0
        # Open loop.
        self._calls: Iterator[tuple[int, Any, float]] = zip((), (), (), strict=False)
        self._leading = threading.Lock()
        self._followers = 0
        self._behind = False  # an instant went by while all threads were busy

    def prepare(self) -> None:
        """A thread is there at once."""

    def start(self, source: Source, sink: Sink) -> None:
        self._source, self.sink, self.offset = source, sink, source.offset
        self._hire()

    def tend(self) -> None:
        timeout = self.job.timeout
        for worker in list(self._workers):
            worker.gather()
            since = None if timeout is None else worker.runs_since()
            if timeout is not None and since is not None and monotonic() - since >= timeout:
                again = worker.give_up(late(timeout))
                if worker.abandoned:
                    self._hire(again, instead_of=worker)
        if self.stopped.is_set():
            self._drain()
            self._end_if_idle()

    def stop(self) -> None:
        self.stopped.set()
        self._drain()
        self._end_if_idle()

    def abandon(self) -> None:
        self.stop()
        for worker in list(self._workers):
            worker.give_up(None)
        with self._mutex:
            self._workers = {worker for worker in self._workers if not worker.abandoned}
        self._end_if_idle()

    def busy(self) -> int:
        return sum(worker.runs_since() is not None for worker in list(self._workers))

    def close(self) -> None:
        self.stopped.set()

    # What is done with a call.

    def attempt(self, call: Call, item: Any) -> Any:
        """Try a call once; what it raises is returned as `_Raised`."""
        try:
            return self.job.function(item, call) if self.job.context else self.job.function(item)
        except BaseException as error:  # noqa: BLE001 - the function's; an outcome like any other
            return _Raised(error)

    def next_delay(self, error: BaseException, call: Call) -> float | None:
        """Seconds until a failed call is tried again; None: it is not."""
        return None if self.stopped.is_set() else next_delay(self.job.retry, error, call)

    def not_awaited(self) -> DispatchError:
        """The error of a function that looks like a plain one and makes coroutines."""
        return DispatchError(
            f"{self.job.function!r} makes coroutines, which nobody awaits in threads: nothing was "
            f"done. Use kind='async'"
        )

    # Threads.

    def _hire(self, again: _Again | None = None, *, instead_of: _Worker | None = None) -> None:
        worker = _Worker(self, again)
        with self._mutex:
            # One step, so that nobody else takes the place, nor the run for ended.
            if instead_of is not None:
                self._workers.discard(instead_of)
            if len(self._workers) >= self.job.workers:
                return
            self._workers.add(worker)
            if again is None:
                self._followers += 1
        # Calls see the context variables of whoever began the run, each thread its own copy.
        run = partial(self._context.copy().run, self._run, worker)
        threading.Thread(target=run, name="taskyard-run", daemon=True).start()

    def _run(self, worker: _Worker) -> None:
        try:
            if worker.again is not None and not self._try_again(worker, worker.again):
                return
            if self.job.open_loop:
                self._serve_plan(worker, known=worker.again is None)
            else:
                self._serve(worker)
        except BaseException as error:  # noqa: BLE001 - ours: the run cannot go on
            self._broken = self._broken or error
            self.stop()
        finally:
            with self._mutex:
                if not worker.abandoned:  # or its place is another one's
                    self._workers.discard(worker)
            self._end_if_idle()

    def _try_again(self, worker: _Worker, again: _Again) -> bool:
        """Try the call of another thread again.

        Returns:
            Whether the thread may go on.
        """
        call, started, planned = again.call, again.started, again.planned
        if self.stopped.wait(again.delay):
            self.sink.put(_unfinished(call, started, planned, again.error))
            return False
        call.attempt += 1
        if planned is not None:
            worker.planned.append(planned)
        worker.make(call, again.item, started)
        if not worker.flush():
            return False
        worker.taking = True
        return True

    def _may_work(self, worker: _Worker) -> bool:
        # One step, so that nobody takes a worker for idle that begins a call.
        with self._mutex:
            worker.taking = self.stopped.is_set()
            return not worker.taking

    def _end_if_idle(self) -> None:
        """Tell the sink, once, when nothing runs and nothing more is to come."""
        with self._mutex:
            working = self._workers
            # Who waits for calls when the run is stopped may wait for ever: for the caller's items.
            if self.stopped.is_set():
                working = {worker for worker in working if not worker.taking}
            if working or self._told:
                return
            self._told = True
        self.sink.end(self._broken)

    # Closed loop.

    def _serve(self, worker: _Worker) -> None:
        work = worker.work_with_care if self.careful else worker.work
        pairs: Pairs | None = None
        while (pairs := self._next_pairs(pairs)) is not None and self._may_work(worker):
            all_made = work(pairs)
            if not worker.flush():
                return
            worker.taking = True
            if not all_made:
                pairs = None

    def _next_pairs(self, used: Pairs | None) -> Pairs | None:
        if used is None or self._pairs is not used:
            return self._pairs
        with self._taking:
            if self._pairs is not used:
                return self._pairs
            self._adapt()
            # One by one until all workers are there, or calls would wait for those that are not.
            hiring = len(self._workers) < self.job.workers
            chunk = self._source.take(1 if hiring else self._size)
            self._took = monotonic()
            if chunk is None or self.stopped.is_set():
                self._pairs = None
                return None
            self._pairs = pairs = zip(chunk.ids, chunk.items, strict=False)
        if hiring:
            self._hire()
        return pairs

    def _adapt(self) -> None:
        elapsed = monotonic() - self._took
        if elapsed < FLUSH / 2:
            self._size = min(MOST, self._size * 2)
        elif elapsed > FLUSH * 2:
            self._size = max(1, int(self._size * FLUSH / elapsed))

    def _drain(self) -> None:
        pairs = self._pairs
        if pairs is not None:
            deque(pairs, maxlen=0)

    # Open loop.

    def _serve_plan(self, worker: _Worker, *, known: bool) -> None:
        while (planned := self._lead(known=known)) is not None and self._may_work(worker):
            worker.work_planned(*planned)
            if not worker.flush():
                return
            worker.taking = True
            known = False

    def _lead(self, *, known: bool) -> tuple[int, Any, float] | None:
        """Wait for the lead, and then for the instant of a call.

        Arguments:
            known: whether this thread is counted as a follower already.

        Returns:
            The call, which is due; None: there are no more.
        """
        if not known:
            with self._mutex:
                self._followers += 1
        with self._leading:
            with self._mutex:
                self._followers -= 1
            call = self._next_planned()
            if call is None:
                return None
            if self._followers == 0 and len(self._workers) < self.job.workers:
                self._hire()
            if call[2] > monotonic():
                self._behind = False
                if not self._sleep_until(call[2]):
                    return None
            elif self._behind:
                self.limited += 1
            if self._followers == 0:
                self._behind = True
            return call

    def _next_planned(self) -> tuple[int, Any, float] | None:
        while not self.stopped.is_set():
            if (call := next(self._calls, None)) is not None:
                return call
            chunk = self._source.take(MOST)
            if chunk is None:
                return None
            planned = chunk.planned or [monotonic()] * len(chunk.ids)
            self._calls = zip(chunk.ids, chunk.items, planned, strict=False)
        return None

    def _sleep_until(self, instant: float) -> bool:
        while (rest := instant - monotonic()) > 0:
            if rest <= INTERRUPTIBLE:
                sleep(rest)
            elif self.stopped.wait(rest - INTERRUPTIBLE / 2):
                return False
        return not self.stopped.is_set()
