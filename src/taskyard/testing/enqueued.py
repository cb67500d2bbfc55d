"""What was enqueued in a test, decoded as its handler would get it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from taskyard.message import read_headers
from taskyard.task import Task
from taskyard.testing.broker import NotedPut
from taskyard.testing.clock import moment_of
from taskyard.yard import Yard

__all__ = ["Enqueued", "read_noted"]


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A message that was enqueued.

    Attributes:
        task: the task's name.
        args: what the handler gets by position: every argument that can be given so, however the
            call was written. Of a batch task, one element of its list.
        kwargs: what it gets by name. Arguments that were left to their defaults are missing.
        id: the message's id.
        queue: its queue.
        shard: its shard's key; "" without one.
        priority: its priority.
        delay: seconds for which it is put off, from when it was enqueued.
        at: when it was enqueued, by the yard's clock.
        headers: what middleware gave to it.
        expires: seconds that it may wait for its first attempt; None: what its task says.
    """

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    id: str
    queue: str
    shard: str
    priority: int
    delay: float
    at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)
    expires: float | None = None


def read_noted(yard: Yard, noted: NotedPut) -> Iterator[Enqueued]:
    """Decode what was put.

    Arguments:
        yard: whose tasks say how.
        noted: what was put.

    Raises:
        PayloadError: a message does not fit its handler.
    """
    put, at = noted
    name = put.member or put.group.name
    task = _task(yard, name, put.group.queue)
    delay = max(0, put.due - at) if put.due else put.delay
    for body in put.bodies:
        message_id, args, kwargs = task.codec.decode(body)
        yield Enqueued(
            name,
            args,
            kwargs,
            message_id,
            put.group.queue,
            put.shard,
            put.priority,
            delay / 1e6,
            moment_of(at),
            read_headers(body),
            put.expires / 1e6 if put.expires else None,
        )


def _task(yard: Yard, name: str, queue: str) -> Task[..., Any]:
    task = yard.tasks.get(name)
    if task is None or task.policy.queue != queue:  # it is declared in another program
        return yard.remote(name, queue=queue)
    return task
