"""explain.lua: it only reads, and its work is bounded. (What it finds: conformance tests.)"""

from __future__ import annotations

import pytest
from tests.redis.scripts.calls import call, claim, declare, envelope, item, put
from tests.redis.scripts.container import NOW, Container
from tests.redis.scripts.test_bounds import commands

from taskyard.brokers.redis.calls import Call

FEW, MANY = 100, 5_000
BYTES = 1 << 30


def explain(id_: str, search: int = 0, size: int = BYTES) -> Call:
    return call("explain", id_, search, size)


@pytest.mark.parametrize("ids", [("x", "y", "z"), ()], ids=["recorded", "not recorded"])
def test_it_changes_nothing(box: Container, ids: tuple[str, ...]) -> None:
    kept = {"ids": ids, "ttl": 60} if ids else {}
    box.run(declare(size=9, within=50, bytes_=100, concurrency=1))
    box.run(put(*map(envelope, "xyz"), **kept))
    box.run(put(envelope("d"), delay=9))
    box.run(claim(1, drain=True))
    for id_ in ("x", "y", "z", "d", "nobody"):
        reply, changed = box.trace(explain(id_, 100))
        assert reply[0] >= NOW
        assert changed == {}


def test_nothing_is_there(box: Container) -> None:
    reply, changed = box.trace(explain("x", 100))
    assert reply[1:] == [0, 1]
    assert changed == {}


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_recorded_message_is_found_without_a_search(box: Container, place: str) -> None:
    work = []
    for number in (FEW, MANY):
        ids = [f"{number} {index}" for index in range(number)]
        box.run(put(*map(envelope, ids), ids=ids, ttl=60, shard=str(number)))
        at = {"first": 0, "middle": number // 2, "last": number - 1}[place]
        work.append(sum(commands(box, explain(ids[at])).values()))
    assert work[1] <= work[0] + 20  # steps of a binary search


def test_a_search_ends_by_messages_and_by_bytes(box: Container) -> None:
    ids = [f"m{index}" for index in range(FEW)]
    box.run(put(*map(envelope, ids)))
    box.run(put(envelope("last"), shard="last"))
    for search, size in ((50, BYTES), (1000, 500)):
        assert box.run(explain("last", search, size))[1:] == [0, 0]
    assert box.run(explain("last", 1000))[8] == b"last"


def test_a_search_among_many_lanes_ends(box: Container) -> None:
    work = []
    for number in (FEW, MANY):
        box.run(put(*(item("x", shard=f"{number} {index}") for index in range(number))))
        work.append(sum(commands(box, explain("nobody", FEW)).values()))
    assert work[1] <= 2 * work[0]
