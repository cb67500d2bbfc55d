"""Batches that go before one of their messages would miss its deadline, or with a minimum."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Claim, Dead, Group, Retried
from taskyard.brokers.lane import Flush
from taskyard.brokers.unique import Keys, Mode
from taskyard.message import Failure
from taskyard.testing.conformance.harness import Harness, deliveries, micros, names

OTHER = Group("orders", "mail")


@pytest.fixture
def leading(harness: Harness) -> Harness:
    """A broker whose messages wait for batches of three, ten seconds at most, a second's lead."""
    harness.declare(size=3, within=10, lead=1)
    return harness


def reasons(claim: Claim) -> list[Flush | None]:
    return [lane.flush for lane in claim.lanes]


def seconds_to_wait(harness: Harness) -> float:
    """How long a worker sleeps at most; while the clock stands still, sequences are ahead of it."""
    return round((harness.next_at() - harness.clock.now) / 1e6, 3)


def test_a_batch_goes_before_a_message_misses_its_deadline(leading: Harness) -> None:
    leading.put("a")
    leading.put("b", expires=5)
    leading.clock.advance(3.9)
    assert leading.claim(3) is None
    leading.clock.advance(0.101)
    claim = leading.take(3)
    assert (names(claim), reasons(claim)) == (["a", "b"], [Flush.DEADLINE])
    assert leading.flushed() == {"deadline": 1}


def test_the_broker_says_when_a_batch_must_go(leading: Harness) -> None:
    leading.put("a", expires=7)
    assert seconds_to_wait(leading) == 6
    leading.put("b", expires=4)
    assert seconds_to_wait(leading) == 3
    leading.put("c", shard="other")
    assert seconds_to_wait(leading) == 3


def test_a_sleeper_is_woken_for_a_deadline(leading: Harness) -> None:
    leading.put("a")
    sleeper = leading.idle_worker(3)
    leading.put("b", expires=4)
    assert sleeper.is_woken()


def test_the_age_of_a_batch_goes_first(leading: Harness) -> None:
    leading.put("a", expires=60)
    assert seconds_to_wait(leading) == 10
    leading.clock.advance(10)
    assert reasons(leading.take(3)) == [Flush.AGE]


def test_a_deadline_within_the_lead_flushes_at_once(leading: Harness) -> None:
    leading.put("a", expires=0.5)
    assert reasons(leading.take(3)) == [Flush.DEADLINE]


def test_a_flush_by_deadline_takes_what_fits(leading: Harness) -> None:
    leading.put("a", "b", "c", "d", expires=4)
    assert names(leading.take(3)) == ["a", "b", "c"]
    leading.clock.advance(3)
    assert reasons(leading.take(3)) == [Flush.DEADLINE]


def test_an_empty_lane_forgets_its_deadline(leading: Harness) -> None:
    leading.put("a", "b", "c", expires=4)
    leading.settle(leading.take(3))
    leading.put("d")
    assert seconds_to_wait(leading) == 10


def test_a_message_takes_its_time_along(leading: Harness) -> None:
    leading.put("a", expires=4)
    leading.put("b", shard="1", delay=1, expires=5)
    leading.put("c", shard="2")
    leading.clock.advance(1)
    claim = leading.take(9, drain=True)
    times = dict(zip(names(claim), [one.expires for one in deliveries(claim)], strict=True))
    assert times == {"a": micros(4), "b": micros(5), "c": 0}


def test_a_delayed_message_counts_from_when_it_is_due(leading: Harness) -> None:
    leading.put("a", delay=20, expires=4)
    leading.clock.advance(20)
    assert leading.claim(3) is None
    assert seconds_to_wait(leading) == 3
    leading.clock.advance(3)
    assert reasons(leading.take(3)) == [Flush.DEADLINE]


def test_a_debounced_message_counts_from_when_it_is_due(leading: Harness) -> None:
    leading.put_unique(Mode.DEBOUNCE, "a", span=20, longest=60, expires=6)
    leading.clock.advance(1)
    leading.put_unique(Mode.DEBOUNCE, "b", span=20, longest=60, expires=4)
    leading.clock.advance(20)
    assert leading.claim(3) is None
    assert seconds_to_wait(leading) == 3


def test_a_message_with_a_key_has_its_deadline(leading: Harness) -> None:
    leading.put_unique(Mode.DONE, "a", expires=4)
    assert seconds_to_wait(leading) == 3


def test_a_retried_message_counts_from_when_it_is_due(leading: Harness) -> None:
    leading.put("a", "b", "c", expires=4)
    leading.settle(leading.take(3), {"b": Retried(micros(20))})
    leading.clock.advance(20)
    assert leading.claim(3) is None
    assert seconds_to_wait(leading) == 3


def test_a_message_that_was_given_back_keeps_its_deadline(leading: Harness) -> None:
    leading.put("a", "b", "c", expires=4)
    claim = leading.take(3)
    leading.clock.advance(1)
    leading.settle(claim, {"b": Back()})
    assert seconds_to_wait(leading) == 2


def test_a_message_that_was_lost_keeps_its_deadline(leading: Harness) -> None:
    leading.put("a", "b", "c", expires=9)
    leading.take(3, lease=2)
    leading.clock.advance(2.5)
    leading.reap()
    leading.declare(size=5, within=10, lead=1)
    assert seconds_to_wait(leading) == 5.5


def test_a_dead_letter_that_is_retried_has_no_deadline(leading: Harness) -> None:
    leading.put("a", "b", "c", expires=4)
    leading.settle(leading.take(3), {"b": Dead(Failure("failed"), "b")})
    leading.retry_dead()
    assert seconds_to_wait(leading) == 10


def test_one_call_may_put_both(leading: Harness) -> None:
    leading.put("a", shard="1")
    leading.put("b", shard="2", expires=4)
    leading.clock.advance(3.001)
    assert names(leading.take(3)) == ["b"]
    leading.clock.advance(7)
    assert names(leading.take(3)) == ["a"]


def test_a_head_that_backs_off_is_not_hurried(harness: Harness) -> None:
    harness.declare(size=2, within=10, lead=1, concurrency=1)
    harness.put("a", "b", expires=4)
    harness.settle(harness.take(2), {"a": Retried(micros(20)), "b": Back()})
    assert seconds_to_wait(harness) == 20


def test_a_lead_that_is_declared_anew_holds_at_once(leading: Harness) -> None:
    leading.put("a", expires=6)
    leading.declare(size=3, within=10, lead=4)
    assert seconds_to_wait(leading) == 2
    leading.declare(size=3, within=10)
    assert seconds_to_wait(leading) == 6


def test_what_does_not_wait_has_no_deadline(leading: Harness) -> None:
    leading.declare(OTHER, size=3)
    leading.put("a", group=OTHER, expires=4)
    claim = leading.take(3, groups=[OTHER])
    assert (reasons(claim), deliveries(claim)[0].expires) == ([None], micros(4))


def test_a_deadline_survives_that_a_message_is_cancelled(leading: Harness) -> None:
    leading.put("a", expires=4, keep=60)
    leading.put("b")
    leading.run(leading.broker.cancel("a"))
    assert seconds_to_wait(leading) == 3, "a bound: to look too early does no harm"
    leading.clock.advance(3)
    assert leading.work_off(3) == ["b"]


def test_a_message_that_is_kept_back_by_a_key_has_no_deadline(leading: Harness) -> None:
    leading.put("a", unique=Keys(Mode.DONE, ["key"]))
    leading.put("b", expires=4, unique=Keys(Mode.DONE, ["key"]))
    assert seconds_to_wait(leading) == 10


# A minimum


@pytest.fixture
def eager(harness: Harness) -> Harness:
    """A broker whose batches of five are ready when they hold three, or are ten seconds old."""
    harness.declare(size=5, within=10, minimum=3)
    return harness


def test_a_batch_is_ready_with_its_minimum(eager: Harness) -> None:
    eager.put("a", "b")
    assert eager.claim(5) is None
    eager.put("c", "d")
    claim = eager.take(5)
    assert (names(claim), reasons(claim)) == (["a", "b", "c", "d"], [Flush.SIZE])


def test_a_batch_below_its_minimum_goes_by_age(eager: Harness) -> None:
    eager.put("a", "b")
    eager.clock.advance(10)
    assert reasons(eager.take(5)) == [Flush.AGE]


def test_a_batch_below_its_minimum_goes_by_deadline_bytes_or_drain(eager: Harness) -> None:
    eager.declare(size=5, within=10, minimum=3, bytes=100)
    eager.put("a", expires=1, shard="1")
    eager.put("b", size=100, shard="2")
    eager.put("c", shard="3")
    eager.clock.advance(1)
    assert sorted(eager.work_off(5, drain=True)) == ["a", "b", "c"]
    assert eager.flushed() == {"deadline": 1, "bytes": 1, "drain": 1}


def test_a_rest_below_the_minimum_may_still_fill(eager: Harness) -> None:
    eager.put("a", "b", "c", "d", "e", "f", "g")
    assert names(eager.take(100)) == ["a", "b", "c", "d", "e"]
    assert eager.claim(100) is None
    eager.put("h")
    assert names(eager.take(100)) == ["f", "g", "h"]


def test_a_rest_that_is_enough_goes_too(eager: Harness) -> None:
    eager.put("a", "b", "c", "d", "e", "f", "g", "h")
    assert len(eager.take(100)) == 8
