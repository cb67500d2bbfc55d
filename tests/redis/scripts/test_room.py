"""bound.lua, and what is refused of puts or makes room, by the rules of brokers/bounds.py."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.redis.scripts.calls import GROUP, call, claim, declare, envelope, item, put, settle
from tests.redis.scripts.container import NOW, Container, Lane, Letter, Policy, fresh
from tests.redis.scripts.fragments import Fragment
from tests.redis.scripts.splits import accept, part
from tests.servers.server import RedisServer

from taskyard.brokers.bounds import dropped_failure, excess, share, to_drop
from taskyard.brokers.redis.calls import Call

DECLARED, CHOSEN = 1, 2
FULL, TOO_LARGE = 7, 8
UNBOUND = (0, 0, "raise", 0, 1, 10)


def bounds(
    length: int = 0, shard: int = 0, overflow: str = "raise", timeout: int = 0, parts: int = 1
) -> tuple[Any, ...]:
    return (length, shard, overflow, timeout, parts, 10)


def bound(of: tuple[Any, ...] | None, which: int = CHOSEN, after: int = 0) -> Call:
    return call("bound", "q", which, msgspec.msgpack.encode(of or False), after)


def full(number: int, limit: int, length: int, *, shard: str | None = None) -> list[Any]:
    of_shard = 0 if shard is None else 1
    return [FULL, b"q", (shard or "").encode(), of_shard, number, limit, length, b"raise", 0]


# bound


def test_a_queue_of_which_nothing_is_there(box: Container) -> None:
    assert box.trace(bound(bounds(5))) == (0, {"bounds q": (False, bounds(5), ())})
    assert box.trace(bound(bounds(7), DECLARED)) == (0, {"bounds q": (bounds(7), bounds(5), ())})
    assert box.trace(bound(None)) == (0, {"bounds q": (bounds(7), False, ())})


def test_the_groups_of_the_queue_have_what_holds(box: Container) -> None:
    box.run(declare(size=5, members=["x"]))
    box.run(put("1", group="q\0b"))
    box.run(put("1", group="qq\0t"))
    policy = Policy(GROUP, size=5, members=("x",), declared=True)
    _, changed = box.trace(bound(bounds(5), DECLARED))
    assert changed == {
        "bounds q": (bounds(5), False, ("1", "2")),
        "policy 1": policy._replace(bounds=bounds(5)),
        "policy 2": Policy("q\0b", bounds=bounds(5)),
    }
    box.run(call("gate", "q", "paused", 0))
    _, changed = box.trace(bound(UNBOUND))
    assert changed["policy 1"] == policy._replace(gate="paused")
    _, changed = box.trace(bound(None))
    assert changed["policy 1"] == policy._replace(gate="paused", bounds=bounds(5))


def test_bounds_are_stored_beside_how_long_batches_wait(box: Container) -> None:
    patient = Policy(GROUP, size=5, within=70, declared=True, minimum=3, lead=20)
    box.run(declare(size=5, within=70, minimum=3, lead=20))
    for of, holds in ((bounds(5), bounds(5)), (UNBOUND, ())):
        _, changed = box.trace(bound(of))
        assert changed["policy 1"] == patient._replace(bounds=holds)
    box.run(bound(bounds(5)))
    _, changed = box.trace(declare(size=5, within=70))
    assert changed["policy 1"] == patient._replace(bounds=bounds(5), minimum=0, lead=0)


def test_groups_that_are_made_later_have_it(box: Container) -> None:
    box.run(bound(bounds(5)))
    _, changed = box.trace(put("1"))
    assert changed["policy 1"] == Policy(GROUP, bounds=bounds(5))
    _, changed = box.trace(declare("q\0b", size=2))
    assert changed["policy 2"] == Policy("q\0b", 2, declared=True, bounds=bounds(5))
    assert changed["bounds q"] == (False, bounds(5), ("1", "2"))


def test_many_groups_page_by_page(box: Container) -> None:
    for index in range(120):
        box.run(declare(f"q\0g{index}"))
    after = box.run(bound(bounds(5)))
    assert after == 100
    box.run(declare("q\0new"))  # in between
    assert box.run(bound(bounds(5), after=after)) == 0
    state = box.dump()
    found = [policy for path, policy in state.items() if path.startswith("policy ")]
    assert {policy.bounds for policy in found} == {bounds(5)}
    assert sorted(map(int, state["bounds q"][2])) == list(range(1, 122))


# put


@pytest.mark.parametrize("more", [{}, {"delay": 5}, {"ids": ["x"], "ttl": 60}, {"member": "x"}])
def test_a_full_queue_takes_nothing(box: Container, more: dict[str, Any]) -> None:
    box.run(put("1"))
    box.run(put("2", shard="b", delay=7))
    box.run(bound(bounds(2)))
    assert box.trace(put("3", **more)) == (full(2, 2, 2), {})
    assert box.trace(put("3", group="q\0new", **more)) == (full(2, 2, 2), {})
    box.run(bound(bounds(3)))
    assert box.run(put("3", **more)) == 1


def test_a_full_shard_takes_nothing(box: Container) -> None:
    box.run(put("1"))
    box.run(bound(bounds(shard=1)))
    assert box.trace(put("2")) == (full(1, 1, 0, shard="a"), {})
    assert box.run(put("2", delay=5)) == 1
    assert box.run(put("2", shard="b")) == 1


def test_what_never_fits(box: Container) -> None:
    box.run(bound(bounds(2, 1, "block", 7)))
    reply = [TOO_LARGE, b"q", b"", 0, 3, 2, 2, b"block", 7]
    assert box.trace(put("1", "2", "3", delay=5)) == (reply, {})
    reply = [TOO_LARGE, b"q", b"a", 1, 2, 1, 2, b"block", 7]
    assert box.trace(put("1", "2")) == (reply, {})


def test_a_put_that_was_stored_is_stored(box: Container) -> None:
    box.run(bound(bounds(1)))
    box.run(put("1"), slot="s", number=4)
    assert box.run(put("1"), slot="s", number=4) == 1


def test_a_put_without_messages_needs_no_room(box: Container) -> None:
    box.run(put("1"))
    box.run(bound(bounds(1)))
    assert box.run(put(item(member="x"))) == 1


def test_the_oldest_makes_room(box: Container) -> None:
    body = envelope("one")
    box.run(put(body, "two"))
    box.run(bound(bounds(2, overflow="drop")))
    reply, changed = box.trace(put("three"))
    assert reply == 1
    letter = changed.pop("letter 1")
    failure = msgspec.msgpack.decode(letter.failure)
    assert failure == {"reason": "dropped", "message": dropped_failure().message}
    assert letter == Letter(1, "t", "a", 0, b"one", letter.failure, 0, 0, 0, NOW, NOW, body)
    assert changed["list 1 0 a"] == [fresh(NOW + 1, "two"), fresh(NOW + 2, "three")]
    assert changed["count 1 dropped"] == changed["count 1 dead"] == 1
    assert "count 1 waiting" not in changed


def test_what_came_back_makes_room_in_its_turn(box: Container) -> None:
    box.run(put("1", "2", "3"))
    box.run(bound(bounds(3, overflow="drop")))
    token = box.run(claim(2))[4][0][0]
    box.run(settle(token, {NOW + 1: ("back", False, False), NOW: ("back", False, False)}))
    _, changed = box.trace(put("4", "5", "6"))
    assert changed["lane 1 a"] is None
    assert changed["list 1 0 a"] == [
        fresh(box.dump()["meta sequence"] - 2 + i, str(4 + i)) for i in range(3)
    ]


def test_priorities_stay_true(box: Container) -> None:
    box.run(put("1", priority=5))
    box.run(put("2", priority=-1))
    box.run(bound(bounds(2, overflow="drop")))
    _, changed = box.trace(put("3", priority=3))
    assert changed["lane 1 a"] == Lane((-1, 3))


def test_what_nobody_bounded_costs_nothing(box: Container) -> None:
    box.run(put("x", "x"))

    def commands(what: Call) -> int:
        before = box.client.info("commandstats")
        box.run(what)
        after = box.client.info("commandstats")
        names = [name for name in after if name not in ("cmdstat_info", "cmdstat_evalsha")]
        return sum(after[name]["calls"] - before.get(name, {"calls": 0})["calls"] for name in names)

    plain = [commands(put("y")), commands(put("y", "z"))]
    box.run(bound(bounds(100)))
    bounded = [commands(put("y")), commands(put("y", "z"))]
    box.run(bound(None))
    assert [commands(put("y")), commands(put("y", "z"))] == plain
    assert bounded[1] <= plain[1] + 3


# Lots


def lot(number: int, *, for_good: bool = False, count: int = 1) -> Call:
    head, bodies = item(*["1"] * count)
    source = ("in", number, 0, 10, *((True,) if for_good else ()))
    return call("put", msgspec.msgpack.encode([source, head]), *bodies)


def test_a_lot_comes_again(box: Container) -> None:
    box.run(bound(bounds(1)))
    box.run(lot(15))
    assert box.trace(lot(15)) == (1, {}), "it was stored"
    assert box.trace(lot(16)) == (full(1, 1, 1), {})
    box.run(claim())
    assert box.trace(lot(16))[1]["transfer in"] == b"16"


def test_a_lot_that_is_more_than_the_limit(box: Container) -> None:
    box.run(bound(bounds(2, 2)))
    assert box.run(lot(1, count=5)) == 1
    assert box.run(lot(2))[0] == FULL


def test_a_lot_is_refused_for_good_if_it_wants_that(box: Container) -> None:
    box.run(put("1"))
    box.run(bound(bounds(1)))
    reply, changed = box.trace(lot(16, for_good=True))
    assert reply == full(1, 1, 1)
    assert changed["transfer in"].startswith(b"16#")
    box.run(bound(None))
    assert box.trace(lot(16, for_good=True)) == (full(1, 1, 1), {})
    assert box.trace(lot(17, for_good=True))[1]["transfer in"] == b"17"


# Splits


def test_a_split_divides_anew(box: Container, there: Container) -> None:
    box.run(put("1"))
    box.run(bound(bounds(10, 3), DECLARED))
    box.run(bound(bounds(8), CHOSEN))
    reply = box.run(part())
    halves = (bounds(10, 3, parts=2), bounds(8, parts=2))
    assert box.dump()["bounds q"] == (*halves, ("1",))
    there.run(put("1", group="r\0t"))
    there.run(accept(reply[0], reply[3]))
    assert there.dump()["bounds q"] == (*halves, ("2",))
    assert there.dump()["policy 2"].bounds == halves[1]
    box.run(part())
    assert box.dump()["bounds q"] == (*halves, ("1",))


def test_a_split_tells_bounds_and_how_long_batches_wait(box: Container, there: Container) -> None:
    box.run(declare(size=5, within=70, minimum=3, lead=20))
    box.run(bound(bounds(8)))
    reply = box.run(part())
    there.run(accept(reply[0], reply[3]))
    policy = there.dump()["policy 1"]
    assert (policy.rates, policy.bounds) == ((), bounds(8, parts=2))
    assert (policy.minimum, policy.lead) == (3, 20)


# The rules


def test_the_rules_are_those_of_python(redis_server: RedisServer) -> None:
    rules = Fragment(
        redis_server.client(),
        "room",
        """
        local there, brought, limit, is_lot = unpack(case)
        return {room.excess(there, brought, limit, is_lot) or 'never',
            room.to_drop(there, brought), room.share(limit, brought)}
        """,
    )
    numbers = [1, 2, 3, 99, 100, 101, 5000]
    cases = [
        (there, brought, limit, lot)
        for there in (0, *numbers)
        for brought in numbers
        for limit in numbers
        for lot in (False, True)
    ]
    for case, reply in zip(cases, rules(*cases), strict=True):
        there, brought, limit, is_lot = case
        over = excess(there, brought, limit, lot=is_lot)
        expected = [
            b"never" if over is None else over,
            to_drop(there, brought),
            share(limit, brought),
        ]
        assert reply == expected, case
