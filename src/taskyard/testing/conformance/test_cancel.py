"""Cancelling messages in every state, and what handlers tell of how far they are."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from taskyard.brokers.base import Back, Claim, Dead, Discard, Outcome, Retried, Stopped
from taskyard.brokers.cancelling import NOTED, Cancellation, Cancelled
from taskyard.brokers.lane import Gate
from taskyard.brokers.rate import Limited, Rate
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, deliveries, micros, name, names

FAILURE = Failure("error", "Error", "it failed")
KEEP = 60.0
REMOVED, ENDED, UNKNOWN = (
    Cancellation(Cancelled.REMOVED),
    Cancellation(Cancelled.ENDED),
    Cancellation(Cancelled.UNKNOWN),
)
NOTED_ONLY = Cancellation(Cancelled.NOTED)
TOLD = Cancellation(Cancelled.TOLD, "worker")


def cancel(harness: Harness, id_: str, *, note: bool = True) -> Cancellation:
    return harness.run(harness.broker.cancel(id_, note=note))


def told(harness: Harness, *claims: Claim) -> list[str]:
    """The names of the messages that were cancelled while they ran."""
    known = {
        (claim.token, message.sequence): name(message)
        for claim in claims
        for message in deliveries(claim)
    }
    found = harness.run(harness.broker.pulse([claim.token for claim in claims]))
    return sorted(known[entry] for entry in found)


@dataclass
class Numbers:
    """What is left of messages."""

    waiting: int = 0
    delayed: int = 0
    running: int = 0
    cancelled: int = 0


def numbers(harness: Harness) -> Numbers:
    counts = harness.counts()
    cancelled = counts.totals.get("cancelled", 0)
    return Numbers(counts.waiting, counts.delayed, counts.running, cancelled)


def is_gone(harness: Harness, id_: str) -> bool:
    """Whether a cancelled message is neither there nor run, though its time may come."""
    harness.clock.advance(3600 * 24)
    left = harness.work_off()
    return id_ not in left and numbers(harness) == Numbers(cancelled=1)


# Waiting


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_waiting_message_is_removed(harness: Harness, place: str) -> None:
    ids = ["first", "between", "middle", "behind", "last"]
    harness.put(*ids, keep=KEEP)
    assert cancel(harness, place) == REMOVED
    assert harness.state(place) == "cancelled"
    assert numbers(harness) == Numbers(waiting=4, cancelled=1)
    assert harness.work_off() == [id_ for id_ in ids if id_ != place]


def test_the_only_message_of_a_lane_is_removed(harness: Harness) -> None:
    harness.put("a", shard="s", keep=KEEP)
    assert cancel(harness, "a") == REMOVED
    counts = harness.counts()
    assert (counts.waiting, counts.lanes, counts.oldest) == (0, 0, 0)
    harness.put("b", shard="s")
    assert harness.work_off() == ["b"]


def test_messages_of_several_priorities_are_found(harness: Harness) -> None:
    for priority in (1, -1, 0):
        harness.put(*(f"{id_}{priority}" for id_ in "abc"), priority=priority, keep=KEEP)
    assert [cancel(harness, id_) for id_ in ("a-1", "b-1", "c-1", "b0", "c1")] == [REMOVED] * 5
    assert harness.work_off() == ["a0", "c0", "a1", "b1"]


def test_many_messages_are_cancelled_one_by_one(harness: Harness) -> None:
    ids = [f"m{index:03}" for index in range(100)]
    harness.put(*ids, keep=KEEP)
    gone = ids[::3]
    assert {cancel(harness, id_) for id_ in gone} == {REMOVED}
    assert harness.work_off() == [id_ for id_ in ids if id_ not in gone]


def test_a_message_that_came_back_is_removed(harness: Harness) -> None:
    harness.put("a", "b", "c", keep=KEEP)
    harness.settle(harness.take(2), every=Back(started=True))
    assert cancel(harness, "b") == REMOVED
    assert harness.work_off() == ["a", "c"]


def test_a_batch_waits_for_what_is_left(harness: Harness) -> None:
    harness.declare(size=2, within=10, bytes=1000)
    harness.put("a", keep=KEEP)
    harness.clock.advance(5)
    harness.put("b", keep=KEEP)
    assert cancel(harness, "a") == REMOVED
    assert harness.claim(10) is None
    assert harness.counts().oldest == harness.clock.now
    harness.clock.advance(10)
    assert names(harness.claim(10)) == ["b"]


def test_who_waits_for_the_end_is_woken(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    sleeper = harness.sleeper()
    harness.records("a", listener=sleeper)
    cancel(harness, "a")
    assert sleeper.is_woken()


def test_the_record_is_forgotten_when_its_time_is_over(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    cancel(harness, "a")
    harness.clock.advance(KEEP + 1)
    assert harness.state("a") is None


# Delayed, and backing off


def test_a_delayed_message_is_removed(harness: Harness) -> None:
    harness.put("a", "b", "c", delay=100, keep=KEEP)
    assert cancel(harness, "b") == REMOVED
    assert numbers(harness) == Numbers(delayed=2, cancelled=1)
    assert harness.next_at() == harness.clock.now + micros(100)
    harness.clock.advance(100)
    assert harness.work_off() == ["a", "c"]


def test_what_was_the_next_to_become_due_is_not_waited_for(harness: Harness) -> None:
    harness.put("a", delay=100, keep=KEEP)
    harness.put("b", delay=200, keep=KEEP)
    cancel(harness, "a")
    assert harness.next_at() == harness.clock.now + micros(200)
    cancel(harness, "b")
    assert harness.next_at() == 0


def test_a_message_that_was_delayed_is_found_in_its_lane(harness: Harness) -> None:
    harness.put("a", "b", delay=100, keep=KEEP)
    harness.clock.advance(100)
    assert names(harness.take()) == ["a"]
    assert cancel(harness, "b") == REMOVED
    assert harness.work_off() == []


def test_a_retry_chain_stops(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    harness.settle(harness.take(), every=Retried(micros(100)), records=True)
    assert harness.state("a") == "retrying"
    assert cancel(harness, "a") == REMOVED
    assert is_gone(harness, "a")


def test_a_retried_message_that_waits_again_is_found(harness: Harness) -> None:
    harness.put("a", "b", keep=KEEP)
    harness.settle(harness.take(2), every=Retried(micros(1)), records=True)
    harness.clock.advance(1)
    assert names(harness.take()) == ["a"]
    assert cancel(harness, "b") == REMOVED


# Ordered lanes


def test_a_cancelled_head_lets_the_next_go(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("head", "next", shard="s", keep=KEEP)
    harness.settle(harness.take(), every=Retried(micros(1000)), records=True)
    sleeper = harness.idle_worker()
    assert cancel(harness, "head") == REMOVED
    assert sleeper.is_woken()
    assert harness.work_off() == ["next"]


def test_the_head_goes_on_backing_off_when_another_is_cancelled(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("head", "next", "last", shard="s", keep=KEEP)
    harness.settle(harness.take(), every=Retried(micros(1000)), records=True)
    assert cancel(harness, "next") == REMOVED
    assert harness.claim() is None
    harness.clock.advance(1000)
    assert harness.work_off() == ["head", "last"]


def test_messages_behind_a_running_head_are_removed(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", "c", shard="s", keep=KEEP)
    head = harness.take()
    assert cancel(harness, "b") == REMOVED
    assert harness.claim() is None
    harness.settle(head)
    assert harness.work_off() == ["c"]


def test_a_message_of_a_parked_shard_is_removed(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s", keep=KEEP)
    harness.settle(harness.take(), every=Back(started=True, park=True))
    assert cancel(harness, "a") == REMOVED
    assert harness.counts().parked == 1
    assert harness.claim() is None
    assert harness.release("s")
    assert harness.work_off() == ["b"]


@pytest.mark.parametrize("gate", [Gate.PAUSED, Gate.DRAINING])
def test_a_closed_queue_hinders_nobody(harness: Harness, gate: Gate) -> None:
    harness.put("a", keep=KEEP)
    harness.put("noted")
    harness.run(harness.broker.set_gate(TASK.queue, gate))
    assert cancel(harness, "a") == REMOVED
    assert cancel(harness, "noted") == NOTED_ONLY
    harness.run(harness.broker.set_gate(TASK.queue, Gate.OPEN))
    assert harness.work_off() == []
    assert numbers(harness) == Numbers(cancelled=2)


# What ended, and what never was


def test_what_is_done_stays_done(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    harness.settle(harness.take(), results={"a": b"result"})
    assert cancel(harness, "a") == ENDED
    record = harness.record("a")
    assert record is not None
    assert (record.state, record.result) == ("done", b"result")


def test_a_dead_letter_stays_one_and_can_be_retried(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    harness.settle(harness.take(), every=Dead(FAILURE, "a"))
    assert cancel(harness, "a") == ENDED
    assert harness.retry_dead() == 1
    assert harness.work_off() == ["a"]


def test_a_dead_letter_that_was_retried_is_removed(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    harness.settle(harness.take(), every=Dead(FAILURE, "a"))
    harness.retry_dead()
    assert cancel(harness, "a") == REMOVED
    assert harness.work_off() == []


def test_what_nobody_knows_is_noted_or_not(harness: Harness) -> None:
    assert cancel(harness, "nobody", note=False) == UNKNOWN
    assert cancel(harness, "nobody") == NOTED_ONLY
    harness.put("nobody", keep=KEEP)  # a later one
    assert harness.work_off() == ["nobody"]


def test_the_second_of_two_cancels_finds_it_ended(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    assert [cancel(harness, "a"), cancel(harness, "a")] == [REMOVED, ENDED]
    assert numbers(harness) == Numbers(cancelled=1)


def test_a_later_message_of_the_id_is_not_touched(harness: Harness) -> None:
    harness.put("a", keep=1)
    cancel(harness, "a")
    harness.clock.advance(2)
    harness.put("a", keep=KEEP)
    assert harness.state("a") == "waiting"
    assert harness.work_off() == ["a"]


# Running

GO_ON: list[Outcome] = [Back(), Back(started=True), Back(started=True, park=True), Retried(0)]


def test_who_runs_it_is_told(harness: Harness) -> None:
    harness.put("a", "b", "c", keep=KEEP)
    first, second = harness.take(2), harness.take()
    assert told(harness, first, second) == []
    assert cancel(harness, "b") == TOLD
    assert told(harness, first, second) == ["b"]
    assert cancel(harness, "b") == TOLD
    assert cancel(harness, "c") == TOLD
    assert told(harness, first, second) == ["b", "c"]
    assert harness.state("b") == "running"


def test_a_message_that_was_stopped_ends_as_cancelled(harness: Harness) -> None:
    harness.put("a", "b", keep=KEEP)
    claim = harness.take(2)
    cancel(harness, "a")
    assert harness.settle(claim, {"a": Stopped("a")}, results={"b": b"result"})
    assert harness.state("a") == "cancelled"
    assert harness.state("b") == "done"
    assert harness.total("done") == 1
    assert numbers(harness) == Numbers(cancelled=1)


@pytest.mark.parametrize("outcome", GO_ON, ids=str)
@pytest.mark.parametrize("concurrency", [0, 1])
def test_a_message_that_was_told_is_not_run_again(
    harness: Harness, outcome: Outcome, concurrency: int
) -> None:
    harness.declare(concurrency=concurrency)
    harness.put("a", "next", shard="s", keep=KEEP)
    claim = harness.take()
    cancel(harness, "a")
    harness.settle(claim, every=outcome, records=True)
    assert harness.state("a") == "cancelled"
    assert numbers(harness) == Numbers(waiting=1, cancelled=1)
    assert harness.total("retried") == 0
    assert harness.work_off() == ["next"]


def test_a_message_that_was_told_may_end_otherwise(harness: Harness) -> None:
    harness.put("done", "dead", "discarded", keep=KEEP)
    claim = harness.take(3)
    for id_ in names(claim):
        assert cancel(harness, id_) == TOLD
    outcomes: dict[str, Outcome] = {
        "dead": Dead(FAILURE, "dead"),
        "discarded": Discard("discarded"),
    }
    harness.settle(claim, outcomes, results={"done": b"result"})
    assert [harness.state(id_) for id_ in names(claim)] == ["done", "dead", "discarded"]
    assert numbers(harness) == Numbers()


def test_a_message_that_was_told_is_not_run_again_after_a_crash(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", "c", shard="s", keep=KEEP)
    harness.take(2)
    cancel(harness, "a")
    assert harness.reap("worker") == 1
    assert harness.state("a") == "cancelled"
    assert numbers(harness) == Numbers(waiting=2, cancelled=1)
    assert harness.work_off() == ["b", "c"]


def test_a_lost_lease_is_like_a_crash(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    claim = harness.take(lease=10)
    cancel(harness, "a")
    harness.clock.advance(11)
    assert harness.claim() is None
    assert harness.state("a") == "cancelled"
    assert told(harness, claim) == []
    assert not harness.settle(claim)


def test_what_still_runs_stays_told(harness: Harness) -> None:
    harness.put("a", "b", keep=KEEP)
    claim = harness.take(2)
    cancel(harness, "a")
    harness.settle(claim, keep=["a"], results={"b": b"result"})
    harness.extend(claim)
    assert told(harness, claim) == ["a"]
    harness.settle(claim, every=Back())
    assert harness.state("a") == "cancelled"


def test_a_cancelled_message_releases_its_shard(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", "b", shard="s", keep=KEEP)
    claim = harness.take()
    cancel(harness, "a")
    sleeper = harness.idle_worker()
    harness.settle(claim, every=Stopped("a"))
    assert sleeper.is_woken()
    assert harness.work_off() == ["b"]


# Without a record


def test_a_noted_message_is_removed_when_its_turn_comes(harness: Harness) -> None:
    harness.put("a", "b", "c")
    assert cancel(harness, "b") == NOTED_ONLY
    assert numbers(harness) == Numbers(waiting=3)
    assert harness.work_off() == ["a", "c"]
    assert numbers(harness) == Numbers(cancelled=1)


def test_a_claim_holds_what_is_left(harness: Harness) -> None:
    harness.declare(concurrency=1)
    for shard in "xyz":
        harness.put(f"{shard}1", f"{shard}2", shard=shard)
    for id_ in ("x1", "x2", "y1"):
        cancel(harness, id_)
    claim = harness.take(6)
    assert sorted(names(claim)) == ["y2", "z1", "z2"]
    assert numbers(harness) == Numbers(running=3, cancelled=3)
    harness.put("x3", shard="x")
    assert names(harness.take(6)) == ["x3"]  # its shard is free
    assert harness.settle(claim)
    assert harness.total("done") == 3


def test_a_claim_goes_on_where_all_it_found_was_cancelled(harness: Harness) -> None:
    harness.put(*(f"m{index}" for index in range(20)))
    for index in range(19):
        cancel(harness, f"m{index}")
    assert names(harness.take()) == ["m19"]
    assert harness.claim() is None


def test_a_noted_message_that_is_delayed_never_enters_its_lane(harness: Harness) -> None:
    harness.put("a", "b", delay=10)
    cancel(harness, "a")
    harness.clock.advance(10)
    assert harness.work_off() == ["b"]
    assert numbers(harness) == Numbers(cancelled=1)


def test_a_retried_message_without_a_record_is_removed(harness: Harness) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Retried(micros(10)))
    assert cancel(harness, "a") == NOTED_ONLY
    assert is_gone(harness, "a")


def test_a_running_message_without_a_record_is_told(harness: Harness) -> None:
    harness.put("a", "b")
    claim = harness.take(2)
    assert cancel(harness, "a") == TOLD
    assert told(harness, claim) == ["a"]
    harness.settle(claim, every=Back())
    assert harness.work_off() == ["b"]
    assert numbers(harness) == Numbers(cancelled=1)


def test_a_note_does_not_mean_later_messages(harness: Harness) -> None:
    harness.put("a", shard="x")
    cancel(harness, "a")
    harness.put("a", shard="y")
    harness.put("a", shard="z", delay=1)
    harness.clock.advance(1)
    assert harness.work_off() == ["a", "a"]
    assert numbers(harness) == Numbers(cancelled=1)


def test_a_note_does_not_end_the_record_of_a_later_message(harness: Harness) -> None:
    harness.put("a", shard="x")
    cancel(harness, "a")
    harness.put("a", shard="y", keep=KEEP)
    claims = harness.claims(claims=2)
    assert [names(claim) for claim in claims] == [["a"]]
    assert harness.state("a") == "running"
    assert numbers(harness) == Numbers(running=1, cancelled=1)


def test_a_dead_letter_that_is_retried_is_a_later_message(harness: Harness) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Dead(FAILURE, "a"))
    cancel(harness, "a")
    harness.retry_dead()
    assert harness.work_off() == ["a"]


def test_notes_are_forgotten(harness: Harness) -> None:
    harness.put("a", delay=NOTED / 1e6 + 10)
    cancel(harness, "a")
    harness.clock.advance(NOTED / 1e6 + 10)
    harness.tidy()
    assert harness.work_off() == ["a"]


# Progress


def progress(harness: Harness, id_: str) -> tuple[bytes | None, int] | None:
    record = harness.record(id_)
    return None if record is None else (record.progress, record.told_at)


def pulse(harness: Harness, claim: Claim, id_: str, told: bytes) -> None:
    harness.run(harness.broker.pulse([claim.token], [(claim.token, id_, told)]))


def test_what_a_handler_tells_can_be_read(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    claim = harness.take()
    assert progress(harness, "a") == (None, 0)
    pulse(harness, claim, "a", b"half")
    assert progress(harness, "a") == (b"half", harness.clock.now)
    harness.clock.advance(1)
    pulse(harness, claim, "a", b"more")
    assert progress(harness, "a") == (b"more", harness.clock.now)


def test_the_last_word_comes_with_the_end(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    claim = harness.take()
    settlement = harness.settlement(claim, results={"a": b"result"})
    settlement.progress = [("a", b"all")]
    harness.step([settlement], None)
    assert harness.state("a") == "done"
    assert progress(harness, "a") == (b"all", harness.clock.now)
    harness.clock.advance(KEEP + 1)
    assert progress(harness, "a") is None


def test_who_lost_the_claim_tells_nothing(harness: Harness) -> None:
    harness.put("a", keep=KEEP)
    claim = harness.take()
    harness.reap("worker")
    pulse(harness, claim, "a", b"late")
    assert progress(harness, "a") == (None, 0)


def test_where_there_is_no_record_nothing_is_kept(harness: Harness) -> None:
    harness.put("a")
    pulse(harness, harness.take(), "a", b"half")
    assert harness.record("a") is None


# Rate limits


@pytest.mark.parametrize("shards", [False, True], ids=["task", "shard"])
@pytest.mark.parametrize("alone", [True, False])
def test_what_a_claim_leaves_out_takes_no_token(
    harness: Harness, shards: bool, alone: bool
) -> None:
    harness.set_rate(Limited(TASK.queue, TASK.name, shards=shards), Rate(1, micros(10), 2))
    harness.put("a", "b", *(() if alone else ("c",)), shard="s")
    for id_ in ("a", "b") if alone else ("a",):
        harness.run(harness.broker.cancel(id_, note=True))
    if alone:
        assert harness.claim(5) is None
        harness.put("b", "c", shard="s")
        assert names(harness.take(5)) == ["b", "c"]
    else:
        assert [*names(harness.take(5)), *names(harness.take(5))] == ["b", "c"]
    harness.put("d", shard="s")
    assert harness.claim() is None


@pytest.mark.parametrize("outcome", [Back(), Stopped("a", started=False)], ids=["back", "stopped"])
@pytest.mark.parametrize("shards", [False, True], ids=["task", "shard"])
def test_what_is_cancelled_before_it_was_started_leaves_its_token(
    harness: Harness, shards: bool, outcome: Outcome
) -> None:
    harness.set_rate(Limited(TASK.queue, TASK.name, shards=shards), Rate(1, micros(10), 1))
    harness.put("a", keep=KEEP, shard="s")
    claim = harness.take()
    harness.put("b", shard="s")
    assert cancel(harness, "a") == TOLD
    assert harness.claim() is None
    harness.settle(claim, every=outcome)
    assert names(harness.take()) == ["b"]
