"""Bounded queues: what is refused, what makes itself room, and what enters nevertheless."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Back, Dead, DeadLetter, Group, Put, Retried
from taskyard.brokers.bounds import EXTRA, NO_BOUNDS, Bounds, Overflow
from taskyard.brokers.cancelling import Cancelled
from taskyard.brokers.lane import Flush, Gate
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.unique import Keys, Mode
from taskyard.errors import DuplicateId, QueueDraining, QueueFull
from taskyard.message import Failure, Reason
from taskyard.testing.conformance.harness import TASK, Harness, Make, body, micros

SAME_QUEUE = Group(TASK.queue, "another task")
OTHER = Group("other queue", TASK.name)
BOTH = [TASK, SAME_QUEUE]
FAILURE = Failure("error", "Error", "it failed")
REFUSING = [Overflow.RAISE, Overflow.BLOCK]
HELD_BY_MESSAGES = [Mode.STARTED, Mode.DONE]
SECOND = micros(1)


def bound(
    harness: Harness,
    length: int = 0,
    overflow: Overflow = Overflow.RAISE,
    *,
    shard: int = 0,
    queue: str = TASK.queue,
    declared: bool = False,
) -> None:
    timeout = micros(3) if overflow is Overflow.BLOCK else 0
    bounds = Bounds(length, shard, overflow, timeout)
    harness.run(harness.broker.set_bounds(queue, bounds, declared=declared))


def refused(harness: Harness, *ids: str, **put: object) -> QueueFull:
    with pytest.raises(QueueFull) as caught:
        harness.put(*ids, **put)  # type: ignore[arg-type]
    return caught.value


def dropped(harness: Harness) -> list[str]:
    return [letter.id for letter in harness.dead() if letter.failure.reason == Reason.DROPPED]


# What is refused


@pytest.mark.parametrize("overflow", REFUSING)
def test_a_full_queue_takes_nothing(harness: Harness, overflow: Overflow) -> None:
    bound(harness, 3, overflow)
    harness.put("a", "b")
    error = refused(harness, "c", "d")
    assert f"{TASK.queue!r} is full" in str(error)
    assert (error.queue, error.shard, error.length, error.limit) == (TASK.queue, None, 2, 3)
    assert error.patience == (3 if overflow is Overflow.BLOCK else 0)
    assert not error.too_large
    harness.put("e")
    assert harness.work_off() == ["a", "b", "e"]
    assert harness.total("put") == 3


def test_what_runs_does_not_count(harness: Harness) -> None:
    bound(harness, 2)
    harness.put("a", "b")
    refused(harness, "c")
    claim = harness.take()
    harness.put("c")
    refused(harness, "d")
    harness.settle(claim)
    refused(harness, "d")


def test_what_is_dead_does_not_count(harness: Harness) -> None:
    bound(harness, 1)
    harness.put("a")
    harness.settle(harness.take(), every=Dead(FAILURE))
    harness.put("b")


@pytest.mark.parametrize("overflow", REFUSING)
def test_what_is_delayed_counts(harness: Harness, overflow: Overflow) -> None:
    bound(harness, 2, overflow)
    harness.put("a")
    harness.put("b", delay=5)
    refused(harness, "c")
    refused(harness, "c", delay=5)
    harness.clock.advance(5)
    assert sorted(harness.work_off()) == ["a", "b"]
    harness.put("c", delay=5)


def test_all_groups_of_a_queue_count_together(harness: Harness) -> None:
    bound(harness, 2)
    harness.put("a")
    harness.put("b", group=SAME_QUEUE)
    refused(harness, "c")
    refused(harness, "c", group=SAME_QUEUE)
    refused(harness, "c", group=Group(TASK.queue, "a third one"))
    harness.put("c", "d", "e", group=OTHER)
    assert sorted(harness.work_off(groups=BOTH)) == ["a", "b"]


def test_groups_that_were_there_before_are_bounded(harness: Harness) -> None:
    harness.put("a")
    harness.put("b", group=SAME_QUEUE, delay=5)
    bound(harness, 2)
    refused(harness, "c")
    refused(harness, "c", group=SAME_QUEUE)


def test_of_a_call_that_is_refused_nothing_is_stored(harness: Harness) -> None:
    bound(harness, 2)
    puts = [Put(OTHER, [body("a")]), Put(TASK, [body("b")]), Put(SAME_QUEUE, [body("c")] * 2)]
    with pytest.raises(QueueFull):
        harness.put_all(*puts[1:])
    assert harness.work_off(groups=BOTH) == []
    harness.put_all(*puts[:2])
    assert sorted(harness.work_off(groups=[TASK, SAME_QUEUE, OTHER])) == ["a", "b"]


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("delay", [0, 5])
def test_a_call_that_never_fits_is_refused_at_once(
    harness: Harness, overflow: Overflow, delay: int
) -> None:
    bound(harness, 2, overflow)
    harness.put("a")
    error = refused(harness, "b", "c", "d", delay=delay)
    assert error.too_large
    assert error.patience == 0
    assert (error.length, error.limit) == (3, 2)
    assert "by one call" in str(error)
    assert harness.work_off() == ["a"]


def test_the_limit_does_not_come_before_the_gate(harness: Harness) -> None:
    bound(harness, 1)
    harness.put("a")
    harness.run(harness.broker.set_gate(TASK.queue, Gate.DRAINING))
    with pytest.raises(QueueDraining):
        harness.put("b")


# Shards


@pytest.mark.parametrize("overflow", REFUSING)
def test_a_full_shard_takes_nothing(harness: Harness, overflow: Overflow) -> None:
    bound(harness, overflow=overflow, shard=2)
    harness.put("a", "b", shard="s")
    error = refused(harness, "c", shard="s")
    assert "shard 's'" in str(error)
    assert (error.shard, error.length, error.limit) == ("s", 2, 2)
    harness.put("d", "e", shard="t")
    harness.put("f", "g", shard="s", group=SAME_QUEUE)
    taken = harness.take()
    harness.put("h", shard="s")
    refused(harness, "i", shard="s")
    harness.settle(taken)
    assert sorted(harness.work_off(groups=BOTH)) == ["b", "d", "e", "f", "g", "h"]


def test_the_unnamed_shard_is_one_too(harness: Harness) -> None:
    bound(harness, shard=1)
    harness.put("a")
    assert refused(harness, "b").shard == ""


def test_what_is_delayed_does_not_count_for_its_shard(harness: Harness) -> None:
    bound(harness, shard=1)
    harness.put("a", shard="s")
    harness.put("b", "c", shard="s", delay=5)
    harness.clock.advance(5)
    refused(harness, "d", shard="s")
    assert harness.work_off() == ["a", "b", "c"]


def test_the_puts_of_a_call_to_one_shard_count_together(harness: Harness) -> None:
    bound(harness, shard=3)
    puts = [Put(TASK, [body(id_)], "s", priority) for priority, id_ in enumerate("abcd")]
    with pytest.raises(QueueFull) as caught:
        harness.put_all(*puts)
    assert caught.value.too_large
    harness.put_all(*puts[:2])
    with pytest.raises(QueueFull):
        harness.put_all(*puts[2:])
    harness.put_all(puts[2])
    assert harness.work_off() == ["a", "b", "c"]


@pytest.mark.parametrize("within", [0, 60])
def test_the_length_of_a_shard_is_known_exactly(harness: Harness, within: float) -> None:
    """Also where messages were there before, came back, or were taken in part."""
    harness.declare(size=2, within=within)
    for id_ in "abcdef":
        harness.put(id_, shard="s")
    bound(harness, shard=6)
    refused(harness, "g", shard="s")
    claim = harness.take(4)
    harness.put("g", "h", "i", "j", shard="s")
    refused(harness, "k", shard="s")
    harness.settle(claim, {"a": Back(), "b": Back(started=True)})
    harness.settle(harness.take(4))
    harness.put("k", "l", shard="s")
    refused(harness, "m", shard="s")


def test_shard_and_queue_are_both_bounded(harness: Harness) -> None:
    bound(harness, 3, shard=2)
    harness.put("a", "b", shard="s")
    assert refused(harness, "c", shard="s").shard == "s"
    harness.put("c", shard="t")
    assert refused(harness, "d", shard="t").shard is None


# What comes back


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("concurrency", [0, 1])
def test_what_comes_back_is_let_in(harness: Harness, overflow: Overflow, concurrency: int) -> None:
    harness.declare(concurrency=concurrency)
    bound(harness, 4, overflow, shard=4)
    harness.put("a", "b", "c", "d", shard="s")
    claim = harness.take(4, lease=1)
    harness.put("e", "f", "g", "h", shard="s")
    harness.settle(claim, {"a": Back(), "b": Retried(0), "c": Dead(FAILURE)}, keep="d")
    harness.clock.advance(2)
    assert harness.reap() == 1
    assert harness.retry_dead() == 1
    counts = harness.counts()
    assert counts.waiting + counts.delayed == 8
    assert counts.dead == 0
    if overflow is not Overflow.DROP:
        refused(harness, "i", shard="s")
    assert sorted(harness.work_off()) == list("abcdefgh")


# Making room


def test_the_oldest_of_the_same_shard_makes_room(harness: Harness) -> None:
    bound(harness, 4, Overflow.DROP)
    harness.put("a", "b", shard="s")
    harness.put("c", "d", shard="t")
    harness.put("e", shard="t")
    assert dropped(harness) == ["c"]
    harness.put("f", "g", shard="t")
    assert dropped(harness) == ["c", "d", "e"]
    assert harness.counts().waiting == 4
    assert harness.total("dropped") == harness.total("dead") == 3
    assert sorted(harness.work_off()) == ["a", "b", "f", "g"]


def test_the_age_of_a_queue_is_that_of_what_is_left(harness: Harness) -> None:
    bound(harness, 2, Overflow.DROP)
    harness.put("a")
    harness.clock.advance(1)
    harness.put("b")
    second = harness.counts().oldest + micros(1)
    harness.clock.advance(1)
    harness.put("c")
    assert dropped(harness) == ["a"]
    assert harness.counts().oldest == second


def test_then_those_whose_turn_is_next(harness: Harness) -> None:
    bound(harness, 3, Overflow.DROP)
    harness.put("a", shard="s")
    harness.put("b", shard="t", group=SAME_QUEUE)
    harness.put("c", shard="u")
    harness.put("d", "e", shard="v")
    assert dropped(harness) == ["a", "b"]
    assert harness.work_off(groups=BOTH) == ["c", "d", "e"]


def test_lanes_go_by_priority_but_messages_by_age(harness: Harness) -> None:
    bound(harness, 4, Overflow.DROP)
    harness.put("a", shard="s", priority=1)
    harness.put("b", shard="t", priority=5)
    harness.put("c", shard="t")
    harness.put("d", shard="u")
    harness.put("e", shard="v")
    assert dropped(harness) == ["b"], "t has the turn, and b is its oldest"
    harness.put("f", shard="s")
    assert dropped(harness) == ["b", "a"]
    assert harness.work_off() == ["c", "d", "e", "f"]


def test_then_those_that_wait_for_their_batch(harness: Harness) -> None:
    harness.declare(size=10, within=60, bytes=500)
    harness.declare(SAME_QUEUE)
    bound(harness, 3, Overflow.DROP)
    harness.put("a", shard="s", size=100)
    harness.clock.advance(1)
    harness.put("b", shard="t", size=100)
    harness.put("c", group=SAME_QUEUE)
    harness.put("d", shard="u", size=100)
    assert dropped(harness) == ["c"], "what is ready comes before what fills"
    harness.put("e", shard="v", size=100)
    assert dropped(harness) == ["c", "a"]
    assert harness.work_off(10, groups=BOTH, drain=True) == ["b", "d", "e"]


def test_a_batch_that_lost_messages_keeps_its_deadline(harness: Harness) -> None:
    harness.declare(size=3, within=10)
    bound(harness, 2, Overflow.DROP)
    harness.put("a", expires=4)
    harness.put("b")
    harness.put("c")
    assert dropped(harness) == ["a"]
    assert harness.claim(3) is None
    harness.clock.advance(4.001)
    assert [lane.flush for lane in harness.take(3).lanes] == [Flush.DEADLINE]


def test_a_batch_that_lost_all_messages_forgets_their_deadline(harness: Harness) -> None:
    harness.declare(size=3, within=10)
    bound(harness, 1, Overflow.DROP)
    harness.put("a", expires=4)
    harness.put("b")
    assert dropped(harness) == ["a"]
    harness.clock.advance(5)
    assert harness.claim(3) is None
    harness.clock.advance(5.001)
    assert [lane.flush for lane in harness.take(3).lanes] == [Flush.AGE]


def test_a_batch_that_lost_messages_waits_on(harness: Harness) -> None:
    harness.declare(size=3, within=10, bytes=350)
    bound(harness, 2, Overflow.DROP)
    harness.put("a", "b", size=100)
    harness.clock.advance(6)
    harness.put("c", "d", size=100)
    assert dropped(harness) == ["a", "b"]
    harness.clock.advance(6)
    assert harness.claim(3) is None, "neither full nor old"
    harness.clock.advance(4)
    assert harness.work_off() == ["c", "d"]


def test_what_only_waits_for_its_time_cannot_make_room(harness: Harness) -> None:
    bound(harness, 2, Overflow.DROP)
    harness.put("a", "b", delay=5)
    error = refused(harness, "c")
    assert "cannot be dropped" in str(error)
    assert error.patience == 0
    refused(harness, "c", delay=5)
    harness.clock.advance(5)
    assert harness.work_off() == ["a", "b"]
    assert dropped(harness) == []


def test_what_is_held_up_elsewhere_cannot_make_room(harness: Harness) -> None:
    harness.declare(concurrency=1)
    bound(harness, 3, Overflow.DROP)
    harness.put("a", "b", shard="blocked")
    harness.settle(harness.take(), every=Retried(micros(60)))
    harness.put("c", shard="parked")
    harness.run(harness.broker.park(TASK, "parked"))
    refused(harness, "d", shard="s")
    harness.put("d", shard="blocked")
    assert dropped(harness) == ["a"], "but those of its own shard can"
    harness.put("e", shard="parked")
    assert dropped(harness) == ["a", "c"]


def test_part_of_it_is_not_enough(harness: Harness) -> None:
    bound(harness, 3, Overflow.DROP)
    harness.put("a", shard="s")
    harness.put("b", "c", delay=5)
    refused(harness, "d", "e", shard="s")
    assert dropped(harness) == []
    assert harness.work_off() == ["a"]


def test_a_delayed_message_makes_itself_room_too(harness: Harness) -> None:
    bound(harness, 2, Overflow.DROP)
    harness.put("a", "b")
    harness.put("c", delay=5)
    assert dropped(harness) == ["a"]
    harness.clock.advance(5)
    assert harness.work_off() == ["b", "c"]


def test_a_full_shard_loses_its_oldest(harness: Harness) -> None:
    bound(harness, 5, Overflow.DROP, shard=2)
    harness.put("a", "b", shard="s")
    harness.put("c", "d", shard="t")
    harness.put_all(Put(TASK, [body("e")], "s"), Put(TASK, [body("f"), body("g")], "t"))
    assert dropped(harness) == ["a", "c", "d"]
    harness.put("h", "i", shard="u")
    assert dropped(harness) == ["a", "c", "d", "b"]


def test_all_of_a_lane_may_go(harness: Harness) -> None:
    bound(harness, shard=2, overflow=Overflow.DROP)
    harness.put("a", "b", shard="s")
    harness.put("c", "d", shard="s", priority=3)
    assert dropped(harness) == ["a", "b"]
    assert harness.counts().lanes == 1
    assert harness.work_off() == ["c", "d"]


def test_messages_that_were_lost_may_go(harness: Harness) -> None:
    bound(harness, 3, Overflow.DROP)
    harness.put("a", "b", "c", shard="s")
    harness.take(2, lease=1)
    harness.clock.advance(2)
    assert harness.reap() == 1
    harness.put("d", shard="s")
    assert dropped(harness) == ["a"]
    assert sorted(harness.work_off()) == ["b", "c", "d"]


def test_what_was_dropped_can_be_told_from_its_letter(harness: Harness) -> None:
    harness.declare(members=["told"])
    bound(harness, 1, Overflow.DROP)
    harness.put("a", shard="s", priority=2, task="told", keep=60)
    since = harness.clock.now
    harness.clock.advance(3)
    harness.put("b", shard="s", task="told", keep=60)
    [letter] = harness.dead()
    assert letter == DeadLetter(
        letter.number,
        TASK,
        "told",
        "s",
        2,
        "a",
        letter.failure,
        0,
        0,
        since,
        harness.clock.now,
        body("a", task="told"),
    )
    assert letter.failure.reason == Reason.DROPPED
    assert "full" in letter.failure.message
    assert harness.state("a") == "dead"
    assert harness.state("b") == "waiting"
    record = harness.record("a")
    assert record is not None
    assert record.failure == letter.failure


def test_who_waits_for_what_was_dropped_is_told(harness: Harness) -> None:
    bound(harness, 1, Overflow.DROP)
    harness.put("a", keep=60)
    sleeper = harness.sleeper()
    harness.records("a", listener=sleeper)
    harness.put("b")
    assert sleeper.is_woken()


def test_dead_letters_stay_few(make: Make) -> None:
    harness = make(dead_limit=2)
    bound(harness, 1, Overflow.DROP)
    for id_ in "abcde":
        harness.put(id_)
    assert dropped(harness) == ["c", "d"]
    assert harness.total("dead_dropped") == 2


def test_nothing_is_dropped_for_what_is_refused(harness: Harness) -> None:
    bound(harness, 2, Overflow.DROP)
    harness.put("a", "b", keep=60)
    with pytest.raises(DuplicateId):
        harness.put("a", keep=60)
    assert dropped(harness) == []
    assert harness.work_off() == ["a", "b"]


def test_a_queue_whose_limit_was_lowered_shrinks_by_and_by(harness: Harness) -> None:
    names = [f"m{index:03}" for index in range(3 * EXTRA)]
    harness.put(*names)
    bound(harness, 10, Overflow.DROP)
    harness.put("a")
    assert harness.counts().waiting == 2 * EXTRA
    harness.put("b", "c")
    assert harness.counts().waiting == EXTRA
    harness.put("d")
    assert harness.counts().waiting == 10
    assert harness.work_off()[-4:] == ["a", "b", "c", "d"]


# What holds


def test_what_is_set_wins_over_what_is_declared(harness: Harness) -> None:
    bound(harness, 1, declared=True)
    harness.put("a")
    refused(harness, "b")
    bound(harness, 2)
    harness.put("b")
    bound(harness, 5, declared=True)
    assert refused(harness, "c").limit == 2
    harness.run(harness.broker.set_bounds(TASK.queue, NO_BOUNDS))
    harness.put("c", "d", "e", "f")
    harness.run(harness.broker.set_bounds(TASK.queue, None))
    assert refused(harness, "g").limit == 5
    harness.run(harness.broker.set_bounds(TASK.queue, None, declared=True))
    harness.put("g")


def test_bounds_are_shown(harness: Harness) -> None:
    harness.put("a")
    harness.put("b", group=OTHER)
    bound(harness, 7, Overflow.BLOCK, shard=3)
    harness.put("c", group=SAME_QUEUE)
    shown = {counts.group: counts.bounds for counts in harness.all_counts()}
    bounds = Bounds(7, 3, Overflow.BLOCK, micros(3))
    assert shown == {TASK: bounds, SAME_QUEUE: bounds, OTHER: NO_BOUNDS}


def test_two_brokers_of_one_storage_see_the_same(harness: Harness) -> None:
    bound(harness, 1, declared=True)
    other = harness.broker.driver()
    try:
        other.run(harness.broker.put([Put(TASK, [body("a")])]))
        with pytest.raises(QueueFull):
            other.run(harness.broker.put([Put(TASK, [body("b")])]))
        bound(harness, 2)
        other.run(harness.broker.put([Put(TASK, [body("b")])]))
    finally:
        other.close()


# Beside unique keys


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize("mode", [Mode.STARTED, Mode.DONE, Mode.WINDOW])
def test_what_its_key_keeps_back_needs_no_room(
    harness: Harness, mode: Mode, overflow: Overflow
) -> None:
    bound(harness, 2, overflow, shard=2)
    assert harness.put_unique(mode, "a", span=60) is None
    harness.put("b")
    assert harness.put_unique(mode, "c", span=60) == "a"
    assert dropped(harness) == []
    assert harness.work_off() == ["a", "b"]


@pytest.mark.parametrize("overflow", Overflow)
def test_only_what_is_stored_of_a_call_needs_room(harness: Harness, overflow: Overflow) -> None:
    bound(harness, 3, overflow, shard=3)
    keys = Keys(Mode.DONE, ["x", "y", "x", "y", "y"])
    harness.put(*"abcde", unique=keys)
    assert keys.standing == {2: "a", 3: "b", 4: "b"}
    harness.put("f")
    again = Keys(Mode.DONE, ["x", "z"])
    if overflow is Overflow.DROP:
        harness.put("g", "h", unique=again)
        assert again.standing == {0: "a"}
    else:
        assert not refused(harness, "g", "h", unique=again).too_large
    assert dropped(harness) == ["a"] * (overflow is Overflow.DROP)
    assert harness.counts().waiting == 3


@pytest.mark.parametrize("overflow", Overflow)
def test_what_replaces_another_needs_no_room(harness: Harness, overflow: Overflow) -> None:
    bound(harness, 2, overflow, shard=1)
    harness.put("a")
    for id_ in "bcd":
        harness.put_unique(Mode.DEBOUNCE, id_, span=5, longest=60)
    assert harness.counts().delayed == 1
    if overflow is not Overflow.DROP:
        keys = Keys(Mode.DEBOUNCE, ["k", "other"], micros(5), micros(60))
        refused(harness, "e", "f", unique=keys)
    assert dropped(harness) == []
    harness.clock.advance(5)
    assert harness.work_off() == ["a", "d"]


def test_what_replaces_another_enters_where_there_is_too_much_already(harness: Harness) -> None:
    harness.put("a", "b")
    harness.put_unique(Mode.DEBOUNCE, "c", span=5, longest=60)
    bound(harness, 1)
    refused(harness, "x")
    assert harness.put_unique(Mode.DEBOUNCE, "d", span=5, longest=60) == "d"
    harness.clock.advance(5)
    assert harness.work_off() == ["a", "b", "d"]


@pytest.mark.parametrize("mode", HELD_BY_MESSAGES)
def test_what_is_dropped_releases_its_key(harness: Harness, mode: Mode) -> None:
    bound(harness, 2, Overflow.DROP)
    harness.put_unique(mode, "a")
    harness.put("b", "c")
    assert dropped(harness) == ["a"]
    assert harness.put_unique(mode, "d") is None
    assert dropped(harness) == ["a", "b"]
    assert harness.put_unique(mode, "e") == "d", "it holds the key now"
    assert harness.retry_dead(task=TASK.name) == 1, "but not that of a"
    assert harness.work_off() == ["c", "d", "b"]
    assert harness.put_unique(mode, "f") is None


def test_a_key_of_what_makes_room_may_be_that_of_what_comes(harness: Harness) -> None:
    bound(harness, 1, Overflow.DROP)
    harness.put_unique(Mode.DONE, "a", "x")
    harness.put_unique(Mode.DONE, "b", "y")
    assert dropped(harness) == ["a"]
    assert harness.put_unique(Mode.DONE, "c", "x") is None
    assert dropped(harness) == ["a", "b"]
    assert harness.put_unique(Mode.DONE, "d", "x") == "c"
    assert harness.put_unique(Mode.DONE, "e", "y") is None
    assert harness.work_off() == ["e"]


def test_a_window_goes_on_for_what_was_dropped(harness: Harness) -> None:
    bound(harness, 1, Overflow.DROP)
    harness.put_unique(Mode.WINDOW, "a", span=60)
    harness.put("b")
    assert dropped(harness) == ["a"]
    assert harness.put_unique(Mode.WINDOW, "c", span=60) == "a"
    assert harness.work_off() == ["b"]


def test_a_refused_message_takes_no_key(harness: Harness) -> None:
    bound(harness, 1)
    harness.put("a")
    refused(harness, "b", unique=Keys(Mode.DONE, ["k"]))
    assert harness.work_off() == ["a"]
    assert harness.put_unique(Mode.DONE, "c") is None


# Beside cancelling


@pytest.mark.parametrize("overflow", Overflow)
@pytest.mark.parametrize(("delay", "shard"), [(0, 2), (0, 0), (9, 0)])
def test_a_cancelled_message_makes_room(
    harness: Harness, overflow: Overflow, delay: float, shard: int
) -> None:
    bound(harness, 0 if shard else 2, overflow, shard=shard)
    harness.put("a", "b", delay=delay, keep=60)
    assert harness.run(harness.broker.cancel("b", note=False)).outcome is Cancelled.REMOVED
    harness.put("c", delay=delay)
    if overflow is not Overflow.DROP:
        refused(harness, "d", delay=delay)
    assert dropped(harness) == []
    harness.clock.advance(delay)
    assert harness.work_off() == ["a", "c"]


def test_what_is_cancelled_by_a_note_ends_so_when_it_makes_room(harness: Harness) -> None:
    bound(harness, 3, Overflow.DROP)
    harness.put("a", unique=Keys(Mode.DONE, ["k"]))
    harness.put("b", "c")
    assert harness.run(harness.broker.cancel("a", note=True)).outcome is Cancelled.NOTED
    harness.put("d", "e")
    assert dropped(harness) == ["b"]
    assert harness.total("cancelled") == harness.total("dropped") == 1
    assert harness.put_unique(Mode.DONE, "f") is None, "its key is free"
    assert harness.work_off() == ["d", "e", "f"]


# Beside rate limits


def test_what_waits_for_a_token_counts(harness: Harness) -> None:
    harness.set_rate(Limited(TASK.queue), Rate(1, SECOND, 1))
    bound(harness, 2)
    harness.put("a", "b")
    harness.settle(harness.take())
    harness.put("c")
    assert harness.claim() is None
    refused(harness, "d")
    harness.clock.advance(1)
    assert harness.work_off() == ["b"]
    harness.put("d")


def test_what_is_dropped_takes_no_token(harness: Harness) -> None:
    harness.set_rate(Limited(TASK.queue), Rate(1, SECOND, 2))
    bound(harness, 2, Overflow.DROP)
    harness.put("a", "b")
    harness.put("c", "d")
    harness.put("e", "f")
    assert dropped(harness) == list("abcd")
    assert harness.work_off() == ["e", "f"]
    harness.put("g")
    assert harness.claim() is None
    harness.clock.advance(1)
    assert harness.work_off() == ["g"]


@pytest.mark.parametrize("within", [0, 60])
def test_a_shard_without_a_token_makes_room_only_for_itself(
    harness: Harness, within: float
) -> None:
    harness.declare(within=within, size=2 if within else 1)
    harness.set_rate(Limited(TASK.queue, TASK.name, shards=True), Rate(1, 10 * SECOND, 2))
    bound(harness, 3, Overflow.DROP)
    harness.put("1", "2", shard="limited")
    assert harness.work_off() == ["1", "2"]
    harness.put("a", "b", "c", shard="limited")
    assert harness.claim() is None
    refused(harness, "d", shard="other")
    harness.put("d", shard="limited")
    assert dropped(harness) == ["a"]
    harness.clock.advance(20)
    assert harness.claim(groups=[SAME_QUEUE]) is None, "a worker looks what may go on"
    harness.put("e", "f", shard="other")
    assert dropped(harness) == ["a", "b", "c"], "its turn is next"


@pytest.mark.parametrize("within", [0, 60])
def test_a_limited_shard_that_lost_all_it_had_stays_limited(
    harness: Harness, within: float
) -> None:
    harness.declare(within=within)
    harness.set_rate(Limited(TASK.queue, TASK.name, shards=True), Rate(1, 10 * SECOND, 1))
    bound(harness, 1, Overflow.DROP, shard=1)
    harness.put("1", shard="s")
    assert harness.work_off() == ["1"]
    harness.put("a", shard="s")
    harness.put("b", shard="s")
    assert dropped(harness) == ["a"]
    assert harness.claim() is None
    harness.clock.advance(10)
    assert harness.work_off() == ["b"]
