"""Cancelling the message that holds a unique key, in every state and of every mode."""

from __future__ import annotations

from typing import Any

import pytest

from taskyard.brokers.base import Back, Dead, Group, Retried, Stopped
from taskyard.brokers.cancelling import Cancellation, Cancelled
from taskyard.brokers.lane import Gate
from taskyard.brokers.unique import Mode
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Harness, micros, names

FAILURE = Failure("error", "Error", "it failed")
KEEP = 600.0
WINDOW, DELAY, LONGEST = 100.0, 2.0, 5.0
REMOVED, NOTED, ENDED, UNKNOWN = (
    Cancellation(Cancelled.REMOVED),
    Cancellation(Cancelled.NOTED),
    Cancellation(Cancelled.ENDED),
    Cancellation(Cancelled.UNKNOWN),
)
TOLD = Cancellation(Cancelled.TOLD, "worker")
TIMES: dict[Mode, dict[str, float]] = {
    Mode.WINDOW: {"span": WINDOW},
    Mode.DEBOUNCE: {"span": DELAY, "longest": LONGEST},
}
IN_LANES = [Mode.STARTED, Mode.DONE, Mode.WINDOW]
RECORDS = pytest.mark.parametrize("keep", [KEEP, None], ids=["recorded", "unrecorded"])


def put(harness: Harness, mode: Mode, id_: str = "a", key: str = "k", **more: Any) -> str | None:
    """Put with the times of the mode; answers who stands, None: it is new."""
    return harness.put_unique(mode, id_, key, **TIMES.get(mode, {}), **more)


def cancel(
    harness: Harness, key: str = "k", *, shard: str = "", group: Group = TASK
) -> Cancellation:
    return harness.run(harness.broker.cancel_key(group, shard, key))


def left(keep: float | None) -> Cancellation:
    """What becomes of a message that waits."""
    return REMOVED if keep else NOTED


def worked_off(harness: Harness) -> list[str]:
    """What is run, though it may take its time."""
    done = harness.work_off()
    harness.clock.advance(WINDOW)
    return done + harness.work_off()


# Waiting, delayed, retrying


@RECORDS
@pytest.mark.parametrize("mode", IN_LANES)
def test_a_waiting_message_is_found_by_its_key(
    harness: Harness, mode: Mode, keep: float | None
) -> None:
    put(harness, mode, "a", keep=keep)
    put(harness, mode, "b", "l", keep=keep)
    assert cancel(harness) == left(keep)
    assert put(harness, mode, "c", keep=keep) is None, "the key is free at once"
    assert put(harness, mode, "d", "l", keep=keep) == "b", "another one is not"
    assert worked_off(harness) == ["b", "c"]
    assert harness.total("cancelled") == 1
    if keep:
        assert harness.state("a") == "cancelled"


@RECORDS
@pytest.mark.parametrize("mode", IN_LANES)
def test_a_delayed_message_is_found_by_its_key(
    harness: Harness, mode: Mode, keep: float | None
) -> None:
    put(harness, mode, "a", keep=keep, delay=5)
    assert cancel(harness) == left(keep)
    assert put(harness, mode, "b", keep=keep) is None
    assert worked_off(harness) == ["b"]
    assert harness.total("cancelled") == 1


@RECORDS
@pytest.mark.parametrize("mode", [Mode.DONE, Mode.WINDOW])
@pytest.mark.parametrize("concurrency", [0, 1])
def test_a_retry_chain_stops(
    harness: Harness, mode: Mode, keep: float | None, concurrency: int
) -> None:
    harness.declare(concurrency=concurrency)
    put(harness, mode, "a", shard="s", keep=keep)
    harness.settle(harness.take(), every=Retried(micros(5)), records=keep is not None)
    assert cancel(harness, shard="s") == left(keep)
    assert put(harness, mode, "b", shard="s", keep=keep) is None
    assert worked_off(harness) == ["b"]
    assert harness.total("cancelled") == 1


def test_a_message_that_was_started_holds_no_key_while_it_is_retried(harness: Harness) -> None:
    put(harness, Mode.STARTED, "a", keep=KEEP)
    claim = harness.take()
    assert cancel(harness) == UNKNOWN
    harness.settle(claim, every=Retried(micros(5)), records=True)
    assert cancel(harness) == UNKNOWN
    assert worked_off(harness) == ["a"]


@RECORDS
def test_a_debounced_message_is_removed(harness: Harness, keep: float | None) -> None:
    put(harness, Mode.DEBOUNCE, "a", keep=keep)
    assert put(harness, Mode.DEBOUNCE, "b", keep=keep) == "b"
    assert cancel(harness) == REMOVED, "the key itself says where it is"
    assert cancel(harness) == UNKNOWN
    assert harness.counts().delayed == 0
    assert put(harness, Mode.DEBOUNCE, "c", keep=keep) is None, "it begins anew"
    harness.clock.advance(DELAY)
    assert harness.work_off() == ["c"]
    assert harness.total("cancelled") == harness.total("discarded") == 1
    if keep:
        assert harness.states("a", "b") == ["discarded", "cancelled"]


def test_a_debounced_message_in_its_lane_holds_no_key(harness: Harness) -> None:
    put(harness, Mode.DEBOUNCE, "a", keep=KEEP)
    harness.put("x")
    harness.clock.advance(DELAY)
    assert names(harness.take()) == ["x"]
    assert cancel(harness) == UNKNOWN
    assert harness.work_off() == ["a"]


def test_messages_of_any_place_in_a_shard(harness: Harness) -> None:
    harness.declare(concurrency=1)
    for priority in (1, -1, 0):
        for key in "abc":
            id_ = f"{key}{priority}"
            put(harness, Mode.DONE, id_, id_, shard="s", priority=priority, keep=KEEP)
    for key in ("b1", "a-1", "c0"):
        assert cancel(harness, key, shard="s") == REMOVED
    assert harness.work_off() == ["b-1", "c-1", "a0", "b0", "a1", "c1"]


def test_a_cancelled_head_lets_the_next_go(harness: Harness) -> None:
    harness.declare(concurrency=1)
    put(harness, Mode.DONE, "head", shard="s", keep=KEEP)
    harness.put("next", shard="s")
    harness.settle(harness.take(), every=Retried(micros(1000)), records=True)
    sleeper = harness.idle_worker()
    assert cancel(harness, shard="s") == REMOVED
    assert sleeper.is_woken()
    assert harness.work_off() == ["next"]


def test_who_waits_for_the_end_is_woken(harness: Harness) -> None:
    put(harness, Mode.DEBOUNCE, "a", keep=KEEP)
    sleeper = harness.sleeper()
    harness.records("a", listener=sleeper)
    assert cancel(harness) == REMOVED
    assert sleeper.is_woken()


@pytest.mark.parametrize("gate", [Gate.PAUSED, Gate.DRAINING])
def test_a_closed_queue_hinders_nobody(harness: Harness, gate: Gate) -> None:
    put(harness, Mode.DONE, "a", keep=KEEP)
    harness.run(harness.broker.set_gate(TASK.queue, gate))
    assert cancel(harness) == REMOVED


# Running


@RECORDS
def test_who_runs_it_is_told(harness: Harness, keep: float | None) -> None:
    put(harness, Mode.DONE, "a", keep=keep)
    claim = harness.take()
    assert cancel(harness) == TOLD
    assert [token for token, _ in harness.run(harness.broker.pulse([claim.token]))] == [claim.token]
    assert put(harness, Mode.DONE, "b", keep=keep) == "a", "it still runs"
    assert cancel(harness) == TOLD
    harness.settle(claim, every=Stopped("a"), records=keep is not None)
    assert put(harness, Mode.DONE, "b", keep=keep) is None
    assert harness.work_off() == ["b"]


@pytest.mark.parametrize("end", [Back(), Retried(0)], ids=str)
@RECORDS
def test_what_was_told_is_not_run_again(harness: Harness, keep: float | None, end: Any) -> None:
    put(harness, Mode.DONE, "a", keep=keep)
    claim = harness.take()
    assert cancel(harness) == TOLD
    harness.settle(claim, every=end, records=keep is not None)
    assert cancel(harness) == UNKNOWN
    assert worked_off(harness) == []
    assert harness.total("cancelled") == 1


@RECORDS
def test_the_window_of_a_running_message_ends_at_once(harness: Harness, keep: float | None) -> None:
    put(harness, Mode.WINDOW, "a", keep=keep)
    claim = harness.take()
    assert cancel(harness) == TOLD
    assert put(harness, Mode.WINDOW, "b", keep=keep) is None
    harness.settle(claim)
    assert put(harness, Mode.WINDOW, "c", keep=keep) == "b", "its end leaves the other's window"
    assert harness.work_off() == ["b"]


# What ended, and what nobody holds


def test_a_window_outlives_its_message(harness: Harness) -> None:
    put(harness, Mode.WINDOW, "a", keep=KEEP)
    harness.settle(harness.take(), results={"a": b"result"})
    assert cancel(harness) == ENDED
    assert put(harness, Mode.WINDOW, "b", keep=KEEP) == "a", "nothing was changed"
    harness.clock.advance(WINDOW)
    assert cancel(harness) == UNKNOWN
    assert put(harness, Mode.WINDOW, "b", keep=KEEP) is None


def test_without_a_record_nobody_knows_whether_it_ended(harness: Harness) -> None:
    put(harness, Mode.WINDOW, "a")
    assert harness.work_off() == ["a"]
    assert cancel(harness) == NOTED
    assert put(harness, Mode.WINDOW, "b") is None
    assert harness.work_off() == ["b"]
    assert harness.total("cancelled") == 0


def test_a_window_that_was_freed_is_no_trace(harness: Harness) -> None:
    """What is left to tidy of it does not end the next one."""
    put(harness, Mode.WINDOW, "a", keep=KEEP)
    harness.clock.advance(WINDOW / 2)
    assert cancel(harness) == REMOVED
    assert put(harness, Mode.WINDOW, "b", keep=KEEP) is None
    harness.clock.advance(WINDOW / 2)
    harness.tidy()
    assert put(harness, Mode.WINDOW, "c", keep=KEEP) == "b"
    harness.clock.advance(WINDOW / 2)
    assert harness.tidy() >= 1
    assert put(harness, Mode.WINDOW, "c", keep=KEEP) is None


@pytest.mark.parametrize("mode", [Mode.STARTED, Mode.DONE])
@RECORDS
def test_what_is_done_holds_no_key(harness: Harness, mode: Mode, keep: float | None) -> None:
    put(harness, mode, "a", keep=keep)
    harness.settle(harness.take(), results={"a": b"result"} if keep else None)
    assert cancel(harness) == UNKNOWN
    assert harness.state("a") == ("done" if keep else None)


def test_a_dead_letter_holds_no_key_until_it_is_retried(harness: Harness) -> None:
    put(harness, Mode.DONE, "a", keep=KEEP)
    harness.settle(harness.take(), every=Dead(FAILURE, "a"))
    assert cancel(harness) == UNKNOWN
    assert harness.retry_dead() == 1
    assert cancel(harness) == REMOVED
    assert harness.work_off() == []


def test_a_key_that_nobody_holds(harness: Harness) -> None:
    assert cancel(harness) == UNKNOWN, "there is no such group"
    harness.put("a", shard="s")
    assert cancel(harness, shard="s") == UNKNOWN
    assert harness.work_off() == ["a"]


@pytest.mark.parametrize("mode", list(Mode))
def test_keys_of_other_shards_and_groups_are_others(harness: Harness, mode: Mode) -> None:
    other = Group(TASK.queue, "other")
    harness.declare(other)
    put(harness, mode, "a", shard="s", keep=KEEP)
    put(harness, mode, "b", group=other, shard="t", keep=KEEP)
    assert cancel(harness, shard="t") == UNKNOWN
    assert cancel(harness, shard="s", group=other) == UNKNOWN
    assert cancel(harness) == UNKNOWN
    assert harness.total("cancelled") == 0
    assert cancel(harness, shard="t", group=other) == REMOVED
    assert harness.states("a", "b")[1] == "cancelled"
    assert harness.total("cancelled") == 0


def test_keys_may_be_of_any_text(harness: Harness) -> None:
    for number, key in enumerate(("", "ä\n€", "x" * 500, "s", "a:b")):
        put(harness, Mode.DONE, f"m{number}", key, keep=KEEP)
        assert cancel(harness, key) == REMOVED


# Never another one


@pytest.mark.parametrize("mode", list(Mode))
@RECORDS
def test_a_later_message_of_the_key_is_not_touched(
    harness: Harness, mode: Mode, keep: float | None
) -> None:
    put(harness, mode, "a", keep=keep)
    assert cancel(harness).outcome in (Cancelled.REMOVED, Cancelled.NOTED)
    assert put(harness, mode, "b", keep=keep) is None
    harness.clock.advance(DELAY)
    assert harness.work_off() == ["b"]
    assert harness.total("cancelled") == 1


def test_a_noted_message_does_not_release_the_key_of_the_next(harness: Harness) -> None:
    put(harness, Mode.DONE, "a", delay=5)
    assert cancel(harness) == NOTED
    put(harness, Mode.DONE, "b", delay=50)
    harness.clock.advance(5)
    assert harness.claim() is None
    assert harness.total("cancelled") == 1
    assert put(harness, Mode.DONE, "c") == "b"


@pytest.mark.parametrize("mode", IN_LANES)
def test_a_record_of_the_id_elsewhere_is_not_that_of_the_message(
    harness: Harness, mode: Mode
) -> None:
    put(harness, mode, "a", shard="s")
    harness.put("a", shard="t", keep=KEEP)
    assert cancel(harness, shard="s") == NOTED
    assert harness.state("a") == "waiting"


def test_a_window_beside_a_key_of_another_mode(harness: Harness) -> None:
    put(harness, Mode.WINDOW, "a", keep=KEEP)
    harness.clock.advance(WINDOW)
    assert put(harness, Mode.DONE, "b", keep=KEEP) is None, "the window is over"
    assert cancel(harness) == REMOVED
    assert harness.states("b") == ["cancelled"]
    assert harness.work_off() == ["a"]
