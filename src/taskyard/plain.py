"""Queues served by plain functions, which know nothing of tasks: called with a list of values."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from taskyard.errors import BatchFailed, Verdict
from taskyard.policy import Batch
from taskyard.task import Task
from taskyard.yard import Yard

__all__ = [
    "FailedCall",
    "OnFailed",
    "batch_of",
    "handler_of",
    "log_failed",
    "remote_plain",
    "serve_plain",
]

log = logging.getLogger("taskyard.start")

Function: TypeAlias = Callable[..., Any]


class FailedCall(NamedTuple):
    """A call that raised.

    Attributes:
        queue: whose messages it was called with.
        called: what the user calls the function.
        function: as it was given.
        number: how many messages these are.
        error: what it raised; without frames of taskyard.
    """

    queue: str
    called: str
    function: Function
    number: int
    error: BaseException


OnFailed: TypeAlias = Callable[[FailedCall], None]


def log_failed(call: FailedCall) -> None:
    """Log what a function raised."""
    log.error(
        "%s failed with a batch of %s from queue %s: it is kept as dead letters",
        call.called,
        call.number,
        call.queue,
        exc_info=call.error,
        extra={"queue": call.queue, "function": call.called},
    )


def batch_of(size: int, within: float) -> Batch:
    """How messages are gathered for a function.

    Arguments:
        size: of one call at most.
        within: seconds after which a call gets what is there.

    Raises:
        PolicyError: one of them is wrong.
    """
    # A batch of one is full at once, so it waits for nothing.
    return Batch(size, within if size != 1 else 0)


def serve_plain(
    yard: Yard,
    queue: str,
    function: Function,
    *,
    called: str,
    size: int,
    within: float,
    typed: bool = True,
    on_failed: OnFailed = log_failed,
) -> Task[..., Any]:
    """Let a yard serve a queue with a function.

    Arguments:
        yard: where.
        queue: its name; also the task's.
        function: plain or async.
        called: what the user calls it.
        size: messages of one call at most.
        within: seconds after which a call gets what is there.
        typed: whether messages are checked against the function's annotations.
        on_failed: is told of each call that raises, in the process that made it. It must not raise.

    Raises:
        PolicyError: something of it is wrong, or the queue is served by another function.
    """
    handler = handler_of(function, queue=queue, called=called, typed=typed, on_failed=on_failed)
    batch = batch_of(size, within)
    return yard.task(name=queue, queue=queue, batch=batch, retry=0, result_ttl=None)(handler)


def remote_plain(yard: Yard, queue: str) -> Task[..., Any]:
    """A queue that is served so elsewhere, to enqueue values for it."""
    return yard.remote(queue, queue=queue, batch=True)


def handler_of(
    function: Function,
    *,
    queue: str,
    called: str,
    typed: bool = True,
    on_failed: OnFailed = log_failed,
) -> Function:
    """Make a batch handler of any function that takes a list.

    Whatever it returns is ignored. If it raises, the whole batch has failed: the function was not
    written to be called again with halves of it.

    Arguments:
        function: plain or async.
        queue: the queue that it serves.
        called: what the user calls it.
        typed: whether messages are checked against its annotations.
        on_failed: is told when it raises.
    """
    if isinstance(function, Task):
        function = function.function

    def failed(items: Sequence[Any], error: BaseException) -> BatchFailed:
        trace = error.__traceback__ and error.__traceback__.tb_next  # without our own frame
        error = error.with_traceback(trace)
        on_failed(FailedCall(queue, called, function, len(items), error))
        return BatchFailed(dict.fromkeys(range(len(items)), error))

    handle: Function
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - whether calling it gives a coroutine
    ):

        async def handle(items: Sequence[Any]) -> None:
            try:
                await function(items)
            except (BatchFailed, Verdict, asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException as error:
                raise failed(items, error) from error

    else:

        def handle(items: Sequence[Any]) -> None:
            try:
                _refuse_coroutine(function(items))
            except (BatchFailed, Verdict):
                raise
            except BaseException as error:
                raise failed(items, error) from error

    _describe(handle, function, typed=typed)
    return handle


def _refuse_coroutine(value: Any) -> None:
    """A lambda, or a decorator, hid that a function is async: nothing of it has run."""
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("the function is no async one, but returned a coroutine")


def _describe(handle: Any, function: Function, *, typed: bool) -> None:
    """Let the messages be typed by the function's annotations, if at all, but not its result."""
    if not typed:
        return
    handle.__wrapped__ = function
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not tell
        signature = inspect.signature(handle, follow_wrapped=False)
    handle.__signature__ = signature.replace(return_annotation=inspect.Signature.empty)
