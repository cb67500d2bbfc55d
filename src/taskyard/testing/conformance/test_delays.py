"""Messages that wait for their time."""

from __future__ import annotations

from taskyard.brokers.base import Back, Retried
from taskyard.testing.conformance.harness import Harness, deliveries, micros, names


def test_a_delayed_message_is_never_early(harness: Harness) -> None:
    harness.put("a", delay=10)
    for _ in range(10):
        assert harness.claim() is None
        harness.clock.advance(0.999999)
    assert harness.claim() is None, "ten microseconds too early"
    harness.clock.advance(0.00001)
    assert names(harness.take()) == ["a"]


def test_a_message_may_be_due_at_an_instant(harness: Harness) -> None:
    due = harness.clock.now + micros(10)
    harness.put("a", due=due)
    assert harness.next_at() == due
    harness.clock.advance(9.999999)
    assert harness.claim() is None
    harness.clock.advance(0.000001)
    assert names(harness.take()) == ["a"]


def test_an_instant_that_has_passed_is_no_delay(harness: Harness) -> None:
    harness.put("a", due=harness.clock.now - 1)
    harness.put("b", due=harness.clock.now)
    harness.put("c", due=1)
    assert harness.work_off() == ["a", "b", "c"]


def test_a_delayed_message_joins_the_tail(harness: Harness) -> None:
    harness.put("a", delay=5)
    harness.put("b")
    harness.clock.advance(1)
    harness.put("c")
    harness.clock.advance(4)
    claims = harness.claims(1, claims=3)
    assert [names(claim) for claim in claims] == [["b"], ["c"], ["a"]]
    (message,) = deliveries(claims[-1])
    assert message.sequence >= harness.clock.now
    assert message.since == message.sequence, "its age begins when it enters its lane"


def test_delayed_messages_enter_in_the_order_of_their_times(harness: Harness) -> None:
    for delay in (3, 1, 2, 1):
        harness.put(f"in {delay}", delay=delay)
    harness.clock.advance(10)
    assert harness.work_off() == ["in 1", "in 1", "in 2", "in 3"]


def test_a_delayed_message_does_not_stop_its_ordered_lane(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="s", delay=3600)
    harness.put("b", shard="s")
    assert harness.work_off() == ["b"]


def test_a_delayed_message_enters_a_lane_that_is_held(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("b", shard="s", delay=5)
    harness.put("a", shard="s")
    claim = harness.take()
    harness.clock.advance(6)
    assert harness.claim() is None
    harness.settle(claim)
    assert harness.work_off() == ["b"]


def test_a_retry_is_never_early(harness: Harness) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Retried(micros(2)))
    assert harness.next_at() == harness.clock.now + micros(2)
    harness.clock.advance(1.999999)
    assert harness.claim() is None
    harness.clock.advance(0.000001)
    (message,) = deliveries(harness.take())
    assert (message.attempts, message.deliveries) == (1, 1)


def test_a_retry_without_delay_comes_at_once(harness: Harness) -> None:
    harness.put("a", "b")
    harness.settle(harness.take(), every=Retried(0))
    assert harness.work_off(1) == ["b", "a"]


def test_attempts_add_up(harness: Harness) -> None:
    harness.put("a")
    for attempt in range(5):
        (message,) = deliveries(claim := harness.take())
        assert (message.attempts, message.deliveries) == (attempt, attempt)
        harness.settle(claim, every=Retried(1))
        harness.clock.advance(1)
    (message,) = deliveries(claim := harness.take())
    harness.settle(claim, every=Back(started=True))
    (message,) = deliveries(harness.take())
    assert (message.attempts, message.deliveries) == (5, 6)


def test_the_broker_says_what_comes_next(harness: Harness) -> None:
    begin = harness.clock.now
    assert harness.next_at() == 0
    harness.put("a", delay=20)
    assert harness.next_at() == begin + micros(20)
    harness.put("b", delay=10)
    assert harness.next_at() == begin + micros(10)
    harness.clock.advance(10)
    assert harness.work_off() == ["b"]
    assert harness.next_at() == begin + micros(20)
    harness.clock.advance(10)
    assert harness.work_off() == ["a"]
    assert harness.next_at() == 0


def test_a_blocked_head_is_what_comes_next(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="s")
    harness.settle(harness.take(), every=Retried(micros(7)))
    assert harness.next_at() == harness.clock.now + micros(7)


def test_a_step_that_finds_nothing_says_what_comes_next(harness: Harness) -> None:
    harness.put("a", delay=10)
    step = harness.step([], harness.want())
    assert step.next_at == step.now + micros(10)


def test_a_clock_set_back_makes_nothing_early(harness: Harness) -> None:
    harness.put("a", delay=10)
    harness.clock.set_back(3600)
    harness.clock.advance(3609)
    assert harness.claim() is None
    harness.clock.advance(1)
    assert names(harness.take()) == ["a"]


def test_a_clock_set_forward_makes_things_due(harness: Harness) -> None:
    harness.put("a", delay=3000)
    harness.clock.advance(3600)
    assert names(harness.take()) == ["a"]


def test_a_crowd_that_is_due_at_once_comes_in_order(harness: Harness) -> None:
    expected = [f"m{index}" for index in range(2500)]
    harness.put(*expected, delay=10)
    harness.clock.advance(10)
    seen: list[str] = []
    for _ in range(100):
        step = harness.step([], harness.want(1000))
        for claim in step.claims:
            seen += names(claim)
        if not step.claims:
            break
        # Whatever a step leaves behind for the next one, it does not keep it secret.
        assert len(seen) == len(expected) or step.next_at > 0 or harness.counts().waiting
    assert seen == expected
