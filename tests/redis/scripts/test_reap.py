"""reap.lua: what lost claims leave."""

from __future__ import annotations

import pytest
from tests.redis.scripts.calls import (
    LEASE,
    claim,
    declare,
    envelope,
    item,
    put,
    reap,
    settle,
)
from tests.redis.scripts.container import NOW, Container, Lane, Letter, fresh

THROUGH = b""
"""The cursor when there is nothing more to look at."""


def test_nothing_to_take_back(box: Container) -> None:
    nothing = ([0, THROUGH], {})
    assert box.trace(reap()) == nothing
    assert box.trace(reap("ann")) == nothing
    box.run(put("1"))
    box.run(claim())
    assert box.trace(reap("bob")) == nothing
    box.now = NOW + LEASE
    assert box.trace(reap()) == nothing


def test_a_lease_that_ended(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put("1", "2"))
    (token,) = box.tokens(claim())
    box.now = NOW + LEASE + 1
    reply, changed = box.trace(reap())
    assert reply == [1, b"0"]  # there may be more
    lost = {"deliveries": 1, "losses": 1, "cap": 1}
    assert changed == {
        "meta turn": 2,
        f"claim {token}": None,
        f"held {token}": None,
        "count 1 running": None,
        "count 1 waiting": 2,
        "count 1 lanes": 1,
        "count 1 lost": 2,
        "back 1 0 a": [fresh(NOW, "1", **lost), fresh(NOW + 1, "2", **lost)],
        "lane 1 a": Lane(back=(0,)),
        "ready 1 a": (0, 2),
    }


def test_a_dead_owner(box: Container) -> None:
    box.run(put(*(item("x", shard=shard) for shard in "abc")))
    for owner in ("ann", "bob", "ann"):
        box.run(claim(1, owner=owner))
    reply, changed = box.trace(reap("eve", "ann"))
    assert reply == [2, THROUGH]
    assert changed["count 1 running"] == 1
    assert "ready 1 b" not in changed


def test_four_at_a_time_the_oldest_first(box: Container) -> None:
    box.run(put(*(item("x", shard=f"s{number}") for number in range(10))))
    tokens = box.tokens(claim(1, claims=10))
    for left, said in ((tokens[4:], [4, b"0"]), (tokens[8:], [4, b"0"]), ([], [2, THROUGH])):
        reply, changed = box.trace(reap("ann"))
        assert reply == said
        assert [path for path in box.dump() if path.startswith("claim")] == [
            f"claim {token}" for token in left
        ]
        assert changed
    assert box.trace(reap("ann"))[0] == [0, THROUGH]


def claims_of_two(box: Container, number: int) -> None:
    """Open claims of which every third one is Bob's."""
    box.run(put(*(item("x", shard=f"s{index}") for index in range(number))))
    for first in range(0, number, 3):
        box.run(claim(1, claims=2, owner="ann"))
        box.run(claim(1, claims=min(1, number - first - 2), owner="bob"))


def test_claims_of_dead_owners_are_looked_for_page_by_page(box: Container) -> None:
    claims_of_two(box, 1200)
    cursor, taken, looks = b"0", 0, 0
    while cursor:
        some, cursor = box.run(reap("bob", cursor=cursor))
        taken, looks = taken + some, looks + 1
    assert taken == 400
    assert looks > 100
    owners = {held.owner for path, held in box.dump().items() if path.startswith("held")}
    assert owners == {"ann"}


def test_a_page_is_done_with_before_the_next(box: Container) -> None:
    """Those of it that were not taken back yet are still found, whatever ends meanwhile."""
    claims_of_two(box, 600)
    cursor = b"0"
    while cursor:
        some, following = box.run(reap("bob", cursor=cursor))
        assert some == 4 or following != cursor
        cursor = following
        for path, held in list(box.dump().items())[::7]:
            if path.startswith("held") and held.owner == "ann":
                box.run(settle(int(path.split()[1])))
    owners = {held.owner for path, held in box.dump().items() if path.startswith("held")}
    assert "bob" not in owners


def test_an_expired_lease_does_not_move_the_cursor(box: Container) -> None:
    claims_of_two(box, 600)
    _, cursor = box.run(reap("eve"))
    assert cursor not in (b"0", THROUGH)
    box.now = NOW + LEASE + 1
    assert box.trace(reap("eve", cursor=cursor))[0] == [4, cursor]


def test_leases_that_ended_go_before_dead_owners(box: Container) -> None:
    box.run(put(item("x", shard="a"), item("x", shard="b")))
    box.run(claim(1, owner="ann"))
    box.run(claim(1, owner="bob", lease=5))
    box.now = NOW + 6
    _, changed = box.trace(reap("ann"))
    assert "back 1 0 b" in changed
    assert "back 1 0 a" not in changed


@pytest.mark.parametrize(("claimed", "cap"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_caps(box: Container, claimed: int, cap: int) -> None:
    box.run(put(*("x" for _ in range(claimed))))
    box.run(claim())
    _, changed = box.trace(reap("ann"))
    assert {entry.cap for entry in changed["back 1 0 a"]} == {cap}


def test_several_lanes_and_priorities(box: Container) -> None:
    box.run(declare(concurrency=2))
    box.run(put(item("1", priority=1), item("2", priority=2), item("3", shard="b")))
    box.run(claim())
    _, changed = box.trace(reap("ann"))
    assert changed["lane 1 a"] == Lane(priorities=(1, 2), back=(1, 2))
    assert changed["lane 1 b"] == Lane(back=(0,))
    assert changed["ready 1 a"][0] == 1
    assert changed["ready 1 b"][0] == 0


def test_a_clock_that_was_set_back_makes_no_lease_longer(box: Container) -> None:
    box.run(put("1"))
    (token,) = box.tokens(claim(lease=1000))
    box.now = NOW - 1_000_000
    reply, changed = box.trace(reap())
    assert (reply, changed) == ([0, THROUGH], {f"claim {token}": NOW - 1_000_000 + 1000})


# The end of a message that kills its workers


def test_a_message_that_was_lost_too_often(box: Container) -> None:
    body = envelope("x", [1])
    box.run(declare(max_deliveries=3))
    box.run(put(body, ids=["x"], ttl=60))
    for _ in range(2):
        box.run(claim())
        assert box.run(reap("ann")) == [1, THROUGH]
    (token,) = box.tokens(claim())
    _, changed = box.trace(reap("ann"))
    assert changed == {
        f"claim {token}": None,
        f"held {token}": None,
        "meta dead": 1,
        "count 1 running": None,
        "count 1 lost": 3,
        "count 1 dead": 1,
        "dead 1 1": True,
        "buried 1 1": NOW,
        "letter 1": Letter(1, "t", "a", 0, b"x", b"", 3, 3, 0, NOW, NOW, body),
        "record x": {
            "gid": 1,
            "ttl": 60,
            "state": "dead",
            "due": NOW,
            "expires": NOW + 60,
            "shard": "a",
            "priority": 0,
            "sequence": NOW,
            "losses": 3,
        },
    }


def test_one_loss_is_enough_where_the_policy_says_so(box: Container) -> None:
    box.run(declare(max_deliveries=1))
    box.run(put("1", "2"))
    box.run(claim(1))
    box.run(reap("ann"))
    state = box.dump()
    assert state["letter 1"].id == b""
    box.run(put("3", shard="b"))
    box.run(claim(2))
    assert box.trace(reap("ann"))[1]["count 1 lost"] == 3  # two together: neither is given up
    assert len([path for path in box.dump() if path.startswith("letter")]) == 1


def test_a_loss_counts_less_than_a_failure_elsewhere(box: Container) -> None:
    box.run(put("1"))
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW: ("retried", 0, "")}))
    box.now = NOW + 1
    box.run(claim())
    _, changed = box.trace(reap("ann"))
    assert changed["back 1 0 a"] == [
        fresh(NOW + 2, "1", since=NOW, deliveries=2, attempts=1, losses=1, cap=1)
    ]


@pytest.mark.parametrize("payload", [1, "text", {"a": [None, 1.5]}, b"bytes", [b""]])
def test_the_task_of_an_order_group_is_read_from_the_body(box: Container, payload: object) -> None:
    box.run(declare(max_deliveries=1, members=["first", "second"]))
    box.run(put(envelope("x", payload, "second"), member="second"))
    box.run(claim(members=["first", "second"]))
    _, changed = box.trace(reap("ann"))
    assert changed["letter 1"].task == "second"


def test_a_retry_of_what_was_lost_comes_back_alone(box: Container) -> None:
    box.run(put("1"))
    box.run(claim())
    box.run(reap("ann"))
    (token,) = box.tokens(claim())
    box.run(settle(token, {NOW: ("retried", 5, "")}))
    box.now = NOW + 5
    _, changed = box.trace(claim(groups=[]))
    assert changed["back 1 0 a"] == [
        fresh(NOW + 5, "1", since=NOW, deliveries=2, attempts=1, losses=1, cap=1)
    ]
