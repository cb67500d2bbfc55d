"""put.lua with an item of many shards: all is as after an item for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from tests.redis.scripts.calls import (
    GROUP,
    Item,
    call,
    claim,
    declare,
    envelope,
    item,
    put,
    settle,
)
from tests.redis.scripts.container import NOW, Container, fresh

from taskyard.brokers.redis.calls import Call

SHARDS = ("a", "new", "a", "held", "b", "", "last")

SetUp = Callable[[Container], object]


def apart(priority: int = 0) -> list[Item]:
    items = []
    for at, shard in enumerate(SHARDS, 1):
        bodies = [envelope(f"{shard}{number}") for number in range(at % 3)]
        items.append(item(*bodies, shard=shard, priority=priority))
    return items


def together(items: Sequence[Item]) -> Item:
    """The same as one item."""
    head, _ = items[0]
    spread = [value for (_, shard, *_), bodies in items for value in (shard, len(bodies))]
    bodies = [body for _, some in items for body in some]
    return (head[0], spread, *head[2:5], len(bodies), *head[6:]), bodies


def bounds(**more: object) -> Call:
    of = (more.get("length", 0), more.get("shard", 0), more.get("overflow", "raise"), 0, 1, 10)
    return call("bound", "q", 2, msgspec.msgpack.encode(of), 0)


def limits(*, shards: bool) -> Call:
    return call("limit", msgspec.msgpack.encode(("q", GROUP, shards, (100, 1, 1), False, 1)), 0)


def nothing(_: Container) -> None:
    pass


def some_are_there(box: Container) -> None:
    box.run(put(item("1", shard="a"), item("2", shard="held"), item("3", shard="elsewhere")))


def held(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put(item("1", shard="held"), item("2", shard="held")))
    box.tokens(claim(1))
    some_are_there(box)


def blocked(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put(item("1", shard="a")))
    (token,) = box.tokens(claim(1))
    box.run(settle(token, {NOW: ("retried", 70, "")}))


def came_back(box: Container) -> None:
    some_are_there(box)
    (token,) = box.tokens(claim(1))
    box.run(settle(token, {NOW: ("back", True, False)}))


def of_priorities(box: Container) -> None:
    some_are_there(box)
    box.run(put(item("4", shard="a", priority=-3), item("5", shard="b", priority=7)))


def batches(box: Container) -> None:
    box.run(declare(size=3, within=1000, bytes_=100))
    some_are_there(box)


def limited(box: Container) -> None:
    some_are_there(box)
    box.run(limits(shards=True))
    box.tokens(claim(1))


def bounded(box: Container) -> None:
    some_are_there(box)
    box.run(bounds(length=100, shard=50))


def full(box: Container) -> None:
    some_are_there(box)
    box.run(bounds(length=5))


def a_full_shard(box: Container) -> None:
    some_are_there(box)
    box.run(bounds(shard=2))


def dropping(box: Container) -> None:
    some_are_there(box)
    box.run(bounds(length=9, shard=2, overflow="drop"))


def bounded_without_a_group(box: Container) -> None:
    box.run(bounds(shard=2, overflow="drop"))


def draining(box: Container) -> None:
    some_are_there(box)
    box.run(call("gate", "q", "draining", 0))


def paused(box: Container) -> None:
    some_are_there(box)
    box.run(call("gate", "q", "paused", 0))


@pytest.mark.parametrize("priority", [0, 5])
@pytest.mark.parametrize(
    "set_up",
    [
        nothing, some_are_there, held, blocked, came_back, of_priorities, batches, limited,
        bounded, full, a_full_shard, dropping, bounded_without_a_group, draining, paused,
    ],
)  # fmt: skip
def test_it_is_as_if_they_were_apart(
    box: Container, there: Container, set_up: SetUp, priority: int
) -> None:
    for container in (box, there):
        set_up(container)
        assert container.now is not None
        container.now += 10
    one = together(apart(priority=priority))
    # Others in front of it and behind get their own bodies.
    front, behind = item("front", shard="b", delay=9), item("behind", shard="a", group="q\0u")
    told = box.trace(put(front, *apart(priority=priority), behind))
    assert there.trace(put(front, one, behind)) == told
    assert there.dump() == box.dump()


def test_what_is_stored(box: Container) -> None:
    box.run(put(item("1", shard="a")))
    _, changed = box.trace(put(together([item("2", "3", shard="a"), item("4", shard="b")])))
    assert changed["list 1 0 a"] == [fresh(NOW, "1"), fresh(NOW + 1, "2"), fresh(NOW + 2, "3")]
    assert changed["list 1 0 b"] == [fresh(NOW + 3, "4")]
    assert changed["count 1 waiting"] == 4
    assert changed["count 1 lanes"] == 2


def test_of_an_unknown_group_whose_placement_may_be_out_of_date(box: Container) -> None:
    (head, bodies) = together(apart())
    assert box.trace(put(((*head, 1, True), bodies))) == (5, {})
    assert box.trace(put(((*head, 2, False), bodies)))[0] == 3
