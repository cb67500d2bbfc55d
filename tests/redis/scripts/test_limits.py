"""limit.lua, and what rate limits do to lanes and steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.redis.scripts.calls import GROUP, call, claim, declare, item, put, settle, tidy
from tests.redis.scripts.container import NOW, Container, Lane, Policy
from tests.redis.scripts.splits import (
    MOVES,
    STAYS,
    accept,
    cleared,
    export,
    give,
    leave,
    newer,
    take,
)

from taskyard.brokers.redis.calls import Call

SECOND = 1_000_000
SLOW = (1, SECOND, 1)
BURST = (2, SECOND, 5)
LIFTED = (0, 0, 0)
NONE = (False,) * 6


def limit(
    rate: tuple[int, int, int] | None = SLOW,
    *,
    queue: str = "q",
    group: str = GROUP,
    shards: bool = False,
    declared: bool = False,
    parts: int = 1,
    after: int = 0,
) -> Call:
    packed = msgspec.msgpack.encode((queue, group, shards, rate or False, declared, parts))
    return call("limit", packed, after)


def of_queue(rate: tuple[int, int, int] | None = SLOW, **more: Any) -> Call:
    return limit(rate, group="", **more)


def taken(box: Container, messages: int = 100, **more: Any) -> int:
    """How many messages a claim gets."""
    return sum(len(claimed) - 4 for claimed in box.run(claim(messages, **more))[4])


def next_at(box: Container, **more: Any) -> int:
    reply = box.run(claim(**more))
    assert reply[4] == []
    return reply[2] - NOW if reply[2] else 0  # type: ignore[no-any-return]


# limit


def test_the_limit_of_a_group(box: Container) -> None:
    reply, changed = box.trace(limit())
    assert reply == 0
    assert changed["policy 1"] == Policy(GROUP, rates=(False, False, SLOW, *NONE[:3], 1))
    _, changed = box.trace(limit(BURST, shards=True, parts=2))
    assert changed == {
        "policy 1": Policy(GROUP, rates=(False, False, SLOW, BURST, False, False, 2))
    }
    assert box.trace(limit(BURST, shards=True, parts=2)) == (0, {})
    box.run(limit(None, shards=True))
    assert box.trace(limit(None)) == (0, {"policy 1": Policy(GROUP)})


def test_the_limit_of_a_queue_is_that_of_its_groups(box: Container) -> None:
    box.run(put("1"))
    box.run(put("1", group="qq\0t"))
    box.trace(of_queue())
    state = box.dump()
    assert state["rate q"] == (False, SLOW, 1)
    assert state["policy 1"].rates == (*NONE[:5], SLOW, 1)
    assert state["policy 2"].rates == ()
    box.run(put("1", group="q\0new"))
    assert box.dump()["policy 3"].rates == (*NONE[:5], SLOW, 1)
    box.trace(of_queue(BURST, declared=True, parts=4))
    assert box.dump()["policy 3"].rates == (*NONE[:4], BURST, SLOW, 4)
    box.run(of_queue(None))
    box.trace(of_queue(None, declared=True))
    assert "rate q" not in box.dump()
    assert box.dump()["policy 3"] == Policy("q\0new")


def test_many_groups_page_by_page(box: Container) -> None:
    for index in range(120):
        box.run(declare(f"q\0g{index}"))
    after = box.run(of_queue())
    assert after == 100
    assert box.run(of_queue(after=after)) == 0
    limited = [found for path, found in box.dump().items() if path.startswith("policy ")]
    assert len([policy for policy in limited if policy.rates]) == 120


def test_a_declaration_keeps_what_was_changed(box: Container) -> None:
    box.run(limit())
    box.run(declare(size=5))
    assert box.dump()["policy 1"].rates == (False, False, SLOW, *NONE[:3], 1)


def test_a_gate_and_a_limit_of_one_queue(box: Container) -> None:
    box.run(of_queue())
    box.run(call("gate", "q", "paused", 0))
    box.run(put("1", "2"))
    policy = box.dump()["policy 1"]
    assert (policy.gate, policy.rates) == ("paused", (*NONE[:5], SLOW, 1))
    assert taken(box) == 0
    box.run(call("gate", "q", "open", 0))
    assert box.dump()["policy 1"] == Policy(GROUP, rates=(*NONE[:5], SLOW, 1))
    assert taken(box) == 1


# Buckets


def test_buckets_are_kept_only_while_they_are_not_full(box: Container) -> None:
    box.run(limit(BURST))
    box.run(of_queue(SLOW))
    box.run(put("1", "2"))
    _, changed = box.trace_once(claim(10))
    assert (changed["tat 1"], changed["tat qq"]) == (NOW + SECOND // 2, NOW + SECOND)
    _, changed = box.trace(limit(None))
    assert changed["tat 1"] is None
    box.now = NOW + 3 * SECOND
    _, changed = box.trace(of_queue(BURST))
    assert changed["tat qq"] is None


def test_partitions_divide_what_is_not_of_a_shard(box: Container) -> None:
    box.run(limit((4, SECOND, 4), parts=2))
    box.run(limit((4, SECOND, 4), shards=True, parts=2))
    box.run(put(*("x" for _ in range(9))))
    assert taken(box) == 2
    assert next_at(box) == SECOND // 2
    box.run(limit(LIFTED, parts=2))
    assert taken(box) == 2


def test_who_sees_a_tat_that_is_too_far_away_corrects_it(box: Container) -> None:
    box.run(limit())
    box.run(put("1", "2"))
    box.run(claim(1))
    box.now = NOW - 500 * SECOND
    _, changed = box.trace_once(claim(1))
    assert changed["tat 1"] == NOW - 499 * SECOND


# Lanes that fade


def test_an_emptied_lane_fades(box: Container) -> None:
    box.run(limit(shards=True))
    box.run(put("1"))
    _, changed = box.trace_once(claim(1))
    assert changed["lane 1 a"] == Lane(tat=NOW + SECOND)
    assert changed["fading 1 a"] == NOW + SECOND
    _, changed = box.trace(put("2"))
    assert changed["fading 1 a"] is None
    assert changed["later 1 a"] == NOW + SECOND


def test_lanes_that_fade_are_forgotten_by_others(box: Container) -> None:
    box.run(limit(shards=True))
    for index in range(20):
        box.run(put("x", shard=f"s{index}"))
    taken(box)
    box.now = NOW + SECOND
    for index in range(10):
        box.run(put("x", shard=f"t{index}"))
    taken(box)
    state = box.dump()
    assert len([path for path in state if path.startswith("fading ")]) == 10
    assert len([path for path in state if path.startswith("lane ")]) == 10


def test_lanes_that_fade_are_forgotten_when_it_is_tidied(box: Container) -> None:
    box.run(limit(shards=True))
    for index in range(20):
        box.run(put("x", shard=f"s{index}"))
    taken(box)
    box.now = NOW + SECOND - 1
    assert not any(path.startswith("fading ") for path in box.trace(tidy())[1])
    box.now = NOW + SECOND
    box.trace(tidy())
    assert not any(path.startswith(("fading ", "lane ")) for path in box.dump())


def test_a_lane_that_is_held_does_not_fade_before_its_claim_ends(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(limit(shards=True))
    box.run(put("1"))
    (token,) = box.tokens(claim(1))
    assert "fading 1 a" not in box.dump()
    _, changed = box.trace(settle(token))
    assert changed["fading 1 a"] == NOW + SECOND


def test_what_fades_is_no_reason_to_wake(box: Container) -> None:
    box.run(limit(shards=True))
    box.run(put("1"))
    taken(box)
    assert next_at(box) == 0


# Splits


def moved(here: Container, there: Container) -> None:
    """Let everything leave that has to."""
    floor, _, _, policies = leave(here)
    there.run(accept(floor, policies))
    while here.run(export())[0] == 1:
        transfer = take(here)
        give(there, transfer)
        here.run(cleared(transfer.number))


@pytest.mark.parametrize("limited", [limit, of_queue], ids=["group", "queue"])
def test_a_claim_from_before_a_split_brings_no_token_back(
    box: Container, there: Container, limited: Callable[..., Call]
) -> None:
    box.run(limited((4, SECOND, 4)))
    box.run(put(*(item("x", shard=STAYS) for _ in range(9))))
    [claimed] = box.run(claim(4))[4]
    moved(box, there)
    back = {NOW + index: ("back", False, False) for index in range(4)}
    box.run(settle(claimed[0], back))
    assert taken(box) == 0, "its part of the burst is out"


def test_a_lane_takes_its_tokens_along(box: Container, there: Container) -> None:
    box.run(limit(BURST, shards=True))
    box.run(put(item("x", "y", "z", shard=MOVES), item("x", shard=STAYS)))
    box.run(settle(*box.tokens(claim(2))))
    moved(box, there)
    assert there.dump()["policy 1"].rates == box.dump()["policy 1"].rates
    assert there.dump()[f"lane 1 {MOVES}"].tat == NOW + SECOND


def test_an_empty_lane_takes_its_tokens_along(box: Container, there: Container) -> None:
    box.run(limit(BURST, shards=True))
    box.run(put("x", shard=MOVES))
    box.run(settle(*box.tokens(claim(1))))
    moved(box, there)
    assert there.dump()[f"fading 1 {MOVES}"] == NOW + SECOND // 2
    assert not any(path.startswith(("fading ", "lane ")) for path in box.dump())


def test_tokens_that_are_used_up_while_lanes_leave(box: Container, there: Container) -> None:
    box.run(limit(BURST, shards=True))
    box.run(put("x", "y", shard=MOVES))
    floor, _, _, policies = leave(box)
    there.run(accept(floor, policies))
    box.run(settle(*box.tokens(claim(2))))
    give(there, take(box))
    assert there.dump()[f"fading 1 {MOVES}"] == NOW + SECOND


def test_a_new_container_has_the_limits_of_the_queue(box: Container, there: Container) -> None:
    box.run(of_queue((4, SECOND, 4), declared=True))
    box.run(limit(BURST))
    moved(box, there)
    assert there.dump()["rate q"] == ((4, SECOND, 4), False, 1)
    assert there.dump()["policy 1"].rates == (False, False, BURST, False, (4, SECOND, 4), False, 1)
    for here in (box, there):
        shard = MOVES if here is there else STAYS
        here.run(newer(put(*(item("x", shard=shard) for _ in range(9)))))
        assert taken(here) == 2, "they divide it"
