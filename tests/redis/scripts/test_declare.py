"""declare.lua and resettle.lua: policies, and lanes that were there before."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.redis.scripts.calls import GROUP, call, claim, declare, put, settle, step, want
from tests.redis.scripts.container import NOW, Container, Lane, Policy

FULL = {"size": 5, "within": 70, "bytes_": 900, "concurrency": 2, "max_deliveries": 4}


def stored(*members: str, **policy: int) -> Policy:
    named = {name.rstrip("_"): value for name, value in policy.items()}
    return Policy(GROUP, **named, members=members, declared=True)  # type: ignore[arg-type]


def test_a_new_group(box: Container) -> None:
    reply, changed = box.trace(declare(**FULL, members=["x", "y"]))
    assert reply == [1]
    assert changed == {"meta groups": 1, "name 1": GROUP, "policy 1": stored("x", "y", **FULL)}


def test_the_same_again(box: Container) -> None:
    box.run(declare(**FULL, members=["x", "y"]))
    assert box.trace(declare(**FULL, members=["y", "x"])) == ([0], {})


def test_a_plain_group_needs_no_settling(box: Container) -> None:
    box.run(put("1"))
    reply, changed = box.trace(declare())
    assert (reply, changed) == ([0], {"policy 1": stored()})


@pytest.mark.parametrize("other", [{name: FULL[name] + 1} for name in FULL])
def test_another_policy(box: Container, other: dict[str, int]) -> None:
    box.run(declare(**FULL))
    assert box.trace(declare(**{**FULL, **other}, replace=False)) == ([0], {})
    reply, changed = box.trace(declare(**{**FULL, **other}))
    assert (reply, changed) == ([1], {"policy 1": stored(**{**FULL, **other})})


def test_how_long_batches_wait(box: Container) -> None:
    patient = {**FULL, "minimum": 3, "lead": 20}
    box.run(declare(**FULL))
    reply, changed = box.trace(declare(**patient))
    assert (reply, changed) == ([1], {"policy 1": stored(**patient)})
    assert box.trace(declare(**patient)) == ([0], {})
    reply, changed = box.trace(declare(**FULL))
    assert (reply, changed) == ([1], {"policy 1": stored(**FULL)})


def test_members_are_joined_while_messages_are_there(box: Container) -> None:
    box.run(declare(members=["a"]))
    box.run(put("1"))
    reply, changed = box.trace(declare(members=["b"], replace=False))
    assert reply == [1]
    assert {*changed["policy 1"].members} == {"a", "b"}
    box.run(settle(*box.tokens(claim(members=["a", "b"]))))
    _, changed = box.trace(declare(members=["b"], replace=False))
    assert changed == {"policy 1": stored("b")}


@pytest.mark.parametrize("state", ["waiting", "delayed", "running"])
def test_another_concurrency_while_messages_are_there(box: Container, state: str) -> None:
    box.run(declare(concurrency=1, members=["x"]))
    box.run(put("1", delay=50 if state == "delayed" else 0))
    if state == "running":
        box.run(claim(members=["x"]))
    reply, changed = box.trace(declare(concurrency=2))
    assert changed == {}
    assert reply[0] == -1
    assert reply[2] == 1
    assert msgspec.msgpack.decode(reply[1])[1:8] == [1, 0, 0, 1, 3, ["x"], True]


def test_claims_that_were_open_before_a_group_was_declared(box: Container) -> None:
    box.run(put("1", "2"))
    box.run(put("1", group="q\0other"))
    box.run(claim(1))
    box.run(claim(1, groups=["q\0other"]))
    _, changed = box.trace(declare(concurrency=1))
    assert changed["lane 1 a"] == Lane(held=1)
    # Nobody claims more before the caller has settled all lanes anew.
    assert box.run(claim(1))[4] == []


# Settling anew


def resettle(*shards: str, group: str = GROUP) -> Any:
    return call("resettle", group, *shards)


def test_resettling_nothing(box: Container) -> None:
    assert box.trace(resettle()) == (0, {})
    assert box.trace(resettle("a", "b")) == (2, {})
    box.run(declare())
    assert box.trace(resettle("a", "b", "")) == (3, {})


def test_lanes_become_batches(box: Container) -> None:
    box.run(put("1", "22", shard="a"))
    box.run(put("1", "2", "3", shard="b"))
    box.run(declare(size=3, within=100, bytes_=50))
    reply, changed = box.trace(resettle("a", "b", "none"))
    assert reply == 3
    assert changed == {
        "lane 1 a": Lane(bytes=3, oldest=NOW),
        "lane 1 b": Lane(bytes=-1, oldest=NOW),
        "ready 1 a": None,
        "later 1 a": NOW + 100,
        "filling 1 a": NOW + 100,
    }


def test_one_call_reads_only_so_many_messages(box: Container) -> None:
    for shard in "abcd":
        box.run(put(*("x" for _ in range(4000)), shard=shard))
    box.run(declare(size=9000, within=100, bytes_=50_000))
    assert box.trace(resettle(*"abcd"))[0] == 3
    assert box.trace(resettle("d"))[0] == 1


def test_batches_become_plain(box: Container) -> None:
    box.run(declare(size=3, within=100, bytes_=50))
    box.run(put("1"))
    box.run(declare())
    _, changed = box.trace(resettle("a"))
    assert changed["ready 1 a"] == (0, 1)
    assert changed["later 1 a"] is changed["filling 1 a"] is None
    (token,) = box.tokens(claim())
    assert "lane 1 a" not in box.dump()
    box.trace(step([(token, [], [], [])], want()))


def test_resettling_wakes(box: Container) -> None:
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("ear")
        ears.get_message(timeout=10)
        box.run(declare(size=3, within=100))
        box.run(put("1"))
        box.run(claim(listener="ear"))
        box.run(declare())
        box.run(resettle("a"))
        assert ears.get_message(timeout=10)["channel"] == b"ear"
