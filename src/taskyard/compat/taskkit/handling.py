"""From messages of the core to calls of a `TaskHandler`, and back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

from taskyard import task as core
from taskyard.compat.taskkit.errors import ResultGetPrevented
from taskyard.compat.taskkit.groups import group_of, queue_of, task_of
from taskyard.compat.taskkit.task import DEFAULT_TASK_TTL, DiscardTask, Task, TaskHandler
from taskyard.context import Progress, current_context
from taskyard.errors import DiscardMessage, NotFound, PayloadError, RetryMessage
from taskyard.policy import LONGEST
from taskyard.scheduling import instant_of
from taskyard.yard import Yard

__all__ = [
    "Call",
    "Done",
    "as_bytes",
    "call_of",
    "declare",
    "done_task",
    "encoded_result",
    "handling_eagerly",
    "is_handling",
    "retries_told",
    "task_of_call",
]

log = logging.getLogger("taskyard.compat.taskkit")

Call: TypeAlias = tuple[str, bytes, float, float, float | None, float]
"""What a message holds: name, data, created (0: a schedule put it), due, scheduled, ttl."""

Done: TypeAlias = tuple[str, str, bytes, float, float, float | None, int, float, bytes]
"""What a result holds: group, name, data, due, created, scheduled, retry_count, ttl of the task,
as `decode_result` gets that; and the encoded result."""

FIRST_CREATED = 1e-6
"""Instead of 0, which says that a schedule put a task."""

_eagerly: ContextVar[bool] = ContextVar("eagerly", default=False)


def call_of(task: Task) -> Call:
    """What is put of a task."""
    created = task.created or FIRST_CREATED
    return task.name, task.data, created, task.due, task.scheduled, task.ttl


def task_of_call(task_id: str, group: str, call: Call, retry_count: int) -> Task:
    """The task of a message.

    Raises:
        ValueError: it is said to come from a schedule, but its id tells no instant.
    """
    name, data, created, due, scheduled, ttl = call
    if not created:
        created = due = scheduled = instant_of(task_id) / 1e6
    return Task(task_id, group, name, data, due, created, scheduled, retry_count, ttl)


def done_task(task_id: str, done: Done) -> tuple[Task, bytes]:
    """The task of a result, and what `encode_result` made of its result.

    Raises:
        NotFound: it is the result of something else.
    """
    try:
        group, name, data, due, created, scheduled, retry_count, ttl, encoded = done
    except (TypeError, ValueError):
        raise NotFound(f"message {task_id} is no task of a kit") from None
    return Task(task_id, group, name, data, due, created, scheduled, retry_count, ttl), encoded


def as_bytes(encoded: object, what: str) -> bytes:
    """What a handler encoded; a text goes as UTF-8.

    Arguments:
        encoded: the same.
        what: how an error begins, up to "bytes".

    Raises:
        PayloadError: it is neither bytes nor a text.
    """
    if type(encoded) is bytes:
        return encoded
    if isinstance(encoded, str):
        return encoded.encode()
    if isinstance(encoded, bytes | bytearray | memoryview):
        return bytes(encoded)
    raise PayloadError(f"{what} bytes, not {type(encoded).__name__}")


def is_handling() -> bool:
    """Whether a task is handled here, so that waiting for another one could last for ever."""
    if _eagerly.get():
        return True
    try:
        current_context()
    except NotFound:
        return False
    return True


@contextmanager
def handling_eagerly() -> Iterator[None]:
    """Handle a task in the program that initiated it."""
    token = _eagerly.set(True)
    try:
        yield
    finally:
        _eagerly.reset(token)


def declare(yard: Yard, handler: TaskHandler, group: str) -> core.Task[..., Any]:
    """Declare the task of a group."""
    queue = queue_of(group)
    # The handler decides about retries by itself: see `_Runner`.
    make = yard.task(name=task_of(queue), queue=queue, retry=0, result_ttl=DEFAULT_TASK_TTL)
    return make(_Runner(handler, group_of(queue)).run)


def encoded_result(handler: TaskHandler, task: Task) -> bytes:
    """Handle a task here and now; raises what the handler raises."""
    return as_bytes(handler.encode_result(task, handler.handle(task)), "encode_result must return")


def _facts(task: Task) -> tuple[str, str, bytes, float, float, float | None, int, float]:
    return (
        task.group,
        task.name,
        task.data,
        task.due,
        task.created,
        task.scheduled,
        task.retry_count,
        task.ttl,
    )


_RETRIES = "taskkit: retries"
"""The note by which the progress of a task that failed tells how often it was tried again."""


def _tell_retries(task: Task) -> None:
    """Tell how often a task was tried again: it travels with the failure, and costs nothing."""
    if task.retry_count:
        current_context().progress(task.retry_count, note=_RETRIES)


def retries_told(progress: Progress | None) -> int:
    """How often a task was tried again, as its progress tells since it failed."""
    told = progress is not None and progress.note == _RETRIES and progress.done
    return int(told or 0)


def _delay(interval: float) -> float:
    """The delay of a retry, as the core takes it; no number stays none, which it refuses."""
    return min(max(interval, 0.0), LONGEST)


class _Runner:
    """Runs the tasks of a group in a worker.

    Arguments:
        handler: the program's.
        group: the group.
    """

    def __init__(self, handler: TaskHandler, group: str) -> None:
        self._handler = handler
        self._group = group

    def run(
        self,
        name: str,
        data: bytes,
        created: float,
        due: float,
        scheduled: float | None,
        ttl: float,
    ) -> Done:
        """Run one, given as a `Call`."""
        info = current_context().message
        call = (name, data, created, due, scheduled, ttl)
        task = task_of_call(info.id, self._group, call, info.attempt - 1)
        try:
            encoded = encoded_result(self._handler, task)
        except DiscardTask as discarded:
            raise DiscardMessage(str(discarded) or "DiscardTask") from discarded
        except ResultGetPrevented:
            raise
        except Exception as error:
            again = self._retry(task, error)
            if again is None:
                _tell_retries(task)
                raise
            raise again from error
        return *_facts(task), encoded

    def _retry(self, task: Task, error: Exception) -> RetryMessage | None:
        """What the handler says of a failure; None: the task has failed."""
        try:
            interval = self._handler.get_retry_interval(task, error)
            return None if interval is None else RetryMessage(_delay(interval))
        except DiscardTask as discarded:
            raise DiscardMessage(str(discarded) or "DiscardTask") from discarded
        except ResultGetPrevented:
            raise
        except Exception:
            log.exception("get_retry_interval failed, so task %s is tried again", task.id)
            return RetryMessage(task.retry_count + 1.0)
