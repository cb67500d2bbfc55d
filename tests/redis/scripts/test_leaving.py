"""part.lua, sift.lua and export.lua: which open claims a split has to wait for."""

from __future__ import annotations

from typing import Any

import pytest
from tests.redis.scripts.calls import (
    LEASE,
    call,
    claim,
    item,
    put,
    reap,
    settle,
    step,
    want,
)
from tests.redis.scripts.container import NOW, Container

QUEUE, EPOCH = "q", 2
MOVES, STAYS = "a", "e"
"""Shards that leave for the second of two partitions, and that do not."""
THROUGH, NOT_NOW = 0, 2


def part(box: Container) -> None:
    box.run(call("part", QUEUE, EPOCH, 2, 0))


def sift(box: Container, size: int = 500) -> int:
    """Find out what leaves; how many calls that took."""
    cursor, calls = b"", 0
    while calls == 0 or cursor:
        cursor = box.run(call("sift", QUEUE, EPOCH, cursor, size))
        calls += 1
    return calls


def export(box: Container) -> list[Any]:
    reply = box.run(call("export", QUEUE, EPOCH, 100, 1 << 20))
    assert isinstance(reply, list)
    return reply


def returning(box: Container) -> set[int]:
    """The claims that the split waits for."""
    prefix = f"returning {QUEUE} "
    return {int(path.removeprefix(prefix)) for path in box.dump() if path.startswith(prefix)}


def claimed(box: Container, *shards: str, group: str = "q\0t") -> int:
    """A claim of one message of each of these shards."""
    box.run(put(*(item("x", shard=shard, group=group) for shard in shards)))
    (token,) = box.tokens(claim(len(shards), groups=[group]))
    return token


def test_claims_that_were_open_before(box: Container) -> None:
    moving = claimed(box, STAYS, MOVES)
    claimed(box, STAYS)
    claimed(box, MOVES, group="other\0t")
    part(box)
    assert returning(box) == set()
    sift(box)
    assert returning(box) == {moving}
    assert export(box) == [NOT_NOW, 1]
    box.run(settle(moving))
    assert returning(box) == set()
    assert export(box) == [THROUGH]


def test_nothing_is_through_before_it_is_known_what_leaves(box: Container) -> None:
    claimed(box, MOVES)
    part(box)
    assert export(box) == [NOT_NOW, 0]


def test_claims_that_are_made_meanwhile(box: Container) -> None:
    box.run(put(item("x", shard=MOVES), item("x", shard=STAYS)))
    part(box)
    sift(box)
    tokens = box.tokens(claim(1, claims=2))
    (moving,) = returning(box)
    assert moving in tokens
    assert export(box) == [NOT_NOW, 1]
    _, changed = box.trace(step([(moving, [], [], [])], want(groups=[])))
    assert changed[f"returning {QUEUE} {moving}"] is None
    assert export(box) == [THROUGH]


@pytest.mark.parametrize(("kept", "waits"), [(MOVES, True), (STAYS, False)])
def test_what_a_claim_keeps_decides(box: Container, kept: str, waits: bool) -> None:
    token = claimed(box, MOVES, STAYS)
    part(box)
    sift(box)
    sequence = {MOVES: NOW, STAYS: NOW + 1}[kept]
    _, changed = box.trace(settle(token, keep=[sequence]))
    assert (returning(box) == {token}) == waits
    assert (f"returning {QUEUE} {token}" in changed) != waits


def test_claims_that_are_lost(box: Container) -> None:
    token = claimed(box, MOVES)
    part(box)
    sift(box)
    box.now = NOW + LEASE + 1
    _, changed = box.trace(reap())
    assert changed[f"returning {QUEUE} {token}"] is None
    assert changed["moving 1 a"] is True


def test_a_claim_that_somebody_removed_holds_up_no_split(box: Container) -> None:
    token = claimed(box, MOVES)
    part(box)
    sift(box)
    box.client.delete(f"{box.key}:c:{token}")
    assert export(box) == [NOT_NOW, 1]
    box.now = NOW + LEASE + 1
    box.run(reap())
    assert export(box) == [THROUGH]


def test_many_claims_are_found_page_by_page(box: Container) -> None:
    shards = [f"s{number}" for number in range(1000)]
    box.run(put(*(item("x", shard=shard) for shard in shards)))
    tokens = box.tokens(claim(1, claims=1000, total=1000))
    part(box)
    assert sift(box, size=100) > 10
    found = returning(box)
    assert 300 < len(found) < 700
    assert found < {*tokens}
    assert export(box) == [NOT_NOW, len(found)]
