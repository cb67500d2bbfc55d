"""What is scheduled: entries in either form, and what the core is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NotRequired, TypeAlias, TypedDict

from taskyard.compat.taskkit.groups import quoted
from taskyard.compat.taskkit.handling import as_bytes
from taskyard.compat.taskkit.schedule import OnlyEarliest, OnlyLatest, RegularSchedule
from taskyard.compat.taskkit.store import Store, kept_for
from taskyard.compat.taskkit.task import DEFAULT_TASK_TTL, TaskHandler
from taskyard.errors import PolicyError

__all__ = [
    "ScheduleEntriesCompat",
    "ScheduleEntriesCompatMapping",
    "ScheduleEntry",
    "ScheduleEntryCompat",
    "ScheduleEntryDict",
    "declare_schedules",
    "ensured",
]

_PREFIX = "taskkit:"
"""What names of our schedules begin with: others in the same broker are left alone."""


@dataclass(frozen=True)
class ScheduleEntry:
    """A task that is initiated again and again.

    Attributes:
        key: what tells it from the others of its scheduler.
        schedule: when.
        group: the task group.
        name: the task's name.
        data: encoded as by `TaskHandler.encode_data`.
        result_ttl: seconds for which each result is kept; None: seven days.
    """

    key: str
    schedule: RegularSchedule
    group: str
    name: str
    data: bytes
    result_ttl: float | None = None


class ScheduleEntryDict(TypedDict):
    """The same with data that is not encoded: the kit does it."""

    key: str
    schedule: RegularSchedule
    group: str
    name: str
    data: Any
    result_ttl: NotRequired[float | None]


_REQUIRED = {"key", "schedule", "group", "name", "data"}

ScheduleEntryCompat: TypeAlias = ScheduleEntry | ScheduleEntryDict
ScheduleEntriesCompat: TypeAlias = Sequence[ScheduleEntryCompat]
ScheduleEntriesCompatMapping: TypeAlias = Mapping[str, ScheduleEntriesCompat]


def ensured(
    entries: ScheduleEntriesCompatMapping, handler: TaskHandler
) -> dict[str, list[ScheduleEntry]]:
    """All entries in their encoded form.

    Arguments:
        entries: by scheduler.
        handler: encodes the data of those that are dicts.

    Raises:
        PolicyError: something is no entry.
        PayloadError: the handler did not encode data to bytes.
    """
    return {
        scheduler: [_ensured(entry, handler) for entry in of_scheduler]
        for scheduler, of_scheduler in entries.items()
    }


def _ensured(entry: ScheduleEntryCompat, handler: TaskHandler) -> ScheduleEntry:
    if isinstance(entry, ScheduleEntry):
        return entry
    given: object = entry
    if not isinstance(given, Mapping) or not given.keys() >= _REQUIRED:
        raise PolicyError(
            f"a schedule entry is a ScheduleEntry, or a dict with {', '.join(sorted(_REQUIRED))}, "
            f"not {given!r}"
        )
    group, name = entry["group"], entry["name"]
    encoded = as_bytes(handler.encode_data(group, name, entry["data"]), "encode_data must return")
    return ScheduleEntry(
        entry["key"], entry["schedule"], group, name, encoded, entry.get("result_ttl")
    )


def declare_schedules(
    store: Store, entries: Mapping[str, Sequence[ScheduleEntry]], zone: str
) -> None:
    """Declare the schedules of all schedulers; what these had before and have no more is removed.

    Arguments:
        store: whose yard declares them.
        entries: by scheduler.
        zone: whose clock, of those that have none of their own.

    Raises:
        PolicyError: something of an entry is wrong, or a scheduler has two with the same key.
        PayloadError: its data is not encoded.
    """
    for scheduler, of_scheduler in entries.items():
        prefix = f"{_PREFIX}{quoted(scheduler, 'the name of a scheduler', '/')}/"
        store.yard.own_schedules(prefix)
        for entry in of_scheduler:
            _declare(store, prefix, entry, zone)


def _declare(store: Store, prefix: str, entry: ScheduleEntry, zone: str) -> None:
    schedule: object = entry.schedule
    if not isinstance(schedule, RegularSchedule) or callable(schedule):
        raise PolicyError(
            f"the schedule of an entry is stored, so it must be a RegularSchedule, not {schedule!r}"
        )
    policy = schedule.duplication_policy
    if type(policy) not in (OnlyLatest, OnlyEarliest):
        raise PolicyError(f"a duplication_policy is OnlyLatest() or OnlyEarliest(), not {policy!r}")
    ttl = DEFAULT_TASK_TTL if entry.result_ttl is None else entry.result_ttl
    store.yard.schedule(
        store.of_group(entry.group).options(result_ttl=kept_for(ttl)),
        entry.name,
        as_bytes(entry.data, "the data of a ScheduleEntry must be"),
        0.0,  # created and due are told by the message's id
        0.0,
        None,
        ttl,
        when=schedule.when(zone),
        name=prefix + quoted(entry.key, "the key of a schedule entry"),
        catch_up=policy.catch_up,
    )
