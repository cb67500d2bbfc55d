"""extend.lua, release.lua and leave.lua."""

from __future__ import annotations

import pytest
from tests.redis.scripts.calls import GROUP, call, claim, declare, item, put, settle
from tests.redis.scripts.container import NOW, Container, Lane

# extend


def test_extending(box: Container) -> None:
    box.run(put(item("1", shard="a"), item("2", shard="b")))
    first, second = box.tokens(claim(1, claims=2))
    box.now = NOW + 10
    reply, changed = box.trace(call("extend", 500, first, NOW - 5, second, NOW - 6))
    assert reply == [NOW - 5, NOW - 6]
    assert changed.keys() == {
        f"{kind} {token}" for kind in ("claim", "held") for token in (first, second)
    }
    assert changed[f"claim {first}"] == NOW + 510
    assert changed[f"held {first}"].lease == 500


def test_extending_by_the_same_lease(box: Container) -> None:
    box.run(put("1"))
    (token,) = box.tokens(claim(lease=100))
    box.now = NOW + 60
    assert box.trace(call("extend", 100, token)) == ([], {f"claim {token}": NOW + 160})


def test_extending_nothing(box: Container) -> None:
    assert box.trace(call("extend", 500)) == ([], {})
    assert box.trace(call("extend", 500, NOW)) == ([NOW], {})


def test_a_lease_that_ended_is_extended_while_nobody_took_the_claim(box: Container) -> None:
    box.run(put("1"))
    (token,) = box.tokens(claim(lease=100))
    box.now = NOW + 101
    assert box.trace(call("extend", 100, token)) == ([], {f"claim {token}": NOW + 201})
    box.now = NOW + 202
    box.run(call("reap", 9))
    assert box.trace(call("extend", 100, token)) == ([token], {})


def test_a_thousand_leases(box: Container) -> None:
    box.run(put(*(item("1", shard=f"s{number}") for number in range(1000))))
    tokens = box.tokens(claim(1, claims=1000))
    reply, changed = box.trace(call("extend", 500, *tokens, *range(9000)))
    assert reply == list(range(9000))
    assert {changed[f"claim {token}"] for token in tokens} == {NOW + 500}


# release


def park(box: Container, *bodies: str, **policy: int) -> None:
    box.run(declare(**policy))
    box.run(put(*bodies))
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW: ("back", False, True)}))


def test_releasing(box: Container) -> None:
    park(box, "1")
    reply, changed = box.trace(call("release", GROUP, "a"))
    assert reply == 1
    assert changed == {
        "meta turn": 2,
        "lane 1 a": Lane(back=(0,)),
        "parked 1 a": None,
        "ready 1 a": (0, 2),
    }
    assert box.trace(call("release", GROUP, "a")) == (0, {})


@pytest.mark.parametrize(("group", "shard"), [("q\0no", "a"), (GROUP, "b"), (GROUP, "")])
def test_releasing_what_is_not_parked(box: Container, group: str, shard: str) -> None:
    box.run(put("1", shard="b"))
    assert box.trace(call("release", group, shard)) == (0, {})


def test_releasing_a_lane_that_is_still_held(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("1", "2"))
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW: ("back", False, True)}, keep=[NOW + 1]))
    _, changed = box.trace(call("release", GROUP, "a"))
    assert changed == {"lane 1 a": Lane(held=1, back=(0,)), "parked 1 a": None}


def test_releasing_an_empty_lane(box: Container) -> None:
    park(box, "1")
    # What was parked has been taken by somebody who does not care for places.
    box.client.delete(f"{box.key}:b:1:0:a")
    box.client.hincrby(f"{box.key}:g:1", "waiting", -1)
    box.client.hincrby(f"{box.key}:g:1", "lanes", -1)
    _, changed = box.trace(call("release", GROUP, "a"))
    assert changed["parked 1 a"] is None


# leave


def test_leaving(box: Container) -> None:
    box.run(claim(groups=[GROUP, "q\0b"], listener="ear"))
    reply, changed = box.trace(call("leave", "ear"))
    assert reply == 1
    assert changed == {"sleeper ear": None, "line 1 ear": None, "line 2 ear": None}
    assert box.trace(call("leave", "ear")) == (1, {})


def test_who_leaves_hands_on_what_it_was_woken_for(box: Container) -> None:
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("one", "two")
        ears.get_message(timeout=10)
        ears.get_message(timeout=10)
        for name in ("one", "two"):
            box.run(claim(listener=name))
        box.run(put("1"))
        assert ears.get_message(timeout=10)["channel"] == b"one"
        _, changed = box.trace(call("leave", "one"))
        assert changed == {"sleeper one": None, "line 1 two": None}
        assert ears.get_message(timeout=10)["channel"] == b"two"


def test_who_leaves_hands_on_the_time_it_would_have_woken_at(box: Container) -> None:
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("one", "two")
        ears.get_message(timeout=10)
        ears.get_message(timeout=10)
        box.run(claim(listener="two"))
        box.run(put("1", delay=50))
        assert ears.get_message(timeout=10)["channel"] == b"two"
        box.run(claim(listener="one"))
        box.run(claim(listener="two"))
        _, changed = box.trace(call("leave", "one"))
        assert changed == {"sleeper one": None, "line 1 one": None}  # two wakes in time by itself
