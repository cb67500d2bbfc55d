"""taskkit's front door: what is initiated by schedules."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from tests.acceptance.compat.taskkit_program import Handler
from tests.acceptance.compat.taskkit_scene import Scene
from tests.faults.scene import until
from tests.servers.server import RedisServer

from taskyard.compat.taskkit import (
    DuplicationPolicy,
    Kit,
    OnlyEarliest,
    OnlyLatest,
    RegularSchedule,
    ScheduleEntry,
)
from taskyard.errors import PayloadError, PolicyError
from taskyard.yard import Yard

SECONDS = list(range(60))
NOTE: dict[str, Any] = {"data": {"do": "note"}, "schedule": {"seconds": SECONDS}}


@pytest.fixture
def scene(redis_server: RedisServer, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(redis_server.url, tmp_path)
    yield made
    made.close()


def names(scene: Scene) -> list[str]:
    return [one.name for one in scene.kit.yard.schedules.list()]


def test_two_programs_with_the_same_schedulers_do_each_instant_once(scene: Scene) -> None:
    schedulers = {
        "one/two": {"a": NOTE, "b": {**NOTE, "encoded": True}},
        "three": {"a": NOTE, "a/b": NOTE},
    }
    programs = [scene.start(schedulers=schedulers) for _ in range(2)]
    noted = [scene.began() for _ in range(16)]
    for program in programs:
        program.signal(signal.SIGTERM)
    for program in programs:
        assert program.wait() == 0
    done = [(one["id"], one["scheduled"]) for one in noted]
    assert len(set(done)) == len(done)
    assert {one["name"] for one in noted} == {"a", "b", "a/b"}
    assert all(one["due"] == one["scheduled"] == int(one["scheduled"]) for one in noted)
    assert [name.removeprefix("taskkit:") for name in names(scene)] == [
        "one%2Ftwo/a",
        "one%2Ftwo/b",
        "three/a",
        "three/a/b",
    ]
    # Of one whose result is kept for longer than this test takes.
    result = scene.kit.get_result(next(one["id"] for one in noted if one["name"] == "a"))
    assert result.get(10) is None


def test_entries_that_vanish_are_no_longer_fired(scene: Scene) -> None:
    native = scene.kit.yard.task(name="native", queue="native")(lambda: None)
    scene.kit.yard.schedules.add(native, when=_every_year(), name="first/native")
    rare = {"data": {"do": "note"}}
    one = scene.start(schedulers={"first": {"a": NOTE, "b": rare}, "second": {"c": rare}})
    scene.began()
    one.signal(signal.SIGTERM)
    one.wait()
    assert names(scene) == [
        "first/native",
        "taskkit:first/a",
        "taskkit:first/b",
        "taskkit:second/c",
    ]
    # A process without threads does what schedules say, too.
    two = scene.start(schedulers={"first": {"b": rare}}, groups={})
    until(lambda: "taskkit:first/a" not in names(scene), "it is removed")
    assert names(scene) == ["first/native", "taskkit:first/b", "taskkit:second/c"]
    two.signal(signal.SIGTERM)
    two.wait()
    scene.start(schedulers={"first": {}, "second": {"c": rare}})
    until(lambda: "taskkit:first/b" not in names(scene), "it is removed")
    assert names(scene) == ["first/native", "taskkit:second/c"]


def _every_year() -> Any:
    return RegularSchedule(minutes=0, hours=0, days=1, months=1).when("UTC")


# What is declared, without a server


class Declared:
    """A kit whose workers are not started, but what they would declare is looked at."""

    def __init__(self, entries: Any, zone: Any = None) -> None:
        self.kit = Kit("memory://", Handler("redis://nowhere"))
        self.yard: Yard = self.kit._maker({"g": 1}, entries, zone)()

    @property
    def plan(self) -> Any:
        (plan,) = self.yard.plans.values()
        return plan


def entry(schedule: RegularSchedule, **more: Any) -> dict[str, Any]:
    return {"s": [{"key": "k", "group": "g", "name": "n", "data": 1, "schedule": schedule, **more}]}


@pytest.mark.parametrize(
    ("zone", "own", "expected"),
    [
        (timezone(timedelta(hours=9), "JST"), None, "+09:00"),
        (timezone(-timedelta(hours=3, minutes=30)), None, "-03:30"),
        (ZoneInfo("Europe/Berlin"), None, "Europe/Berlin"),
        (ZoneInfo("Europe/Berlin"), UTC, "+00:00"),
        (None, ZoneInfo("Asia/Tokyo"), "Asia/Tokyo"),
    ],
)
def test_whose_clock_a_schedule_goes_by(zone: Any, own: Any, expected: str) -> None:
    schedule = RegularSchedule(minutes={0, 30}, tzinfo=own)
    assert schedule.get_timezone() is own
    assert Declared(entry(schedule), zone).plan.when.tz == expected


def test_without_a_zone_it_is_the_clock_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    when = Declared(entry(RegularSchedule(hours=9, minutes=0))).plan.when
    due = datetime.fromtimestamp(when.following(1_800_000_000_000_000) / 1e6).astimezone()
    assert (due.hour, due.minute) == (9, 0)


def test_seconds_are_on_a_grid_of_five_unless_they_are_listed() -> None:
    grid = tuple(range(0, 60, 5))
    given: Any
    for given in ("*", None):
        assert RegularSchedule(seconds=given).when("UTC").seconds == grid
    assert RegularSchedule().when("UTC").seconds == (0,)
    assert RegularSchedule(seconds=7).when("UTC").seconds == (7,)
    assert RegularSchedule(seconds={0, 30, 59}).when("UTC").seconds == (0, 30, 59)
    when = RegularSchedule(5, {0, 30}, "*", None, {0, 6}, 2).when("UTC")
    fields = (when.minutes, when.hours, when.days, when.weekdays, when.months)
    assert fields == ((0, 30), "*", "*", (0, 6), (2,))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(None, "latest"), (OnlyLatest(), "latest"), (OnlyEarliest(), "earliest")],
)
def test_what_is_made_up_for(policy: DuplicationPolicy | None, expected: str) -> None:
    more: dict[str, Any] = {} if policy is None else {"duplication_policy": policy}
    assert Declared(entry(RegularSchedule(**more))).plan.catch_up == expected


def test_both_forms_of_an_entry_say_the_same() -> None:
    schedule = RegularSchedule(minutes={30})
    encoded = Handler("").encode_data("g", "n", {"x": 1})
    instance = {"s": [ScheduleEntry("k", schedule, "g", "n", encoded, 60)]}
    given = entry(schedule, data={"x": 1}, result_ttl=60)
    plan = Declared(given).plan
    assert plan == Declared(instance).plan
    assert plan.record_ttl == 60_000_000
    assert Declared(entry(schedule)).plan.record_ttl == 7 * 86_400_000_000


def test_data_of_an_entry_may_be_a_text_as_data_of_a_task() -> None:
    for data in ("{}", bytearray(b"{}")):
        given: Any = {"s": [ScheduleEntry("k", RegularSchedule(), "g", "n", data)]}
        assert Declared(given).plan == Declared(entry(RegularSchedule(), data={})).plan


class Own(OnlyLatest):
    """A policy that would have to be called."""

    def __call__(self, points: list[datetime], last: datetime | None, /) -> list[datetime]:
        return points


class OwnSchedule(RegularSchedule):
    """A schedule that would have to be called."""

    def __call__(self, points: list[datetime], last: datetime | None, /) -> list[datetime]:
        return points


class Nautical(RegularSchedule):
    def get_timezone(self) -> timezone:
        return timezone(timedelta(hours=11))


def test_a_schedule_may_say_by_a_method_whose_clock_it_goes_by() -> None:
    assert Declared(entry(Nautical())).plan.when.tz == "+11:00"


def test_wrong_entries_say_what_is_right() -> None:
    schedule = RegularSchedule()
    double = entry(schedule)
    double["s"] *= 2
    wrong: list[tuple[Any, type[Exception], str]] = [
        (double, PolicyError, "two schedules called 'taskkit:s/k'"),
        ({"s": [{"key": "k"}]}, PolicyError, "a dict with data, group, key, name, schedule"),
        (entry("daily"), PolicyError, "must be a RegularSchedule, not 'daily'"),  # type: ignore[arg-type]
        (entry(schedule, key="k" * 200), PolicyError, "1 to 150 printable"),
        ({5: []}, PolicyError, "the name of a scheduler must be a text"),
        ({"s": [ScheduleEntry("k", schedule, "g", "n", {"x": 1})]}, PayloadError, "bytes"),  # type: ignore[arg-type]
    ]
    for entries, error, text in wrong:
        with pytest.raises(error, match=text):
            Declared(entries)
    policy: Any
    for policy in (max, Own(), DuplicationPolicy(), OnlyLatest):
        with pytest.raises(PolicyError, match=r"OnlyLatest\(\) or OnlyEarliest\(\)"):
            Declared(entry(RegularSchedule(duplication_policy=policy)))
    with pytest.raises(PolicyError, match=r"must be a RegularSchedule, not <.*OwnSchedule"):
        Declared(entry(OwnSchedule()))
    with pytest.raises(PolicyError, match="minutes must be numbers from 0 to 59"):
        RegularSchedule(minutes=60)
    with pytest.raises(PolicyError, match="never due"):
        RegularSchedule(days=31, months=2)
    with pytest.raises(PolicyError, match="tells none"):
        RegularSchedule(tzinfo="JST")  # type: ignore[arg-type]
