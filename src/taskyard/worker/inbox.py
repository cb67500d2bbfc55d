"""What other programs push: from JSON to messages of a queue's tasks."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from taskyard.brokers.base import Dead, Put
from taskyard.brokers.inboxes import Misfit
from taskyard.enqueue import Enqueuer
from taskyard.errors import EnqueueError, PayloadError, TaskyardError
from taskyard.message import Failure, Reason
from taskyard.task import Task
from taskyard.values import brief

__all__ = ["Reader"]

MARK = "taskyard"
"""An object with this key is a message with options: they are its value."""
VALUE = "value"
OPTIONS = ("delay", "due", "id", "priority", "shard", "task")


class Reader:
    """Makes messages of the values in a queue's inbox.

    Arguments:
        queue: its name.
        tasks: those of its tasks that are known here; one at least.
    """

    def __init__(self, queue: str, tasks: Iterable[Task[..., Any]]) -> None:
        self._queue = queue
        self._tasks = {task.name: task for task in sorted(tasks, key=lambda task: task.name)}
        self._only = next(iter(self._tasks.values())) if len(self._tasks) == 1 else None
        self._plain = None if self._only is None else self._only.options()

    def read(self, data: bytes) -> Put | Misfit:
        """Make a message of a value, or say why it is none.

        Arguments:
            data: the value as it was pushed.
        """
        task = self._only
        try:
            value = _parse(data)
            if type(value) is dict and MARK in value:
                given = _options(value)
                task = self._task(given.pop("task", None))
                return _enqueuer(task, given).put_of(value[VALUE])
            task = self._task(None)
            return (self._plain or task.options()).put_of(value)
        except TaskyardError as error:
            return self._misfit(task, error)

    def _task(self, name: object) -> Task[..., Any]:
        if name is None and self._only is not None:
            return self._only
        known = ", ".join(self._tasks)
        if name is None:
            raise EnqueueError(
                f"the queue {self._queue!r} has several tasks ({known}), so a message must name "
                f'its own: {{"{MARK}": {{"task": "{next(iter(self._tasks))}"}}, "{VALUE}": …}}'
            )
        task = self._tasks.get(name) if isinstance(name, str) else None
        if task is None:
            raise EnqueueError(
                f"the queue {self._queue!r} has no task {brief(name)}; there are: {known}"
            )
        return task

    def _misfit(self, task: Task[..., Any] | None, error: TaskyardError) -> Misfit:
        failure = Failure(Reason.UNREADABLE, type(error).__name__, str(error))
        owner = task or next(iter(self._tasks.values()))
        return Misfit(owner.group, Dead(failure, task=owner.name))


def _parse(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except RecursionError:
        raise PayloadError("no JSON that can be read: it is nested too deeply") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise PayloadError(f"no JSON: {error}" if data else "no JSON: it is empty") from None


def _options(value: dict[str, Any]) -> dict[str, Any]:
    """The options of an object that has some; those that are null are left out.

    Raises:
        EnqueueError: it has other keys than it may, or other options than there are.
    """
    more = sorted(value.keys() - {MARK, VALUE})
    if more:
        raise EnqueueError(
            f"an object with the key {MARK!r} has {VALUE!r} beside it and nothing else, not "
            f"{', '.join(map(brief, more))}; options belong into {MARK!r}"
        )
    if VALUE not in value:
        raise EnqueueError(f"an object with the key {MARK!r} must have the key {VALUE!r} too")
    given = value[MARK]
    if type(given) is not dict:
        raise EnqueueError(f"{MARK!r} must be an object of options, not {brief(given)}")
    unknown = sorted(given.keys() - set(OPTIONS))
    if unknown:
        raise EnqueueError(
            f"unknown option {', '.join(map(brief, unknown))}; there are {', '.join(OPTIONS)}"
        )
    return {name: option for name, option in given.items() if option is not None}


def _enqueuer(task: Task[..., Any], given: dict[str, Any]) -> Enqueuer[..., Any]:
    if "due" in given:
        given["due"] = _moment(given["due"])
    return task.options(**given)


def _moment(due: object) -> datetime:
    try:
        if isinstance(due, str):
            moment = datetime.fromisoformat(due)
            if moment.tzinfo is not None:
                return moment
        elif isinstance(due, (int, float)) and not isinstance(due, bool):
            return datetime.fromtimestamp(due, UTC)
    except (ArithmeticError, OSError, ValueError):
        pass
    raise EnqueueError(
        f"due must be seconds since 1970 (not milliseconds), or a text with a zone as in "
        f"'2030-01-31T08:00:00Z'; given {brief(due)}"
    )
