"""Declaring groups."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Put, Retried
from taskyard.errors import PolicyConflict
from taskyard.testing.conformance.harness import TASK, Harness, names


def test_the_first_declaration_is_stored_whoever_makes_it(harness: Harness) -> None:
    harness.declare(replace=False, concurrency=1)
    harness.put("a", "b", shard="s")
    harness.take()
    assert harness.claim() is None


def test_a_producer_does_not_replace_what_is_declared(harness: Harness) -> None:
    harness.declare(size=2, within=5)
    harness.declare(size=1, replace=False)
    harness.put("a")
    assert harness.claim() is None


def test_a_worker_does(harness: Harness) -> None:
    harness.declare(size=2, within=5)
    harness.declare(size=1)
    harness.put("a")
    assert names(harness.take()) == ["a"]


def test_a_declaration_holds_for_what_waits_already(harness: Harness) -> None:
    harness.declare(size=3, within=60)
    harness.put("a", "b", shard="1")
    harness.put("c", shard="2")
    assert harness.claim(9) is None
    harness.declare(size=2, within=60)
    assert harness.work_off(9) == ["a", "b"]
    harness.declare(size=2)
    assert harness.work_off(9) == ["c"]
    assert harness.next_at() == 0


def test_a_batch_may_be_declared_for_what_is_ready(harness: Harness) -> None:
    harness.declare()
    harness.put("a")
    harness.declare(size=2, within=5)
    assert harness.claim(2) is None
    harness.clock.advance(5)
    assert names(harness.take(2)) == ["a"]


def test_declaring_the_same_again_changes_nothing(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    claim = harness.take()
    for replace in (True, False):
        harness.declare(concurrency=1, replace=replace)
    assert harness.claim() is None
    harness.settle(claim)
    assert harness.work_off() == ["b"]


def test_an_undeclared_group_takes_any_declaration(harness: Harness) -> None:
    harness.put("a", "b", shard="s")
    harness.declare(concurrency=1)
    claim = harness.take()
    assert harness.claim() is None
    harness.settle(claim)
    assert harness.work_off() == ["b"]


def test_claims_that_were_open_before_a_group_was_declared_hold_their_shards(
    harness: Harness,
) -> None:
    harness.put("a", "b", "c", shard="s")
    harness.put("d", shard="t")
    first, second, third = harness.claims(1, claims=3)
    assert names(first) + names(second) + names(third) == ["a", "d", "b"]
    harness.declare(concurrency=1)
    assert harness.claim() is None
    harness.settle(second)
    harness.settle(first)
    assert harness.claim() is None
    harness.settle(third)
    harness.put("e", shard="t")
    assert sorted(harness.work_off()) == ["c", "e"]


def test_a_claim_of_before_the_declaration_is_taken_back(harness: Harness) -> None:
    harness.put("a", "b", shard="s")
    harness.take(owner="dead")
    harness.declare(concurrency=1)
    assert harness.claim() is None
    harness.reap("dead")
    assert harness.work_off() == ["a", "b"]


@pytest.mark.parametrize("replace", [True, False])
def test_order_cannot_change_under_waiting_messages(harness: Harness, replace: bool) -> None:
    harness.declare()
    harness.put("a", "b", "c")
    with pytest.raises(PolicyConflict) as caught:
        harness.declare(concurrency=1, replace=replace)
    text = str(caught.value)
    assert TASK.queue in text
    assert TASK.name in text
    assert "any" in text
    assert "1" in text
    assert "3 messages" in text
    assert "another name" in text


def test_a_refused_declaration_changes_nothing(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    with pytest.raises(PolicyConflict):
        harness.declare(concurrency=0, size=5, within=5, members=["x"])
    assert names(harness.take()) == ["a"]
    assert harness.claim() is None


def test_order_cannot_change_under_delayed_messages(harness: Harness) -> None:
    harness.declare()
    harness.put("a", delay=60)
    with pytest.raises(PolicyConflict):
        harness.declare(concurrency=1)


def test_order_cannot_change_under_retried_messages(harness: Harness) -> None:
    harness.declare()
    harness.put("a")
    harness.settle(harness.take(), every=Retried(60_000_000))
    with pytest.raises(PolicyConflict):
        harness.declare(concurrency=2)


def test_order_cannot_change_under_claimed_messages(harness: Harness) -> None:
    harness.declare(concurrency=2)
    harness.put("a")
    claim = harness.take()
    with pytest.raises(PolicyConflict):
        harness.declare(concurrency=1)
    harness.settle(claim)
    harness.declare(concurrency=1)


def test_order_may_change_when_nothing_is_left(harness: Harness) -> None:
    harness.declare()
    harness.put("a", shard="s")
    harness.work_off()
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    harness.take()
    assert harness.claim() is None


def test_everything_else_may_change_at_any_time(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="s")
    harness.declare(concurrency=1, size=9, within=1, bytes=9999, max_deliveries=1)
    harness.clock.advance(1)
    harness.take(9, owner="dead")
    harness.reap("dead")
    assert [letter.id for letter in harness.dead()] == ["a"]


def test_members_add_up_over_declarations(harness: Harness) -> None:
    harness.declare(members=["a", "b"])
    harness.put("m")
    harness.declare(members=["b", "c"], replace=False)
    harness.declare(members=["d"])
    assert harness.claim(members="abc") is None
    assert harness.claim(members="bcd") is None
    assert names(harness.take(members="abcd")) == ["m"]


@pytest.mark.parametrize("replace", [True, False])
def test_a_task_leaves_an_order_that_has_no_messages(harness: Harness, replace: bool) -> None:
    harness.declare(members=["a", "b"])
    harness.put("m")
    harness.settle(harness.take(members="ab"))
    harness.declare(members=["b"], replace=replace)
    harness.put("n")
    assert names(harness.take(members="b")) == ["n"]


def test_a_declared_group_is_counted(harness: Harness) -> None:
    harness.declare()
    assert [counts.group for counts in harness.all_counts()] == [TASK]


def test_a_put_makes_its_task_a_member_again(harness: Harness) -> None:
    harness.declare(members=["a", "b"])
    harness.declare(members=["a"])
    harness.run(harness.broker.put([Put(TASK, [b"m"], member="b")]))
    assert harness.claim(members="a") is None
    assert harness.claim(members="ab") is not None
