"""What a broker keeps of schedules, so that any worker may do what is due, and only one does.

A broker does not read what a schedule means: it keeps one instant of it, the pending one, and
changes a schedule by comparing its revision. Who finds one due works out the next instant, and in
one call puts the messages and moves the schedule on; whoever comes second is refused. So there is
no lock that could stay behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from taskyard.brokers.base import Group, Operation, Put

__all__ = ["SCHEDULES", "DueSchedules", "Schedule", "Schedules"]

SCHEDULES = Group("", "schedules")
"""The group on which those sleep who wait for the next instant; no queue has an empty name."""


class Schedule(msgspec.Struct, frozen=True):
    """A schedule as it is stored.

    Attributes:
        name: its own.
        rule: what it means, and puts; the broker does not read it.
        pending: the first instant that was not done, microseconds; 0: there is none any more.
        last: the last instant that was done; 0: none was.
        paused: whether nothing of it is due.
        revision: how often it was changed since it was added; 0: it is not stored.
    """

    name: str
    rule: bytes
    pending: int
    last: int = 0
    paused: bool = False
    revision: int = 0


class DueSchedules(msgspec.Struct, frozen=True):
    """The reply of `Schedules.due`.

    Attributes:
        schedules: those whose pending instant has come, the earliest first.
        now: the broker's time, microseconds.
        next_at: if there are none, the first pending instant; 0: nothing is pending.
    """

    schedules: Sequence[Schedule]
    now: int
    next_at: int = 0


class Schedules(Protocol):
    """The schedules of a broker."""

    def find(
        self, names: Sequence[str] | None = None, *, after: str = "", limit: int = 100
    ) -> Operation[list[Schedule]]:
        """List schedules, sorted by name.

        Arguments:
            names: only these; None: all.
            after: only those with a later name, for paging.
            limit: this many at most.
        """
        ...

    def change(
        self, old: Schedule, new: Schedule | None, put: Put | None = None
    ) -> Operation[bool]:
        """Store a schedule, and a message with it, if it is still as it was.

        Arguments:
            old: as it was found; with revision 0, it must not be there yet.
            new: as it is to be, under the same name; its revision is the broker's to choose. None:
                it is removed.
            put: messages of one lane. They are stored together with the change. Where they are in
                another partition, they are stored before it: once, since they count as those of
                the instant `new.last`, and of each instant messages are stored once.

        Returns:
            Whether it was changed; if not, it is not as it was any more.
        """
        ...

    def due(self, limit: int, listener: str | None = None) -> Operation[DueSchedules]:
        """Say what is due.

        Arguments:
            limit: this many at most.
            listener: where to be woken if there is nothing due, and something becomes due before
                the `next_at` of the reply, since schedules were changed meanwhile.
        """
        ...
