"""When something is due again and again: pure functions of time, without a clock of their own.

Instants are microseconds since 1970. A time zone's rules decide what the wall clock shows:

- Where clocks are put forward, what is due in the hour that is left out is due right after it.
- Where they are put back, what is due at a certain hour is due once, the first time round; what
  is due every so many minutes goes on through both hours.

A zone is named (`Asia/Tokyo`), or is an offset that never changes (`+09:00`).
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cache
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args
from zoneinfo import ZoneInfo

import msgspec

from taskyard.errors import MissingExtra, PolicyError
from taskyard.policy import seconds

if TYPE_CHECKING:
    from cronsim import CronSim

__all__ = [
    "CATCH_UPS",
    "CatchUp",
    "Cron",
    "Due",
    "Every",
    "Recurrence",
    "RegularSchedule",
    "When",
    "cron",
    "described",
    "due",
    "every",
    "local_zone",
    "rrule",
    "zone_name",
]

CatchUp = Literal["latest", "earliest", "all", "none"]
CATCH_UPS: tuple[CatchUp, ...] = get_args(CatchUp)
"""Which of the instants that were missed are made up for: see `due`."""

GRACE = 10_000_000
"""Microseconds for which an instant does not count as missed."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000
_UTC = "UTC"


Numbers: TypeAlias = int | str | Collection[int] | None
"""One, several, or "*" or None for all."""


class Every(msgspec.Struct, frozen=True, tag="every"):
    """Every so many microseconds.

    Attributes:
        period: microseconds from one instant to the next.
        start: an instant; there is none before it.
    """

    period: int
    start: int = 0

    def following(self, at: int) -> int | None:
        """The first instant later than `at`."""
        if at < self.start:
            return self.start
        return self.start + ((at - self.start) // self.period + 1) * self.period

    def latest(self, at: int) -> int | None:
        """The last instant not later than `at`."""
        if at < self.start:
            return None
        return self.start + (at - self.start) // self.period * self.period


class Cron(msgspec.Struct, frozen=True, tag="cron"):
    """When a crontab says.

    Attributes:
        expression: five fields, or six with the seconds first.
        tz: the time zone's name, or its fixed offset.
    """

    expression: str
    tz: str = _UTC

    def following(self, at: int) -> int | None:
        """The first instant later than `at`; None: there is none within 50 years."""
        return next((found for found in self._walk(at) if found > at), None)

    def latest(self, at: int) -> int | None:
        """The last instant not later than `at`; None: there is none within 50 years."""
        last = next((found for found in self._walk(at, reverse=True) if found <= at), None)
        # Backwards, the library leaves out instants where clocks change by half an hour.
        while last is not None and (found := self.following(last)) is not None and found <= at:
            last = found
        return last

    def _walk(self, at: int, *, reverse: bool = False) -> Iterator[int]:
        # From a little further off where clocks change: whoever stands in an hour that comes twice
        # is between two answers, and those in an hour that is left out are moved behind it.
        off = _PUT_BACK if _changes_near(at, self.tz) else timedelta(minutes=1)
        begin = _local(at, self.tz) + (off if reverse else -off)
        walk = _cron_type()(self.expression, begin, reverse=reverse)
        while True:
            try:
                yield _instant(next(walk))
            except (StopIteration, OverflowError):
                return


class RegularSchedule(msgspec.Struct, frozen=True, tag="regular"):
    """When the wall clock shows one of these seconds, minutes, hours and days.

    Each is a number, a set of them, or "*" for all; a day has to be among `days`, `weekdays` and
    `months`, all three.

    Attributes:
        seconds: 0 to 59.
        minutes: 0 to 59.
        hours: 0 to 23.
        days: of the month, 1 to 31.
        weekdays: 0 (Monday) to 6.
        months: 1 to 12.
        tz: the time zone's name, or its fixed offset.
    """

    seconds: Numbers = 0
    minutes: Numbers = "*"
    hours: Numbers = "*"
    days: Numbers = "*"
    weekdays: Numbers = "*"
    months: Numbers = "*"
    tz: str = _UTC

    def __post_init__(self) -> None:
        for name, (least, most) in _FIELDS.items():
            numbers = _numbers(name, getattr(self, name), least, most)
            msgspec.structs.force_setattr(self, name, numbers)
        _zone(self.tz)
        try:
            never = self._days().following(0) is None
        except ValueError:  # a day that no month has
            never = True
        if never:
            raise PolicyError(
                f"this schedule is never due: no month of {self.months} has a day of {self.days}"
                f" that is a weekday of {self.weekdays}"
            )

    def following(self, at: int) -> int | None:
        """The first instant later than `at`; None: there is none within 50 years."""
        minute = self._minute(at)
        while minute is not None:
            for second in _sorted(self.seconds, 60):
                if minute + second * _SECOND > at:
                    return minute + second * _SECOND
            minute = self._days().following(minute)
        return None

    def latest(self, at: int) -> int | None:
        """The last instant not later than `at`; None: there is none within 50 years."""
        minute = self._days().latest(at)
        while minute is not None:
            for second in reversed(_sorted(self.seconds, 60)):
                if minute + second * _SECOND <= at:
                    return minute + second * _SECOND
            minute = self._days().latest(minute - 1)
        return None

    def _minute(self, at: int) -> int | None:
        """The minute of this schedule in which a moment is, or else the first one after it."""
        now = self._days().latest(at)
        return now if now is not None and at < now + 60 * _SECOND else self._days().following(at)

    def _days(self) -> _Minutes:
        return _Minutes(self.minutes, self.hours, self.days, self.weekdays, self.months, self.tz)


class Recurrence(msgspec.Struct, frozen=True, tag="rrule"):
    """When a recurrence rule of iCalendar (RFC 5545) says.

    Attributes:
        rule: as in `FREQ=WEEKLY;BYDAY=MO,FR;BYHOUR=9`.
        start: its first instant, by which the phase of its interval goes, as the wall clock shows
            it: `2026-11-21T09:00:00`.
        tz: the time zone's name, or its fixed offset.
    """

    rule: str
    start: str
    tz: str = _UTC

    def following(self, at: int) -> int | None:
        """The first instant later than `at`; None: the rule ends before."""
        return next((found for found in self._walk(at, _NOTHING) if found > at), None)

    def latest(self, at: int) -> int | None:
        """The last instant not later than `at`; None: the rule begins after it."""
        nearer = _NOTHING
        for back in _LOOKS_BACK:
            if next(self._until(at, back), None) is not None:
                return self._last(at, nearer, back)
            nearer = back
        return None

    def _last(self, at: int, nearer: timedelta, back: timedelta) -> int:
        """The last instant of those that `back` reaches, of which none is as near as `nearer`.

        A rule may have millions of them there (each second of January), so the window is halved
        until it has few.
        """
        while back > _PUT_BACK:
            found = list(islice(self._until(at, back), _FEW + 1))
            if len(found) <= _FEW:
                return found[-1]
            middle = nearer + (back - nearer) / 2
            if next(self._until(at, middle), None) is None:
                nearer = middle
            else:
                back = middle
        return deque(self._until(at, back), maxlen=1)[0]

    def _until(self, at: int, back: timedelta) -> Iterator[int]:
        return takewhile(lambda found: found <= at, self._walk(at, back))

    def _walk(self, at: int, back: timedelta) -> Iterator[int]:
        now, before = _local(at, self.tz), _local(at - _PUT_BACK // _MICROSECOND, self.tz)
        if before.utcoffset() != now.utcoffset():
            back = max(back, _PUT_BACK)  # of an hour that comes twice, the first one counts
        zone, begin = _zone(self.tz), now.replace(tzinfo=None) - back
        for found in _rule_from(self.rule, self.start, begin):
            yield _instant(_behind_gap(found.replace(tzinfo=zone)))


When: TypeAlias = Every | Cron | RegularSchedule | Recurrence


class Due(NamedTuple):
    """What is to be done now.

    Attributes:
        instant: the one to do; None: none.
        following: the next one, which may have come already; None: there is none any more.
    """

    instant: int | None
    following: int | None


def due(when: When, pending: int, now: int, catch_up: CatchUp = "latest") -> Due:
    """Say what a schedule is to do now.

    Arguments:
        when: its instants.
        pending: the first of them that was not done.
        now: microseconds.
        catch_up: what is made up for of the instants that were missed, because nobody was there:
            the latest, the earliest, all of them one after the other, or none, that is only what
            became due within the last ten seconds.
    """
    if pending > now:
        return Due(None, pending)
    if catch_up == "all":
        return Due(pending, when.following(pending))
    instant = pending if catch_up == "earliest" else max(pending, when.latest(now) or 0)
    missed = catch_up == "none" and instant < now - GRACE
    return Due(None if missed else instant, when.following(now))


# What users write


def cron(expression: str, *, tz: str = _UTC) -> Cron:
    """When a crontab says: `cron("*/5 9-17 * * MON-FRI", tz="Asia/Tokyo")`.

    Arguments:
        expression: minute, hour, day, month, weekday; with six fields, the first is the second.
        tz: the name of a time zone, or its fixed offset, as `+09:00`.

    Raises:
        PolicyError: it is no such expression, it is never due, or the time zone is unknown.
        MissingExtra: the package that reads them is not installed.
    """
    if not isinstance(expression, str):
        raise PolicyError(f"a cron expression must be a text, not {expression!r}")
    _zone(tz)
    made = Cron(expression, tz)
    try:
        following = made.following(0)
    except ValueError as error:
        raise PolicyError(
            f"{expression!r} is no cron expression: {error}. Five fields are expected (minute, "
            f'hour, day, month, weekday), as in "30 4 * * MON"'
        ) from None
    if following is None:
        raise PolicyError(f"the cron expression {expression!r} is never due")
    return made


def every(period: float | timedelta, *, start: datetime | None = None) -> Every:
    """Every so many seconds.

    Arguments:
        period: seconds, or a timedelta; more than 0.
        start: the first instant, with a time zone. By default the grid begins in 1970, so that
            `every(3600)` is due at each full hour, and stays so however often it is declared.

    Raises:
        PolicyError: the period is not a time, or the start has no time zone.
    """
    microseconds = round(seconds("a schedule's period", period, open_=True) * 1e6)
    if microseconds < 1000:
        raise PolicyError(f"a schedule's period must be a millisecond at least, not {period!r}")
    _check_start(start)
    if start is not None and start.tzinfo is None:
        raise PolicyError(
            f"start must have a time zone, as in start=datetime(…, tzinfo=UTC): {start}"
        )
    return Every(microseconds, 0 if start is None else _instant(start))


def rrule(rule: str, *, start: datetime | None = None, tz: str = _UTC) -> Recurrence:
    """When a recurrence rule of iCalendar says: `rrule("FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17")`.

    Arguments:
        rule: the rule, without `RRULE:`. Its hours are those of the wall clock; so is `UNTIL`,
            unless it ends with a Z: then it is in UTC, as calendars write it.
        start: its first instant. By default midnight at the beginning of 2000.
        tz: the name of a time zone, or its fixed offset, as `+09:00`.

    Raises:
        PolicyError: it is no such rule, it is never due, or the time zone is unknown.
        MissingExtra: the package that reads them is not installed.
    """
    zone = _zone(tz)
    _check_start(start)
    if start is None:
        if "COUNT" in str(rule).upper():
            raise PolicyError("a rule with a COUNT needs a start to count from: start=datetime(…)")
        start = datetime(2000, 1, 1)  # noqa: DTZ001 - what the wall clock shows
    elif start.tzinfo is not None:
        start = start.astimezone(zone).replace(tzinfo=None)
    text = str(rule).upper().removeprefix("RRULE:")
    try:
        made = Recurrence(_until_by_wall_clock(text, zone), start.isoformat(), tz)
        first = made.following(_instant(start.replace(tzinfo=zone)) - 1)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise PolicyError(
            f"{rule!r} is no recurrence rule: {error}. It looks like "
            f"FREQ=WEEKLY;BYDAY=MO,FR;BYHOUR=9"
        ) from None
    if first is None:
        raise PolicyError(f"the recurrence rule {rule!r} is never due")
    return made


def _check_start(start: object) -> None:
    if start is not None and not isinstance(start, datetime):
        raise PolicyError(f"start must be a datetime, not {start!r}")


def _until_by_wall_clock(rule: str, zone: tzinfo) -> str:
    def local(match: re.Match[str]) -> str:
        until = datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
        return f"UNTIL={until.astimezone(zone):%Y%m%dT%H%M%S}"

    return _UNTIL_IN_UTC.sub(local, rule)


def described(when: When) -> str:
    """A schedule's times, in a line for people."""
    if isinstance(when, Every):
        return f"every {when.period / 1e6:g} s"
    if isinstance(when, Cron):
        return f"cron {when.expression} ({when.tz})"
    if isinstance(when, Recurrence):
        return f"rrule {when.rule} ({when.tz})"
    given = [(name, getattr(when, name)) for name in _FIELDS]
    fields = [f"{name} {_field(numbers)}" for name, numbers in given if numbers != "*"]
    return f"{', '.join(fields) or 'every second'} ({when.tz})"


# Time zones


def zone_name(zone: tzinfo) -> str:
    """The name by which schedules know a time zone, as `tz=` takes it.

    Arguments:
        zone: a `ZoneInfo` or another one that tells its name (`key` or `zone`), or one of a fixed
            offset.

    Raises:
        PolicyError: it is neither.
    """
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if isinstance(name, str):
        _zone(name)
        return name
    offset = zone.utcoffset(None) if hasattr(zone, "utcoffset") else None
    if offset is None:
        raise PolicyError(
            f"a schedule is stored with the name of its time zone, and {zone!r} tells none: give "
            f'ZoneInfo("Europe/Berlin"), or a timezone(…) of a fixed offset'
        )
    sign, size = ("-", -offset) if offset < _NOTHING else ("+", offset)
    hours, minutes = divmod(size // timedelta(minutes=1), 60)
    return f"{sign}{hours:02}:{minutes:02}"


def local_zone() -> str:
    """The time zone of this machine: its name, where known, or the offset that it has now."""
    here = datetime.now().astimezone()
    linked = os.path.realpath("/etc/localtime").partition("/zoneinfo/")[2]
    for name in (os.environ.get("TZ", "").lstrip(":"), linked):
        try:
            if here.astimezone(_zone(name)).utcoffset() == here.utcoffset():
                return name
        except PolicyError:
            continue
    return zone_name(timezone(here.utcoffset() or _NOTHING))


def _zone(name: str) -> tzinfo:
    try:
        return _zones(name)
    except (KeyError, ValueError, OSError, TypeError) as error:  # a folder's name is an OSError
        raise PolicyError(
            f"there is no time zone {name!r} here: names look like Europe/Berlin or +09:00, and"
            f" where the system has no names, they come with the package tzdata"
        ) from error


@cache
def _zones(name: str) -> tzinfo:
    if (found := _OFFSET.fullmatch(name)) is None:
        return ZoneInfo(name)
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset)


def _local(at: int, tz: str) -> datetime:
    return (_EPOCH + timedelta(microseconds=at)).astimezone(_zone(tz))


def _changes_near(at: int, tz: str) -> bool:
    """Whether clocks are put forward or back within three hours of a moment."""
    some = _PUT_BACK // _MICROSECOND
    return _local(at - some, tz).utcoffset() != _local(at + some, tz).utcoffset()


def _instant(time: datetime) -> int:
    return (time.astimezone(UTC) - _EPOCH) // _MICROSECOND


def _behind_gap(time: datetime) -> datetime:
    """The time itself, or the first minute that the clock shows after it, if it leaves it out."""
    while time.astimezone(UTC).astimezone(time.tzinfo).replace(fold=0) != time:
        time = time.replace(second=0, microsecond=0) + timedelta(minutes=1)
    return time


# Regular schedules, by way of a crontab

_DAYS = 50 * 366
"""How many days are looked at for one of the right weekday."""

_FIELDS = {
    "seconds": (0, 59),
    "minutes": (0, 59),
    "hours": (0, 23),
    "days": (1, 31),
    "weekdays": (0, 6),
    "months": (1, 12),
}


def _numbers(name: str, value: Any, least: int, most: int) -> Any:
    if value is None or value == "*":
        return "*"
    found = set(value) if isinstance(value, Iterable) else {value}
    wrong = [one for one in found if type(one) is not int or not least <= one <= most]
    if wrong or not found:
        shown = wrong[0] if wrong else "nothing"
        raise PolicyError(
            f'{name} must be numbers from {least} to {most}, or "*" for all, not {shown!r}'
        )
    return "*" if len(found) == most - least + 1 else tuple(sorted(found))


def _sorted(numbers: Any, count: int) -> list[int]:
    return list(range(count)) if numbers == "*" else list(numbers)


class _Minutes(NamedTuple):
    """The minutes of a `RegularSchedule`."""

    minutes: Any
    hours: Any
    days: Any
    weekdays: Any
    months: Any
    tz: str

    def following(self, at: int) -> int | None:
        return self._first(self._cron().following, at, self._last_of_day)

    def latest(self, at: int) -> int | None:
        return self._first(self._cron().latest, at, self._before_day)

    def _cron(self) -> Cron:
        fields = (self.minutes, self.hours, self.days, self.months)
        return Cron(f"{' '.join(map(_field, fields))} *", self.tz)

    def _first(
        self, look: Callable[[int], int | None], at: int, leave: Callable[[int], int]
    ) -> int | None:
        # A crontab takes a day that is among the days or among the weekdays, so these are tested
        # here: by whole days, since there may be many minutes in each.
        found = look(at)
        for _ in range(_DAYS):
            if found is None or self._is_weekday(found):
                return found
            found = look(leave(found))
        return None

    def _is_weekday(self, at: int) -> bool:
        return self.weekdays == "*" or _local(at, self.tz).weekday() in self.weekdays

    def _before_day(self, at: int) -> int:
        return _instant(_midnight(_local(at, self.tz))) - 1

    def _last_of_day(self, at: int) -> int:
        return _instant(_midnight(_local(at, self.tz)) + timedelta(days=1)) - 1


def _midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def _field(numbers: Any) -> str:
    return "*" if numbers == "*" else ",".join(map(str, numbers))


# The libraries, loaded when they are needed


@cache
def _cron_type() -> type[CronSim]:
    try:
        from cronsim import CronSim, CronSimError
    except ImportError as error:
        raise _missing("cronsim") from error

    class Checked(CronSim):
        def __init__(self, expression: str, begin: datetime, *, reverse: bool) -> None:
            try:
                super().__init__(expression, begin, reverse=reverse)
            except CronSimError as error:
                raise ValueError(str(error)) from None

        def advance_hour(self) -> bool:
            before = self.dt
            moved = super().advance_hour()
            if self.dt.minute and moved:  # where clocks change by half an hour, it is mid-hour
                begin = self.dt.replace(minute=0)
                if before.astimezone(UTC) < begin.astimezone(UTC) and _behind_gap(begin) == begin:
                    self.dt = begin
            return moved

    return Checked


def _missing(package: str) -> MissingExtra:
    return MissingExtra(
        f"schedules by the calendar need {package}: pip install 'taskyard[schedule]'"
    )


_OFFSET = re.compile(r"([+-])([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_UNTIL_IN_UTC = re.compile(r"UNTIL=(\d{8}T\d{6})Z")
_NOTHING = timedelta(0)
_PUT_BACK = timedelta(hours=3)
"""No clock is put back by more."""
_LOOKS_BACK = [timedelta(days=days) for days in (0.001, 2, 60, 800, 11_000, 400_000)]
"""How far before a moment its latest instant is looked for, by and by."""
_FEW = 1000
"""Instants of a recurrence rule that are walked through."""

_UNITS = {
    3: timedelta(days=1),
    2: timedelta(weeks=1),
    4: timedelta(hours=1),
    5: timedelta(minutes=1),
    6: timedelta(seconds=1),
}
"""By frequency, as `dateutil` numbers them; those that are left out have few instants."""


@cache
def _rule(text: str, start: str) -> Any:
    try:
        from dateutil.rrule import rrulestr
    except ImportError as error:
        raise _missing("python-dateutil") from error
    made: Any = rrulestr(text, dtstart=datetime.fromisoformat(start))
    if not hasattr(made, "_freq"):
        raise ValueError("one rule is expected, not a set of them")
    return made


def _rule_from(text: str, start: str, begin: datetime) -> Iterable[datetime]:
    """A rule that leaves out what is long before: it is gone through from its start."""
    rule = _rule(text, start)
    unit = _UNITS.get(rule._freq)
    if unit is not None and rule._count is None and begin > rule._dtstart:
        step = unit * rule._interval
        rule = rule.replace(dtstart=rule._dtstart + (begin - rule._dtstart) // step * step)
    instants: Iterable[datetime] = rule
    return instants
