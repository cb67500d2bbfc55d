"""What asking for a result may raise."""

from __future__ import annotations

from taskyard import errors
from taskyard.compat.taskkit.task import Task

__all__ = ["Failed", "NotFound", "ResultGetPrevented", "ResultGetTimedOut"]


class NotFound(errors.NotFound):
    """There is nothing of the task: it never was, was discarded, or its time to live is over."""


class Failed(errors.ResultError):
    """The task failed, and is not tried again.

    Arguments:
        task: the task.
        message: the traceback, or what else is known of why.
    """

    def __init__(self, task: Task, message: str) -> None:
        super().__init__(task, message)
        self.task = task
        self.message = message

    def __str__(self) -> str:
        return f"task {self.task.id} ({self.task.group}: {self.task.name}) failed: {self.message}"


class ResultGetTimedOut(errors.ResultTimeout):
    """The task did not end in time."""


class ResultGetPrevented(errors.ResultWaitRefused):
    """`Result.get` was called while a task is handled, without `avoid_assertion=True`."""
