"""Schedules, as programs declare them and workers carry them out."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.worker.support import Another, Clock, wait_for, working

from taskyard import Batch, RegularSchedule, Unique, Yard, cron, current_context, every, rrule
from taskyard.brokers.schedules import Schedule
from taskyard.errors import NotFound, PayloadError, PolicyError
from taskyard.schedule import Cron
from taskyard.scheduling import Plan


class Noted:
    """A task that notes what it got, and the ids of its messages."""

    def __init__(self, yard: Yard) -> None:
        self.calls: list[str] = []
        self.ids: list[str] = []
        self.ran = threading.Event()
        self.task = yard.task(name="note")(self.note)

    def note(self, text: str = "") -> None:
        self.calls.append(text)
        self.ids.append(current_context().message.id)
        self.ran.set()


@pytest.fixture
def noted(yard: Yard) -> Noted:
    return Noted(yard)


def burst(yard: Yard) -> None:
    yard.run_worker(burst=True, concurrency=1)


def leave_the_turn_of_the_minute(clock: Clock) -> None:
    """Go on from the middle of a minute, so that none begins while a test looks."""
    clock.forward(90 - clock() / 1e6 % 60)


def only(yard: Yard) -> Any:
    [found] = yard.schedules.list()
    return found


def test_a_schedule_is_fired_by_an_idle_worker(yard: Yard, noted: Noted) -> None:
    yard.schedule(noted.task, "x", when=every(0.2))
    with working(yard):
        for _ in range(3):
            wait_for(noted.ran)
            noted.ran.clear()
    assert len(set(noted.ids)) == len(noted.ids) >= 3
    moments = [datetime.fromisoformat(id_.removeprefix("note@")) for id_ in noted.ids]
    assert {moment.microsecond % 200_000 for moment in moments} == {0}


def test_one_that_is_added_while_a_worker_sleeps(yard: Yard, noted: Noted) -> None:
    with working(yard):
        yard.schedules.add(noted.task, "late", when=every(86_400), name="daily")
        yard.schedules.add(noted.task, "soon", when=every(0.05), name="soon")
        wait_for(noted.ran)
    assert set(noted.calls) == {"soon"}


def test_what_was_declared_and_when_it_is_due(yard: Yard, noted: Noted, clock: Clock) -> None:
    yard.schedule(noted.task, when=cron("0 0 1 1 *"), name="yearly", catch_up="none")
    burst(yard)
    found = only(yard)
    now = datetime.fromtimestamp(clock() / 1e6, UTC)
    assert found.next == datetime(now.year + 1, 1, 1, tzinfo=UTC)
    assert (found.name, found.task, found.queue) == ("yearly", "note", "default")
    assert (found.when, found.catch_up) == ("cron 0 0 1 1 * (UTC)", "none")
    assert (found.last, found.paused) == (None, False)
    assert noted.calls == []


@pytest.mark.parametrize(
    ("catch_up", "times"), [("latest", 1), ("earliest", 1), ("all", 10), ("none", 1)]
)
def test_what_is_made_up_for_after_all_workers_were_away(
    yard: Yard, noted: Noted, clock: Clock, catch_up: Any, times: int
) -> None:
    start = datetime.fromtimestamp(clock() / 1e6, UTC) + timedelta(seconds=60)
    yard.schedule(noted.task, when=every(60, start=start), catch_up=catch_up)
    burst(yard)
    assert noted.ids == []
    clock.forward(60 * 10 + 1)  # of ten instants the last one is a second ago
    burst(yard)
    burst(yard)
    instants = [start + timedelta(seconds=60 * number) for number in range(10)]
    chosen = {"latest": instants[-1:], "none": instants[-1:], "earliest": instants[:1]}
    expected = chosen.get(catch_up, instants)
    assert len(noted.ids) == times
    shown = [f"note@{moment.isoformat().replace('+00:00', 'Z')}" for moment in expected]
    assert sorted(noted.ids) == sorted(shown)
    assert only(yard).last == instants[-1] or catch_up == "earliest"


def test_what_was_missed_for_long_is_not_made_up_for_with_none(
    yard: Yard, noted: Noted, clock: Clock
) -> None:
    yard.schedule(noted.task, when=every(3600), catch_up="none")
    burst(yard)
    clock.forward(3600 * 5 + 1800 - clock() / 1e6 % 3600)
    burst(yard)
    assert noted.ids == []


def test_a_declaration_that_did_not_change_keeps_what_is_pending(
    yard: Yard, another: Another, noted: Noted, clock: Clock
) -> None:
    yard.schedule(noted.task, "x", when=every(3600))
    burst(yard)
    clock.forward(3600)
    again = another()
    more = Noted(again)
    again.schedule(more.task, "x", when=every(3600))
    burst(again)
    assert more.calls == ["x"], "the missed instant is made up for"


def test_a_declaration_that_changed_replaces_the_stored_one(
    yard: Yard, another: Another, noted: Noted, clock: Clock
) -> None:
    yard.schedule(noted.task, "old", when=every(3600))
    burst(yard)
    clock.forward(3600)
    again = another()
    more = Noted(again)
    again.schedule(more.task, "new", when=every(7200))
    burst(again)
    assert more.calls == []
    assert only(again).when == "every 7200 s"
    clock.forward(7200)
    burst(again)
    assert more.calls == ["new"]


def test_pause_resume_fire_and_remove(yard: Yard, noted: Noted, clock: Clock) -> None:
    leave_the_turn_of_the_minute(clock)
    name = yard.schedules.add(noted.task, "x", when=every(60), catch_up="all")
    assert yard.schedules.pause(name)
    assert not yard.schedules.pause(name)
    assert only(yard).paused
    assert only(yard).next is None
    clock.forward(600)
    burst(yard)
    assert noted.calls == []
    id_ = yard.schedules.fire(name)
    burst(yard)
    assert noted.ids == [id_]
    assert yard.schedules.resume(name)
    assert not yard.schedules.resume(name)
    burst(yard)
    assert noted.ids == [id_], "what was missed in the pause is left out"
    clock.forward(60)
    burst(yard)
    assert len(noted.ids) == 2
    yard.schedules.remove(name)
    assert yard.schedules.list() == []
    clock.forward(600)
    burst(yard)
    assert len(noted.ids) == 2


async def test_from_an_event_loop(yard: Yard, noted: Noted) -> None:
    try:
        name = await yard.schedules.aadd(noted.task, "x", when=rrule("FREQ=DAILY;BYHOUR=4"))
        assert await yard.schedules.apause(name)
        assert await yard.schedules.aresume(name)
        assert (await yard.schedules.afire(name)).startswith("note@")
        assert [one.name for one in await yard.schedules.alist()] == ["note"]
        await yard.schedules.aremove(name)
        with pytest.raises(NotFound):
            await yard.schedules.aremove(name)
    finally:
        await yard.aclose()


def test_options_of_its_messages(yard: Yard, clock: Clock) -> None:
    got: list[tuple[str, str, int]] = []

    @yard.task(name="save", shard="user", queue="orders", batch=Batch(10))
    def save(rows: list[dict[str, str]]) -> None:
        context = current_context()
        got.extend((row["user"], context.shard, context.messages[0].priority) for row in rows)

    leave_the_turn_of_the_minute(clock)
    yard.schedule(save, {"user": "u1"}, when=every(60), name="of u1")
    yard.schedule(
        save.options(priority=-3, shard="other"), {"user": "u2"}, when=every(60), name="2"
    )
    burst(yard)
    clock.forward(60)
    burst(yard)
    assert sorted(got) == [("u1", "u1", 0), ("u2", "other", -3)]


def test_jitter_puts_off_each_message_differently(yard: Yard, noted: Noted, clock: Clock) -> None:
    for number in range(30):
        yard.schedules.add(noted.task, str(number), when=every(3600), name=f"s{number}", jitter=600)
    clock.forward(3600 - clock() / 1e6 % 3600)
    seen = []
    for _ in range(6):
        burst(yard)
        seen.append(len(noted.calls))
        clock.forward(120)
    assert seen[0] < 30
    assert seen[-1] == 30
    assert len(set(seen)) > 2


def test_results_of_scheduled_messages(yard: Yard, clock: Clock) -> None:
    @yard.task(name="double")
    def double(number: int) -> int:
        return number * 2

    name = yard.schedules.add(double, 4, when=RegularSchedule(minutes="*"))
    id_ = yard.schedules.fire(name)
    burst(yard)
    assert double.result(id_).get(timeout=5) == 8


def test_one_whose_times_mean_nothing_here_hinders_no_other(
    yard: Yard, noted: Noted, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    leave_the_turn_of_the_minute(clock)
    rule = Plan(Cron("0 4 LW * *"), "default", "note", b"").packed()
    strange = Schedule("strange", rule, clock())
    yard.driver.run(yard.broker.schedules.change(Schedule("strange", b"", 0), strange))
    yard.schedules.add(noted.task, "x", when=every(60))
    clock.forward(60)
    burst(yard)
    assert noted.calls == ["x"]
    assert "schedule strange cannot be carried out here" in caplog.text


def test_one_that_cannot_be_read_hinders_no_other(
    yard: Yard, noted: Noted, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    leave_the_turn_of_the_minute(clock)
    strange = Schedule("strange", b"\xc1 from the future", clock())
    yard.driver.run(yard.broker.schedules.change(Schedule("strange", b"", 0), strange))
    yard.schedules.add(noted.task, "x", when=every(60))
    clock.forward(60)
    burst(yard)
    assert noted.calls == ["x"]
    assert "schedule strange cannot be carried out here" in caplog.text
    assert yard.schedules.list()[1].task == ""
    with pytest.raises(PolicyError, match="newer taskyard"):
        yard.schedules.fire("strange")


def test_one_that_cannot_be_read_holds_up_no_other(yard: Yard, noted: Noted, clock: Clock) -> None:
    strange = Schedule("strange", b"\xc1 from the future", clock())
    yard.driver.run(yard.broker.schedules.change(Schedule("strange", b"", 0), strange))
    yard.schedule(noted.task, "x", when=every(0.05))
    with working(yard):
        for _ in range(10):  # in all this takes longer than a test may if each waits for long
            wait_for(noted.ran)
            noted.ran.clear()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"when": 5}, "when must be cron"),
        ({"when": every(5), "catch_up": "some"}, "catch_up must be one of"),
        ({"when": every(5), "jitter": -1}, "jitter must be"),
        ({"when": every(5), "name": ""}, "a schedule's name"),
        ({"when": every(5), "name": "a\0b"}, "a schedule's name"),
    ],
)
def test_wrong_declarations_are_refused(yard: Yard, noted: Noted, options: Any, match: str) -> None:
    with pytest.raises(PolicyError, match=match):
        yard.schedule(noted.task, "x", **options)
    assert yard.plans == {}


def test_wrong_arguments_and_options_are_refused(yard: Yard, noted: Noted) -> None:
    with pytest.raises(PayloadError, match="note"):
        yard.schedule(noted.task, 5, when=every(5))
    with pytest.raises(PolicyError, match=r"a schedule is one of a task, .* not of 'note'"):
        yard.schedule("note", "x", when=every(5))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match="delay= says nothing"):
        yard.schedule(noted.task.options(delay=3), "x", when=every(5))
    yard.schedule(noted.task, "x", when=every(5))
    with pytest.raises(PolicyError, match="two schedules called 'note'"):
        yard.schedule(noted.task, "y", when=every(6))


def test_jitter_of_a_debounced_task_is_refused(yard: Yard) -> None:
    debounced = yard.task(unique=Unique(mode="debounce", delay=1), name="debounced")(print_nothing)
    yard.schedules.add(debounced, when=every(5))
    with pytest.raises(PolicyError, match="jitter= says nothing of a debounced task"):
        yard.schedules.add(debounced, when=every(5), jitter=3)


def print_nothing() -> None: ...


def test_what_is_not_there(yard: Yard) -> None:
    for change in (yard.schedules.pause, yard.schedules.resume, yard.schedules.fire):
        with pytest.raises(NotFound, match="no schedule 'x'"):
            change("x")


def test_what_a_program_owns_and_declares_no_more_is_removed(
    yard: Yard, noted: Noted, another: Another
) -> None:
    names = ["mine", "mine/", "mine/a", "mine/b", "mine/c", "mine0", "other/a"]
    for name in names:
        yard.schedules.add(noted.task, "x", when=every(3600), name=name)
    program = another()
    program.schedule(Noted(program).task, "x", when=every(3600), name="mine/b")
    program.own_schedules("mine/")
    burst(program)
    left = [info.name for info in yard.schedules.list()]
    assert left == ["mine", "mine/", "mine/b", "mine0", "other/a"]
    with pytest.raises(PolicyError, match="printable"):
        program.own_schedules("")


def test_many_that_are_owned_are_removed(yard: Yard, noted: Noted, another: Another) -> None:
    for number in range(5):
        yard.schedules.add(noted.task, "x", when=every(3600), name=f"mine/{number}")
    program = another()
    Noted(program)
    program.own_schedules("mine/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("taskyard.scheduling.PAGE", 2)
        burst(program)
    assert yard.schedules.list() == []


def test_a_worker_without_schedules(yard: Yard, noted: Noted, clock: Clock) -> None:
    yard.schedules.add(noted.task, "x", when=every(60))
    clock.forward(60)
    yard.run_worker(burst=True, schedules=False)
    assert noted.calls == []
