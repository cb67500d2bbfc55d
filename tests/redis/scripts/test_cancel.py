"""cancel.lua and pulse.lua."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from tests.redis.scripts.calls import (
    GROUP,
    call,
    claim,
    declare,
    envelope,
    item,
    put,
    settle,
    step,
    want,
)
from tests.redis.scripts.container import NOW, Claimed, Container, fresh
from tests.redis.scripts.splits import MOVES, STAYS, leave
from tests.redis.scripts.test_bounds import commands

from taskyard.brokers.redis.calls import Call

TTL = 60


def cancel(id_: str, *, note: bool = True) -> Call:
    return call("cancel", id_, int(note))


def pulse(tokens: Sequence[int], *told: tuple[int, str, bytes]) -> Call:
    named = [(token, id_, index) for index, (token, id_, _) in enumerate(told, 5)]
    packed = msgspec.msgpack.encode((tokens, named))
    return call("pulse", packed, *(data for _, _, data in told))


def recorded(box: Container, *ids: str, **how: int) -> None:
    box.run(put(*map(envelope, ids), ids=ids, ttl=TTL, **how))


def test_from_the_middle_of_a_lane(box: Container) -> None:
    recorded(box, "x", "y", "z")
    reply, changed = box.trace(cancel("y"))
    assert reply == [b"removed"]
    left = [
        fresh(NOW, envelope("x"), recorded=True),
        fresh(NOW + 2, envelope("z"), recorded=True),
    ]
    assert changed["list 1 0 a"] == left
    assert changed["count 1 waiting"] == 2
    assert changed["count 1 cancelled"] == 1
    assert changed["record y"]["state"] == "cancelled"
    assert changed["record y"]["expires"] == NOW + TTL


def test_a_lane_that_was_left(box: Container) -> None:
    recorded(box, "x", priority=3)
    _, changed = box.trace(cancel("x"))
    assert changed["list 1 3 a"] is None
    assert changed["ready 1 a"] is None
    assert changed["count 1 waiting"] is None
    assert changed["count 1 lanes"] is None


def test_of_those_that_are_due_at_once(box: Container) -> None:
    recorded(box, *(f"m{number}" for number in range(50)), delay=9)
    for number in (0, 49, 17, 18):
        _, changed = box.trace(cancel(f"m{number}"))
        assert changed[f"due {NOW + number}"] is None
        assert changed[f"record m{number}"]["state"] == "cancelled"
    assert box.dump()["count 1 delayed"] == 46


def test_a_running_one_is_told(box: Container) -> None:
    recorded(box, "x", "y")
    (token,) = box.tokens(claim())
    entries = tuple(fresh(NOW + at, envelope("xy"[at]), recorded=True) for at in (0, 1))
    reply, changed = box.trace(cancel("y"))
    assert reply == [b"told", b"ann"]
    held = box.dump()[f"held {token}"]
    assert changed == {f"held {token}": held}
    assert held == Claimed("q\0t", "ann", held.lease, 2, held.parts, entries, 0, (NOW + 1,))
    assert box.trace(cancel("y"))[1] == {}
    assert box.trace(pulse([token])) == ([[token, NOW + 1]], {})
    box.run(cancel("x"))
    assert box.run(pulse([token, token + 9])) == [[token, NOW], [token, NOW + 1]]
    _, changed = box.trace(settle(token, {NOW: ("back", True, False), NOW + 1: ("stopped", True)}))
    assert changed["count 1 cancelled"] == 2
    assert changed["record x"]["state"] == changed["record y"]["state"] == "cancelled"
    assert "list 1 0 a" not in changed


def test_what_is_noted(box: Container) -> None:
    box.run(put(envelope("x"), envelope("y")))
    reply, changed = box.trace(cancel("x"))
    assert reply == [b"noted"]
    assert changed == {"note x": NOW + 2, "meta note": NOW + 2, "meta sequence": NOW + 2}
    assert box.trace(cancel("x", note=False)) == ([b"unknown"], {})
    reply, changed = box.trace_once(claim())
    assert [entry[9:] for entry in reply[4][0][4:]] == [envelope("y")]
    assert changed["count 1 cancelled"] == 1


@pytest.mark.parametrize("running", [0, 200])
def test_how_much_it_does(box: Container, running: int) -> None:
    """It does not look at other messages, but for some on its way to the middle of a lane."""
    box.run(declare())
    recorded(box, *(f"m{number:05}" for number in range(3000)))
    box.run(put(*("x" for _ in range(running)), shard="b", priority=-1))
    for _ in range(running):
        box.run(step((), want(1)))
    done = commands(box, cancel("m01000"))
    assert done["lindex"] <= 13
    assert done["lrem"] == 1
    assert "lrange" not in done
    assert sum(done.values()) < 60


def test_progress_is_noted_while_the_claim_is_held(box: Container) -> None:
    recorded(box, "x")
    box.run(put(item(envelope("y"))))
    (token,) = box.tokens(claim())
    box.now = NOW + 50
    reply, changed = box.trace(pulse([token], (token, "x", b"half"), (token, "y", b"none")))
    assert reply == []
    assert changed["record x"]["progress"] == b"half"
    assert changed["record x"]["told"] == NOW + 50
    assert changed.keys() == {"record x"}
    box.run(settle(token, None, b"said", results=[("x", 5)]))
    assert box.trace(pulse([token], (token, "x", b"late"))) == ([], {})


def test_an_idle_look_is_one_command_for_each_claim(box: Container) -> None:
    box.run(put("x", "y"))
    tokens = [*box.tokens(claim(1)), *box.tokens(claim(1))]
    assert commands(box, pulse(tokens)) == {"lindex": 2}


def test_what_is_put_after_a_note_costs_nothing(box: Container) -> None:
    found = []
    for noted in (False, True):
        box.client.flushdb()
        box.run(declare())
        if noted:
            box.run(cancel("nobody"))
        box.run(put(*map(envelope, "abcdefgh")))
        found.append(commands(box, claim()))
    assert found[0] == found[1]


# By unique keys


def cancel_key(key: str, *, shard: str = "a", note: bool = True, id_: str = "") -> Call:
    return call("cancel", id_, int(note), GROUP, shard, key)


def unique(mode: str, key: str, id_: str, **more: Any) -> Call:
    return put(envelope(id_), unique=(mode, TTL * 10**6, 3 * TTL * 10**6, key), **more)


NOBODY = [b"unknown", b"", b"", b""]


@pytest.mark.parametrize("mode", "sdwb")
def test_who_holds_a_key_is_removed(box: Container, mode: str) -> None:
    box.run(unique(mode, "k", "x", ids=["x"], ttl=TTL))
    reply, changed = box.trace(cancel_key("k"))
    assert reply == [b"removed", b"", b"x", mode.encode()]
    assert changed["key 1 a k"] is None
    assert changed["record x"]["state"] == "cancelled"
    assert changed["count 1 cancelled"] == 1
    assert box.trace(cancel_key("k")) == (NOBODY, {})


@pytest.mark.parametrize("mode", "sdw")
def test_who_holds_a_key_is_noted_and_the_key_is_free(box: Container, mode: str) -> None:
    box.run(unique(mode, "k", "x"))
    reply, changed = box.trace(cancel_key("k"))
    assert reply == [b"noted", b"", b"x", mode.encode()]
    assert changed.pop("key 1 a k") is None
    assert changed.keys() == {"note x", "meta note", "meta sequence"}


def test_a_debounced_message_says_itself_where_it_is(box: Container) -> None:
    box.run(unique("b", "k", "x"))
    reply, changed = box.trace(cancel_key("k"))
    assert reply == [b"removed", b"", b"x", b"b"]
    assert changed[f"due {NOW}"] is None
    assert changed["count 1 delayed"] is None
    assert changed["key 1 a k"] is None


@pytest.mark.parametrize("mode", "dw")
def test_who_holds_a_key_is_told(box: Container, mode: str) -> None:
    box.run(unique(mode, "k", "x", ids=["x"], ttl=TTL))
    (token,) = box.tokens(claim())
    reply, changed = box.trace(cancel_key("k"))
    assert reply == [b"told", b"ann", b"x", mode.encode()]
    kept = {"w": {"key 1 a k"}, "d": set()}
    assert changed.keys() == {f"held {token}"} | kept[mode]


def test_the_window_of_what_ended_stays(box: Container) -> None:
    box.run(unique("w", "k", "x", ids=["x"], ttl=TTL))
    (token,) = box.tokens(claim())
    box.run(settle(token, None, b"said", results=[("x", 5)]))
    assert box.trace(cancel_key("k")) == ([b"ended", b"", b"x", b"w"], {})


def test_who_does_not_hold_the_key_any_more(box: Container) -> None:
    box.run(unique("d", "k", "x"))
    assert box.trace(cancel_key("k", id_="y")) == (NOBODY, {})
    assert box.run(cancel_key("k", id_="x"))[0] == b"noted"


def test_a_window_is_not_noted_where_its_message_may_not_be(box: Container) -> None:
    box.run(unique("w", "k", "x"))
    box.run(unique("d", "l", "y"))
    assert box.trace(cancel_key("k", note=False)) == ([b"unknown", b"", b"x", b"w"], {})
    assert box.run(cancel_key("l", note=False)) == [b"noted", b"", b"y", b"d"]


def test_keys_that_leave(box: Container) -> None:
    for shard in (MOVES, STAYS):
        box.run(unique("d", "k", f"d{shard}", shard=shard, ids=[f"d{shard}"], ttl=TTL))
        box.run(unique("w", "l", f"w{shard}", shard=shard, ids=[f"w{shard}"], ttl=TTL))
    leave(box)
    reply, changed = box.trace(cancel_key("k", shard=MOVES))
    assert reply[0] == b"removed"
    assert "gone" in changed, "the other container is told of it"
    assert box.trace(cancel_key("l", shard=MOVES)) == (NOBODY, {}), "it counts there alone"
    assert box.run(cancel_key("l", shard=STAYS))[0] == b"removed"


def test_a_key_costs_one_look(box: Container) -> None:
    box.run(unique("d", "k", "x"))
    assert commands(box, cancel_key("other"))["hget"] <= 3
