"""Leases, and what happens to messages whose worker is lost."""

from __future__ import annotations

from collections import Counter

import pytest

from taskyard.brokers.base import Back, Group, Put
from taskyard.brokers.lane import cap_after_loss
from taskyard.message import Reason
from taskyard.testing.conformance.harness import TASK, Harness, body, deliveries, micros, names


def test_a_lease_runs_out(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take(lease=30)
    harness.clock.advance(29.9)
    assert harness.reap() == 0
    assert harness.claim() is None
    harness.clock.advance(0.2)
    assert harness.reap() == 1
    assert names(harness.take()) == ["a"]
    assert not harness.settle(claim)


def test_a_lease_is_renewed(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take(lease=30)
    for _ in range(10):
        harness.clock.advance(20)
        assert harness.extend(claim, lease=30) == []
        assert harness.reap() == 0
    assert harness.settle(claim)


def test_renewing_reports_what_is_lost(harness: Harness) -> None:
    harness.put("a", "b", "c")
    first, second, third = harness.claims(1, claims=3)
    harness.settle(second)
    assert harness.extend(first, second, third) == [second.token]


def test_a_lease_that_was_renewed_runs_out_later(harness: Harness) -> None:
    harness.put("a")
    harness.extend(harness.take(lease=30), lease=60)
    harness.clock.advance(59)
    assert harness.reap() == 0
    harness.clock.advance(2)
    assert harness.reap() == 1


def test_a_claim_that_nobody_took_back_yet_can_be_settled_and_renewed(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take(lease=30)
    harness.clock.advance(31)
    assert harness.extend(claim, lease=30) == []
    harness.clock.advance(31)
    assert harness.settle(claim)


def test_a_step_takes_back_lost_claims_by_itself(harness: Harness) -> None:
    harness.put("a")
    harness.take(lease=30)
    harness.clock.advance(31)
    assert names(harness.take()) == ["a"]


def test_lost_claims_come_back_to_workers_that_only_step(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(100)))
    assert len(harness.claims(1, claims=100)) == 100
    harness.clock.advance(31)
    seen: set[str] = set()
    for _ in range(100):
        seen.update(name for claim in harness.claims(1, claims=10) for name in names(claim))
    assert len(seen) == 100


def test_the_claims_of_a_dead_worker_come_back_at_once(harness: Harness) -> None:
    harness.put("a", "b", "c")
    for owner in ("dead", "alive", "dead too"):
        harness.take(owner=owner)
    assert harness.reap("dead", "dead too") == 2
    assert harness.work_off(1) == ["a", "c"]
    assert harness.counts().running == 1


def test_taking_back_has_no_limit(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(50)))
    harness.claims(1, claims=50, owner="dead")
    assert harness.reap("dead") == 50
    assert harness.reap("dead") == 0


def test_a_lost_message_remembers_it(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(10)))
    before = deliveries(harness.take(10, owner="dead"))
    harness.reap("dead")
    after = deliveries(harness.take(10))
    assert after
    for old, new in zip(before, after, strict=False):
        assert (new.losses, new.deliveries, new.attempts) == (1, 1, 0)
        assert new.cap == cap_after_loss(10)
        assert (new.sequence, new.since, new.body) == (old.sequence, old.since, old.body)


def test_lost_messages_come_back_in_ever_smaller_company(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(100)))
    sizes = []
    for _ in range(5):
        claim = harness.take(100, owner="dead")
        sizes.append(len(claim))
        harness.reap("dead")
    assert sizes == [100, 25, 7, 2, 1]


def test_messages_of_different_losses_are_never_together(harness: Harness) -> None:
    harness.put("a", "b", "c", "d")
    harness.take(4, owner="dead")
    harness.reap("dead")
    harness.put("e", "f")
    assert harness.work_alone(100) == [["a"], ["b"], ["c"], ["d"], ["e", "f"]]


def test_nor_when_they_come_from_several_lanes(harness: Harness) -> None:
    harness.put("lost1", shard="1")
    harness.put("lost2", shard="2")
    for _ in range(2):
        harness.take(1, owner="dead")
    harness.put("new", shard="3")
    harness.reap("dead")
    claims = harness.work_alone(100)
    assert ["new"] in claims
    assert sorted(name for claim in claims for name in claim) == ["lost1", "lost2", "new"]


def test_lost_messages_of_several_lanes_keep_as_much_company(harness: Harness) -> None:
    for index in range(16):
        harness.put(f"m{index}", shard=str(index))
    harness.take(16, owner="dead")
    harness.reap("dead")
    assert [len(claim) for claim in harness.claims(16, claims=4)] == [4, 4, 4, 4]


def test_lanes_come_back_in_the_order_in_which_they_were_claimed(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a1", "a2", shard="a")
    claim = harness.take()
    harness.put("b1", shard="b")
    harness.settle(claim)
    assert names(harness.take(2, owner="dead")) == ["b1", "a2"]
    harness.reap("dead")
    assert harness.work_off(1) == ["b1", "a2"]


def test_company_stays_small_through_give_backs(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(8)))
    harness.take(8, owner="dead")
    harness.reap("dead")
    claim = harness.take(8)
    assert len(claim) == 2
    harness.settle(claim, every=Back(started=True))
    assert len(harness.take(8)) == 2


def test_a_message_dies_of_its_worker_only_alone(harness: Harness) -> None:
    harness.declare(max_deliveries=2)
    harness.put("a", "b", "c", "d", "e")
    for _ in range(2):
        assert len(harness.take(5, owner="dead")) > 1
        harness.reap("dead")
    assert harness.dead() == []
    assert len(claim := harness.take(5, owner="dead")) == 1
    assert names(claim) == ["a"]
    harness.reap("dead")
    (letter,) = harness.dead()
    assert (letter.id, letter.failure.reason) == ("a", Reason.WORKER_LOST)


def test_a_lonely_message_gets_all_its_deliveries(harness: Harness) -> None:
    harness.declare(max_deliveries=3)
    harness.put("a", shard="s", priority=2, task="deep", keep=60)
    (message,) = deliveries(harness.take(owner="dead"))
    harness.reap("dead")
    for _ in range(2):
        assert harness.dead() == []
        assert names(harness.take(owner="dead")) == ["a"]
        harness.reap("dead")
    (letter,) = harness.dead()
    assert (letter.group, letter.task, letter.shard, letter.priority) == (TASK, "deep", "s", 2)
    assert (letter.deliveries, letter.attempts, letter.since) == (3, 0, message.since)
    assert harness.state("a") == "dead"
    assert harness.claim() is None


def test_one_delivery_may_be_all_there_is(harness: Harness) -> None:
    harness.declare(max_deliveries=1)
    harness.put("a")
    harness.take(lease=1)
    harness.clock.advance(2)
    assert harness.claim() is None
    assert [letter.id for letter in harness.dead()] == ["a"]


def test_what_cannot_be_read_dies_without_an_id(harness: Harness) -> None:
    harness.declare(max_deliveries=1)
    harness.put_all(Put(TASK, [b"\xc1 no message at all"]))
    harness.take(owner="dead")
    harness.reap("dead")
    (letter,) = harness.dead()
    assert (letter.id, letter.task, letter.body) == ("", TASK.name, b"\xc1 no message at all")


def test_the_last_message_of_a_claim_is_alone(harness: Harness) -> None:
    harness.declare(max_deliveries=1)
    harness.put("a", "b", "c")
    harness.settle(harness.take(3, owner="dead"), keep=["b"])
    harness.reap("dead")
    assert [letter.id for letter in harness.dead()] == ["b"]


@pytest.mark.parametrize(("size", "crashes"), [(100, 6), (500, 7)])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_killer_takes_nobody_with_it(
    harness: Harness, size: int, crashes: int, ordered: bool
) -> None:
    harness.declare(concurrency=int(ordered), max_deliveries=3)
    harness.put(*(f"m{index}" for index in range(size)))
    killer, done, killed = f"m{size // 3}", Counter[str](), 0
    while (claim := harness.claim(size, owner="victim")) is not None:
        if killer in names(claim):
            killed += 1
            harness.reap("victim")
        else:
            done.update(names(claim))
            harness.settle(claim)
    assert [letter.id for letter in harness.dead()] == [killer]
    assert len(done) == size - 1
    assert set(done.values()) == {1}
    assert killed <= crashes


def test_a_killer_in_one_of_many_lanes_takes_nobody_with_it(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put_all(*(Put(TASK, [body(f"m{index}")], str(index)) for index in range(200)))
    done = set()
    while (claim := harness.claim(200, owner="victim")) is not None:
        if "m77" in names(claim):
            harness.reap("victim")
        else:
            done.update(names(claim))
            harness.settle(claim)
    assert [letter.id for letter in harness.dead()] == ["m77"]
    assert len(done) == 199


# Suspects: messages that were lost and singled out


def suspect(harness: Harness, id_: str = "suspect", shard: str = "") -> None:
    """Put a message that was lost once, alone in its claim."""
    harness.put(id_, shard=shard)
    harness.take(owner="dead")
    harness.reap("dead")


def test_a_suspect_is_for_a_worker_that_runs_nothing_else(harness: Harness) -> None:
    suspect(harness)
    step = harness.step([], harness.want(5, claims=3, alone=False))
    assert (step.claims, step.suspects) == ([], True)
    step = harness.step([], harness.want(5, claims=3, alone=True))
    assert [names(claim) for claim in step.claims] == [["suspect"]]
    assert step.claims[0].suspect
    assert not step.suspects


def test_a_suspect_is_the_only_claim_of_its_step(harness: Harness) -> None:
    suspect(harness, shard="1")
    harness.put("innocent", shard="2")
    assert [names(claim) for claim in harness.claims(5, claims=3)] == [["suspect"]]
    assert [names(claim) for claim in harness.claims(5, claims=3)] == [["innocent"]]


def test_a_suspect_hinders_nobody(harness: Harness) -> None:
    suspect(harness, shard="1")
    harness.put("a", shard="2")
    harness.put("b", group=Group("orders", "mail"))
    groups = [TASK, Group("orders", "mail")]
    step = harness.step([], harness.want(5, claims=3, alone=False, groups=groups))
    assert [names(claim) for claim in step.claims] == [["a"], ["b"]]
    assert step.suspects


def test_a_suspect_does_not_follow_another_claim(harness: Harness) -> None:
    harness.put("innocent", shard="1")
    suspect_after = harness.take(owner="dead")
    harness.put("first", shard="2")
    harness.reap("dead")
    assert names(suspect_after) == ["innocent"]
    step = harness.step([], harness.want(1, claims=3))
    assert [names(claim) for claim in step.claims] == [["first"]]
    assert step.suspects


def test_messages_behind_a_suspect_wait_for_it(harness: Harness) -> None:
    harness.declare(concurrency=1)
    suspect(harness, shard="s")
    harness.put("behind", shard="s")
    assert harness.claim(5, alone=False) is None
    assert harness.work_off(5) == ["suspect", "behind"]


def test_a_worker_that_claims_nothing_was_offered_no_suspect(harness: Harness) -> None:
    assert not harness.step([], harness.want(alone=False)).suspects
    harness.put("a")
    assert not harness.step([], harness.want(alone=False)).suspects


def test_nobody_dies_of_its_neighbour(harness: Harness) -> None:
    harness.declare(max_deliveries=2)
    harness.put(*(f"m{index}" for index in range(8)))
    for _ in range(5):  # each alone in its claim, but beside others in one worker
        assert len(harness.claims(1, claims=8, owner="dead", alone=False)) in (0, 8)
        harness.reap("dead")
    assert harness.dead() == []
    assert sorted(harness.work_off(8)) == [f"m{index}" for index in range(8)]


# Clocks


def test_a_clock_set_back_does_not_prolong_a_lease(harness: Harness) -> None:
    harness.put("a")
    harness.take(lease=30)
    harness.clock.set_back(86_400)
    assert harness.reap() == 0
    harness.clock.advance(29)
    assert harness.reap() == 0
    harness.clock.advance(2)
    assert harness.reap() == 1


def test_a_clock_set_back_does_not_end_a_lease(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take(lease=30)
    harness.clock.set_back(86_400)
    assert harness.extend(claim) == []
    assert harness.reap() == 0
    assert harness.settle(claim)


def test_a_clock_set_forward_ends_leases(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take(lease=30)
    harness.clock.advance(86_400)
    assert names(harness.take()) == ["a"]
    assert not harness.settle(claim)
    assert harness.extend(claim) == [claim.token]


def test_deadlines_are_told_in_the_time_of_the_broker(harness: Harness) -> None:
    harness.put("a")
    harness.clock.advance(5)
    step = harness.step([], harness.want(lease=7))
    assert step.claims[0].deadline == step.now + micros(7)


def test_claims_of_several_groups_come_back(harness: Harness) -> None:
    other = Group("orders", "mail")
    harness.put("a")
    harness.put("b", group=other)
    harness.claims(1, groups=[TASK, other], claims=2, owner="dead")
    assert harness.reap("dead") == 2
    assert harness.work_off(groups=[TASK]) == ["a"]
    assert harness.work_off(groups=[other]) == ["b"]
