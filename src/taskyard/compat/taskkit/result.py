"""What became of a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from taskyard.compat.taskkit.errors import ResultGetPrevented, ResultGetTimedOut
from taskyard.compat.taskkit.handling import is_handling
from taskyard.compat.taskkit.task import Task, TaskHandler

__all__ = ["Result", "ResultGetPrevented", "ResultGetTimedOut", "Wait"]

T = TypeVar("T")

Wait: TypeAlias = Callable[[float | None], tuple[Task, bytes]]
"""Waits so many seconds for a task, and gives it with its encoded result, or raises."""

_MISSING: Any = object()


class Result(Generic[T]):
    """A handle on a task, and what became of it.

    Attributes:
        task_id: the task's id.
        handler: decodes the result.
    """

    def __init__(self, handler: TaskHandler, task_id: str, wait: Wait) -> None:
        self.task_id = task_id
        self.handler = handler
        self._wait = wait
        self._value: T = _MISSING

    def get(self, timeout: float | None = None, avoid_assertion: bool = False) -> T:
        """Wait for the result.

        Arguments:
            timeout: seconds to wait at most; None: without limit.
            avoid_assertion: allow it while a task is handled. It keeps a thread busy that may be
                needed to run the very task that is waited for.

        Returns:
            What `TaskHandler.decode_result` makes of the result.

        Raises:
            Failed: the task failed.
            NotFound: there is nothing of it: it was discarded, or its time to live is over.
            ResultGetTimedOut: it did not end in time.
            ResultGetPrevented: a task is handled here, and `avoid_assertion` is not set.
            BrokerError: the storage failed.
        """
        if is_handling() and not avoid_assertion:
            raise ResultGetPrevented(
                "waiting for the result of another task while one is handled can deadlock. If you "
                "can assure that it is safe, say get(avoid_assertion=True)"
            )
        if self._value is _MISSING:
            self._value = self.handler.decode_result(*self._wait(timeout))
        return self._value

    def __repr__(self) -> str:
        return f"Result({self.task_id!r})"
