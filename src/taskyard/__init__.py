"""taskyard: tasks in batches, in order, in time, and never lost."""

from typing import TYPE_CHECKING, Any

from taskyard.brokers.cancelling import Cancellation, Cancelled
from taskyard.brokers.explanation import Explanation, Why
from taskyard.brokers.lane import Gate
from taskyard.codec import Codec
from taskyard.context import (
    Context,
    MessageInfo,
    Progress,
    current_context,
    discard,
    fail,
    retry,
)
from taskyard.encryption import Keys
from taskyard.errors import (
    BatchFailed,
    DiscardMessage,
    FailMessage,
    ResultTimeout,
    RetryMessage,
    TaskCancelled,
    TaskDiscarded,
    TaskFailed,
    TaskyardError,
)
from taskyard.message import Failure, State
from taskyard.middleware import Claimed, EnqueueCall, Middleware, Settled, SettledMessage
from taskyard.policy import Batch, RateLimit, Retry, Unique
from taskyard.result import Result, Results
from taskyard.schedule import RegularSchedule, cron, every, rrule
from taskyard.task import BatchTask, Handler, Task
from taskyard.yard import Yard

if TYPE_CHECKING:
    from taskyard.dispatch.run import arun, run, stream

__all__ = [
    "Batch",
    "BatchFailed",
    "BatchTask",
    "Cancellation",
    "Cancelled",
    "Claimed",
    "Codec",
    "Context",
    "DiscardMessage",
    "EnqueueCall",
    "Explanation",
    "FailMessage",
    "Failure",
    "Gate",
    "Handler",
    "Keys",
    "MessageInfo",
    "Middleware",
    "Progress",
    "RateLimit",
    "RegularSchedule",
    "Result",
    "ResultTimeout",
    "Results",
    "Retry",
    "RetryMessage",
    "Settled",
    "SettledMessage",
    "State",
    "Task",
    "TaskCancelled",
    "TaskDiscarded",
    "TaskFailed",
    "TaskyardError",
    "Unique",
    "Why",
    "Yard",
    "arun",
    "cron",
    "current_context",
    "discard",
    "every",
    "fail",
    "retry",
    "rrule",
    "run",
    "stream",
]

_RUNS = {"arun", "run", "stream"}


def __getattr__(name: str) -> Any:
    # Local runs are no part of what a program with tasks loads.
    if name in _RUNS:
        from taskyard.dispatch import run as ways_in

        return getattr(ways_in, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
