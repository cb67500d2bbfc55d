"""step.lua: what it claims, from which lanes, and what it leaves."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.redis.scripts.calls import (
    GROUP,
    LEASE,
    call,
    claim,
    declare,
    item,
    put,
    reap,
    settle,
    step,
    want,
)
from tests.redis.scripts.container import NOW, Claimed, Container, Lane, fresh, read_entry

BATCHES = {"size": 3, "within": 1000}


def parts(claimed: list[Any]) -> list[Any]:
    """The lanes of a claim in a reply."""
    return list(msgspec.msgpack.decode(claimed[3]))


def bodies(claimed: list[Any]) -> list[bytes]:
    return [read_entry(entry).body for entry in claimed[4:]]


def taken(reply: list[Any]) -> list[list[bytes]]:
    """The bodies of each claim in a reply."""
    return [bodies(claimed) for claimed in reply[4]]


# Nothing


def test_nothing_is_wanted(box: Container) -> None:
    assert box.trace(step()) == ([[], NOW, 0, 0, []], {})


@pytest.mark.parametrize("groups", [[], ["q\0unknown"], [GROUP, "q\0unknown"]])
def test_nothing_is_there(box: Container, groups: list[str]) -> None:
    assert box.trace(claim(groups=groups)) == ([[], NOW, 0, 0, []], {})


def test_a_token_that_nobody_holds_is_lost(box: Container) -> None:
    box.run(put("one"))
    reply, changed = box.trace(settle(NOW - 1))
    assert (reply, changed) == ([[NOW - 1], NOW, 0, 0, []], {})


# One claim


def test_a_claim_of_a_plain_lane(box: Container) -> None:
    box.run(put("one", "two", "three"))
    token = NOW + 3
    (lost, now, next_at, suspects, claims), changed = box.trace(claim(2))
    assert (lost, now, next_at, suspects) == ([], NOW, 0, 0)
    assert claims[0][:3] == [token, GROUP.encode(), NOW + LEASE]
    assert parts(claims[0]) == [["a", "", 0, 2]]
    assert list(map(read_entry, claims[0][4:])) == [fresh(NOW, "one"), fresh(NOW + 1, "two")]
    entries = (fresh(NOW, "one"), fresh(NOW + 1, "two"))
    assert changed == {
        "meta sequence": token,
        "meta turn": 2,
        "list 1 0 a": [fresh(NOW + 2, "three")],
        "ready 1 a": (0, 2),
        f"claim {token}": NOW + LEASE,
        f"held {token}": Claimed(GROUP, "ann", LEASE, 2, (("a", "", 0, 2),), entries),
        "count 1 waiting": 1,
        "count 1 running": 2,
    }


def test_a_lane_that_is_emptied_is_nowhere(box: Container) -> None:
    box.run(put("one"))
    _, changed = box.trace(claim())
    assert changed["list 1 0 a"] is None
    assert changed["ready 1 a"] is None
    assert changed["count 1 lanes"] is None


def test_a_limited_lane_is_held(box: Container) -> None:
    box.run(declare(concurrency=2))
    box.run(put("1", "2", "3"))
    _, changed = box.trace(claim(1))
    assert changed["lane 1 a"] == Lane(held=1)
    assert changed["ready 1 a"] == (0, 2)
    _, changed = box.trace(claim(1))
    assert changed["lane 1 a"] == Lane(held=2)
    assert changed["ready 1 a"] is None
    reply, changed = box.trace(claim(1))
    assert (reply[4], changed) == ([], {})


def test_priorities_of_a_lane_go_in_order(box: Container) -> None:
    box.run(put(item("5", priority=5), item("-5", "-4", priority=-5), item("0")))
    reply, changed = box.trace(claim(3))
    assert parts(reply[4][0]) == [["a", "", -5, 2, 0, 1]]
    assert taken(reply) == [[b"-5", b"-4", b"0"]]
    assert changed["ready 1 a"] == (5, 2)
    assert changed["lane 1 a"] == Lane(priorities=(5,))
    _, changed = box.trace(claim(3))
    assert changed["lane 1 a"] is None


def test_lanes_take_turns(box: Container) -> None:
    box.run(put(*(item("1", "2", shard=shard) for shard in "abc")))
    box.run(put("urgent", shard="d", priority=-1))
    order = [parts(reply[4][0])[0][0] for reply in (box.run(claim(1)) for _ in range(7))]
    assert order == list("dabcabc")


def test_lanes_join_one_claim(box: Container) -> None:
    box.run(put(*(item("1", "2", shard=shard) for shard in "abc")))
    reply, changed = box.trace(claim(5))
    assert parts(reply[4][0]) == [["a", "", 0, 2], ["b", "", 0, 2], ["c", "", 0, 1]]
    assert changed["ready 1 a"] is changed["ready 1 b"] is None
    assert changed["ready 1 c"] == (0, 4)


def test_the_bytes_of_a_claim_are_limited(box: Container) -> None:
    box.run(put("x" * 10, "y" * 10, "z" * 10))
    assert taken(box.trace(claim(bytes_=20))[0]) == [[b"x" * 10, b"y" * 10]]
    box.run(put("large" * 9, "next"))
    assert taken(box.trace(claim(bytes_=20))[0]) == [[b"z" * 10]]
    assert taken(box.trace(claim(bytes_=20))[0]) == [[b"large" * 9]]


def test_several_claims_and_their_limits(box: Container) -> None:
    box.run(put(*(item("1", shard=shard) for shard in "abcdef")))
    reply, _ = box.trace(claim(1, claims=4, total=3))
    assert len(reply[4]) == 3
    reply, _ = box.trace(claim(1, claims=2, total=3))
    assert len(reply[4]) == 2
    assert len({claimed[0] for claimed in reply[4]}) == 2


def test_groups_go_by_turn_and_priority(box: Container) -> None:
    box.run(put(item("1", group="q\0a"), item("2", group="q\0b"), item("3", group="q\0c")))
    box.run(put("0", group="q\0d", priority=-1))
    groups = ["q\0a", "q\0b", "q\0d", "q\0unknown"]
    reply, _ = box.trace(claim(groups=groups, claims=9))
    assert taken(reply) == [[b"0"], [b"1"], [b"2"]]


def test_only_who_knows_all_members_gets_an_order_group(box: Container) -> None:
    box.run(declare(members=["x", "y"]))
    box.run(put("1", member="y"))
    assert box.trace(claim(members=["x", "z"]))[0][4] == []
    assert taken(box.trace(claim(members=["x", "y", "z"]))[0]) == [[b"1"]]


# Batches


def test_a_batch_that_fills_is_left_alone(box: Container) -> None:
    box.run(declare(**BATCHES))
    box.run(put("1", "2"))
    reply, changed = box.trace(claim(3))
    assert (reply, changed) == ([[], NOW, NOW + 1000, 0, []], {})


def test_a_batch_is_full(box: Container) -> None:
    box.run(declare(**BATCHES))
    box.run(put("1", "2", "3", "4"))
    reply, changed = box.trace(claim(10))
    assert taken(reply) == [[b"1", b"2", b"3"]]
    assert parts(reply[4][0]) == [["a", "size", 0, 3]]
    assert changed["count 1 flush_size"] == 1
    assert changed["lane 1 a"] == Lane(bytes=1, oldest=NOW)  # its sequence is ahead of the clock
    assert changed["later 1 a"] == changed["filling 1 a"] == NOW + 1000
    assert reply[2] == NOW + 1000


def test_a_batch_grows_old(box: Container) -> None:
    box.run(declare(**BATCHES))
    box.run(put("1", "2"))
    box.now = NOW + 1000
    reply, changed = box.trace(claim(10))
    assert parts(reply[4][0]) == [["a", "age", 0, 2]]
    assert changed["count 1 flush_age"] == 1
    assert changed["later 1 a"] is changed["filling 1 a"] is changed["lane 1 a"] is None


def test_a_batch_has_its_bytes(box: Container) -> None:
    box.run(declare(size=100, within=1000, bytes_=6))
    box.run(put("123", "456"))
    reply, changed = box.trace(claim(10))
    assert parts(reply[4][0]) == [["a", "bytes", 0, 2]]
    assert changed["count 1 flush_bytes"] == 1


def test_a_worker_that_ends_drains(box: Container) -> None:
    box.run(declare(**BATCHES))
    box.run(put("1", "2"))
    reply, changed = box.trace(claim(10, drain=True))
    assert parts(reply[4][0]) == [["a", "drain", 0, 2]]
    assert changed["count 1 flush_drain"] == 1
    assert changed["later 1 a"] is changed["filling 1 a"] is changed["lane 1 a"] is None
    assert reply[2] == 0


def test_draining_leaves_what_backs_off(box: Container) -> None:
    box.run(declare(**BATCHES, concurrency=1))
    box.run(put("1", "2", "3"))
    (token,) = box.tokens(claim(3))
    box.run(settle(token, {NOW: ("retried", 5000, "")}))
    reply, changed = box.trace(claim(10, drain=True))
    assert (reply[4], changed) == ([], {})
    assert reply[2] == NOW + 5000


# Promotion


def test_delayed_messages_enter_their_lanes_when_due(box: Container) -> None:
    box.run(put(item("b", delay=20), item("a", delay=10, ids=["x"], ttl=60), item("c", delay=30)))
    reply, changed = box.trace(claim())
    assert (reply, changed) == ([[], NOW, NOW + 10, 0, []], {})
    box.now = NOW + 20
    reply, changed = box.trace(claim(groups=[]))
    assert changed == {
        "meta sequence": NOW + 21,
        "meta turn": 1,
        f"due {NOW}": None,
        f"due {NOW + 1}": None,
        "list 1 0 a": [fresh(NOW + 20, "a", recorded=True), fresh(NOW + 21, "b")],
        "ready 1 a": (0, 1),
        "count 1 delayed": 1,
        "count 1 waiting": 2,
        "count 1 lanes": 1,
    }
    assert reply == [[], NOW + 20, NOW + 30, 0, []]


def test_a_record_is_found_by_the_envelope_of_a_delayed_message(box: Container) -> None:
    body = msgspec.msgpack.encode(["x", 1])
    box.run(put(body, delay=10, ids=["x"], ttl=60))
    box.now = NOW + 10
    _, changed = box.trace(claim(groups=[]))
    assert changed["record x"]["sequence"] == NOW + 10


def test_five_hundred_are_promoted_at_once(box: Container) -> None:
    box.run(put(*(item("x", shard=f"s{number}", delay=5) for number in range(1200))))
    box.now = NOW + 5
    left = [box.trace(claim(groups=[]))[1].get("count 1 delayed", 0) for _ in range(3)]
    assert left == [700, 200, None]


def test_five_hundred_lanes_are_promoted_at_once(box: Container) -> None:
    box.run(declare(**BATCHES))
    box.run(put(*(item("x", shard=f"s{number}") for number in range(700))))
    box.now = NOW + 1000
    for promoted in (500, 200):
        _, changed = box.trace(claim(groups=[]))
        for kind, gone in (("ready", False), ("later", True), ("filling", True)):
            found = [value is None for path, value in changed.items() if path.startswith(kind)]
            assert found == [gone] * promoted


# Suspects


def lose(box: Container, messages: int, *more: Any) -> None:
    """Claim, and let the lease end; others take it back."""
    box.run(claim(messages, lease=10))
    assert box.now is not None
    box.now += 11
    assert box.run(reap())[0] == 1


def test_lost_messages_return_with_a_cap(box: Container) -> None:
    box.run(put("1", "2", "3", "4", "5", "6"))
    lose(box, 5)
    reply, _ = box.trace(claim(100))
    assert taken(reply) == [[b"1", b"2"]]
    assert [read_entry(entry).cap for entry in reply[4][0][4:]] == [2, 2]


def test_a_suspect_is_the_only_claim_of_who_runs_alone(box: Container) -> None:
    box.run(put("1", shard="a"))
    lose(box, 1)
    box.run(put("2", shard="b"))
    reply, changed = box.trace(claim(claims=5, alone=False))
    assert taken(reply) == [[b"2"]]
    assert reply[3] == 1
    assert "ready 1 a" not in changed
    box.run(put("3", shard="c"))
    reply, _ = box.trace(claim(claims=5))
    assert taken(reply) == [[b"1"]]
    assert reply[3] == 0


def test_only_suspects(box: Container) -> None:
    box.run(put("1", shard="a"))
    lose(box, 1)
    reply, changed = box.trace(claim(alone=False))
    assert (reply[3], reply[4], changed) == (1, [], {})


def test_what_came_back_joins_in_order_of_sequence(box: Container) -> None:
    box.run(put("1", "2", "3", "4"))
    (token,) = box.tokens(claim(2))
    box.run(settle(token, {NOW: ("back", False, False), NOW + 1: ("back", False, False)}))
    reply, changed = box.trace(claim(3))
    assert taken(reply) == [[b"1", b"2", b"3"]]
    assert parts(reply[4][0]) == [["a", "", 0, 3]]
    assert changed["back 1 0 a"] is changed["lane 1 a"] is None
    assert changed["list 1 0 a"] == [fresh(NOW + 3, "4")]


# Sleepers


def test_who_finds_nothing_falls_asleep(box: Container) -> None:
    box.run(declare(within=50, size=2, members=["x"]))
    box.run(put("1"))
    reply, changed = box.trace(claim(groups=[GROUP, "q\0new"], members=["x"], listener="ear"))
    assert reply[4] == []
    assert changed["sleeper ear"] == [
        NOW + 50,
        ["1", "2"],
        {"1": {"x": True}, "2": {"x": True}},
        NOW,
    ]
    assert changed["line 1 ear"] == changed["line 2 ear"] == 1
    assert changed["name 2"] == "q\0new"


def test_who_gets_something_is_awake(box: Container) -> None:
    box.run(claim(listener="ear"))
    box.run(put("1"))  # nobody listens there, so it is forgotten
    assert "sleeper ear" not in box.dump()
    box.run(settle(*box.tokens(claim())))
    box.run(claim(listener="ear"))
    box.run(put("1", delay=10))
    assert "sleeper ear" not in box.dump()


def test_a_put_wakes_the_one_that_slept_longest(box: Container) -> None:
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("one", "two")
        ears.get_message(timeout=10)
        ears.get_message(timeout=10)
        for name in ("one", "two"):
            box.run(claim(listener=name))
        _, changed = box.trace(put("1"))
        assert changed["line 1 one"] is None
        assert "line 1 two" not in changed
        assert "sleeper one" not in changed  # it may hand on what it was woken for
        _, changed = box.trace(put("2"))
        assert not any(path.startswith("line") for path in changed)
        _, changed = box.trace(put("3", shard="b"))
        assert changed["line 1 two"] is None
        _, changed = box.trace(claim(claims=1, listener="one", total=1))
        assert changed["sleeper one"] is None
        heard = [ears.get_message(timeout=10)["channel"] for _ in range(2)]
        assert heard == [b"one", b"two"]


SILENT = 15_000_001
"""Microseconds after which a sleeper should have registered again."""


def test_who_has_been_silent_for_long_does_not_swallow_a_wake_up(box: Container) -> None:
    assert box.now is not None
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("gone", "alive")  # a machine that is cut off is subscribed for minutes
        ears.get_message(timeout=10)
        ears.get_message(timeout=10)
        box.run(claim(listener="gone"))
        box.now += SILENT
        box.run(claim(listener="alive"))
        _, changed = box.trace(put("1"))
        assert changed["sleeper gone"] is None
        assert changed["line 1 alive"] is None
        heard = [ears.get_message(timeout=10)["channel"] for _ in range(2)]
        assert heard == [b"gone", b"alive"], "it may live after all"


def test_who_has_been_silent_for_long_is_not_expected_to_wake_in_time(box: Container) -> None:
    assert box.now is not None
    box.run(put("1", delay=2 * SILENT))
    box.run(claim(listener="gone"))
    box.now += SILENT - 1
    _, changed = box.trace(put("2", delay=2 * SILENT))
    assert not any("gone" in path for path in changed), "it wakes for the first one"
    box.now += 1
    _, changed = box.trace(put("3", delay=2 * SILENT))
    assert changed["sleeper gone"] is None


def test_only_who_knows_all_members_is_woken(box: Container) -> None:
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("one", "two")
        ears.get_message(timeout=10)
        ears.get_message(timeout=10)
        box.run(declare(members=["x", "y"]))
        box.run(claim(listener="one", members=["x"]))
        box.run(claim(listener="two", members=["x", "y", "z"]))
        _, changed = box.trace(put("1"))
        assert changed["line 1 two"] is None
        assert "line 1 one" not in changed
        assert ears.get_message(timeout=10)["channel"] == b"two"


def test_who_wakes_in_time_by_itself_is_not_woken(box: Container) -> None:
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.subscribe("ear")
        ears.get_message(timeout=10)
        box.run(put("1", delay=50))
        box.run(claim(listener="ear"))
        _, changed = box.trace(put("2", delay=60))
        assert "line 1 ear" not in changed
        _, changed = box.trace(put("3", delay=40))
        assert changed["line 1 ear"] is None


# Repeats


def test_a_repeated_claim_passes_over_what_was_settled_meanwhile(box: Container) -> None:
    box.run(put(*(item("1", shard=shard) for shard in "abc")))
    first = box.run(claim(1, claims=3), slot="s", number=3)
    assert len(first[4]) == 3
    box.run(settle(first[4][1][0]))
    again = box.run(claim(1, claims=3), slot="s", number=3)
    assert again[4] == [first[4][0], first[4][2]]
    assert box.run(claim(1, claims=3), slot="s", number=4)[4] == []


def test_a_repeated_claim_tells_the_deadline_of_now(box: Container) -> None:
    box.run(put("1"))
    first = box.run(claim(), slot="s", number=3)
    box.run(call("extend", 2 * LEASE, first[4][0][0]))
    again = box.run(claim(), slot="s", number=3)
    assert again[4][0][2] == NOW + 2 * LEASE


# Settle and claim


def test_one_step_settles_and_claims(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("1", "2"))
    (token,) = box.tokens(claim(1))
    reply, changed = box.trace(step([(token, [], [], []), (NOW - 9, [], [], [])], want(1)))
    assert reply[0] == [NOW - 9]
    assert taken(reply) == [[b"2"]]
    assert changed[f"held {token}"] is None
    assert "lane 1 a" not in changed  # it is held again
    assert changed["count 1 done"] == 1


def test_a_step_takes_back_what_others_lost(box: Container) -> None:
    box.run(put("1", shard="a"))
    box.run(claim(lease=10))
    box.now = NOW + 11
    reply, changed = box.trace(claim())
    assert taken(reply) == [[b"1"]]
    assert changed["count 1 lost"] == 1
    assert changed["count 1 redelivered"] == 1


# The largest


@pytest.mark.parametrize("policy", [{}, {"concurrency": 1}, {"size": 1, "within": 10}])
def test_a_thousand_lanes_in_one_claim(box: Container, policy: dict[str, int]) -> None:
    box.run(declare(**policy))
    shards = [f"s{number}" for number in range(1500)]
    box.run(put(*(item("x", shard=shard) for shard in shards)))
    reply, _ = box.trace(claim(1000))
    assert [part[0] for part in parts(reply[4][0])] == shards[:1000]
    (token,) = (claimed[0] for claimed in reply[4])
    back = {NOW + number: ("back", True, False) for number in range(1000)}
    reply, changed = box.trace(settle(token, back))
    assert reply[0] == []
    assert changed["count 1 waiting"] == 1500


@pytest.mark.parametrize("policy", [{}, {"concurrency": 1}])
def test_ten_thousand_messages_in_one_claim(box: Container, policy: dict[str, int]) -> None:
    box.run(declare(**policy))
    box.run(put(*("x" for _ in range(10_000))))
    reply, _ = box.trace(claim(10_000, total=10_000))
    assert len(reply[4][0]) == 10_004
    token = reply[4][0][0]
    back = {NOW + number: ("back", False, False) for number in range(10_000)}
    box.trace(settle(token, back))
    reply, _ = box.trace(claim(10_000, total=10_000))
    assert len(reply[4][0]) == 10_004


def test_a_thousand_claims_in_one_step(box: Container) -> None:
    box.run(put(*(item("x", shard=f"s{number}") for number in range(1000))))
    reply, _ = box.trace(claim(1, claims=1000))
    assert len(reply[4]) == 1000
    settlements = [(claimed[0], [], [], []) for claimed in reply[4]]
    reply, changed = box.trace(step(settlements))
    assert reply[0] == []
    assert changed["count 1 done"] == 1000


def test_who_may_be_out_of_date_brings_no_group_to_sleep_on(box: Container) -> None:
    reply, changed = box.trace(claim(listener="ear", unsure=True))
    assert reply[5:] == [1]
    assert not [key for key in changed if key.startswith("policy")]
    box.run(declare())
    assert box.run(claim(listener="ear", unsure=True))[5:] == []
