"""The tasks of a kit in a yard: put, looked up and waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, TypeAlias

from taskyard import errors
from taskyard import task as core
from taskyard.compat.taskkit.errors import Failed, NotFound, ResultGetTimedOut
from taskyard.compat.taskkit.groups import group_of
from taskyard.compat.taskkit.handling import Call, declare, done_task, retries_told, task_of_call
from taskyard.compat.taskkit.task import DEFAULT_TASK_TTL, Task, TaskHandler
from taskyard.enqueue import Enqueuer, Options
from taskyard.policy import LARGEST, LONGEST
from taskyard.yard import Yard

__all__ = ["New", "Store", "kept_for", "make_yard"]

New: TypeAlias = tuple[str, str, Call]
"""A task that is to be stored: its id, its group, and what its message holds."""

SHORTEST = 1.0
"""Seconds for which a result is kept at least, so that who waits for it gets it."""


def make_yard(broker: object) -> Yard:
    """A yard for the tasks of a kit; taskkit knows no limit of their length, so it has ours."""
    return Yard(broker, max_message_bytes=LARGEST)


class Store:
    """Puts tasks, and looks them up.

    Arguments:
        yard: where they are.
        handler: of the program.

    Attributes:
        yard: the same.
    """

    def __init__(self, yard: Yard, handler: TaskHandler) -> None:
        self.yard = yard
        self._handler = handler
        self._declared: dict[str, core.Task[..., Any]] = {}
        self._declaring = threading.Lock()

    def put_new(self, group: str, call: Call) -> New:
        """Store a task, and give it an id."""
        task_id = self._enqueuer(group, _due_of(call), call[-1]).enqueue(*call).id
        return task_id, group, call

    def put(self, tasks: Sequence[New]) -> None:
        """Store tasks, all at once."""
        alike: dict[tuple[str, float, float], tuple[list[str], list[Call]]] = {}
        for task_id, group, call in tasks:
            ids, calls = alike.setdefault((group, _due_of(call), call[-1]), ([], []))
            ids.append(task_id)
            calls.append(call)
        with self.yard.buffered() if len(alike) > 1 else nullcontext():
            for way, (ids, calls) in alike.items():
                self._enqueuer(*way, _one_by_one(ids)).enqueue_many(calls)

    def _enqueuer(
        self, group: str, due: float, ttl: float, id_: Callable[[Any], str] | None = None
    ) -> core.Task[..., Any] | Enqueuer[..., Any]:
        """What enqueues tasks of a group with these options; `due` 0: now."""
        task = self.of_group(group)
        if not due and ttl == DEFAULT_TASK_TTL and id_ is None:
            return task
        moment = _moment(due) if due else None
        return Enqueuer(task, Options(id=id_, due=moment, result_ttl=kept_for(ttl)))

    def of_group(self, group: str) -> core.Task[..., Any]:
        """The task of the core for a group, declared when it is first asked for."""
        found = self._declared.get(group)
        if found is None:
            with self._declaring:
                found = self._declared.get(group)
                if found is None:
                    found = self._declared[group] = declare(self.yard, self._handler, group)
        return found

    def wait(self, task_id: str, new: New | None, timeout: float | None) -> tuple[Task, bytes]:
        """Wait for the end of a task; see `Result.get`.

        Arguments:
            task_id: its id.
            new: the task, if it was stored here.
            timeout: seconds to wait at most; None: without limit.

        Returns:
            The task, and its encoded result.
        """
        left = None if timeout is None else max(0.0, timeout)
        try:
            found: Any = self.yard.result(task_id).get(left, inside_handler=True)
            return done_task(task_id, found)
        except errors.TaskFailed as failed:
            message = failed.failure.traceback or failed.failure.summary()
            raise Failed(self._failed_task(task_id, new), message) from None
        except errors.ResultTimeout as late:
            raise ResultGetTimedOut(str(late)) from None
        except (errors.NotFound, errors.TaskDiscarded, errors.TaskCancelled) as gone:
            raise NotFound(str(gone)) from None

    def _failed_task(self, task_id: str, new: New | None) -> Task:
        """The task of a dead letter; if that is gone, as far as it is known still."""
        if new is not None:
            return task_of_call(*new, self._retries(task_id))
        record = self.yard.reader.read(task_id)
        queue = record.task.queue if record is not None else None
        group = "" if queue is None else group_of(queue)
        letter = self.yard.dead.find(task_id, queue=queue)
        if letter is not None:
            try:
                _, call, _ = self.of_group(group).codec.decode(letter.body)
                return task_of_call(task_id, group, call, max(0, letter.attempts - 1))
            except (errors.PayloadError, ValueError):
                pass  # it is here since it cannot be read
        return Task(task_id, group, "", b"", 0.0, 0.0)

    def _retries(self, task_id: str) -> int:
        """How often a task was tried again before it failed."""
        try:
            return retries_told(self.yard.progress(task_id))
        except errors.NotFound:  # its time to live ended just now
            return 0


def _due_of(call: Call) -> float:
    """When a task may run; 0: now."""
    _, _, created, due, _, _ = call
    return due if due > created else 0.0


def _one_by_one(ids: Sequence[str]) -> Callable[[Any], str]:
    following = iter(ids)
    return lambda _item: next(following)


def _moment(due: float) -> datetime:
    try:
        return datetime.fromtimestamp(due, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.max.replace(tzinfo=UTC)  # which is told of as too late


def kept_for(ttl: float) -> float | None:
    """The time to live of a result, as the core takes it; None: the usual one."""
    return None if ttl == DEFAULT_TASK_TTL else min(max(SHORTEST, ttl), LONGEST)
