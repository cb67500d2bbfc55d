"""collect.lua, plan.lua, and lots in put.lua: from an inbox that others push to into lanes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import redis
from tests.redis.scripts.calls import GROUP, call, item
from tests.redis.scripts.container import NOW, Container, Letter, fresh
from tests.servers.server import RedisServer

from taskyard.brokers.redis.calls import Call

BYTES = 1 << 20
PATIENCE = 2_000_000


@pytest.fixture
def inbox(redis_server: RedisServer) -> Container:
    """The container of the inbox `in`."""
    return Container(redis_server.client(), "in")


def collect(
    stored: int = 0, *, epoch: int = 1, who: str = "ann", most: int = 100, most_bytes: int = BYTES
) -> Call:
    return call("collect", stored, epoch, who, most, most_bytes)


def push(inbox: Container, *values: str) -> None:
    inbox.client.lpush("in", *values)


def left(inbox: Container) -> list[bytes]:
    """What is in the inbox, oldest first."""
    return [*reversed(inbox.client.lrange("in", 0, -1))]


# collect


def test_an_empty_inbox(inbox: Container) -> None:
    assert inbox.run(collect()) is None
    assert inbox.dump() == {}


def test_a_lot(inbox: Container) -> None:
    push(inbox, "1", "2", "3")
    assert inbox.run(collect(most=2, epoch=7)) == [NOW, 7, b"1", b"2"]
    assert inbox.dump() == {
        "meta sequence": NOW,
        "meta turn": 0,
        "out": [b"1", b"2"],
        "lot number": b"%d" % NOW,
        "lot epoch": b"7",
        "lot courier": b"ann",
        "lot until": b"%d" % (NOW + PATIENCE),
    }
    assert left(inbox) == [b"3"]


def test_what_went_over_to_a_waiter_is_older(inbox: Container) -> None:
    push(inbox, "2", "3")
    inbox.client.rpush(f"{inbox.key}:woken", "1")
    assert inbox.run(collect()) == [NOW, 1, b"1", b"2", b"3"]
    assert left(inbox) == []


def test_what_a_call_moved_that_failed_halfway_is_not_forgotten(inbox: Container) -> None:
    inbox.client.rpush(f"{inbox.key}:out", "1", "2")
    push(inbox, "3")
    assert inbox.run(collect()) == [NOW, 1, b"1", b"2", b"3"]


@pytest.mark.parametrize(("most_bytes", "number"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_a_lot_has_so_many_bytes(inbox: Container, most_bytes: int, number: int) -> None:
    push(inbox, *("x" * 10 for _ in range(3)))
    assert len(inbox.run(collect(most_bytes=most_bytes))) == 2 + number


def test_the_same_lot_until_it_is_stored(inbox: Container) -> None:
    push(inbox, "1", "2")
    lot = inbox.run(collect(most=1))
    inbox.now = NOW + 50
    assert inbox.run(collect(most=1)) == lot
    assert inbox.run(collect(lot[0] - 1, most=1)) == lot
    state = inbox.dump()
    assert state["lot until"] == b"%d" % (NOW + 50 + PATIENCE)
    assert inbox.run(collect(lot[0], most=1)) == [NOW + 50, 1, b"2"]
    assert inbox.run(collect(NOW + 50)) is None
    assert inbox.dump() == {"meta sequence": NOW + 50, "meta turn": 0}


def test_another_one_waits_for_a_while(inbox: Container) -> None:
    push(inbox, "1")
    lot = inbox.run(collect())
    inbox.now = NOW + PATIENCE - 1
    before = inbox.dump()
    assert inbox.run(collect(who="bob", epoch=9)) == lot[:2]
    assert inbox.dump() == before
    inbox.now = NOW + PATIENCE
    assert inbox.run(collect(who="bob", epoch=9)) == lot
    assert inbox.run(collect(who="ann")) == lot[:2]


def test_a_repeated_call_gives_the_same_lot(inbox: Container) -> None:
    push(inbox, "1", "2")
    lot = inbox.run(collect(most=1), slot="s", number=4)
    state = inbox.dump()
    assert inbox.run(collect(most=1), slot="s", number=4) == lot
    assert inbox.dump() == state
    following = inbox.run(collect(lot[0], most=1), slot="s", number=5)
    state = inbox.dump()
    assert inbox.run(collect(lot[0], most=1), slot="s", number=5) == following
    assert inbox.dump() == state


def test_ten_thousand_values(inbox: Container) -> None:
    push(inbox, *map(str, range(10_000)))
    lot = inbox.run(collect(most=5_000))
    assert lot[2:] == [b"%d" % number for number in range(5_000)]


def test_an_inbox_that_is_no_list(inbox: Container) -> None:
    inbox.client.set("in", "somebody else's")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        inbox.run(collect())
    assert inbox.dump() == {}


# plan


def test_a_plan_is_made_once(inbox: Container) -> None:
    push(inbox, "1")
    number = inbox.run(collect())[0]
    assert inbox.run(call("plan", number, b"\x00a")) == b"\x00a"
    state = inbox.dump()
    assert inbox.run(call("plan", number, b"b")) == b"\x00a"
    assert inbox.dump() == state
    assert state["lot plan"] == b"\x00a"
    inbox.run(collect(number))
    assert inbox.run(call("plan", number, b"c")) is None
    assert "lot plan" not in inbox.dump()


def test_a_plan_for_no_lot(inbox: Container) -> None:
    assert inbox.run(call("plan", NOW, b"a")) is None
    push(inbox, "1")
    inbox.run(collect())
    assert inbox.run(call("plan", NOW - 1, b"a")) is None


# put


def put_lot(number: int, *items: Any, dead: Any = (), source: str = "in", limit: int = 10) -> Call:
    heads = [(source, number, len(dead), limit), *(head for head, _ in items)]
    bodies = [body for _, some in items for body in some]
    letters = [field for letter in dead for field in letter]
    return call("put", msgspec.msgpack.encode(heads), *bodies, *letters)


def test_a_lot_is_put_once(box: Container) -> None:
    reply, changed = box.trace(put_lot(5, item("1", "2")))
    assert reply == 1
    assert changed["transfer in"] == b"5"
    assert changed["list 1 0 a"] == [fresh(NOW, "1"), fresh(NOW + 1, "2")]
    assert box.trace(put_lot(5, item("1", "2"))) == (1, {})
    assert box.trace(put_lot(4, item("0"))) == (1, {})
    _, changed = box.trace(put_lot(5, item("1"), source="other"))
    assert changed["transfer other"] == b"5"
    _, changed = box.trace(put_lot(NOW, item("3")))
    assert changed["transfer in"] == b"%d" % NOW


def test_what_cannot_be_read_goes_to_the_dead_letters(box: Container) -> None:
    dead = [(GROUP, "a", "said", b"\xffwhy", b"{"), ("q\0other", "", "", b"why", b"\x00")]
    _, changed = box.trace(put_lot(5, item("1"), dead=dead))
    assert changed["letter 1"] == Letter(
        1, "said", "a", 0, b"", b"\xffwhy", 0, 0, 0, NOW + 1, NOW, b"{"
    )
    assert changed["letter 2"].body == b"\x00"
    assert changed["dead 1 1"] is changed["dead 2 2"] is True
    assert changed["count 1 put"] == 2
    assert changed["count 2 put"] == changed["count 2 dead"] == 1


def test_only_so_many_dead_letters_of_a_lot_are_kept(box: Container) -> None:
    dead = [(GROUP, "a", "", b"why", b"%d" % number) for number in range(5)]
    _, changed = box.trace(put_lot(5, dead=dead, limit=2))
    assert [changed[f"letter {number}"].body for number in (4, 5)] == [b"3", b"4"]
    assert changed["count 1 dead_dropped"] == 3
