"""Who is woken, and for what."""

from __future__ import annotations

import threading
import time

import pytest

from taskyard.brokers.base import Back, Dead, Discard, Group, Retried
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, Sleeper, micros, names

OTHER = Group("orders", "mail")
ORDER = Group("orders", "account")
PATIENCE = 10.0


def woken(*sleepers: Sleeper) -> list[Sleeper]:
    """The sleepers that were woken; at least one is expected to be, sooner or later."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := [sleeper for sleeper in sleepers if not sleeper.sleeps_on()]:
            return found
    return []


def all_sleep_on(*sleepers: Sleeper) -> bool:
    return all(sleeper.sleeps_on() for sleeper in sleepers)


def test_a_put_wakes_a_sleeper(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    assert sleeper.sleeps_on()
    harness.put("a")
    assert sleeper.is_woken()


def test_a_wake_up_is_heard_by_a_wait_that_is_going_on(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    heard: list[bool] = []
    waiting = threading.Thread(target=lambda: heard.append(sleeper.is_woken()))
    waiting.start()
    harness.put("a")
    waiting.join(10)
    assert heard == [True]


def test_a_wake_up_is_heard_once(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    harness.put("a")
    assert sleeper.is_woken()
    assert sleeper.sleeps_on()


def test_one_sleeper_is_woken_by_one_message(harness: Harness) -> None:
    sleepers = [harness.idle_worker() for _ in range(3)]
    harness.put("a")
    assert len(woken(*sleepers)) == 1


def test_each_message_may_wake_another(harness: Harness) -> None:
    sleepers = [harness.idle_worker() for _ in range(3)]
    harness.put("a")
    (first,) = woken(*sleepers)
    harness.take(listener=first)
    harness.put("b")
    (second,) = woken(*sleepers)
    assert second is not first


def test_only_who_serves_the_group_is_woken(harness: Harness) -> None:
    sleeper, stranger = harness.idle_worker(), harness.idle_worker(groups=[OTHER])
    harness.put("a")
    assert woken(sleeper, stranger) == [sleeper]


def test_a_sleeper_may_serve_several_groups(harness: Harness) -> None:
    sleeper = harness.idle_worker(groups=[OTHER, TASK])
    harness.put("a")
    assert sleeper.is_woken()


def test_who_knows_not_all_tasks_of_an_order_sleeps_on(harness: Harness) -> None:
    harness.declare(ORDER, members=["credit", "debit"])
    ignorant = harness.idle_worker(groups=[ORDER], members=["credit"])
    knowing = harness.idle_worker(groups=[ORDER], members=["credit", "debit"])
    harness.put("a", group=ORDER)
    assert knowing.is_woken()
    assert ignorant.sleeps_on()


def test_a_delayed_message_that_is_not_due_wakes_who_would_oversleep(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    harness.put("a", delay=60)
    assert sleeper.is_woken()
    step = harness.step([], harness.want(listener=sleeper))
    assert step.next_at == harness.clock.now + micros(60)


def test_a_delayed_message_wakes_nobody_who_wakes_in_time(harness: Harness) -> None:
    harness.put("a", delay=60)
    punctual, other = harness.idle_worker(), harness.idle_worker()
    harness.put("b", delay=90)
    assert all_sleep_on(punctual, other)
    harness.put("c", delay=30)
    assert len(woken(punctual, other)) == 1


def test_one_who_wakes_in_time_is_enough(harness: Harness) -> None:
    unaware = harness.idle_worker()
    harness.put("a", delay=60)
    assert unaware.is_woken()
    punctual = harness.idle_worker()
    still_unaware = harness.idle_worker(groups=[OTHER])
    harness.put("b", delay=70)
    assert all_sleep_on(punctual, still_unaware)


def test_a_batch_that_begins_to_fill_wakes_who_would_oversleep(harness: Harness) -> None:
    harness.declare(size=3, within=5)
    sleeper = harness.idle_worker(3)
    harness.put("a")
    assert sleeper.is_woken()
    assert harness.claim(3, listener=sleeper) is None
    harness.put("b")
    assert sleeper.sleeps_on()
    harness.put("c")
    assert sleeper.is_woken()


def test_a_time_is_handed_over_when_its_keeper_is_busy(harness: Harness) -> None:
    keeper, unaware = harness.idle_worker(), harness.idle_worker()
    harness.put("later", delay=60)
    (first,) = woken(keeper, unaware)
    second = unaware if first is keeper else keeper
    assert harness.claim(listener=first) is None, "it sleeps on, until the time"
    harness.put("now")
    (awake,) = woken(keeper, unaware)
    asleep = second if awake is first else first
    assert names(harness.take(listener=awake)) == ["now"]
    if awake is first:
        assert asleep.is_woken(), "nobody would wake for `later` while the first is busy"
    else:
        assert asleep.sleeps_on()


def test_settling_an_ordered_lane_wakes_for_its_next_message(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    claim = harness.take()
    sleeper = harness.idle_worker()
    harness.settle(claim)
    assert sleeper.is_woken()


def test_who_takes_what_it_freed_wakes_nobody(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s")
    claim = harness.take()
    sleeper = harness.idle_worker()
    step = harness.step([harness.settlement(claim)], harness.want())
    assert names(step.claims[0]) == ["b"]
    assert sleeper.sleeps_on()


def test_giving_back_wakes(harness: Harness) -> None:
    harness.put("a")
    claim = harness.take()
    sleeper = harness.idle_worker()
    harness.settle(claim, every=Back())
    assert sleeper.is_woken()


@pytest.mark.parametrize("concurrency", [0, 1])
def test_a_retry_wakes_who_would_oversleep_it(harness: Harness, concurrency: int) -> None:
    harness.declare(concurrency=concurrency)
    harness.put("a", shard="s")
    claim = harness.take()
    sleeper = harness.idle_worker()
    harness.settle(claim, every=Retried(micros(60)))
    assert sleeper.is_woken()


def test_a_settlement_that_frees_nothing_wakes_nobody(harness: Harness) -> None:
    harness.put("a", "b")
    claim = harness.take(2)
    sleeper = harness.idle_worker()
    harness.settle(claim, {"b": Dead(Failure("failed"), "b")})
    assert sleeper.sleeps_on()


def test_taking_back_claims_wakes(harness: Harness) -> None:
    harness.put("a")
    harness.take(owner="dead")
    sleeper = harness.idle_worker()
    harness.reap("dead")
    assert sleeper.is_woken()


def test_what_becomes_due_in_a_step_of_another_worker_wakes(harness: Harness) -> None:
    harness.put("a", delay=60)
    sleeper = harness.idle_worker()
    harness.clock.advance(60)
    assert harness.claim(groups=[OTHER]) is None
    assert sleeper.is_woken()


def test_releasing_a_lane_wakes(harness: Harness) -> None:
    harness.put("a", shard="s")
    harness.settle(harness.take(), every=Back(park=True))
    sleeper = harness.idle_worker()
    harness.release("s")
    assert sleeper.is_woken()


def test_retrying_dead_letters_wakes(harness: Harness) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Dead(Failure("failed"), "a"))
    sleeper = harness.idle_worker()
    harness.retry_dead()
    assert sleeper.is_woken()


def test_a_declaration_that_makes_lanes_ready_wakes(harness: Harness) -> None:
    harness.declare(size=9, within=60)
    harness.put("a")
    sleeper = harness.idle_worker(9)
    harness.declare(size=1)
    assert sleeper.is_woken()


def test_one_who_is_woken_and_leaves_work_wakes_the_next(harness: Harness) -> None:
    sleepers = [harness.idle_worker() for _ in range(3)]
    harness.put("a", "b", "c")
    for expected in "abc":
        (awake,) = woken(*sleepers)
        sleepers.remove(awake)
        assert names(harness.take(listener=awake)) == [expected]
    assert sleepers == []


def test_who_found_something_is_not_woken(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    harness.put("a")
    assert sleeper.is_woken()
    harness.take(listener=sleeper)
    harness.put("b")
    assert sleeper.sleeps_on()


def test_a_listener_that_was_closed_is_not_woken_in_the_place_of_another(
    harness: Harness,
) -> None:
    sleepers = [harness.idle_worker() for _ in range(3)]
    sleepers[0].close()
    sleepers[1].close()
    harness.put("a")
    assert sleepers[2].is_woken()


def test_a_listener_may_be_closed_twice(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    sleeper.close()
    sleeper.close()


def test_listeners_have_names_of_their_own(harness: Harness) -> None:
    assert len({harness.sleeper().name for _ in range(10)}) == 10


# Waiting for a record


@pytest.mark.parametrize("end", ["done", "dead", "discarded", "lost"])
def test_all_who_wait_for_a_message_are_woken_at_its_end(harness: Harness, end: str) -> None:
    harness.declare(max_deliveries=1)
    harness.put("a", keep=60)
    claim = harness.take(owner="dead")
    waiting = [harness.sleeper() for _ in range(3)]
    for sleeper in waiting:
        (record,) = harness.records("a", listener=sleeper)
        assert record is not None
        assert record.state == "running"
    match end:
        case "done":
            harness.settle(claim, results={"a": b""})
        case "dead":
            harness.settle(claim, every=Dead(Failure("failed"), "a"))
        case "discarded":
            harness.settle(claim, every=Discard("a"))
        case "lost":
            harness.reap("dead")
    assert all(sleeper.is_woken() for sleeper in waiting)


def test_what_is_no_end_wakes_nobody(harness: Harness) -> None:
    harness.put("a", "b", keep=60)
    claim = harness.take(2)
    sleeper = harness.sleeper()
    harness.records("a", listener=sleeper)
    harness.settle(claim, {"a": Retried(0)}, records=True, results={"b": b""})
    harness.settle(harness.take(), every=Back(started=True))
    assert sleeper.sleeps_on()
    harness.settle(harness.take(), results={"a": b""})
    assert sleeper.is_woken()


def test_who_waits_for_several_is_woken_by_each(harness: Harness) -> None:
    harness.put("a", "b", keep=60)
    first, second = harness.claims(1, claims=2)
    sleeper = harness.sleeper()
    harness.records("a", "b", listener=sleeper)
    harness.settle(first, results={"a": b""})
    assert sleeper.is_woken()
    harness.records("a", "b", listener=sleeper)
    harness.settle(second, results={"b": b""})
    assert sleeper.is_woken()


def test_what_has_ended_already_is_not_waited_for(harness: Harness) -> None:
    harness.put("a", keep=60)
    harness.settle(harness.take(), results={"a": b""})
    sleeper = harness.sleeper()
    (record,) = harness.records("a", listener=sleeper)
    assert record is not None
    assert record.state == "done"
    assert sleeper.sleeps_on()


def test_the_end_of_other_messages_wakes_nobody(harness: Harness) -> None:
    harness.put("a", "b", keep=60)
    sleeper = harness.sleeper()
    harness.records("b", listener=sleeper)
    harness.settle(harness.take(), results={"a": b""})
    assert sleeper.sleeps_on()


def test_discarding_a_dead_letter_ends_its_message_again(harness: Harness) -> None:
    harness.put("a", keep=60)
    harness.settle(harness.take(), every=Dead(Failure("failed"), "a"))
    harness.retry_dead()
    sleeper = harness.sleeper()
    (record,) = harness.records("a", listener=sleeper)
    assert record is not None
    assert record.state == "waiting"
    harness.settle(harness.take(), results={"a": b""})
    assert sleeper.is_woken()
