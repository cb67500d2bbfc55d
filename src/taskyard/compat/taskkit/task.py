"""A task as its handler sees it, and what a handler is."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Protocol, SupportsFloat, overload

from taskyard.errors import EnqueueError
from taskyard.message import IdMaker

__all__ = [
    "DEFAULT_TASK_TTL",
    "DiscardTask",
    "Task",
    "TaskHandler",
    "as_timestamp",
    "checked_ttl",
    "new_ids",
]

DEFAULT_TASK_TTL = 7 * 86_400.0
"""Seconds for which a result is kept."""

_ids = IdMaker()


def new_ids(count: int) -> Sequence[str]:
    """Ids of tasks, up to a million at once."""
    return _ids.take(count)


@dataclass(frozen=True)
class Task:
    """A task of a group. Times are seconds since 1970.

    Attributes:
        id: its own.
        group: the task group.
        name: by which its handler knows what to do.
        data: as `TaskHandler.encode_data` made it.
        due: when it was to run first.
        created: when it was initiated.
        scheduled: the instant of its schedule; None: no schedule initiated it.
        retry_count: how often it was tried before.
        ttl: seconds for which its result is kept.
    """

    id: str
    group: str
    name: str
    data: bytes
    due: float
    created: float
    scheduled: float | None = None
    retry_count: int = 0
    ttl: float = DEFAULT_TASK_TTL

    @classmethod
    def init(
        cls,
        group: str,
        name: str,
        data: bytes,
        due: datetime | float | None = None,
        scheduled: datetime | float | None = None,
        ttl: float = DEFAULT_TASK_TTL,
    ) -> Task:
        """Make a task, with an id of its own, to hand it to `Kit.initiate_tasks`.

        Arguments:
            group: the task group.
            name: its name.
            data: encoded already.
            due: when it may run; a datetime without a zone is local time. None: now.
            scheduled: the instant that it stands for.
            ttl: seconds for which its result is kept.
        """
        created = time.time()
        return cls(
            id=new_ids(1)[0],
            group=group,
            name=name,
            data=data,
            due=as_timestamp(due) or created,
            created=created,
            scheduled=as_timestamp(scheduled),
            ttl=ttl,
        )

    def due_dt(self, tzinfo: tzinfo | None = None) -> datetime:
        """`due` as a datetime, of the local zone if none is given."""
        return _moment(self.due, tzinfo)

    def created_dt(self, tzinfo: tzinfo | None = None) -> datetime:
        """`created` as a datetime, of the local zone if none is given."""
        return _moment(self.created, tzinfo)

    def scheduled_dt(self, tzinfo: tzinfo | None = None) -> datetime | None:
        """`scheduled` as a datetime, of the local zone if none is given."""
        return None if self.scheduled is None else _moment(self.scheduled, tzinfo)


def _moment(timestamp: float, zone: tzinfo | None) -> datetime:
    return datetime.fromtimestamp(timestamp, zone).astimezone(zone)


@overload
def as_timestamp(moment: datetime | float) -> float: ...
@overload
def as_timestamp(moment: datetime | float | None) -> float | None: ...
def as_timestamp(moment: datetime | float | None) -> float | None:
    """Seconds since 1970; a datetime without a zone is local time.

    Raises:
        EnqueueError: it is neither a datetime nor a number.
    """
    if moment is None:
        return None
    if isinstance(moment, datetime):
        return moment.timestamp()
    return _number("due", moment, "a datetime or seconds since 1970")


def checked_ttl(ttl: float) -> float:
    """Seconds for which a result is kept.

    Raises:
        EnqueueError: it is no number.
    """
    return ttl if ttl is DEFAULT_TASK_TTL else _number("ttl", ttl, "a number of seconds")


def _number(name: str, value: object, expected: str) -> float:
    if isinstance(value, SupportsFloat) and not isinstance(value, str | bytes):
        number = float(value)
        if not math.isnan(number):
            return number
    raise EnqueueError(f"{name} must be {expected}, not {value!r}")


class DiscardTask(Exception):
    """Raised by a handler: the task ends without a result, and is not tried again."""


class TaskHandler(Protocol):
    """What a program does with its tasks; subclass it, or write a class with the same methods.

    Where worker processes are spawned and not forked, it must be picklable.
    """

    def handle(self, task: Task) -> Any:
        """Handle a task.

        Returns:
            Its result.

        Raises:
            DiscardTask: it is to be forgotten.
            Exception: it failed; `get_retry_interval` decides what follows.
        """
        ...

    def get_retry_interval(self, task: Task, exception: Exception) -> float | None:
        """Decide what follows from a failure.

        Returns:
            Seconds until the task is tried again; None: it has failed.

        Raises:
            DiscardTask: it is to be forgotten.
        """
        ...

    def encode_data(self, group: str, task_name: str, data: Any) -> bytes:
        """Encode the data of a task."""
        ...

    def encode_result(self, task: Task, result: Any) -> bytes:
        """Encode what `handle` returned."""
        ...

    def decode_result(self, task: Task, encoded: bytes) -> Any:
        """Decode what `encode_result` made."""
        ...
