"""step.lua: how messages end, and what stays of a claim."""

from __future__ import annotations

from typing import Any

import pytest
from tests.redis.scripts.calls import (
    GROUP,
    LEASE,
    call,
    claim,
    declare,
    envelope,
    item,
    put,
    reap,
    settle,
)
from tests.redis.scripts.container import NOW, Claimed, Container, Due, Lane, Letter, fresh

BACK = ("back", False, False)


def claimed(box: Container, *bodies: str, policy: dict[str, int] | None = None, **how: Any) -> int:
    """Put messages into one lane, claim them; the token."""
    box.run(declare(**policy or {}))
    box.run(put(*bodies, **how))
    (token,) = box.tokens(claim())
    return token


def gone(token: int) -> dict[str, None]:
    return {f"claim {token}": None, f"held {token}": None, "count 1 running": None}


# Done


def test_all_are_done(box: Container) -> None:
    token = claimed(box, "1", "2")
    reply, changed = box.trace(settle(token))
    assert reply == [[], NOW, 0, 0, []]
    assert changed == {**gone(token), "count 1 done": 2}


def test_an_ordered_lane_is_let_go(box: Container) -> None:
    token = claimed(box, "1", policy={"concurrency": 1})
    box.run(put("2"))
    _, changed = box.trace(settle(token))
    assert changed == {
        "meta turn": 2,
        **gone(token),
        "count 1 done": 1,
        "lane 1 a": None,
        "ready 1 a": (0, 2),
    }


def test_results_are_kept_in_records(box: Container) -> None:
    token = claimed(box, "1", "2", ids=["x", "y"], ttl=60)
    _, changed = box.trace(
        settle(token, None, b"\xff", b"", results=[("y", 5), ("x", 6), ("nobody", 6)])
    )
    done = {"gid": 1, "ttl": 60, "state": "done", "due": NOW, "expires": NOW + 60, "shard": "a"}
    assert changed == {
        **gone(token),
        "count 1 done": 2,
        "record x": {**done, "priority": 0, "sequence": NOW, "result": b""},
        "record y": {**done, "priority": 0, "sequence": NOW + 1, "result": b"\xff"},
    }


# Back


@pytest.mark.parametrize("started", [False, True])
def test_back_to_its_place(box: Container, started: bool) -> None:
    token = claimed(box, "1", "2")
    _, changed = box.trace(settle(token, {NOW + 1: ("back", started, False)}))
    assert changed == {
        "meta turn": 2,
        **gone(token),
        "count 1 done": 1,
        "count 1 waiting": 1,
        "count 1 lanes": 1,
        "back 1 0 a": [fresh(NOW + 1, "2", deliveries=int(started))],
        "lane 1 a": Lane(back=(0,)),
        "ready 1 a": (0, 2),
    }


def test_back_before_what_waits(box: Container) -> None:
    token = claimed(box, "1", policy={"concurrency": 1}, priority=4)
    box.run(put("2", priority=4))
    _, changed = box.trace(settle(token, {NOW: BACK}))
    assert changed["lane 1 a"] == Lane(priorities=(4,), back=(4,))
    assert "count 1 lanes" not in changed
    assert [claimed[4][-1:] for claimed in box.run(claim(1))[4]] == [b"1"]


def test_parking(box: Container) -> None:
    token = claimed(box, "1", "2", policy={"concurrency": 1})
    _, changed = box.trace(settle(token, {NOW: ("back", True, True), NOW + 1: BACK}))
    assert changed["lane 1 a"] == Lane(parked=True, back=(0,))
    assert changed["parked 1 a"] is True
    assert changed["back 1 0 a"] == [fresh(NOW, "1", deliveries=1), fresh(NOW + 1, "2")]
    assert "ready 1 a" not in changed


# Retried


def test_a_retry_without_order_waits_outside(box: Container) -> None:
    token = claimed(box, "1", ids=["x"], ttl=60, priority=2)
    _, changed = box.trace(settle(token, {NOW: ("retried", 500, "x")}))
    assert changed == {
        **gone(token),
        "count 1 retried": 1,
        "count 1 delayed": 1,
        f"due {NOW}": Due(
            NOW + 500, 1, 2, "a", fresh(NOW, "1", recorded=True, deliveries=1, attempts=1)
        ),
        "record x": {
            "gid": 1,
            "ttl": 60,
            "state": "retrying",
            "due": NOW + 500,
            "expires": 0,
            "shard": "a",
            "priority": 2,
            "sequence": -NOW,
        },
    }
    box.now = NOW + 500
    _, changed = box.trace(claim(groups=[]))
    retried = fresh(NOW + 500, "1", recorded=True, since=NOW, deliveries=1, attempts=1)
    assert changed["list 1 2 a"] == [retried]


def test_a_retry_in_order_blocks_its_lane(box: Container) -> None:
    token = claimed(box, "1", policy={"concurrency": 1}, ids=["x"], ttl=60)
    box.run(put("2"))
    _, changed = box.trace(settle(token, {NOW: ("retried", 500, "x")}))
    assert changed["lane 1 a"] == Lane(blocked=NOW + 500, back=(0,))
    assert changed["back 1 0 a"] == [fresh(NOW, "1", recorded=True, deliveries=1, attempts=1)]
    assert changed["later 1 a"] == NOW + 500
    assert "filling 1 a" not in changed
    assert changed["record x"]["sequence"] == NOW
    box.now = NOW + 500
    reply, changed = box.trace(claim(1))
    assert [claimed[4][-1:] for claimed in reply[4]] == [b"1"]
    assert changed["later 1 a"] is None


def test_of_several_retries_in_order_the_longest_counts(box: Container) -> None:
    token = claimed(box, "1", "2", policy={"concurrency": 1})
    outcomes = {NOW: ("retried", 500, ""), NOW + 1: ("retried", 20, "")}
    _, changed = box.trace(settle(token, outcomes))
    assert changed["lane 1 a"] == Lane(blocked=NOW + 500, back=(0,))
    assert changed["later 1 a"] == NOW + 500


def test_a_retry_at_once(box: Container) -> None:
    token = claimed(box, "1", policy={"concurrency": 1})
    _, changed = box.trace(settle(token, {NOW: ("retried", 0, "")}))
    assert changed["ready 1 a"] == (0, 2)


def test_a_retry_whose_record_is_gone(box: Container) -> None:
    token = claimed(box, "1")
    _, changed = box.trace(settle(token, {NOW: ("retried", 9, "x")}))
    assert "record x" not in changed


# Dead


@pytest.mark.parametrize("attempted", [False, True])
def test_a_dead_letter(box: Container, attempted: bool) -> None:
    token = claimed(box, "1", ids=["x"], ttl=60, priority=3)
    box.now = NOW + 5
    outcome = ("dead", 6, "x", "said", attempted)
    _, changed = box.trace(settle(token, {NOW: outcome}, b"unused", b"\xffwhy"))
    assert changed == {
        **gone(token),
        "meta dead": 1,
        "count 1 dead": 1,
        "dead 1 1": True,
        "buried 1 1": NOW + 5,
        "letter 1": Letter(
            1, "said", "a", 3, b"x", b"\xffwhy", 0, 1, int(attempted), NOW, NOW + 5, b"1"
        ),
        "record x": {
            "gid": 1,
            "ttl": 60,
            "state": "dead",
            "due": NOW,
            "expires": NOW + 65,
            "shard": "a",
            "priority": 3,
            "sequence": NOW,
            "failure": b"\xffwhy",
        },
    }


def test_a_dead_letter_without_id_and_task(box: Container) -> None:
    token = claimed(box, "\x00")
    _, changed = box.trace(settle(token, {NOW: ("dead", 5, "", "", False)}, b"why"))
    assert changed["letter 1"].task == "t"
    assert changed["letter 1"].id == b""


@pytest.mark.parametrize(("limit", "left"), [(2, ["2", "3"]), (1, ["3"]), (0, [])])
def test_a_group_keeps_only_so_many_dead_letters(
    box: Container, limit: int, left: list[str]
) -> None:
    token = claimed(box, "1", "2", "3")
    outcomes = {NOW + number: ("dead", 5, "", "", True) for number in range(3)}
    _, changed = box.trace(settle(token, outcomes, b"why", limit=limit))
    assert [path[7:] for path in changed if path.startswith("letter")] == left
    assert changed["count 1 dead"] == 3
    assert changed["count 1 dead_dropped"] == 3 - limit


# Discarded


def test_discarded(box: Container) -> None:
    token = claimed(box, "1", "2", ids=["x", "y"], ttl=60)
    _, changed = box.trace(settle(token, {NOW: ("discard", "x"), NOW + 1: ("discard", "")}))
    assert changed.keys() == {*gone(token), "count 1 discarded", "record x"}
    assert changed["record x"]["state"] == "discarded"
    assert changed["count 1 discarded"] == 2


# In part


def test_some_still_run(box: Container) -> None:
    box.run(declare(concurrency=1))
    box.run(put(item("1", "2"), item("3", priority=1), item("4", shard="b")))
    (token,) = box.tokens(claim())
    _, changed = box.trace(settle(token, {NOW: BACK}, keep=[NOW + 1, NOW + 2]))
    assert changed == {
        f"held {token}": Claimed(
            GROUP,
            "ann",
            LEASE,
            2,
            (("a", "", 0, 1, 1, 1),),
            (fresh(NOW + 1, "2"), fresh(NOW + 2, "3")),
        ),
        "count 1 running": 2,
        "count 1 done": 1,
        "count 1 waiting": 1,
        "count 1 lanes": 1,
        "back 1 0 a": [fresh(NOW, "1")],
        "lane 1 a": Lane(held=1, back=(0,)),
        "lane 1 b": None,
    }
    _, changed = box.trace(settle(token, {NOW + 1: BACK}))
    assert changed["lane 1 a"] == Lane(back=(0,))
    assert changed["ready 1 a"] == (0, 3)


def test_all_still_run(box: Container) -> None:
    token = claimed(box, "1", "2", policy={"concurrency": 1})
    assert box.trace(settle(token, keep=[NOW, NOW + 1])) == ([[], NOW, 0, 0, []], {})


def test_what_a_claim_does_not_hold_is_passed_over(box: Container) -> None:
    token = claimed(box, "1")
    _, changed = box.trace(settle(token, {NOW + 9: BACK}, keep=[NOW + 8]))
    assert changed == {**gone(token), "count 1 done": 1}


def test_a_claim_is_settled_once(box: Container) -> None:
    token = claimed(box, "1", "2")
    box.run(settle(token, keep=[NOW]))
    box.run(settle(token))
    assert box.trace(settle(token, {NOW: BACK})) == ([[token], NOW, 0, 0, []], {})


# Lost, since taken back


def test_what_was_taken_back_cannot_be_settled(box: Container) -> None:
    token = claimed(box, "1")
    box.now = NOW + LEASE + 1
    box.run(reap())
    reply, changed = box.trace(settle(token, {NOW: ("dead", 5, "", "", True)}, b"why"))
    assert (reply[0], changed) == ([token], {})


# Waiters


def test_who_waits_for_a_record_is_woken(box: Container) -> None:
    token = claimed(box, *("1", "2"), ids=["x", "y"], ttl=60)
    box.run(call("records", "ear", "x"))
    box.run(call("records", "eye", "x", "y"))
    with box.client.pubsub(ignore_subscribe_messages=True) as ears:
        ears.psubscribe("*")
        ears.get_message(timeout=10)
        _, changed = box.trace(settle(token, {NOW + 1: ("discard", "y")}, b"", results=[("x", 5)]))
        heard = [ears.get_message(timeout=10)["channel"] for _ in range(3)]
    assert sorted(heard) == [b"ear", b"eye", b"eye"]
    assert "waiters" not in changed["record x"]


def test_a_batch_that_came_back_waits_no_longer_than_it_may(box: Container) -> None:
    token = claimed(box, "1", "2", policy={"size": 2, "within": 1000})
    box.now = NOW + 400
    _, changed = box.trace(settle(token, {NOW + 1: BACK}))
    assert changed["lane 1 a"] == Lane(bytes=1, oldest=NOW + 1, back=(0,))
    assert changed["later 1 a"] == changed["filling 1 a"] == NOW + 1001


def test_an_envelope_is_given_back_as_it_was(box: Container) -> None:
    body = envelope("x", {"any": [1, 2.5, None]}, "t")
    box.run(put(body))
    (token,) = box.tokens(claim())
    _, changed = box.trace(settle(token, {NOW: BACK}))
    assert changed["back 1 0 a"] == [fresh(NOW, body)]
