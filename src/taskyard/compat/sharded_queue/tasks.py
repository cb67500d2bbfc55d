"""Handlers as tasks: what the document says, in the core's terms."""

from __future__ import annotations

import logging
from typing import Any

import taskyard
from taskyard import Retry, Yard, current_context
from taskyard.compat.sharded_queue.handlers import Handler, awaited, name_of
from taskyard.compat.sharded_queue.requests import Serializer, codec_for
from taskyard.compat.sharded_queue.settings import settings
from taskyard.policy import PRIORITIES, policy
from taskyard.task import BatchTask

__all__ = ["make_task", "priority_of", "route_priority"]

log = logging.getLogger("taskyard.sharded_queue")

RETRY = Retry()
"""How often a batch that raised is tried again, at the head of its thread."""


def make_task(
    yard: Yard,
    handler: type[Handler[Any]],
    serializer: Serializer | None,
    batch_size: int | None = None,
) -> BatchTask[Any, None]:
    """Make the task of a handler: batches of an ordered shard per thread.

    Arguments:
        yard: where its messages are put.
        handler: whose.
        serializer: what was given to the queue.
        batch_size: requests that it gets at once; None: as the settings say.

    Raises:
        PolicyError: it is not known what its requests are, or a setting cannot be met.
    """
    name, request = name_of(handler), handler.request_cls()
    declared = policy(
        {
            "queue": f"{settings.tube_prefix}{name}",
            "batch": settings.worker_batch_size if batch_size is None else batch_size,
            "ordered": True,
            "retry": RETRY,
            "result_ttl": None,
            "linger": settings.worker_empty_limit * settings.worker_empty_pause,
            "codec": codec_for(request, serializer),
        }
    )
    return BatchTask(yard, name, _form(handler, request), declared)


def priority_of(handler: type[Handler[Any]], priority: int) -> int:
    """The message's priority for that of a route: lower is served first."""
    listed = handler.priorities
    if not listed:
        return priority
    if priority in listed:
        return listed.index(priority)
    return min(len(listed) + max(0, priority), PRIORITIES[-1])


def route_priority(handler: type[Handler[Any]] | None, priority: int) -> int:
    """The priority of a route for that of its message; the reverse of `priority_of`."""
    listed = None if handler is None else handler.priorities
    if not listed:
        return priority
    return listed[priority] if priority < len(listed) else priority - len(listed)


def _form(handler: type[Handler[Any]], request: type[Any]) -> Any:
    """The class that the core works with."""

    class Form(taskyard.Handler[Any]):
        """Stands before an instance of the handler."""

        def __init__(self, made: Handler[Any]) -> None:
            self._made = made
            self._told = 0  # of a failure in which claim

        @classmethod
        async def create(cls) -> Form:
            return cls(await awaited(handler.create()))

        async def start(self) -> None:
            await awaited(self._made.start())

        async def handle(self, requests: list[Any], /) -> None:
            try:
                await awaited(self._made.handle(*requests))
            except Exception:
                context = current_context()
                if context.token != self._told:  # not again, where the bad one is searched
                    self._told = context.token
                    log.exception(
                        "a batch of %s requests raised in thread %s of %s",
                        len(requests),
                        context.shard,
                        context.task,
                    )
                raise

        async def stop(self) -> None:
            await awaited(self._made.stop())

    Form.handle.__annotations__ = {"requests": list[request], "return": None}  # type: ignore[valid-type]
    return Form
