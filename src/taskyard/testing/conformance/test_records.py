"""What is remembered of a message under its id."""

from __future__ import annotations

from taskyard.brokers.base import Back, Dead, Discard, Group, Record, Retried
from taskyard.message import Failure, State
from taskyard.testing.conformance.harness import TASK, Harness, micros

BROKEN = Failure("failed", "ValueError", "it is broken", "Traceback: …")


def test_a_record_follows_its_message(harness: Harness) -> None:
    harness.put("a", keep=60, delay=5)
    assert harness.state("a") == "delayed"
    harness.clock.advance(5)
    assert harness.state("a") == "waiting"
    claim = harness.take()
    assert harness.state("a") == "running"
    harness.settle(claim, every=Retried(micros(3)), records=True)
    assert harness.state("a") == "retrying"
    harness.clock.advance(3)
    assert harness.state("a") == "waiting"
    claim = harness.take()
    assert harness.state("a") == "running"
    harness.settle(claim, results={"a": b"result"})
    assert harness.record("a") == Record("a", TASK, State.DONE, b"result", None)


def test_the_record_of_a_retried_head_follows_it_too(harness: Harness) -> None:
    harness.declare(concurrency=1)
    harness.put("a", shard="s", keep=60)
    harness.settle(harness.take(), every=Retried(micros(3)), records=True)
    assert harness.state("a") == "retrying"
    harness.clock.advance(3)
    assert harness.state("a") == "waiting"


def test_a_message_that_goes_back_waits_again(harness: Harness) -> None:
    harness.put("a", "b", keep=60)
    claim = harness.take(2, owner="dead")
    assert [harness.state(id_) for id_ in "ab"] == ["running", "running"]
    harness.settle(claim, {"a": Back(started=True)}, keep=["b"])
    assert [harness.state(id_) for id_ in "ab"] == ["waiting", "running"]
    harness.reap("dead")
    assert harness.state("b") == "waiting"


def test_a_dead_message_says_why(harness: Harness) -> None:
    harness.put("a", keep=60)
    harness.settle(harness.take(), every=Dead(BROKEN, "a", "save"))
    assert harness.record("a") == Record("a", TASK, State.DEAD, None, BROKEN)


def test_a_discarded_message_says_so(harness: Harness) -> None:
    harness.put("a", keep=60)
    harness.settle(harness.take(), every=Discard("a"))
    assert harness.record("a") == Record("a", TASK, State.DISCARDED)


def test_records_come_in_the_order_in_which_they_are_asked_for(harness: Harness) -> None:
    harness.put("a", "b", keep=60)
    found = harness.records("b", "unknown", "a", "b")
    assert [record and record.id for record in found] == ["b", None, "a", "b"]
    assert harness.records() == []


def test_nothing_is_remembered_unless_asked_for(harness: Harness) -> None:
    harness.put("a")
    assert harness.record("a") is None
    assert harness.settle(harness.take(), results={"a": b"1"})
    assert harness.record("a") is None


def test_results_of_any_length_are_kept(harness: Harness) -> None:
    harness.put("empty", "long", keep=60)
    harness.settle(harness.take(2), results={"empty": b"", "long": b"\x00" * 1_000_000})
    empty, long = harness.records("empty", "long")
    assert empty is not None
    assert long is not None
    assert (empty.result, long.result) == (b"", b"\x00" * 1_000_000)


def test_a_record_expires_after_its_message_ended(harness: Harness) -> None:
    harness.put("a", keep=60)
    harness.clock.advance(1000)
    claim = harness.take(lease=5000)
    harness.clock.advance(1000)
    assert harness.state("a") == "running"
    harness.settle(claim, results={"a": b"1"})
    harness.clock.advance(59)
    assert harness.state("a") == "done"
    harness.clock.advance(1)
    assert harness.record("a") is None


def test_each_record_has_its_own_lifetime(harness: Harness) -> None:
    harness.put("short", keep=1)
    harness.put("long", keep=100)
    harness.settle(harness.take(2), results={"short": b"", "long": b""})
    harness.clock.advance(2)
    assert harness.tidy_records() in (None, 1)
    assert [harness.state(id_) for id_ in ("short", "long")] == [None, "done"]


def test_all_ends_expire(harness: Harness) -> None:
    harness.put("done", "dead", "gone", keep=10)
    harness.settle(
        harness.take(3),
        {"dead": Dead(BROKEN, "dead"), "gone": Discard("gone")},
        results={"done": b""},
    )
    harness.clock.advance(11)
    assert harness.records("done", "dead", "gone") == [None, None, None]
    assert harness.tidy_records() in (None, 3)
    assert harness.tidy() == 0


def test_records_of_messages_that_have_not_ended_stay(harness: Harness) -> None:
    harness.put("waiting", "running", keep=0)
    harness.put("delayed", keep=0, delay=1_000_000)
    harness.take()
    harness.clock.advance(1000)
    assert harness.tidy() == 0
    assert None not in harness.records("waiting", "running", "delayed")


def test_a_great_many_records_are_tidied_up(harness: Harness) -> None:
    ids = [f"m{index}" for index in range(2500)]
    harness.put(*ids, keep=1)
    assert len(harness.records(*ids)) == 2500
    harness.settle(harness.take(2500), results=dict.fromkeys(ids, b""))
    harness.clock.advance(2)
    assert harness.tidy_records() in (None, 2500)


def test_a_record_names_the_group(harness: Harness) -> None:
    group = Group("other queue", "other task")
    harness.put("a", group=group, keep=60, task="inner")
    record = harness.record("a")
    assert record is not None
    assert record.task == group


def test_a_message_that_runs_after_the_clock_was_set_back_runs(harness: Harness) -> None:
    harness.put("a", keep=60, delay=10)
    harness.clock.advance(10)
    harness.take()
    harness.clock.set_back(5)
    assert harness.state("a") == "running"


def test_ids_that_contain_each_other_are_not_confused(harness: Harness) -> None:
    harness.put("order-1", "order-12", "1", keep=60)
    claim = harness.take(3)
    harness.settle(claim, {"order-1": Back(), "1": Back()}, keep=["order-12"])
    states = [harness.state(id_) for id_ in ("order-1", "order-12", "1")]
    assert states == ["waiting", "running", "waiting"]
