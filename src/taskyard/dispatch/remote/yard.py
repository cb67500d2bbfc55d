"""Calls through a queue: they are enqueued for a yard's workers, and their results streamed back.

A call begins, as far as the run knows, when its message is stored, and ends when its result is
there: so its duration is what somebody who waits for it sees, with the time in the queue.
"""

from __future__ import annotations

import logging
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from taskyard.brokers.base import Record
from taskyard.dispatch.engine import Chunk, Engine, Finished, Job, Sink, Source
from taskyard.dispatch.outcome import CallError, Status
from taskyard.dispatch.remote.chunks import one_by_one
from taskyard.dispatch.remote.frame import RemoteEngine
from taskyard.errors import PayloadError, PolicyError, TaskFailed, TaskyardError
from taskyard.message import State
from taskyard.result import Result
from taskyard.task import Task

if TYPE_CHECKING:
    from taskyard.yard import Yard

__all__ = ["YardEngine", "YardTarget"]

AT_ONCE = 200
"""Messages that are stored at once, at most."""
WAITING = 1000
"""Messages in the queue, and with workers, at most."""
LOOK = 10.0
"""Seconds after which it is looked for results without having been woken."""
LEAVING = 2.0
"""Seconds for what is being stored when the run has ended."""
CANCELLING = 10.0
"""Seconds for cancelling what is in the queue when a run is left."""

log = logging.getLogger("taskyard.run")


class YardTarget:
    """The workers of a yard.

    Arguments:
        yard: whose workers make the calls.
        function: a task of it.

    Raises:
        PolicyError: it is none, or keeps no results.
    """

    kind = "yard"
    window = 2 * WAITING

    def __init__(self, yard: Yard, function: Callable[..., Any]) -> None:
        if not isinstance(function, Task) or function.outlet is not yard:
            raise PolicyError(
                f"on=yard runs tasks of that yard, as what comes out of a queue never chooses what "
                f"code runs: declare it with @yard.task, not {function!r}"
            )
        if not function.reader.kept:
            raise PolicyError(
                f"task {function.name!r} keeps no results, so nobody would hear that a call has "
                f"ended: declare it with result_ttl=3600"
            )
        self._task: Task[Any, Any] = function

    def workers(self, *, open_loop: bool) -> int:  # noqa: ARG002 - of a queue it is the same
        return WAITING

    def check(self, job: Job) -> None:
        """Only the task's own policy holds for its messages."""
        for name, given in (("retries", job.retry), ("timeout", job.timeout)):
            if given is not None:
                raise PolicyError(
                    f"{name}= of a run does not hold for messages: declare it with the task "
                    f"{self._task.name!r}"
                )
        if job.context:
            raise PolicyError(
                "context=True is for calls of this process: a handler takes taskyard.Context"
            )

    def engine(self, job: Job) -> Engine:
        return YardEngine(self._task, job)


class _Sent(NamedTuple):
    """A call whose message is stored."""

    number: int
    result: Result[Any]
    planned: float | None
    started: float


class YardEngine(RemoteEngine[_Sent]):
    """Makes calls by enqueueing them.

    Arguments:
        task: what is enqueued.
        job: how.
    """

    def __init__(self, task: Task[Any, Any], job: Job) -> None:
        super().__init__()
        self._task = task
        self._reader = task.reader
        self._open_loop = job.open_loop
        self._most = job.workers
        self._sent: dict[str, list[_Sent]] = {}  # of unique messages, several calls may be one
        self._was_full = False

    def start(self, source: Source, sink: Sink) -> None:
        self._listener = self._reader.listener()
        super().start(source, sink)

    def abandon(self) -> None:
        """Cancel what is in the queue; what runs there is told so."""
        self.stop()
        left = self._give_up(Status.CANCELLED)
        self._end_if_idle()
        _cancel([sent.result for sent in left])

    def close(self) -> None:
        self.stop()
        if self._threads:
            self._threads[0].join(LEAVING)  # it may be about to cancel what it has just stored

    def _is_empty(self) -> bool:
        return not self._sent

    def _take_all(self) -> list[_Sent]:
        left = [sent for calls in self._sent.values() for sent in calls]
        self._sent.clear()
        return left

    def _tell_all(self, left: list[_Sent], status: Status) -> None:
        self._put(left, statuses=dict.fromkeys(range(len(left)), status))

    def _leave(self) -> None:
        self._listener.close()

    # Sending.

    def _send_all(self) -> None:
        while not self._stopped.is_set():
            room = self._wait_for_room()
            chunk = None if self._stopped.is_set() else self._source.take(room)
            if chunk is None:
                return
            for part in _due_together(chunk):
                if not self._wait_until(part.planned):
                    return
                self._send(part)

    def _wait_for_room(self) -> int:
        with self._room:
            self._was_full = self._out >= self._most
            self._room.wait_for(lambda: self._out < self._most or self._stopped.is_set())
            return max(1, min(AT_ONCE, self._most - self._out))

    def _send(self, chunk: Chunk) -> None:
        started = time.monotonic()
        try:
            results = self._task.enqueue_many(chunk.items)
        except PayloadError as error:
            self._refuse(chunk, started, error)
            return
        planned: Sequence[float | None] = chunk.planned or [None] * len(chunk.ids)
        if self._was_full and chunk.planned and chunk.planned[0] < started:
            self.limited += len(chunk.ids)
        ids = [result.id for result in results]
        with self._lock:
            given_up = self._given_up
            for at, id_ in enumerate(() if given_up else ids):
                call = _Sent(chunk.ids[at], results[at], planned[at], started)
                self._sent.setdefault(id_, []).append(call)
                self._out += 1
        if given_up:
            _cancel(results)
        else:
            self._look(ids)  # also so that their ends wake the one who collects

    def _refuse(self, chunk: Chunk, at: float, error: PayloadError) -> None:
        """An item does not fit the task, and nothing was stored: that call has failed."""
        if len(chunk.ids) > 1:
            for part in one_by_one(chunk):
                self._send(part)
            return
        failed = CallError(type(error).__qualname__, str(error), exception=error)
        self._put_each(chunk.ids, [at], chunk.planned, failures={0: failed})

    # Collecting.

    def _collect_all(self) -> None:
        while not self._told:
            self._listener.wait(LOOK)
            with self._lock:
                ids = list(self._sent)
            self._look(ids)

    def _look(self, ids: list[str]) -> None:
        if not ids:
            return
        records = self._reader.read_many(ids, self._listener)
        ended = [
            (id_, record)
            for id_, record in zip(ids, records, strict=True)
            if record is None or record.state.final
        ]
        with self._room:
            mine = [(sent, record) for id_, record in ended for sent in self._sent.pop(id_, ())]
            self._out -= len(mine)
            self._held += 1
            self._room.notify_all()
        self._settle(mine)
        with self._lock:
            self._held -= 1
        self._end_if_idle()

    def _settle(self, ended: list[tuple[_Sent, Record | None]]) -> None:
        values: list[Any] = []
        failures: dict[int, CallError] = {}
        statuses: dict[int, Status] = {}
        for at, (sent, record) in enumerate(ended):
            value = None
            if record is None:
                statuses[at] = Status.UNKNOWN
            elif record.state is State.CANCELLED:
                statuses[at] = Status.CANCELLED
            else:
                try:
                    value = sent.result.value_of(record)
                except TaskyardError as error:
                    failures[at] = _why(error)
            values.append(value)
        self._put([sent for sent, _ in ended], values, failures, statuses)

    def _put(
        self,
        sent: Sequence[_Sent],
        values: list[Any] | None = None,
        failures: dict[int, CallError] | None = None,
        statuses: dict[int, Status] | None = None,
    ) -> None:
        if not sent:
            return
        planned = None
        if self._open_loop:
            planned = [one.started if one.planned is None else one.planned for one in sent]
        self._put_each(
            [one.number for one in sent],
            [one.started for one in sent],
            planned,
            values,
            failures,
            statuses,
        )

    def _put_each(
        self,
        ids: Sequence[int],
        started: Sequence[float],
        planned: Sequence[float] | None,
        values: list[Any] | None = None,
        failures: dict[int, CallError] | None = None,
        statuses: dict[int, Status] | None = None,
    ) -> None:
        now = time.monotonic()
        self._sink.put(
            Finished(
                ids,
                array("d", started),
                array("d", [now] * len(ids)),
                [None] * len(ids) if values is None else values,
                None if planned is None else array("d", planned),
                failures or {},
                statuses or {},
            )
        )


def _cancel(results: Iterable[Result[Any]]) -> None:
    """Take messages back, as far as the storage can be asked: nobody is to wait for it long."""
    deadline = time.monotonic() + CANCELLING
    left = list(results)
    try:
        while left and time.monotonic() < deadline:
            left.pop().cancel()
    except TaskyardError as error:
        log.warning("messages cannot be cancelled: %s", error)
    if left:
        log.warning("%d or more messages of the run stay in the queue", len(left))


def _due_together(chunk: Chunk) -> list[Chunk]:
    """Split planned calls into such that are due at the same instant."""
    if chunk.planned is None:
        return [chunk]
    parts, begin = [], 0
    for at in range(1, len(chunk.ids) + 1):
        if at == len(chunk.ids) or chunk.planned[at] != chunk.planned[begin]:
            piece = slice(begin, at)
            parts.append(Chunk(chunk.ids[piece], chunk.items[piece], chunk.planned[piece]))
            begin = at
    return parts


def _why(error: TaskyardError) -> CallError:
    if not isinstance(error, TaskFailed):
        return CallError(type(error).__qualname__, str(error), exception=error)
    failure = error.failure
    stack = failure.traceback.partition(f"{failure.kind}: ")[0]
    return CallError(failure.kind or failure.reason, failure.message, stack, error)
