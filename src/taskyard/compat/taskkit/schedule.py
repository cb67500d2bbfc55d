"""When scheduled tasks are initiated."""

from __future__ import annotations

from collections.abc import Set
from datetime import tzinfo
from typing import Literal, TypeAlias

from taskyard import schedule as core
from taskyard.schedule import CatchUp

__all__ = ["DuplicationPolicy", "OnlyEarliest", "OnlyLatest", "RegularSchedule"]

Given: TypeAlias = Literal["*"] | Set[int] | int | None
"""One, several, or "*" or None for all."""

GRID = frozenset(range(0, 60, 5))
"""All seconds, for taskkit."""


class DuplicationPolicy:
    """What is made up for after instants were missed; see its subclasses.

    Attributes:
        catch_up: as the core says it.
    """

    catch_up: CatchUp = "latest"


class OnlyLatest(DuplicationPolicy):
    """Of the instants that were missed, the last one is made up for."""


class OnlyEarliest(DuplicationPolicy):
    """Of the instants that were missed, the first one is made up for."""

    catch_up: CatchUp = "earliest"


class RegularSchedule:
    """When the wall clock shows one of these seconds, minutes, hours and days.

    Arguments:
        seconds: 0 to 59; `"*"` or None: every five.
        minutes: 0 to 59; `"*"` or None, here and below: all.
        hours: 0 to 23.
        days: of the month, 1 to 31.
        weekdays: 0 (Monday) to 6.
        months: 1 to 12.
        tzinfo: whose clock; None: that of `Kit.start`.
        duplication_policy: what is made up for after instants were missed.

    Raises:
        PolicyError: a number is wrong, or there is no such time.
        MissingExtra: schedules need a package that is not installed.
    """

    def __init__(
        self,
        seconds: Given = 0,
        minutes: Given = None,
        hours: Given = None,
        days: Given = None,
        weekdays: Given = None,
        months: Given = None,
        tzinfo: tzinfo | None = None,
        duplication_policy: DuplicationPolicy = OnlyLatest(),  # noqa: B008 - it has no state
    ) -> None:
        self.seconds = GRID if seconds is None or seconds == "*" else seconds
        self.minutes = minutes
        self.hours = hours
        self.days = days
        self.weekdays = weekdays
        self.months = months
        self.tzinfo = tzinfo
        self.duplication_policy = duplication_policy
        self.when(core.zone_name(tzinfo) if tzinfo is not None else "UTC")  # is it one?

    def get_timezone(self) -> tzinfo | None:
        """Whose clock; None: that of `Kit.start`."""
        return self.tzinfo

    def when(self, zone: str) -> core.RegularSchedule:
        """What the core knows it as.

        Arguments:
            zone: whose clock, if it has none of its own.
        """
        return core.RegularSchedule(
            self.seconds,
            self.minutes,
            self.hours,
            self.days,
            self.weekdays,
            self.months,
            zone if (own := self.get_timezone()) is None else core.zone_name(own),
        )
