"""schedules.lua, change.lua, changed.lua, agenda.lua and forget.lua: schedules at home."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.redis.scripts.calls import GROUP, call, claim, envelope, item
from tests.redis.scripts.container import NOW, Container, State, fresh
from tests.redis.scripts.test_bounds import commands

from taskyard.brokers.redis.calls import Call

RULE = b"\x00\xff rule"
MESSAGES = b"\xc4\x00 messages"
PATIENCE = 2_000_000
KEPT = 900_000_000
LATER = NOW + 60_000_000
LINE = "\0schedules"

New = tuple[int, int, bool]


def change(
    revision: int,
    new: New | None,
    *,
    name: str = "a",
    epoch: int = 0,
    rule: bytes = RULE,
    messages: bytes = b"",
) -> Call:
    """What it is to be: pending, last, paused; None: no more. With an epoch, with messages."""
    packed = msgspec.msgpack.encode((name, revision, new or False, epoch))
    return call("change", packed, rule if new else b"", messages)


def begin(revision: int, new: New | None = (LATER, NOW, False), *, name: str = "a") -> Call:
    return change(revision, new, name=name, epoch=1, messages=MESSAGES)


def changed(number: int, what: str, container: int | str = 3, *, name: str = "a") -> Call:
    return call("changed", name, number, what, container)


def agenda(limit: int = 10, listener: str = "", *, afar: int = 0) -> Call:
    return call("agenda", limit, listener, afar)


def add(box: Container, *names: str, pending: int = NOW, paused: bool = False) -> None:
    for name in names or ("a",):
        assert box.run(change(0, (pending, 0, paused), name=name)) == [1]


def shown(name: str, pending: int, *, last: int = 0, paused: int = 0, revision: int = 1) -> Any:
    return [name.encode(), RULE, pending, last, paused, revision]


def of(state: State, *kinds: str) -> State:
    return {path: value for path, value in state.items() if path.split(" ")[0] in kinds}


# change, without messages


def test_adding(box: Container) -> None:
    assert box.trace(change(0, (LATER, 7, False))) == (
        [1],
        {
            "agenda a": LATER,
            "schedule a": [1, LATER, 7, False, RULE, [], 0],
            "schedulename a": True,
        },
    )


@pytest.mark.parametrize("new", [(0, 7, False), (LATER, 7, True)])
def test_one_that_is_not_due_has_no_place_in_the_agenda(box: Container, new: New) -> None:
    add(box)
    reply, state = box.trace(change(1, new))
    assert reply == [1]
    assert state == {"agenda a": None, "schedule a": [2, *new, RULE, [], 0]}
    assert box.trace(change(2, (NOW, 0, False)))[1]["agenda a"] == NOW


def test_removing(box: Container) -> None:
    add(box)
    add(box, "b")
    reply, state = box.trace(change(1, None))
    assert reply == [1]
    assert state == {"agenda a": None, "schedule a": None, "schedulename a": None}


@pytest.mark.parametrize(
    ("name", "revision", "new", "epoch"),
    [
        ("a", 0, (LATER, 0, False), 0),
        ("a", 2, (LATER, 0, False), 0),
        ("a", 2, None, 0),
        ("a", 2, (LATER, 0, False), 1),
        ("x", 1, (LATER, 0, False), 0),
        ("x", 1, None, 0),
    ],
)
def test_one_that_is_not_as_it_was(
    box: Container, name: str, revision: int, new: New | None, epoch: int
) -> None:
    add(box)
    assert box.trace(change(revision, new, name=name, epoch=epoch)) == ([0], {})


# With messages


def test_beginning(box: Container) -> None:
    add(box)
    reply, state = box.trace(begin(1))
    assert reply == [2, NOW]
    assert state == {
        "agenda a": NOW + PATIENCE,
        "change a": [NOW, 1, [LATER, NOW, False, RULE], MESSAGES, []],
        "meta sequence": NOW,
        "meta turn": 0,
    }


def test_the_next_ones_wait_for_it(box: Container) -> None:
    add(box)
    box.run(begin(1))
    under_way = [3, NOW, 1, MESSAGES]
    assert box.trace(begin(1)) == (under_way, {})
    assert box.trace(change(1, (LATER, 0, True))) == (under_way, {})
    assert box.trace(change(1, None)) == (under_way, {})
    assert box.trace(change(0, None)) == ([0], {})


def test_numbers_rise(box: Container) -> None:
    add(box, "a", "b")
    assert box.run(begin(1)) == [2, NOW]
    assert box.run(begin(1, name="b")) == [2, NOW + 1]


def test_messages_are_stored(box: Container) -> None:
    add(box)
    box.run(begin(1))
    assert box.trace(changed(NOW, "stored")) == (
        1,
        {
            "agenda a": LATER,
            "change a": None,
            "schedule a": [2, LATER, NOW, False, RULE, [3], NOW],
        },
    )
    for _ in range(2):
        assert box.trace(changed(NOW, "stored", 4)) == (1, {})
        assert box.trace(changed(NOW, "refused", 4)) == (1, {})
        box.run(change(2, (LATER, 0, True)))


def test_messages_are_refused(box: Container) -> None:
    add(box)
    box.run(begin(1))
    reply, state = box.trace(changed(NOW, "refused"))
    assert reply == 0
    assert state == {
        "agenda a": NOW,
        "change a": None,
        "schedule a": [1, NOW, 0, False, RULE, [3], 0],
    }
    assert box.trace(changed(NOW, "stored")) == (0, {})


def test_it_is_another_change_that_ended(box: Container) -> None:
    add(box)
    box.run(begin(1))
    for what in ("stored", "refused", "forgotten"):
        assert box.trace(changed(NOW - 1, what)) == (0, {})
        assert box.trace(changed(NOW, what, name="b")) == (0, {})


def test_each_container_is_marked_once(box: Container) -> None:
    add(box)
    for revision, container in enumerate((3, 5, 3, 0), 1):
        _, number = box.run(begin(revision))
        box.run(changed(number, "stored", container))
    assert box.dump()["schedule a"][5] == [3, 5, 0]
    box.run(change(5, (LATER, 0, True)))
    assert box.dump()["schedule a"][5] == [3, 5, 0]


def test_adding_one_with_messages(box: Container) -> None:
    assert box.run(begin(0)) == [2, NOW]
    assert box.run(call("schedules", "", 10)) == []
    _, state = box.trace(changed(NOW, "stored"))
    assert state["schedule a"] == [1, LATER, NOW, False, RULE, [3], NOW]
    assert state["schedulename a"] is True


def test_one_that_is_not_added_leaves_its_mark_for_a_while(box: Container) -> None:
    box.run(begin(0))
    _, state = box.trace(changed(NOW, "refused"))
    assert state == {
        "agenda a": None,
        "change a": [NOW + 1, 0, False, b"", [3]],
        "meta sequence": NOW + 1,
        "removed a": NOW + KEPT,
    }


# Removed ones, and their marks


def test_one_that_is_removed_with_messages_was_changed(box: Container) -> None:
    add(box)
    fired(box, new=None)
    assert box.dump()["change a"][0] == NOW
    assert box.trace(changed(NOW, "stored")) == (1, {})
    assert box.trace(changed(NOW + 1, "stored")) == (0, {})


def fired(box: Container, revision: int = 1, new: New | None = (LATER, NOW, False)) -> None:
    _, number = box.run(begin(revision, new))
    box.run(changed(number, "stored"))


def test_a_removed_one_leaves_its_mark_for_a_while(box: Container) -> None:
    add(box)
    fired(box)
    reply, state = box.trace(change(2, None))
    assert reply == [1]
    left = {
        "change a": [NOW + 1, 0, False, b"", [3]],
        "meta sequence": NOW + 1,
        "removed a": NOW + KEPT,
    }
    gone = {"agenda a": None, "schedule a": None, "schedulename a": None}
    assert state == gone | left


def test_one_that_puts_and_is_removed(box: Container) -> None:
    add(box)
    fired(box, new=None)
    assert of(box.dump(), "schedule", "agenda", "removed") == {"removed a": NOW + KEPT}


def test_one_that_is_added_again_has_its_mark_again(box: Container) -> None:
    add(box)
    fired(box, new=None)
    _, state = box.trace(change(0, (LATER, 0, False)))
    assert state == {
        "agenda a": LATER,
        "change a": None,
        "removed a": None,
        "schedule a": [1, LATER, 0, False, RULE, [3], 0],
        "schedulename a": True,
    }


def test_one_that_is_added_again_with_messages_has_it_too(box: Container) -> None:
    add(box)
    fired(box, new=None)
    _, state = box.trace(begin(0))
    assert state["removed a"] is None
    assert state["change a"][-1] == [3]
    box.run(changed(state["change a"][0], "stored", 4))
    assert box.dump()["schedule a"][5] == [3, 4]


def test_marks_go(box: Container) -> None:
    add(box)
    fired(box)
    box.run(change(2, None))
    box.now = NOW + KEPT - 1
    assert box.run(agenda())[3] == []
    box.now = NOW + KEPT
    reply, state = box.trace_once(agenda())
    assert reply == [box.now, 0, [], [[b"a", NOW + 1, 3]], []]
    assert state == {"removed a": box.now + PATIENCE}
    assert box.trace(changed(NOW, "forgotten", "")) == (0, {})
    _, state = box.trace(changed(NOW + 1, "forgotten", ""))
    assert state == {"change a": None, "removed a": None}


def test_a_mark_is_forgotten_unless_it_is_a_later_one(box: Container) -> None:
    for value in ("5", "5 id 9"):
        box.client.hset(f"{box.key}:transfers", mapping={"s": value, "other": 5})
        assert box.trace(call("forget", "s", 4)) == (1, {})
        assert box.trace(call("forget", "s", 5)) == (1, {"transfer s": None})
    assert box.trace(call("forget", "s", 5)) == (1, {})


# The lot of a change


def lot(number: int, *items: Any) -> Call:
    heads = [("s", number, 0, 0, True), *(head for head, _ in items)]
    bodies = [body for _, some in items for body in some]
    return call("put", msgspec.msgpack.encode(heads), *bodies)


def recorded(id_: str) -> Any:
    return item(envelope(id_), ids=[id_], ttl=100)


def test_a_lot_is_stored_once(box: Container) -> None:
    reply, state = box.trace(lot(5, item("1")))
    assert reply == 1
    assert state["list 1 0 a"] == [fresh(NOW, "1")]
    assert state["transfer s"] == b"5"
    assert box.trace(lot(5, item("1"))) == (1, {})
    assert box.trace(lot(4, item("1"))) == (1, {})


def test_an_id_that_is_taken_is_the_answer_for_good(box: Container) -> None:
    box.run(lot(5, recorded("an id")))
    reply, state = box.trace(lot(6, recorded("b"), recorded("an id")))
    assert reply == b"an id"
    assert state == {"transfer s": b"6 an id"}
    box.client.delete(f"{box.key}:k:an id")
    assert box.trace(lot(6, recorded("b"), recorded("an id"))) == (b"an id", {})
    assert box.trace(lot(5, recorded("c"))) == (1, {})
    reply, state = box.trace(lot(7, recorded("b"), recorded("an id")))
    assert reply == 1
    assert state["transfer s"] == b"7"


def test_that_the_queue_is_elsewhere_is_no_answer_for_good(box: Container) -> None:
    head, bodies = recorded("a")
    assert box.trace(lot(5, ((*head, 2), bodies))) == (3, {})
    assert box.run(lot(5, ((*head, 1), bodies))) == 1


# agenda


def test_nothing_is_there(box: Container) -> None:
    assert box.trace(agenda()) == ([NOW, 0, [], [], []], {})


def test_what_is_due_comes_in_order(box: Container) -> None:
    add(box, "late", pending=NOW + 3)
    add(box, "second", pending=NOW - 1)
    add(box, "now", pending=NOW)
    add(box, "first", pending=NOW - 2)
    add(box, "paused", pending=NOW, paused=True)
    due = [shown("first", NOW - 2), shown("second", NOW - 1), shown("now", NOW)]
    assert box.trace(agenda()) == ([NOW, 0, [], [], due], {})
    assert box.trace(agenda(2)) == ([NOW, 0, [], [], due[:2]], {})
    box.now = NOW - 3
    assert box.trace(agenda()) == ([NOW - 3, NOW - 2, [], [], []], {})


def test_what_others_have_left(box: Container) -> None:
    add(box, "a", "b", pending=NOW)
    box.run(begin(1))
    due = [shown("b", NOW)]
    assert box.run(agenda()) == [NOW, 0, [], [], due]
    box.now = NOW + PATIENCE
    left = [[b"a", NOW, 1, MESSAGES]]
    reply, state = box.trace_once(agenda())
    assert reply == [box.now, 0, left, [], due]
    assert state == {"agenda a": NOW + 2 * PATIENCE}
    assert box.run(agenda()) == [box.now, 0, [], [], due]
    box.now = NOW + 2 * PATIENCE
    assert box.run(agenda())[2] == left


def test_who_finds_nothing_falls_asleep(box: Container) -> None:
    add(box, pending=NOW + 5)
    reply, state = box.trace_once(agenda(10, "ear", afar=1))
    assert reply == [NOW, NOW + 5, [], [], []]
    assert state == {
        "line 1 ear": 1,
        "meta asleep": 1,
        "meta groups": 1,
        "name 1": LINE,
        "policy 1": state["policy 1"],
        "sleeper ear": [NOW + 5, ["1"], [], NOW, True],
    }


def test_who_finds_something_is_awake(box: Container) -> None:
    box.run(agenda(10, "ear"))
    add(box, pending=NOW + 5)
    box.run(agenda(10, "ear"))
    box.now = NOW + 5
    _, state = box.trace(agenda(10, "ear"))
    assert state == {"line 1 ear": None, "sleeper ear": None}


@pytest.mark.parametrize(
    ("pending", "paused", "woken"),
    [
        (LATER - 1, False, True),
        (LATER, False, False),
        (LATER + 1, False, False),
        (LATER - 1, True, False),
        (0, False, False),
    ],
)
def test_only_an_earlier_instant_wakes(
    box: Container, pending: int, paused: bool, woken: bool
) -> None:
    add(box, pending=LATER)
    for listener in ("ear", "other"):
        box.run(agenda(10, listener, afar=1))
    _, state = box.trace(change(0, (pending, 0, paused), name="b"))
    assert of(state, "line", "sleeper") == ({"line 1 ear": None} if woken else {})


def test_a_change_with_messages_wakes_when_it_is_made(box: Container) -> None:
    add(box)
    _, number = box.run(begin(1))
    box.client.zadd(f"{box.key}:agenda", {"a": NOW + 10 * PATIENCE})
    box.run(agenda(10, "ear", afar=1))
    box.client.zadd(f"{box.key}:agenda", {"a": LATER})
    _, state = box.trace(changed(number, "stored"))
    assert of(state, "line") == {}  # it wakes in time
    box.run(agenda(10, "other", afar=1))
    _, number = box.run(begin(2, (NOW + 7, NOW, False)))
    _, state = box.trace(changed(number, "stored"))
    assert of(state, "line") == {"line 1 ear": None}


def test_who_leaves_hands_on_the_next_instant(box: Container) -> None:
    box.run(agenda(10, "one", afar=1))
    box.run(agenda(10, "two", afar=1))
    add(box, pending=LATER)
    _, state = box.trace(call("leave", "one"))
    assert of(state, "line", "sleeper") == {"line 1 two": None, "sleeper one": None}
    box.run(agenda(10, "two", afar=1))
    box.run(agenda(10, "three", afar=1))
    _, state = box.trace(call("leave", "three"))
    assert of(state, "line") == {"line 1 three": None}, "another one wakes in time"


def test_what_lanes_wait_for_wakes_nobody_who_waits_for_schedules(box: Container) -> None:
    box.run(agenda(10, "clock", afar=1))
    box.run(agenda(10, "other", afar=1))
    delayed = msgspec.msgpack.encode([item("x", delay=9)[0]])
    box.run(call("put", delayed, "x"))
    box.run(claim(groups=[GROUP], listener="worker"))
    _, state = box.trace(call("leave", "clock"))
    assert of(state, "line") == {"line 1 clock": None}


# schedules


def test_listing(box: Container) -> None:
    names = ["a", "b", "c", "ä"]
    add(box, *reversed(names), pending=NOW + 5)
    listed = [shown(name, NOW + 5) for name in names]
    assert box.trace(call("schedules", "", 10)) == (listed, {})
    assert box.trace(call("schedules", "", 2)) == (listed[:2], {})
    assert box.trace(call("schedules", "b", 10)) == (listed[2:], {})
    assert box.trace(call("schedules", "bb", 1)) == (listed[2:3], {})
    assert box.trace(call("schedules", "", 0, "ä", "x", "b")) == ([listed[3], listed[1]], {})
    box.run(change(1, (0, 9, True), name="b"))
    assert box.run(call("schedules", "a", 1)) == [shown("b", 0, last=9, paused=1, revision=2)]


# Bounds


@pytest.mark.parametrize("pending", [NOW, LATER])
def test_work_beside_few_and_many(box: Container, pending: int) -> None:
    found = []
    for many in (20, 2000):
        box.client.flushdb()
        add(box, *(f"s{number:04}" for number in range(many)), pending=pending)
        add(box, pending=NOW - 1)
        done = [commands(box, begin(1))]
        done.append(commands(box, changed(NOW, "stored")))
        done.append(commands(box, agenda(10, "ear")))
        done.append(commands(box, change(2, (NOW, 0, False))))
        done.append(commands(box, call("schedules", "s0004", 10)))
        done.append(commands(box, change(3, None)))
        found.append(done)
    assert found[0] == found[1]
