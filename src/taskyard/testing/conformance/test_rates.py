"""Rate limits of queues, tasks and shards."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from taskyard.brokers.base import Back, Claim, Dead, Group, Put, Retried
from taskyard.brokers.lane import Gate
from taskyard.brokers.rate import UNLIMITED, Limited, Limits, Rate, Scope
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, body, deliveries, micros, names

SAME_QUEUE = Group(TASK.queue, "another task")
OTHER = Group("other queue", TASK.name)
BOTH = [TASK, SAME_QUEUE]
OF_TASK = Limited(TASK.queue, TASK.name)
OF_SHARDS = Limited(TASK.queue, TASK.name, shards=True)
OF_QUEUE = Limited(TASK.queue)
SLOW = Rate(1, micros(1), 1)
"""One a second."""
BURST = Rate(1, micros(1), 3)
"""One a second, and three at once."""
SCOPES = pytest.mark.parametrize("limited", [OF_TASK, OF_SHARDS, OF_QUEUE], ids=lambda it: it.scope)


def ids(count: int) -> list[str]:
    return [f"m{index:04}" for index in range(count)]


def claim_all(harness: Harness, messages: int = 1, **want: Any) -> list[Claim]:
    """Claim until nothing more is given, without settling."""
    claims = []
    while (claim := harness.claim(messages, **want)) is not None:
        claims.append(claim)
    return claims


def wait_for(harness: Harness, **want: Any) -> float:
    """For how many seconds a worker that gets nothing may sleep."""
    step = harness.step([], harness.want(**want))
    assert step.claims == []
    return (step.next_at - step.now) / 1e6 if step.next_at else 0.0


# What a limit is


@SCOPES
def test_so_many_at_once_then_one_after_the_other(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, BURST)
    harness.put(*ids(6), shard="s")
    assert len(claim_all(harness)) == 3
    harness.clock.advance(0.999999)
    assert harness.claim() is None
    harness.clock.advance(0.000001)
    assert names(harness.claim()) == ["m0003"]
    assert harness.claim() is None
    harness.clock.advance(2)
    assert [names(claim) for claim in claim_all(harness)] == [["m0004"], ["m0005"]]


@SCOPES
def test_a_worker_sleeps_until_the_next_token(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, Rate(2, micros(5), 1))
    harness.put("a", "b", shard="s")
    harness.settle(harness.take())
    assert wait_for(harness) == 2.5
    harness.clock.advance(1)
    assert wait_for(harness) == 1.5
    harness.clock.advance(1.5)
    assert harness.work_off() == ["b"]
    assert wait_for(harness) == 0, "nothing is left to wait for"


@SCOPES
def test_a_claim_takes_no_more_messages_than_there_are_tokens(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, BURST)
    harness.put(*ids(10), shard="s")
    assert names(harness.take(10)) == ids(3)
    harness.clock.advance(2.5)
    assert names(harness.take(10)) == ids(5)[3:]
    assert harness.claim(10) is None


@SCOPES
def test_a_pause_saves_no_more_than_the_burst(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, BURST)
    harness.put(*ids(10), shard="s")
    harness.clock.advance(1000)
    assert harness.work_off(10) == ids(3)
    harness.clock.advance(1000)
    assert len(harness.take(10)) == 3


@SCOPES
def test_many_workers_never_exceed_the_limit(harness: Harness, limited: Limited) -> None:
    rate = Rate(7, micros(3), 4)
    harness.set_rate(limited, rate)
    harness.put(*ids(200), shard="s")
    begun, started = harness.clock.now, []
    for turn in range(60):
        claims = harness.claims(1 + turn % 3, claims=1 + turn % 4, owner=f"worker {turn % 5}")
        started += [harness.clock.now] * sum(map(len, claims))
        for claim in claims[turn % 2 :]:
            harness.settle(claim)
        harness.clock.advance((turn % 7) / 10)
    for first, at in enumerate(started):
        for last in range(first, len(started)):
            assert last - first + 1 <= rate.burst + 7 * (started[last] - at) / micros(3)
    assert len(started) >= 7 * (harness.clock.now - begun) / micros(3) - 4, "nor falls behind"


@SCOPES
def test_a_limited_message_holds_no_worker(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", shard="s", priority=-5)
    harness.put("c", "d", group=OTHER)
    assert sorted(harness.work_off(1, groups=[TASK, OTHER])) == ["a", "c", "d"]
    assert harness.counts().running == 0
    assert harness.counts().waiting == 1


# What each is about


def test_the_limit_of_a_task_leaves_others_alone(harness: Harness) -> None:
    harness.set_rate(OF_TASK, SLOW)
    harness.put("a", "b", shard="s", priority=-5)
    harness.put("c", shard="t")
    harness.put("d", "e", group=SAME_QUEUE)
    assert sorted(harness.work_off(1, groups=BOTH)) == ["a", "d", "e"]


def test_the_limit_of_a_queue_is_that_of_all_its_tasks(harness: Harness) -> None:
    harness.set_rate(OF_QUEUE, BURST)
    harness.put("a", "b", "c", "d")
    harness.put("e", "f", group=SAME_QUEUE)
    harness.put("g", "h", group=OTHER)
    done = harness.work_off(2, groups=[*BOTH, OTHER])
    assert sorted(done) == ["a", "b", "e", "g", "h"] or sorted(done) == ["a", "b", "c", "g", "h"]
    harness.clock.advance(1)
    assert len(harness.work_off(2, groups=BOTH)) == 1


def test_the_limit_of_shards_is_that_of_each(harness: Harness) -> None:
    harness.set_rate(OF_SHARDS, SLOW)
    harness.put("a1", "a2", shard="a", priority=-5)
    harness.put("b1", "b2", shard="b")
    harness.put("c1", shard="c")
    assert harness.work_off() == ["a1", "b1", "c1"]
    harness.clock.advance(1)
    assert harness.work_off() == ["a2", "b2"]


def test_the_strictest_limit_holds(harness: Harness) -> None:
    harness.set_rate(OF_QUEUE, Rate(10, micros(1), 5))
    harness.set_rate(OF_TASK, Rate(10, micros(1), 4))
    harness.set_rate(OF_SHARDS, Rate(10, micros(1), 3))
    harness.put(*ids(10), shard="s")
    harness.put(*[f"t{index}" for index in range(10)], shard="t")
    assert len(harness.take(10, groups=[TASK])) == 4
    harness.put("x", "y", group=SAME_QUEUE)
    assert len(harness.take(10, groups=[SAME_QUEUE])) == 1


def test_what_is_in_no_shard_is_limited_like_a_shard(harness: Harness) -> None:
    harness.set_rate(OF_SHARDS, SLOW)
    harness.put("a", "b")
    assert harness.work_off() == ["a"]
    assert wait_for(harness) == 1
    harness.clock.advance(1)
    assert harness.work_off() == ["b"]


def test_an_emptied_shard_keeps_its_limit(harness: Harness) -> None:
    harness.set_rate(OF_SHARDS, SLOW)
    harness.put("a", shard="s")
    assert harness.work_off() == ["a"]
    assert harness.counts().lanes == 0
    harness.put("b", shard="s")
    assert wait_for(harness) == 1
    harness.clock.advance(1)
    assert harness.work_off() == ["b"]


# With what else there is


@SCOPES
def test_a_retry_takes_a_token_again(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", shard="s")
    harness.settle(harness.take(), every=Retried(micros(0.25)))
    harness.clock.advance(0.5)
    assert harness.claim() is None
    harness.clock.advance(0.5)
    assert names(harness.take()) == ["b"]
    harness.clock.advance(1)
    assert names(harness.take()) == ["a"]


@SCOPES
def test_ordered_shards_keep_their_order(harness: Harness, limited: Limited) -> None:
    harness.declare(concurrency=1)
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", "c", shard="s")
    first = harness.take()
    harness.settle(first, every=Retried(micros(0.1)))
    for expected in ("a", "b", "c"):
        harness.clock.advance(1)
        claim = harness.take(5)
        assert names(claim) == [expected]
        assert harness.claim() is None
        harness.settle(claim)


@SCOPES
def test_a_shard_that_is_held_gets_no_tokens_in_vain(harness: Harness, limited: Limited) -> None:
    harness.declare(concurrency=1)
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", shard="s")
    claim = harness.take(1)
    harness.clock.advance(10)
    assert harness.claim() is None
    assert wait_for(harness) == 0
    harness.settle(claim)
    assert names(harness.take(5)) == ["b"]


@SCOPES
def test_batches_get_smaller(harness: Harness, limited: Limited) -> None:
    harness.declare(size=4, within=60)
    harness.set_rate(limited, BURST)
    harness.put(*ids(8), shard="s")
    assert len(harness.take(4)) == 3
    assert harness.claim(4) is None
    harness.clock.advance(2)
    assert len(harness.take(4)) == 2


def test_a_batch_that_fills_waits_for_its_time_not_for_tokens(harness: Harness) -> None:
    harness.declare(size=3, within=10)
    harness.set_rate(OF_SHARDS, SLOW)
    harness.put(*ids(3), shard="s")
    assert names(harness.take(3)) == ids(1)
    assert wait_for(harness) == 1
    harness.clock.advance(1)
    assert wait_for(harness) == 9, "its oldest message is not old enough"
    harness.clock.advance(9)
    assert len(harness.take(3)) == 1


@SCOPES
def test_draining_does_not_pass_a_limit(harness: Harness, limited: Limited) -> None:
    harness.declare(size=10, within=60)
    harness.set_rate(limited, SLOW)
    harness.put(*ids(3), shard="s")
    assert names(harness.take(10, drain=True)) == ids(1)
    assert harness.claim(10, drain=True) is None
    assert wait_for(harness, drain=True) == 1
    harness.run(harness.broker.set_gate(TASK.queue, Gate.DRAINING))
    assert harness.claim(10) is None
    harness.clock.advance(1)
    assert names(harness.take(10)) == ["m0001"]


@SCOPES
def test_a_paused_queue_is_no_reason_to_wake(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", shard="s")
    harness.settle(harness.take())
    harness.run(harness.broker.set_gate(TASK.queue, Gate.PAUSED))
    harness.clock.advance(1)
    assert harness.claim() is None
    harness.run(harness.broker.set_gate(TASK.queue, Gate.OPEN))
    assert harness.work_off() == ["b"]


@SCOPES
def test_a_parked_shard_keeps_its_limit(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", shard="s")
    harness.settle(harness.take(), every=Back(started=True, park=True))
    harness.clock.advance(0.5)
    assert harness.release("s")
    assert wait_for(harness) == 0.5
    harness.clock.advance(0.5)
    assert harness.work_off() == ["a"]


def test_a_parked_shard_that_is_empty_keeps_its_limit(harness: Harness) -> None:
    harness.set_rate(OF_SHARDS, SLOW)
    harness.put("a", shard="s")
    assert harness.work_off() == ["a"]
    harness.run(harness.broker.park(TASK, "s"))
    assert harness.release("s")
    harness.put("b", shard="s")
    assert wait_for(harness) == 1


@SCOPES
def test_what_becomes_due_takes_a_token(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", shard="s")
    harness.put("b", "c", shard="s", delay=0.5)
    assert harness.work_off() == ["a"]
    assert wait_for(harness) == 0.5
    harness.clock.advance(0.5)
    assert wait_for(harness) == 0.5
    harness.clock.advance(0.5)
    assert harness.work_off() == ["b"]


@SCOPES
def test_dead_letters_that_are_retried_take_tokens(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", shard="s")
    harness.settle(harness.take(), every=Dead(Failure("error")))
    harness.retry_dead()
    assert wait_for(harness) == 1
    harness.clock.advance(1)
    assert harness.work_off() == ["a"]


@SCOPES
def test_a_lost_claim_may_have_run(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, Rate(1, micros(10), 1))
    harness.put("a", shard="s")
    harness.take(lease=1)
    harness.clock.advance(2)
    assert wait_for(harness) == 8


@SCOPES
def test_the_lower_number_goes_first(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", shard="s", priority=5)
    harness.put("c", shard="s", priority=-5)
    for expected in ("c", "a", "b"):
        assert harness.work_off() == [expected]
        harness.clock.advance(1)


# What was not started


@SCOPES
def test_what_comes_back_unstarted_brings_its_token_back(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, BURST)
    harness.put(*ids(5), shard="s")
    claim = harness.take(3)
    harness.clock.advance(0.5)
    harness.settle(claim, {"m0000": Back(started=True), "m0001": Back(), "m0002": Back()})
    assert len(harness.take(5)) == 2
    assert harness.claim() is None


@SCOPES
def test_what_comes_back_late_brings_no_token_beyond_the_limit(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", "c", shard="s")
    first = harness.take()
    harness.clock.advance(1)
    harness.take()
    harness.settle(first, every=Back())
    assert harness.claim() is None, "a second message of this second"


@pytest.mark.parametrize("limited", [OF_TASK, OF_QUEUE], ids=lambda it: it.scope)
def test_what_comes_back_of_several_shards_brings_no_token_beyond_the_limit(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, Rate(1, micros(1), 2))
    for shard in "stuv":
        harness.put(shard, shard=shard)
    first = harness.take(2)
    harness.clock.advance(1)
    assert len(claim_all(harness)) == 1
    harness.settle(first, every=Back())
    assert len(claim_all(harness)) == 1, "a third message of this second"


# What was not started, and a limit that was changed meanwhile


FAST = Rate(1000, micros(1), 10)
TEN = Rate(1, micros(1), 10)
"""One a second, and ten at once."""


@SCOPES
@pytest.mark.parametrize("step_back", [0, 1000])
def test_what_comes_back_brings_no_token_to_a_limit_that_was_changed(
    harness: Harness, limited: Limited, step_back: int
) -> None:
    harness.set_rate(limited, FAST)
    harness.put(*ids(60), shard="x")
    old = harness.take(10)
    harness.clock.set_back(step_back)
    harness.set_rate(limited, TEN)
    harness.clock.advance(0.02)
    claim_all(harness, 100)
    harness.settle(old, every=Back())
    assert harness.claim(100) is None, "more than ten at once"


@pytest.mark.parametrize("before", [OF_TASK, OF_SHARDS], ids=lambda it: it.scope)
def test_what_comes_back_brings_no_token_to_a_limit_that_is_new(
    harness: Harness, before: Limited
) -> None:
    harness.set_rate(before, Rate(100, micros(1), 100))
    harness.put(*ids(60), shard="x")
    old = harness.take(10)
    harness.set_rate(OF_QUEUE, TEN)
    assert len(harness.take(100)) == 10
    harness.settle(old, every=Back())
    assert harness.claim(100) is None, "more than ten at once"


@pytest.mark.parametrize("shards", [False, True], ids=["task", "shard"])
def test_what_comes_back_brings_no_token_to_a_limit_that_is_declared_anew(
    harness: Harness, shards: bool
) -> None:
    def declare(rate: Rate) -> None:
        harness.declare(rate=None if shards else rate, shard_rate=rate if shards else None)

    declare(FAST)
    harness.put(*ids(60), shard="x")
    old = harness.take(10)
    declare(TEN)
    harness.clock.advance(0.02)
    claim_all(harness, 100)
    harness.settle(old, every=Back())
    assert harness.claim(100) is None, "more than ten at once"


@SCOPES
def test_a_limit_that_was_changed_and_changed_back_is_another_one(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, TEN)
    harness.put(*ids(60), shard="x")
    old = harness.take(10)
    harness.set_rate(limited, FAST)
    harness.set_rate(limited, TEN)
    harness.clock.advance(0.02)
    claim_all(harness, 100)
    harness.settle(old, every=Back())
    assert harness.claim(100) is None, "more than ten at once"


@SCOPES
def test_what_comes_back_brings_its_token_back_where_nothing_changed(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, TEN)
    harness.put(*ids(60), shard="x")
    old = harness.take(10)
    harness.set_rate(limited, TEN)
    harness.declare(size=5)  # another thing
    harness.settle(old, every=Back())
    assert sum(map(len, claim_all(harness, 100))) == 10


# Clocks


@SCOPES
def test_a_clock_that_is_set_back_does_not_block_for_long(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, BURST)
    harness.put(*ids(3), shard="s")
    assert len(harness.take(10)) == 3
    harness.clock.set_back(1000)
    harness.put("a", "b", shard="s")
    assert wait_for(harness) == 1
    harness.clock.advance(1)
    assert len(harness.take(10)) == 1


def test_a_put_corrects_how_long_a_shard_waits_after_the_clock_was_set_back(
    harness: Harness,
) -> None:
    harness.set_rate(OF_SHARDS, BURST)
    harness.put(*ids(5), shard="s")
    assert len(harness.take(10)) == 3
    harness.clock.set_back(1000)
    harness.put("a", shard="s")
    assert wait_for(harness) == 1


# Changing


@SCOPES
def test_a_change_holds_at_once(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, Rate(1, micros(1000), 1))
    harness.put(*ids(9), shard="s")
    assert len(harness.take(9)) == 1
    harness.set_rate(limited, Rate(2, micros(1), 1))
    assert wait_for(harness) <= 0.5
    harness.clock.advance(0.5)
    assert len(harness.take(9)) == 1
    harness.set_rate(limited, UNLIMITED)
    assert len(harness.take(9)) == 7


@SCOPES
def test_a_change_wins_over_what_is_declared(harness: Harness, limited: Limited) -> None:
    def declare(rate: Rate | None) -> None:
        if limited.scope is Scope.QUEUE:
            harness.set_rate(limited, rate, declared=True)
        elif limited.scope is Scope.TASK:
            harness.declare(rate=rate)
        else:
            harness.declare(shard_rate=rate)

    def holds() -> Limits:
        return harness.counts().limits

    harness.put(*ids(9), shard="s")
    declare(SLOW)
    name = str(limited.scope)
    assert getattr(holds(), name) == SLOW
    assert holds().changed == frozenset()
    harness.set_rate(limited, BURST)
    declare(Rate(5, micros(1), 5))
    assert getattr(holds(), name) == BURST
    assert holds().changed == {limited.scope}
    assert len(harness.take(9)) == 3
    harness.set_rate(limited, UNLIMITED)
    assert getattr(holds(), name) is None
    assert holds().changed == {limited.scope}
    harness.set_rate(limited, None)
    assert holds() == msgspec.structs.replace(Limits(), **{name: Rate(5, micros(1), 5)})
    declare(None)
    assert holds() == Limits()
    assert len(harness.take(9)) == 6


def test_a_producer_does_not_replace_a_declared_limit(harness: Harness) -> None:
    harness.declare(rate=SLOW, shard_rate=BURST)
    harness.declare(replace=False)
    assert harness.counts().limits == Limits(None, SLOW, BURST)


def test_a_limit_of_what_is_not_there_yet(harness: Harness) -> None:
    for limited in (OF_TASK, OF_SHARDS, OF_QUEUE):
        harness.set_rate(limited, SLOW)
    harness.put("a", "b", shard="s")
    assert harness.counts().limits == Limits(SLOW, SLOW, SLOW, frozenset(Scope))
    assert harness.work_off() == ["a"]
    harness.set_rate(OF_QUEUE, None)
    harness.put("c", group=SAME_QUEUE)
    assert harness.counts(SAME_QUEUE).limits == Limits()


# Who sleeps


@SCOPES
def test_a_sleeper_is_woken_by_a_change(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, Rate(1, micros(1000), 1))
    harness.put("a", "b", shard="s")
    harness.settle(harness.take())
    sleeper = harness.idle_worker()
    harness.set_rate(limited, UNLIMITED)
    assert sleeper.is_woken()


@SCOPES
def test_one_sleeper_is_told_when_the_next_token_comes(harness: Harness, limited: Limited) -> None:
    harness.set_rate(limited, SLOW)
    harness.put("a", "b", shard="s")
    idle, other = harness.sleeper(), harness.sleeper()
    worker = harness.take()
    assert harness.claim(listener=idle) is None
    harness.settle(worker)
    assert idle.sleeps_on(), "it wakes by itself"
    assert harness.claim(listener=other) is None
    harness.put("c", shard="s")
    assert idle.sleeps_on()
    assert other.sleeps_on()


@pytest.mark.parametrize("limited", [OF_TASK, OF_QUEUE], ids=lambda it: it.scope)
def test_somebody_is_woken_for_a_token_when_nobody_knows_of_it(
    harness: Harness, limited: Limited
) -> None:
    harness.set_rate(limited, SLOW)
    idle = harness.idle_worker()
    harness.put("a", "b", shard="s")
    assert idle.is_woken()
    idle = harness.idle_worker(groups=[OTHER, SAME_QUEUE])
    second = harness.sleeper()
    harness.take(listener=second)
    other = harness.sleeper()
    assert wait_for(harness, listener=other) == 1
    assert idle.sleeps_on()
    harness.put("c", shard="t")
    assert other.sleeps_on(), "it wakes in time"


def test_whoever_takes_the_last_token_leaves_the_next_to_a_sleeper(harness: Harness) -> None:
    harness.set_rate(OF_TASK, SLOW)
    idle = harness.idle_worker()
    harness.put_all(Put(TASK, [body("a"), body("b")], "s"))
    assert idle.is_woken()
    sleeper = harness.idle_worker(groups=[OTHER])
    assert harness.claim(groups=[TASK, OTHER], listener=sleeper) is not None
    another = harness.sleeper()
    assert wait_for(harness, listener=another) == 1


def test_a_woken_worker_claims_what_it_was_woken_for(harness: Harness) -> None:
    harness.set_rate(OF_TASK, BURST)
    harness.put(*ids(4))
    assert [len(deliveries(claim)) for claim in claim_all(harness, 2)] == [2, 1]
    harness.clock.advance(1)
    assert names(harness.take(2)) == ["m0003"]
