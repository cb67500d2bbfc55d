"""The front door of taskkit: handlers of task groups, results and schedules, on the core.

A program written for taskkit runs after its import lines got the prefix `taskyard.compat.`. What
is the same and what is not: `docs/howto/from-taskkit.md`.
"""

from taskyard.compat.taskkit.entries import (
    ScheduleEntriesCompat,
    ScheduleEntriesCompatMapping,
    ScheduleEntry,
    ScheduleEntryCompat,
    ScheduleEntryDict,
)
from taskyard.compat.taskkit.errors import (
    Failed,
    NotFound,
    ResultGetPrevented,
    ResultGetTimedOut,
)
from taskyard.compat.taskkit.kit import InitiateTaskArgs, Kit
from taskyard.compat.taskkit.result import Result
from taskyard.compat.taskkit.schedule import (
    DuplicationPolicy,
    OnlyEarliest,
    OnlyLatest,
    RegularSchedule,
)
from taskyard.compat.taskkit.task import DEFAULT_TASK_TTL, DiscardTask, Task, TaskHandler

__all__ = [
    "DEFAULT_TASK_TTL",
    "DiscardTask",
    "DuplicationPolicy",
    "Failed",
    "InitiateTaskArgs",
    "Kit",
    "NotFound",
    "OnlyEarliest",
    "OnlyLatest",
    "RegularSchedule",
    "Result",
    "ResultGetPrevented",
    "ResultGetTimedOut",
    "ScheduleEntriesCompat",
    "ScheduleEntriesCompatMapping",
    "ScheduleEntry",
    "ScheduleEntryCompat",
    "ScheduleEntryDict",
    "Task",
    "TaskHandler",
]
