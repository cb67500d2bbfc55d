"""Doubling the partitions of a queue in use, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.redis.splitting import Steps, atomic

from taskyard.brokers.base import Back, Dead, Group, Put, Retried
from taskyard.brokers.lane import Gate, GroupPolicy
from taskyard.brokers.rate import UNLIMITED, Limited, Rate
from taskyard.brokers.redis.calls import Call
from taskyard.brokers.redis.placement import TOKENS, Placement, call
from taskyard.brokers.redis.replies import group_key
from taskyard.brokers.redis.split import SplitProgress
from taskyard.brokers.unique import Mode
from taskyard.coalesce import Entry, put_entries
from taskyard.errors import (
    DuplicateId,
    NotFound,
    PartitionConflict,
    PolicyConflict,
    QueueDraining,
)
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, Make, body, micros, names

FAILURE = Failure("error", "Error", "it failed")
PLAIN = Group(TASK.queue, "plain")
SHARDS = [f"shard {number}" for number in range(30)]
MOVES, STAYS = "a", "e"
"""Shards that a split of one partition into two moves, and does not."""
MOVES_LATER = "c"
"""One that moves with it too, and again when those two are split."""


@pytest.fixture
def harness(make: Make) -> Harness:
    """A queue with an ordered task and a plain one."""
    made = make()
    made.declare(concurrency=1)
    made.declare(PLAIN)
    return made


def advance(harness: Harness, partitions: int = 0, queue: str = TASK.queue) -> SplitProgress:
    progress = harness.run(harness.broker.split(queue, partitions))  # type: ignore[attr-defined]
    assert isinstance(progress, SplitProgress)
    return progress


def split(harness: Harness) -> int:
    """Split to the end; returns how much moved."""
    progress, moved = SplitProgress(0, 0, 0, False), 0
    while not progress.done:
        progress = advance(harness, progress.partitions)
        moved += progress.moved
    return moved


def until(harness: Harness, script: str, *, after: bool = False) -> None:
    """Split until a script is about to run for the first time, or has just run."""
    steps = atomic(harness.broker.split(TASK.queue))  # type: ignore[attr-defined]
    step = next(steps)
    while step.script.name != script:
        step = steps.send(harness.run(_alone(step)))
    if after:
        harness.run(_alone(step))


def _rest(harness: Harness, steps: Steps, step: Call) -> Any:
    """Carry an operation out to its end, from a step on; what it returns."""
    try:
        while True:
            step = steps.send(harness.run(_alone(step)))
    except StopIteration as end:
        return end.value


def _alone(step: Call) -> Iterator[Call]:
    return (yield step)


def containers(harness: Harness) -> tuple[int, ...]:
    harness.put_all(Put(TASK, []))
    placement = harness.broker._placements.known(TASK.queue)  # type: ignore[attr-defined]
    assert isinstance(placement, Placement)
    return placement.containers


def number_put(harness: Harness, *shards: str, first: int = 0, group: Group = TASK) -> None:
    for number in range(first, first + 3):
        for shard in shards:
            harness.put(f"{shard} {number}", shard=shard, group=group)


def test_every_partition_becomes_two(harness: Harness) -> None:
    before = containers(harness)
    split(harness)
    once = containers(harness)
    split(harness)
    twice = containers(harness)
    assert [len(each) for each in (before, once, twice)] == [1, 2, 4]
    assert before == once[:1]
    assert once == twice[:2]


def test_messages_move_in_order(harness: Harness) -> None:
    number_put(harness, *SHARDS)
    moved = split(harness)
    assert 0 < moved < 90
    assert harness.counts().waiting == 90
    number_put(harness, *SHARDS, first=3)
    done = harness.work_off()
    for shard in SHARDS:
        assert [name for name in done if name.rpartition(" ")[0] == shard] == [
            f"{shard} {number}" for number in range(6)
        ]


def test_others_learn_of_it_by_themselves(harness: Harness, make: Make) -> None:
    other = make()
    other.put("before", shard=MOVES)
    split(harness)
    other.put("after", shard=MOVES)
    assert harness.work_off() == ["before", "after"]


def test_a_put_is_stored_once_though_half_of_it_was_refused(harness: Harness, make: Make) -> None:
    other = make()
    split(harness)
    other.put("x")
    split(harness)
    other.put_all(*(Put(TASK, [body(f"in {shard}")], shard) for shard in SHARDS))
    assert other.counts().totals["put"] == len(SHARDS) + 1
    assert len(harness.work_off()) == len(SHARDS) + 1


@pytest.mark.parametrize("script", ["part", "accept", "sift", "export", "import", "cleared"])
@pytest.mark.parametrize("after", [False, True])
def test_puts_go_on_wherever_a_split_was_left(
    harness: Harness, make: Make, script: str, after: bool
) -> None:
    other = make()
    number_put(other, MOVES, STAYS)
    until(harness, script, after=after)
    number_put(other, MOVES, STAYS, first=3)
    assert other.counts().waiting >= 12
    split(other)
    assert other.counts().waiting == 12
    done = harness.work_off()
    for shard in (MOVES, STAYS):
        assert [name for name in done if name[0] == shard] == [f"{shard} {n}" for n in range(6)]


def test_a_split_that_was_left_is_carried_on_by_workers(harness: Harness) -> None:
    number_put(harness, MOVES)
    until(harness, "import")
    harness.tidy()
    assert advance(harness, 2).done
    assert harness.work_off() == [f"{MOVES} {number}" for number in range(3)]


def test_who_is_late_carries_nothing_to_the_wrong_place(harness: Harness, make: Make) -> None:
    number_put(harness, *SHARDS)
    late = atomic(make().broker.split(TASK.queue))  # type: ignore[attr-defined]
    step = next(late)
    while step.script.name != "export":
        step = late.send(harness.run(_alone(step)))
    split(harness)
    until(harness, "import")
    reply = harness.run(_alone(step))
    assert reply == [0]
    split(harness)
    assert len(harness.work_off()) == 90


def test_two_at_once_split_once(harness: Harness, make: Make) -> None:
    other = make()
    number_put(harness, *SHARDS)
    until(harness, "import")
    while not (progress := advance(other, 2)).done:
        assert progress.partitions == 2
    assert len(containers(other)) == 2
    assert len(harness.work_off()) == 90


# Order


def test_a_running_message_holds_up_its_shard(harness: Harness) -> None:
    number_put(harness, MOVES)
    claim = harness.take()
    progress = advance(harness)
    assert (progress.moved, progress.held, progress.done) == (2, 1, False)
    harness.put("new", shard=MOVES_LATER)
    harness.put("late", shard=MOVES)
    assert not advance(harness, 2).done
    assert harness.work_off() == ["new"]  # nothing of that shard was left behind
    assert harness.settle(claim)
    assert advance(harness, 2).done
    assert harness.work_off() == [f"{MOVES} 1", f"{MOVES} 2", "late"]


def test_what_comes_back_runs_first(harness: Harness) -> None:
    number_put(harness, MOVES)
    claim = harness.take(2)
    advance(harness)
    harness.settle(claim, every=Back(started=True))
    split(harness)
    again = harness.take(5)
    assert [message.deliveries for _, message in again.lanes[0].messages] == [1, 1, 0]
    assert TOKENS.inside(again.token)[0] != TOKENS.inside(claim.token)[0]
    assert again.token > claim.token


def test_a_lost_lease_holds_up_its_shard_until_it_is_taken_back(harness: Harness) -> None:
    number_put(harness, MOVES)
    claim = harness.take(lease=10)
    advance(harness)
    harness.clock.advance(11)
    assert not advance(harness, 2).done
    harness.reap()
    assert advance(harness, 2).done
    assert not harness.settle(claim)
    assert harness.work_off() == [f"{MOVES} {number}" for number in range(3)]


def test_nothing_is_opened_while_something_is_on_its_way(harness: Harness, make: Make) -> None:
    harness.put("first", shard=MOVES)
    [source] = containers(harness)
    gone = call("gone", source, TASK.queue, 2, group_key(TASK), MOVES)
    for script, expected in (("part", []), ("import", []), ("cleared", []), ("doubled", [b"a"])):
        until(harness, script)
        harness.put(f"before {script}", shard=MOVES)
        assert harness.run(_alone(gone)) == expected
    split(make())
    assert harness.work_off() == ["first"] + [
        f"before {script}" for script in ("part", "import", "cleared", "doubled")
    ]


def test_the_head_of_a_shard_goes_on_where_it_is(harness: Harness) -> None:
    number_put(harness, MOVES)
    claim = harness.take()
    advance(harness)
    harness.settle(claim, every=Retried(micros(5)))
    harness.put("late", shard=MOVES)
    assert advance(harness, 2).done
    assert harness.claim() is None  # its head waits for its retry
    harness.clock.advance(6)
    assert harness.work_off() == [f"{MOVES} {number}" for number in range(3)] + ["late"]


def test_an_unlimited_task_does_not_wait(harness: Harness) -> None:
    number_put(harness, MOVES, group=PLAIN)
    claim = harness.take(groups=[PLAIN])
    assert not advance(harness).done
    assert len(harness.work_off(groups=[PLAIN])) == 2
    harness.settle(claim, every=Retried(micros(5)))
    assert advance(harness, 2).done
    harness.clock.advance(6)
    assert harness.work_off(groups=[PLAIN]) == [f"{MOVES} 0"]


# What else moves


def test_delayed_messages_move(harness: Harness) -> None:
    harness.put("soon", shard=MOVES, delay=5)
    harness.put("here", shard=STAYS, delay=5)
    assert split(harness) == 1
    assert harness.counts().delayed == 2
    assert harness.step([], harness.want()).next_at == harness.clock.now + micros(5)
    harness.clock.advance(6)
    assert sorted(harness.work_off()) == ["here", "soon"]


def test_what_is_due_meanwhile_enters_its_lane_where_it_belongs(harness: Harness) -> None:
    harness.put("soon", shard=MOVES, delay=5)
    until(harness, "sift")
    harness.clock.advance(6)
    assert harness.claim() is None
    assert harness.counts().delayed == 1
    split(harness)
    assert harness.work_off() == ["soon"]


def test_a_parked_shard_moves_and_is_released(harness: Harness) -> None:
    number_put(harness, MOVES)
    harness.settle(harness.take(), every=Back(park=True))
    split(harness)
    assert harness.counts().parked_shards == [MOVES]
    assert harness.claim() is None
    assert harness.release(MOVES)
    assert harness.work_off() == [f"{MOVES} {number}" for number in range(3)]


@pytest.mark.parametrize("script", ["part", "export", "import", "cleared"])
def test_a_parked_shard_is_found_on_its_way(harness: Harness, make: Make, script: str) -> None:
    number_put(harness, MOVES)
    harness.settle(harness.take(), every=Back(park=True))
    until(harness, script)
    other = make()
    assert other.release(MOVES)
    assert not other.release(MOVES)
    split(harness)
    assert harness.work_off() == [f"{MOVES} {number}" for number in range(3)]


def test_a_parked_shard_is_found_though_it_moves_on_meanwhile(harness: Harness, make: Make) -> None:
    number_put(harness, MOVES_LATER)
    harness.settle(harness.take(), every=Back(park=True))
    split(harness)
    other = make()
    looking = atomic(other.broker.release(TASK, MOVES_LATER))
    step = next(looking)
    while step.script.name != "release":
        step = looking.send(other.run(_alone(step)))
    split(harness)  # before the first look
    assert _rest(other, looking, step)
    assert len(harness.work_off()) == 3


def test_dead_letters_move_and_are_retried(harness: Harness) -> None:
    number_put(harness, MOVES)
    harness.settle(harness.take(2), every=Dead(FAILURE))
    assert split(harness) == 3
    first, second = harness.dead()
    assert (first.shard, second.deliveries, second.failure) == (MOVES, 1, FAILURE)
    assert harness.retry_dead() == 2
    assert harness.counts().dead == 0
    assert sorted(harness.work_off()) == [f"{MOVES} {number}" for number in range(3)]


def test_dead_letters_that_are_retried_meanwhile_move(harness: Harness) -> None:
    harness.put("a", shard=MOVES, keep=60)
    harness.settle(harness.take(), {"a": Dead(FAILURE, "a")})
    until(harness, "sift")
    assert harness.retry_dead() == 1
    assert harness.state("a") == "waiting"
    split(harness)
    assert harness.work_off() == ["a"]
    assert harness.counts().totals["put"] == 1


def test_records_move_with_their_messages(harness: Harness, make: Make) -> None:
    harness.put("a", shard=MOVES, keep=60)
    waiter = harness.sleeper()
    harness.records("a", listener=waiter)
    for script in ("export", "import", "cleared", "doubled"):
        until(make(), script)
        assert harness.state("a") == "waiting"
    assert waiter.is_woken()  # it may have moved between two looks
    with pytest.raises(DuplicateId):
        harness.put("a", shard=MOVES, keep=60)
    harness.records("a", listener=waiter)
    harness.settle(harness.take(), results={"a": b"1"})
    assert waiter.is_woken()
    assert harness.state("a") == "done"


@pytest.mark.parametrize("taken", [MOVES, STAYS])
def test_what_one_half_refuses_is_not_stored_twice_in_the_other(
    harness: Harness, make: Make, taken: str
) -> None:
    harness.put("taken", shard=taken, keep=60)
    split(make())  # the harness does not know yet that its put goes to two containers
    free = STAYS if taken == MOVES else MOVES
    entries = [Entry([Put(TASK, [body(f"{number}")], free)]) for number in range(20)]
    again = Entry([Put(TASK, [body("taken")], taken, ids=["taken"], record_ttl=micros(60))])
    entries.insert(7, again)
    harness.run(put_entries(harness.broker, entries))
    assert [entry for entry in entries if entry.error is not None] == [again]
    assert "nothing of the call was stored" in str(again.error)
    assert harness.counts().waiting == 21


def test_priorities_and_histories_move(harness: Harness) -> None:
    for priority in (1, 0, -1):
        harness.put(f"at {priority}", shard=MOVES, priority=priority)
    harness.settle(harness.take(), every=Retried(micros(0)))
    split(harness)
    claim = harness.take(3)
    found = [(priority, message.attempts) for priority, message in claim.lanes[0].messages]
    assert found == [(-1, 1), (0, 0), (1, 0)]


def test_batches_move(make: Make) -> None:
    harness = make()
    harness.declare(size=4, within=10, bytes=10_000, concurrency=1)
    number_put(harness, MOVES)
    split(harness)
    assert harness.claim(4) is None
    harness.put("full", shard=MOVES)
    assert len(harness.take(4)) == 4
    assert harness.flushed() == {"size": 1}


def test_deadlines_and_minimums_of_batches_move(make: Make) -> None:
    harness = make()
    harness.declare(size=9, within=60, concurrency=1, minimum=4, lead=2)
    number_put(harness, MOVES)
    harness.put("hurried", shard=MOVES, expires=12)
    harness.put("delayed", shard=MOVES, delay=70, expires=12)
    claim = harness.take(9)
    assert harness.flushed() == {"size": 1}, "it has its minimum"
    harness.settle(claim, every=Back())
    harness.declare(size=9, within=60, concurrency=1, minimum=5, lead=2)
    split(harness)
    harness.clock.advance(9)
    assert harness.claim(9) is None
    harness.clock.advance(1.001)
    harness.settle(harness.take(9))
    assert harness.flushed() == {"size": 1, "deadline": 1}
    harness.clock.advance(60)
    assert harness.claim(9) is None
    harness.clock.advance(10.001)
    assert names(harness.take(9)) == ["delayed"]
    assert harness.flushed() == {"size": 1, "deadline": 2}
    for number in range(5):
        harness.put(f"m{number}", shard=STAYS)
    assert len(harness.take(9)) == 5


def test_a_shard_can_move_twice(harness: Harness) -> None:
    number_put(harness, MOVES_LATER)
    assert split(harness) == 3
    assert split(harness) == 3
    assert harness.work_off() == [f"{MOVES_LATER} {number}" for number in range(3)]


def test_more_dead_letters_than_are_kept_do_not_move(make: Make) -> None:
    harness = make(dead_limit=2)
    harness.declare()
    for shard in SHARDS:
        harness.put("a", shard=shard)
        harness.settle(harness.take(), every=Dead(FAILURE))
    split(harness)
    assert len(harness.dead()) <= 4


# Policies, workers


def test_what_is_declared_holds_in_new_partitions(harness: Harness) -> None:
    split(harness)
    number_put(harness, MOVES)
    assert harness.take().lanes[0].shard == MOVES
    assert harness.claim() is None
    with pytest.raises(PolicyConflict):
        harness.declare(concurrency=2)


def test_limits_hold_in_new_partitions(harness: Harness) -> None:
    harness.set_rate(Limited(TASK.queue), Rate(4, micros(1), 4))
    harness.set_rate(Limited(TASK.queue, TASK.name, shards=True), Rate(1, micros(1), 1))
    for _ in range(2):
        number_put(harness, MOVES, STAYS)
    assert len(harness.work_off()) == 2
    split(harness)
    assert harness.work_off() == [], "shards take their tokens along"
    harness.clock.advance(1)
    assert len(harness.work_off()) == 2
    harness.set_rate(Limited(TASK.queue), UNLIMITED)
    harness.set_rate(Limited(TASK.queue, TASK.name, shards=True), UNLIMITED)
    number_put(harness, MOVES, first=10)
    harness.work_off()
    assert harness.counts().waiting == 0


def test_a_limit_that_is_set_while_a_queue_is_split_holds_everywhere(harness: Harness) -> None:
    number_put(harness, MOVES, STAYS)
    number_put(harness, MOVES, STAYS, first=10)
    until(harness, "accept")
    harness.set_rate(Limited(TASK.queue), Rate(2, micros(1000), 2))
    split(harness)
    assert len(harness.work_off()) <= 2


def test_who_declares_learns_of_it(harness: Harness, make: Make) -> None:
    other = make()
    other.put("a", shard=STAYS)
    until(harness, "accept")
    new = Group(TASK.queue, "new")
    other.declare(new, concurrency=1)
    split(harness)
    number_put(harness, MOVES, group=new)
    harness.take(groups=[new])
    assert harness.claim(groups=[new]) is None
    other.run(other.broker.declare(new, GroupPolicy(concurrency=1)))


def test_sleepers_look_where_shards_moved_to(harness: Harness, make: Make) -> None:
    worker = make()
    sleeper = worker.idle_worker()
    split(harness)
    assert sleeper.is_woken()
    assert worker.claim(listener=sleeper) is None
    harness.put("a", shard=MOVES)
    assert sleeper.is_woken()
    assert worker.work_off() == ["a"]


def test_a_shard_that_is_opened_wakes_a_sleeper(harness: Harness, make: Make) -> None:
    worker = make()
    number_put(harness, MOVES)
    claim = harness.take()
    advance(harness)
    sleeper = worker.idle_worker()
    while not sleeper.sleeps_on():
        assert worker.claim(listener=sleeper) is None
    harness.settle(claim)
    split(harness)
    assert sleeper.is_woken()
    assert worker.work_off() == [f"{MOVES} 1", f"{MOVES} 2"]


# Gates


def set_gate(harness: Harness, gate: Gate) -> Gate:
    return harness.run(harness.broker.set_gate(TASK.queue, gate))


def gates(harness: Harness) -> dict[Group, Gate]:
    return {counts.group: counts.gate for counts in harness.run(harness.broker.counts())}


def open_up(harness: Harness, *shards: str) -> None:
    """Resume, and see that nothing is lost."""
    set_gate(harness, Gate.OPEN)
    names = [f"{shard} {number}" for number in range(3) for shard in shards]
    assert sorted(harness.work_off()) == sorted(names)


def test_a_paused_queue_stays_paused(harness: Harness, make: Make) -> None:
    number_put(harness, *SHARDS)
    assert set_gate(harness, Gate.PAUSED) is Gate.OPEN
    split(harness)
    assert harness.work_off() == []
    assert gates(harness)[TASK] is Gate.PAUSED
    split(harness)
    assert make().work_off() == []
    assert set_gate(make(), Gate.PAUSED) is Gate.PAUSED
    open_up(harness, *SHARDS)
    assert gates(harness)[TASK] is Gate.OPEN


def test_a_draining_queue_stays_draining(harness: Harness) -> None:
    number_put(harness, *SHARDS)
    set_gate(harness, Gate.DRAINING)
    split(harness)
    for shard in (MOVES, STAYS):
        with pytest.raises(QueueDraining):
            harness.put("new", shard=shard)
    assert len(harness.work_off()) == 3 * len(SHARDS)
    open_up(harness)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("script", ["double", "part", "accept", "export", "import", "open"])
def test_a_queue_is_paused_wherever_a_split_was_left(
    harness: Harness, make: Make, script: str, after: bool
) -> None:
    number_put(harness, *SHARDS)
    until(harness, script, after=after)
    other = make()
    assert set_gate(other, Gate.PAUSED) is Gate.OPEN
    assert other.work_off() == []
    split(harness)
    assert harness.work_off() == []
    new = Group(TASK.queue, "new")
    number_put(harness, MOVES, STAYS, group=new)
    assert make().work_off(groups=[TASK, new]) == []
    open_up(other, *SHARDS)
    assert len(harness.work_off(groups=[new])) == 6


def test_who_splits_late_does_not_open_it(harness: Harness, make: Make) -> None:
    """It tells a new container what it was told before the queue was paused."""
    number_put(harness, MOVES)
    steps = atomic(harness.broker.split(TASK.queue))  # type: ignore[attr-defined]
    step = next(steps)
    while step.script.name != "accept":
        step = steps.send(harness.run(_alone(step)))
    other = make()
    set_gate(other, Gate.PAUSED)
    assert _rest(harness, steps, step).done
    assert other.work_off() == []
    assert other.work_off() == []
    open_up(other, MOVES)


def test_a_queue_that_is_split_while_it_is_paused(harness: Harness, make: Make) -> None:
    number_put(harness, *SHARDS)
    pausing = atomic(harness.broker.set_gate(TASK.queue, Gate.PAUSED))
    step = next(pausing)
    while step.script.name != "gate":
        step = pausing.send(harness.run(_alone(step)))
    split(make())
    assert _rest(harness, pausing, step) is Gate.OPEN
    assert make().work_off() == []
    open_up(harness, *SHARDS)


# Parking


@pytest.mark.parametrize("group", [TASK, PLAIN])
@pytest.mark.parametrize("number", [0, 1])
def test_a_shard_that_was_parked_before_is_parked(
    harness: Harness, make: Make, group: Group, number: int
) -> None:
    for _ in range(number):
        harness.put("a", shard=MOVES, group=group)
    assert harness.run(harness.broker.park(group, MOVES))
    split(harness)
    assert not harness.run(make().broker.park(group, MOVES))
    harness.put("b", shard=MOVES, group=group)
    assert harness.work_off(groups=[group]) == []
    [counts] = [one for one in harness.run(harness.broker.counts()) if one.group == group]
    assert (counts.parked, counts.parked_shards) == (1, [MOVES])
    assert harness.run(make().broker.release(group, MOVES))
    assert harness.work_off(groups=[group]) == [*number * ["a"], "b"]


@pytest.mark.parametrize("group", [TASK, PLAIN])
@pytest.mark.parametrize("script", ["part", "accept", "export", "import", "cleared", "doubled"])
def test_a_shard_is_parked_wherever_a_split_was_left(
    harness: Harness, make: Make, group: Group, script: str
) -> None:
    number_put(harness, MOVES, STAYS, group=group)
    until(harness, script, after=True)
    other = make()
    assert other.run(other.broker.park(group, MOVES))
    assert sorted(other.work_off(groups=[group])) == [f"{STAYS} {number}" for number in range(3)]
    split(harness)
    harness.put(f"{MOVES} 3", shard=MOVES, group=group)
    assert harness.work_off(groups=[group]) == []
    assert not other.run(other.broker.park(group, MOVES))
    [counts] = [one for one in harness.run(harness.broker.counts()) if one.group == group]
    assert (counts.parked, counts.parked_shards) == (1, [MOVES])
    assert other.run(other.broker.release(group, MOVES))
    assert harness.work_off(groups=[group]) == [f"{MOVES} {number}" for number in range(4)]


# Wrong use


def test_a_queue_must_be_there(harness: Harness) -> None:
    with pytest.raises(NotFound, match="no queue 'ordres'"):
        advance(harness, queue="ordres")


def test_only_doubling_is_possible(harness: Harness) -> None:
    split(harness)
    for partitions in (3, 8):
        with pytest.raises(PartitionConflict, match="can be split into 4, not into"):
            advance(harness, partitions)
    assert len(containers(harness)) == 2


def test_a_split_that_is_over_is_not_begun_again_by_its_number(harness: Harness) -> None:
    split(harness)
    assert advance(harness, 2) == SplitProgress(2, 0, 0, True)
    split(harness)
    assert advance(harness, 2) == SplitProgress(4, 0, 0, True)


# Unique keys


def put_unique(harness: Harness, mode: Mode, id_: str, key: str, **more: Any) -> str | None:
    times = {Mode.WINDOW: {"span": 60}, Mode.DEBOUNCE: {"span": 5, "longest": 50}}
    return harness.put_unique(mode, id_, key, group=PLAIN, **times.get(mode, {}), **more)


@pytest.mark.parametrize("until_", ["part", "accept", "sift", "export", "import", "cleared", None])
def test_keys_are_held_wherever_their_shard_is(harness: Harness, until_: str | None) -> None:
    for shard in (MOVES, STAYS):
        for mode in (Mode.STARTED, Mode.DONE, Mode.WINDOW):
            put_unique(harness, mode, f"{mode} {shard}", mode, shard=shard)
    if until_ is None:
        split(harness)
    else:
        until(harness, until_)
    for shard in (MOVES, STAYS):
        for mode in (Mode.STARTED, Mode.DONE, Mode.WINDOW):
            standing = put_unique(harness, mode, "other", mode, shard=shard)
            assert standing == f"{mode} {shard}"
    split(harness)
    assert len(harness.work_off(groups=[PLAIN])) == 6
    for shard in (MOVES, STAYS):
        for mode in (Mode.STARTED, Mode.DONE):
            assert put_unique(harness, mode, f"new {mode} {shard}", mode, shard=shard) is None
        assert put_unique(harness, Mode.WINDOW, "other", Mode.WINDOW, shard=shard)
    harness.clock.advance(60)
    assert put_unique(harness, Mode.WINDOW, "new", Mode.WINDOW, shard=MOVES) is None


def test_a_key_that_is_released_where_it_was_is_released_where_it_is(harness: Harness) -> None:
    put_unique(harness, Mode.DONE, "a", "k", shard=MOVES)
    put_unique(harness, Mode.DONE, "b", "l", shard=MOVES)
    claim = harness.take(5, groups=[PLAIN])
    assert not advance(harness).done
    assert put_unique(harness, Mode.DONE, "c", "k", shard=MOVES) == "a"
    harness.settle(claim, {"b": Retried(micros(5))})
    split(harness)
    assert put_unique(harness, Mode.DONE, "c", "k", shard=MOVES) is None
    assert put_unique(harness, Mode.DONE, "d", "l", shard=MOVES) == "b"
    harness.clock.advance(5)
    assert sorted(harness.work_off(groups=[PLAIN])) == ["b", "c"]
    assert put_unique(harness, Mode.DONE, "e", "l", shard=MOVES) is None


def test_a_late_copy_of_a_key_does_not_bring_it_back(harness: Harness, make: Make) -> None:
    put_unique(harness, Mode.DONE, "a", "k", shard=MOVES)
    claim = harness.take(groups=[PLAIN])
    other = make()
    late = atomic(other.broker.split(TASK.queue))  # type: ignore[attr-defined]
    step = next(late)
    while step.script.name != "hold" or step.args[-1] == b"\x90":
        step = late.send(other.run(_alone(step)))
    advance(harness)
    harness.settle(claim)
    split(harness)
    other.run(_alone(step))
    assert put_unique(harness, Mode.DONE, "b", "k", shard=MOVES) is None


@pytest.mark.parametrize("replaced", [True, False])
def test_debounced_messages_move(harness: Harness, replaced: bool) -> None:
    put_unique(harness, Mode.DEBOUNCE, "a", "k", shard=MOVES, keep=60)
    harness.clock.advance(1)
    until(harness, "export")
    if replaced:  # before it arrives
        assert put_unique(harness, Mode.DEBOUNCE, "b", "k", shard=MOVES) is None
    split(harness)
    if replaced:
        assert harness.state("a") == "discarded"
    else:
        assert put_unique(harness, Mode.DEBOUNCE, "b", "k", shard=MOVES) == "b"
    assert harness.counts(PLAIN).delayed == 1
    harness.clock.advance(5)
    assert harness.work_off(groups=[PLAIN]) == ["b"]
    totals = harness.counts(PLAIN).totals
    assert (totals["put"], totals["discarded"], totals["done"]) == (2, 1, 1)


def test_a_dead_letter_waits_with_its_retry_until_its_key_has_moved(harness: Harness) -> None:
    put_unique(harness, Mode.DONE, "a", "k", shard=MOVES)
    harness.settle(harness.take(groups=[PLAIN]), every=Dead(FAILURE, "a"))
    until(harness, "sift")
    assert harness.retry_dead() == 0
    split(harness)
    assert harness.retry_dead() == 1
    assert put_unique(harness, Mode.DONE, "b", "k", shard=MOVES) == "a"
    assert harness.work_off(groups=[PLAIN]) == ["a"]
