"""When schedules are due: across clock changes, leap days and centuries, and after being missed."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskyard.errors import PolicyError
from taskyard.schedule import (
    CATCH_UPS,
    Every,
    RegularSchedule,
    When,
    cron,
    described,
    due,
    every,
    local_zone,
    rrule,
    zone_name,
)

BERLIN = "Europe/Berlin"  # forward on 2026-03-29 at 2:00, back on 2026-10-25 at 3:00
LORD_HOWE = "Australia/Lord_Howe"  # changes by half an hour
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = 1_000_000


def micros(time: datetime) -> int:
    return (time.astimezone(UTC) - EPOCH) // timedelta(microseconds=1)


def at(text: str, tz: str = "UTC", fold: int = 0) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz), fold=fold))


def shown(instant: int, tz: str = "UTC") -> str:
    """As the wall clock shows it, with the offset of its zone."""
    time = (EPOCH + timedelta(microseconds=instant)).astimezone(ZoneInfo(tz))
    return time.strftime("%m-%d %H:%M:%S %z")


def some(when: When, begin: int, count: int, tz: str = "UTC") -> list[str]:
    found, moment = [], begin
    for _ in range(count):
        following = when.following(moment)
        assert following is not None
        moment = following
        found.append(shown(moment, tz))
    return found


ALL: list[When] = [
    cron("*/7 * * * *", tz=BERLIN),
    cron("30 2 * * *", tz=BERLIN),
    cron("15,45 2 * * SUN", tz=BERLIN),
    cron("0 0 29 2 *"),
    cron("*/20 30 * * * *", tz=BERLIN),
    every(7),
    every(0.25),
    every(timedelta(days=1), start=datetime(2026, 1, 1, 9, tzinfo=UTC)),
    RegularSchedule(),
    RegularSchedule(seconds={0, 30}, minutes={0, 30}, hours={2}, tz=BERLIN),
    RegularSchedule(seconds="*", minutes=0, hours=2, weekdays={6}, tz=LORD_HOWE),
    RegularSchedule(hours={0, 23}, tz=LORD_HOWE),
    cron("30 */3 * * *", tz=LORD_HOWE),
    RegularSchedule(days={13}, weekdays={4}, hours=0, minutes=0),
    rrule("FREQ=MINUTELY;INTERVAL=13", tz=BERLIN),
    rrule("FREQ=DAILY;BYHOUR=2;BYMINUTE=30", tz=BERLIN),
    rrule("FREQ=WEEKLY;INTERVAL=2;BYDAY=MO,FR;BYHOUR=9", tz=LORD_HOWE),
    rrule("FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17", tz=BERLIN),
    rrule("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29"),
]
"""Schedules of every kind, some of them due in hours that are left out or come twice."""

MOMENTS = st.one_of(
    st.integers(at("2025-06-01"), at("2031-01-01")),
    st.integers(at("2026-03-28T22:00"), at("2026-03-29T04:00")),
    st.integers(at("2026-10-24T22:00"), at("2026-10-25T04:00")),
    st.integers(at("2026-04-04T12:00"), at("2026-04-04T18:00")),
    st.integers(at("2026-10-03T12:00"), at("2026-10-03T18:00")),
)


@pytest.mark.parametrize("when", ALL, ids=str)
@settings(max_examples=40, deadline=None)
@given(moment=MOMENTS)
def test_both_directions_agree(when: When, moment: int) -> None:
    following, latest = when.following(moment), when.latest(moment)
    assert following is not None
    assert following > moment
    assert when.latest(following) == following
    assert when.latest(following - 1) == latest
    if latest is not None:
        assert latest <= moment
        assert when.following(latest) == following
        assert when.following(latest - 1) == latest


@pytest.mark.parametrize("when", ALL, ids=str)
def test_it_is_stored_and_read_back(when: When) -> None:
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(when), type=When)
    assert read == when


# Clock changes


@pytest.mark.parametrize(
    "when",
    [
        cron("30 2 * * *", tz=BERLIN),
        RegularSchedule(minutes=30, hours=2, tz=BERLIN),
        rrule("FREQ=DAILY;BYHOUR=2;BYMINUTE=30", tz=BERLIN),
    ],
    ids=lambda when: type(when).__name__,
)
def test_once_a_day_whatever_the_clock_does(when: When) -> None:
    forward = some(when, at("2026-03-28T12:00"), 3, BERLIN)
    assert forward[0] == "03-29 03:00:00 +0200"
    assert forward[1:] == ["03-30 02:30:00 +0200", "03-31 02:30:00 +0200"]
    back = some(when, at("2026-10-24T12:00"), 2, BERLIN)
    assert back == ["10-25 02:30:00 +0200", "10-26 02:30:00 +0100"]
    # Who asks in the second of the two hours does not get an instant of the first.
    assert some(when, at("2026-10-25T02:10", BERLIN, fold=1), 1, BERLIN) == back[1:]
    year = [when.following(at("2026-01-01T00:00", BERLIN))]
    while year[-1] < at("2027-01-01T00:00", BERLIN):
        year.append(when.following(year[-1]))
    assert len(year) == 366


@pytest.mark.parametrize(
    "when",
    [
        cron("*/30 * * * *", tz=BERLIN),
        RegularSchedule(seconds={0}, minutes={0, 30}, tz=BERLIN),
        every(timedelta(minutes=30)),
    ],
    ids=lambda when: type(when).__name__,
)
def test_every_half_hour_goes_on_through_clock_changes(when: When) -> None:
    for begin in ("2026-03-28T22:00", "2026-10-24T22:00"):
        moments = [at(begin)]
        for _ in range(20):
            moments.append(when.following(moments[-1]) or 0)
        assert {later - earlier for earlier, later in itertools.pairwise(moments)} == {
            1800 * SECOND
        }


def test_the_whole_hour_after_a_change_by_half_an_hour() -> None:
    for change in ("2026-04-05", "2026-10-04"):
        hour = RegularSchedule(hours=23, tz=LORD_HOWE)
        begin = at(f"{change}T23:00", LORD_HOWE)
        assert hour.following(at(f"{change}T00:30", LORD_HOWE)) == begin
        assert hour.latest(begin + 59 * 60 * SECOND) == begin + 59 * 60 * SECOND
    midnight = RegularSchedule(hours=0, tz=LORD_HOWE)
    before = at("2026-10-04T00:44", LORD_HOWE)
    assert midnight.latest(before + SECOND) == before


def test_a_leap_day() -> None:
    expected = ["02-29 00:00:00 +0000"] * 3
    for when in (
        cron("0 0 29 2 *"),
        RegularSchedule(minutes=0, hours=0, days=29, months=2),
        rrule("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29"),
    ):
        assert some(when, at("2026-01-01"), 3) == expected
        assert when.following(at("2096-03-01")) == at("2104-02-29"), "2100 is no leap year"


# Fields


def test_a_day_and_a_weekday_have_both_to_match() -> None:
    friday_13th = RegularSchedule(days={13}, weekdays={4}, hours=0, minutes=0)
    assert some(friday_13th, at("2026-01-01"), 4) == [
        "02-13 00:00:00 +0000",
        "03-13 00:00:00 +0000",
        "11-13 00:00:00 +0000",
        "08-13 00:00:00 +0000",
    ]


def test_a_regular_schedule_is_due_at_full_minutes_by_default() -> None:
    assert some(RegularSchedule(), at("2026-01-01T00:00:01"), 2) == [
        "01-01 00:01:00 +0000",
        "01-01 00:02:00 +0000",
    ]


@given(
    seconds=st.frozensets(st.integers(0, 59), min_size=1),
    minutes=st.frozensets(st.integers(0, 59), min_size=1),
    hours=st.frozensets(st.integers(0, 23), min_size=1),
    weekdays=st.frozensets(st.integers(0, 6), min_size=1),
    moment=st.integers(at("2026-01-01"), at("2026-12-01")),
)
def test_a_regular_schedule_is_due_when_all_fields_match(
    seconds: frozenset[int],
    minutes: frozenset[int],
    hours: frozenset[int],
    weekdays: frozenset[int],
    moment: int,
) -> None:
    when = RegularSchedule(seconds, minutes, hours, weekdays=weekdays)
    following = when.following(moment)
    assert following is not None

    def matches(instant: int) -> bool:
        time = EPOCH + timedelta(microseconds=instant)
        fields = (time.second, time.minute, time.hour, time.weekday())
        return all(
            value in allowed
            for value, allowed in zip(fields, (seconds, minutes, hours, weekdays), strict=True)
        )

    assert matches(following)
    first = moment // SECOND * SECOND + SECOND
    between = range(first, min(following, first + 3000 * SECOND), SECOND)
    assert not any(map(matches, between))


@pytest.mark.timeout(20)  # walked through, its instants would take a minute
def test_the_latest_of_millions_is_found() -> None:
    when = rrule("FREQ=SECONDLY;BYMONTH=1", tz=BERLIN)
    summer = micros(datetime(2026, 8, 1, tzinfo=UTC))
    last = micros(datetime(2026, 1, 31, 22, 59, 59, tzinfo=UTC))
    assert when.latest(summer) == last
    assert when.latest(last) == last
    assert when.latest(last - 1) == last - 1_000_000


def test_a_rule_with_a_start_and_an_end() -> None:
    start = datetime(2026, 5, 1, 9, tzinfo=ZoneInfo(BERLIN))
    when = rrule("FREQ=DAILY;INTERVAL=3;COUNT=3", start=start, tz=BERLIN)
    assert some(when, 0, 3, BERLIN) == [f"05-0{day} 09:00:00 +0200" for day in (1, 4, 7)]
    assert when.following(at("2026-05-07T09:00", BERLIN)) is None
    assert when.latest(at("2030-01-01")) == at("2026-05-07T09:00", BERLIN)
    assert when.latest(at("2026-05-01T08:59", BERLIN)) is None


# Instants that were missed


@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_nothing_is_due_before_its_time(catch_up: Any) -> None:
    assert due(every(10), 100 * SECOND, 100 * SECOND - 1, catch_up) == (None, 100 * SECOND)


@pytest.mark.parametrize("catch_up", CATCH_UPS)
def test_what_is_due_now(catch_up: Any) -> None:
    assert due(every(10), 100 * SECOND, 101 * SECOND, catch_up) == (100 * SECOND, 110 * SECOND)


@pytest.mark.parametrize(
    ("catch_up", "instants"),
    [
        ("latest", [600]),
        ("earliest", [120]),
        ("all", [120, 180, 240, 300, 360, 420, 480, 540, 600]),
        ("none", []),
    ],
)
def test_what_is_made_up_for(catch_up: Any, instants: list[int]) -> None:
    pending: int | None = 120 * SECOND
    now, found = 615 * SECOND, []
    while pending is not None and pending <= now:
        instant, pending = due(every(60), pending, now, catch_up)
        if instant is not None:
            found.append(instant // SECOND)
    assert found == instants
    assert pending == 660 * SECOND


def test_the_last_one() -> None:
    when = rrule("FREQ=DAILY;COUNT=2", start=datetime(2026, 1, 1, tzinfo=UTC))
    now = at("2026-05-01")
    assert due(when, at("2026-01-01"), now) == (at("2026-01-02"), None)
    assert due(when, at("2026-01-02"), now, "all") == (at("2026-01-02"), None)


def test_a_clock_that_was_set_back_does_nothing_twice() -> None:
    first = due(every(60), 600 * SECOND, 610 * SECOND)
    assert first.following is not None
    assert due(every(60), first.following, 300 * SECOND) == (None, 660 * SECOND)


# Wrong use


def test_until_in_utc_is_meant_so() -> None:
    start = datetime(2026, 7, 1, 9)  # noqa: DTZ001 - what the wall clock shows
    nine_in_berlin = datetime(2026, 7, 3, 7, tzinfo=UTC)
    for until, last in (
        ("20260703T070000Z", nine_in_berlin),
        ("20260703T065959Z", nine_in_berlin - timedelta(days=1)),
        ("20260703T090000", nine_in_berlin),
        ("20260703", nine_in_berlin - timedelta(days=1)),
    ):
        when = rrule(f"FREQ=DAILY;UNTIL={until}", start=start, tz=BERLIN)
        end = micros(datetime(2026, 8, 1, tzinfo=UTC))
        assert when.latest(end) == micros(last)
        assert when.following(end) is None


class Unnamed(tzinfo):
    """A time zone that changes and tells no name."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None if moment is None else timedelta(hours=1)


class Named(Unnamed):
    """As pytz has them."""

    zone = "Asia/Tokyo"


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: cron("0 0 30 2 *"), "day-of-month"),
        (lambda: cron("0 0 * *"), "Five fields"),
        (lambda: cron("61 * * * *"), "minute"),
        (lambda: cron(5), "must be a text"),  # type: ignore[arg-type]
        (lambda: cron("* * * * *", tz="Mars/Base"), "no time zone 'Mars/Base'"),
        (lambda: cron("* * * * *", tz="../etc"), "no time zone"),
        (lambda: every(0), "more than 0 seconds"),
        (lambda: every(-1), "more than 0 seconds"),
        (lambda: every(float("nan")), "number of seconds"),
        (lambda: every(0.0001), "a millisecond at least"),
        (lambda: every(1, start=datetime(2026, 1, 1)), "must have a time zone"),  # noqa: DTZ001
        (lambda: every(1, start="2026-01-01"), "start must be a datetime"),  # type: ignore[arg-type]
        (lambda: rrule("FREQ=DAILY", start="noon"), "start must be a datetime"),  # type: ignore[arg-type]
        (lambda: RegularSchedule(hours=1.5), "hours must be numbers"),  # type: ignore[arg-type]
        (lambda: rrule("FREQ=SOMETIMES"), "no recurrence rule"),
        (lambda: rrule(""), "no recurrence rule"),
        (lambda: rrule("FREQ=DAILY;COUNT=3"), "start to count from"),
        (lambda: rrule("FREQ=DAILY;UNTIL=19990101"), "never due"),
        (lambda: rrule("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"), "never due"),
        (lambda: rrule("RDATE:19970101"), "no recurrence rule"),
        (lambda: rrule("FREQ=DAILY;UNTIL=20301399T000000Z"), "no recurrence rule"),
        (lambda: RegularSchedule(seconds=77), "seconds must be numbers from 0 to 59"),
        (lambda: RegularSchedule(minutes=set()), "minutes must be numbers"),
        (lambda: RegularSchedule(hours="noon"), "hours must be numbers"),
        (lambda: RegularSchedule(days=31, months={2, 4}), "never due"),
        (lambda: RegularSchedule(tz="Nowhere"), "no time zone"),
        (lambda: RegularSchedule(tz="+24:00"), "no time zone"),
        (lambda: RegularSchedule(tz="+9"), "no time zone"),
        (lambda: zone_name(Unnamed()), "tells none"),
        (lambda: zone_name("UTC"), "tells none"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_a_schedule_is_refused(make: Any, match: str) -> None:
    with pytest.raises(PolicyError, match=match):
        make()


def test_a_period_is_exact_over_many_years() -> None:
    when = every(0.1)
    assert when == Every(100_000)
    assert when.following(at("2400-01-01") + 1) == at("2400-01-01") + 100_000


# Time zones


@pytest.mark.parametrize(
    ("zone", "name"),
    [
        (ZoneInfo("Europe/Berlin"), "Europe/Berlin"),
        (Named(), "Asia/Tokyo"),
        (UTC, "+00:00"),
        (timezone(timedelta(hours=9), "JST"), "+09:00"),
        (timezone(-timedelta(hours=3, minutes=30)), "-03:30"),
    ],
)
def test_the_name_of_a_zone(zone: tzinfo, name: str) -> None:
    assert zone_name(zone) == name
    when = RegularSchedule(hours=9, minutes=15, tz=name)
    assert name in described(when)
    if not isinstance(zone, Named):
        found = datetime.fromtimestamp(when.following(0) / 1e6, zone)  # type: ignore[operator]
        assert (found.hour, found.minute) == (9, 15)


def test_a_fixed_offset_for_all_kinds() -> None:
    nine = 15 * 3600 * 1_000_000  # of the day before, in UTC
    assert cron("0 0 * * *", tz="+09:00").following(0) == nine
    assert RegularSchedule(hours=0, minutes=0, tz="+09:00").following(0) == nine
    start = datetime(1970, 1, 1, tzinfo=timezone(timedelta(hours=9)))
    assert rrule("FREQ=DAILY", start=start, tz="+09:00").following(0) == nine


def test_the_zone_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    time.tzset()
    try:
        assert local_zone() == "Asia/Tokyo"
        monkeypatch.setenv("TZ", "XYZ-4:30")
        time.tzset()
        assert local_zone() == "+04:30"
    finally:
        monkeypatch.undo()
        time.tzset()
