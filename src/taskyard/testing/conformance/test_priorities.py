"""Priorities: lower goes first."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Group, Put, Retried
from taskyard.testing.conformance.harness import TASK, Harness, body, names

OTHER = Group("orders", "mail")


def test_lower_goes_first_in_a_lane(harness: Harness) -> None:
    harness.put("later", priority=5)
    harness.put("now", priority=-5)
    harness.put("soon")
    assert harness.work_off(1) == ["now", "soon", "later"]


def test_order_holds_within_a_priority(harness: Harness) -> None:
    harness.put("b1", "b2", priority=2)
    harness.put("a1", "a2", priority=1)
    harness.put("b3", priority=2)
    harness.put("a3", priority=1)
    assert harness.work_off(2) == ["a1", "a2", "a3", "b1", "b2", "b3"]


def test_a_claim_names_the_priority_of_each_message(harness: Harness) -> None:
    harness.put("b", priority=7)
    harness.put("a", priority=-3)
    (lane,) = harness.take(2).lanes
    assert [priority for priority, _ in lane.messages] == [-3, 7]


def test_lower_goes_first_between_lanes(harness: Harness) -> None:
    harness.put("c", shard="1", priority=3)
    harness.put("a", shard="2", priority=1)
    harness.put("b", shard="3", priority=2)
    assert names(harness.take(3)) == ["a", "b", "c"]


def test_lower_goes_first_between_groups(harness: Harness) -> None:
    harness.put("b", priority=1)
    harness.put("a", priority=0, group=OTHER)
    assert harness.work_off(1, groups=[TASK, OTHER]) == ["a", "b"]


def test_an_urgent_message_pulls_its_lane_to_the_front(harness: Harness) -> None:
    harness.put("a", shard="1")
    harness.put("b", shard="2")
    harness.put("urgent", shard="2", priority=-1)
    assert names(harness.take()) == ["urgent"]
    assert names(harness.take()) == ["a"]
    assert names(harness.take()) == ["b"]


def test_a_lane_falls_back_when_its_urgent_messages_are_gone(harness: Harness) -> None:
    harness.put("urgent", "slow", shard="1")
    harness.put_all(
        Put(TASK, [body("now")], "2", priority=-1),
        Put(TASK, [body("whenever")], "2", priority=9),
    )
    assert harness.work_off(1) == ["now", "urgent", "slow", "whenever"]


def test_lanes_of_one_priority_take_turns_whatever_else_they_hold(harness: Harness) -> None:
    for shard in "abc":
        harness.put(f"{shard}-late", shard=shard, priority=1)
        harness.put(f"{shard}1", f"{shard}2", shard=shard)
    assert harness.work_off(1) == [
        *("a1", "b1", "c1", "a2", "b2", "c2"),
        *("a-late", "b-late", "c-late"),
    ]


def test_a_message_that_is_given_back_keeps_its_priority(harness: Harness) -> None:
    harness.put("low", priority=1)
    harness.settle(harness.take(), every=Back(started=True))
    harness.put("high")
    assert harness.work_off(1) == ["high", "low"]


def test_an_ordered_lane_keeps_order_within_each_priority(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("b1", "b2", shard="s", priority=1)
    claim = harness.take()
    harness.put("a1", "a2", shard="s")
    harness.settle(claim, every=Back())
    assert harness.work_off(1) == ["a1", "a2", "b1", "b2"]


def test_a_retried_head_holds_urgent_messages_of_its_lane_too(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("head", shard="s")
    harness.settle(harness.take(), every=Retried(10_000_000))
    harness.put("urgent", shard="s", priority=-1)
    assert harness.claim() is None
    harness.clock.advance(10)
    assert harness.work_off(1) == ["urgent", "head"]


def test_a_delayed_message_enters_with_its_priority(harness: Harness) -> None:
    harness.put("urgent", priority=-1, delay=5)
    harness.put("a", "b")
    assert names(harness.take()) == ["a"]
    harness.clock.advance(5)
    assert harness.work_off(1) == ["urgent", "b"]


@pytest.mark.parametrize("lowest", [-1024, 1023])
def test_the_range_of_priorities_is_served_in_order(harness: Harness, lowest: int) -> None:
    priorities = sorted({-1024, -1000, -1, 0, 1, 1000, 1023, lowest}, reverse=True)
    for priority in priorities:
        harness.put(str(priority), shard=str(priority % 3), priority=priority)
    assert harness.work_off(1) == [str(priority) for priority in sorted(priorities)]
