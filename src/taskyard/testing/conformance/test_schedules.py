"""Schedules: kept by name, changed by comparing, due in order, and heard of by who sleeps."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from taskyard.brokers.base import Group, Put
from taskyard.brokers.schedules import DueSchedules, Schedule
from taskyard.errors import DuplicateId
from taskyard.testing.conformance.harness import TASK, Harness, body, micros

RULE = b"\x00\xff not read by a broker"


def change(harness: Harness, old: Schedule, new: Schedule | None, put: Put | None = None) -> bool:
    return harness.run(harness.broker.schedules.change(old, new, put))


def find(
    harness: Harness, names: Sequence[str] | None = None, *, after: str = "", limit: int = 100
) -> list[Schedule]:
    return harness.run(harness.broker.schedules.find(names, after=after, limit=limit))


def one(harness: Harness, name: str = "a") -> Schedule:
    [found] = find(harness, [name])
    return found


def add(harness: Harness, name: str = "a", *, wait: float = 0, paused: bool = False) -> Schedule:
    """Add a schedule that is due in some seconds."""
    pending = harness.clock.now + micros(wait)
    new = Schedule(name, RULE, pending, paused=paused)
    assert change(harness, Schedule(name, b"", 0), new)
    return one(harness, name)


def due(harness: Harness, limit: int = 100, listener: str | None = None) -> DueSchedules:
    return harness.run(harness.broker.schedules.due(limit, listener))


def due_names(harness: Harness, limit: int = 100) -> list[str]:
    return [found.name for found in due(harness, limit).schedules]


def done(old: Schedule, wait: float) -> Schedule:
    """A schedule whose pending instant was done, and that is due again so many seconds later."""
    return msgspec.structs.replace(old, last=old.pending, pending=old.pending + micros(wait))


def test_a_schedule_is_kept_as_it_was_stored(harness: Harness) -> None:
    stored = add(harness, "nächtlich", wait=5)
    pending = harness.clock.now + micros(5)
    assert stored == Schedule("nächtlich", RULE, pending, 0, False, 1)
    new = Schedule("nächtlich", b"", pending + 7, pending, True)
    assert change(harness, stored, new)
    assert one(harness, "nächtlich") == msgspec.structs.replace(new, revision=2)


def test_they_are_listed_by_name(harness: Harness) -> None:
    for name in ("c", "a", "é", "d", "b"):
        add(harness, name)
    assert [found.name for found in find(harness)] == ["a", "b", "c", "d", "é"]
    assert [found.name for found in find(harness, limit=2)] == ["a", "b"]
    assert [found.name for found in find(harness, after="b", limit=2)] == ["c", "d"]
    assert [found.name for found in find(harness, ["d", "x", "a"])] == ["a", "d"]
    assert find(harness, []) == []


def test_what_is_not_there(harness: Harness) -> None:
    assert find(harness) == []
    assert due(harness) == DueSchedules([], harness.clock.now, 0)


def test_only_the_first_of_two_changes_counts(harness: Harness) -> None:
    old = add(harness)
    assert change(harness, old, done(old, 10))
    assert not change(harness, old, done(old, 20))
    assert one(harness).pending == old.pending + micros(10)


def test_one_that_is_there_is_not_added(harness: Harness) -> None:
    stored = add(harness)
    assert not change(harness, Schedule("a", b"", 0), Schedule("a", b"other", 1))
    assert one(harness) == stored


def test_one_that_is_gone_is_not_changed(harness: Harness) -> None:
    old = add(harness)
    assert change(harness, old, None)
    assert not change(harness, old, done(old, 1))
    assert not change(harness, old, None)
    assert find(harness) == []
    assert due_names(harness) == []
    assert add(harness).revision == 1


def test_they_are_due_in_the_order_of_their_instants(harness: Harness) -> None:
    for name, wait in (("late", 9), ("third", 2), ("first", 1), ("second", 1.5)):
        add(harness, name, wait=wait)
    assert due(harness).next_at == harness.clock.now + micros(1)
    assert due_names(harness) == []
    harness.clock.advance(2)
    assert due_names(harness) == ["first", "second", "third"]
    assert due_names(harness, limit=2) == ["first", "second"]
    assert due(harness).schedules[0] == one(harness, "first")
    assert due_names(harness) == ["first", "second", "third"], "looking changes nothing"


def test_one_that_was_done_is_due_again_at_its_next_instant(harness: Harness) -> None:
    old = add(harness)
    assert due_names(harness) == ["a"]
    assert change(harness, old, done(old, 60))
    assert due(harness) == DueSchedules([], harness.clock.now, old.pending + micros(60))
    harness.clock.advance(60)
    assert due_names(harness) == ["a"]


@pytest.mark.parametrize("paused", [False, True])
def test_what_is_paused_or_has_no_instant_is_not_due(harness: Harness, paused: bool) -> None:
    old = add(harness)
    new = msgspec.structs.replace(old, paused=paused, pending=old.pending if paused else 0)
    assert change(harness, old, new)
    harness.clock.advance(1)
    assert due(harness) == DueSchedules([], harness.clock.now, 0)
    assert change(harness, one(harness), msgspec.structs.replace(old, paused=False))
    assert due_names(harness) == ["a"]


# With messages


def test_messages_are_stored_with_the_change(harness: Harness) -> None:
    old = add(harness)
    assert change(harness, old, done(old, 60), Put(TASK, [body("x"), body("y")], "s", 3))
    assert harness.work_off() == ["x", "y"]
    assert harness.counts().totals["put"] == 2


def test_a_change_that_is_refused_puts_nothing(harness: Harness) -> None:
    old = add(harness)
    new = done(old, 60)
    assert change(harness, old, new, Put(TASK, [body("x")]))
    assert not change(harness, old, new, Put(TASK, [body("x")]))
    assert harness.work_off() == ["x"]


def test_two_that_find_the_same_instant_due_put_its_message_once(harness: Harness) -> None:
    add(harness)
    for _ in range(3):
        first, second = due(harness).schedules[0], due(harness).schedules[0]
        put = Put(TASK, [body(str(first.pending))])
        assert change(harness, first, done(first, 10), put)
        assert not change(harness, second, done(second, 10), put)
        harness.clock.advance(10)
    assert len(harness.work_off()) == 3


def test_messages_of_several_groups_and_shards(harness: Harness) -> None:
    for number in range(20):
        group = Group(f"queue {number % 3}", "task")
        old = add(harness, f"s{number}")
        put = Put(group, [body(str(number))], f"shard {number}")
        assert change(harness, old, done(old, 10), put)
        assert not change(harness, old, done(old, 10), put)
    groups = [Group(f"queue {number}", "task") for number in range(3)]
    found = [name for group in groups for name in harness.work_off(groups=[group])]
    assert sorted(map(int, found)) == list(range(20))


def test_a_message_can_be_delayed_and_have_a_record(harness: Harness) -> None:
    old = add(harness)
    due_at = harness.clock.now + micros(5)
    put = Put(TASK, [body("x")], due=due_at, ids=["x"], record_ttl=micros(60))
    assert change(harness, old, done(old, 60), put)
    assert harness.state("x") == "delayed"
    harness.clock.advance(5)
    assert harness.work_off() == ["x"]


def test_an_id_that_is_taken_is_refused_and_the_schedule_stays(harness: Harness) -> None:
    harness.put("x", keep=60)
    old = add(harness)
    put = Put(TASK, [body("x")], ids=["x"], record_ttl=micros(60))
    with pytest.raises(DuplicateId):
        change(harness, old, done(old, 60), put)
    assert one(harness) == old
    assert change(harness, old, done(old, 60))


def test_a_removed_one_that_is_added_again_puts_again(harness: Harness) -> None:
    for _ in range(2):
        old = add(harness)
        assert change(harness, old, done(old, 60), Put(TASK, [body("x")]))
        assert change(harness, one(harness), None)
        harness.clock.advance(1)
    assert harness.work_off() == ["x", "x"]


# Waking


def test_a_sleeper_hears_of_an_earlier_instant(harness: Harness) -> None:
    sleeper = harness.sleeper()
    assert due(harness, listener=sleeper.name).next_at == 0
    add(harness, "a", wait=60)
    assert sleeper.is_woken()
    due(harness, listener=sleeper.name)
    add(harness, "later", wait=70)
    assert sleeper.sleeps_on()
    add(harness, "earlier", wait=50)
    assert sleeper.is_woken()


def test_of_two_that_sleep_one_is_enough(harness: Harness) -> None:
    first, second = harness.sleeper(), harness.sleeper()
    for sleeper in (first, second):
        due(harness, listener=sleeper.name)
    add(harness, wait=60)
    woken = [sleeper for sleeper in (first, second) if not sleeper.sleeps_on()]
    assert len(woken) == 1 or (not woken and first.is_woken() != second.is_woken())


def test_who_finds_something_due_is_not_asleep(harness: Harness) -> None:
    add(harness)
    sleeper = harness.sleeper()
    due(harness, listener=sleeper.name)
    add(harness, "b", wait=1)
    assert sleeper.sleeps_on()


def test_schedules_are_not_counted_as_a_queue(harness: Harness) -> None:
    sleeper = harness.sleeper()
    due(harness, listener=sleeper.name)
    add(harness)
    assert harness.run(harness.broker.counts()) == []


def test_many(harness: Harness) -> None:
    names = [f"s{number:05}" for number in range(0, 10_000, 100)]
    for name in names:
        add(harness, name, wait=float(name[1:]))
    found: list[str] = []
    harness.clock.advance(5000)
    while chunk := due(harness, 10).schedules:
        for old in chunk:
            assert change(harness, old, msgspec.structs.replace(old, pending=0))
            found.append(old.name)
    assert found == names[: len(found)]
    assert len(found) == 51
