"""Who works, and what workers are told."""

from __future__ import annotations

from collections.abc import Sequence

from taskyard.brokers.workers import (
    KEPT,
    LONGEST_MAIL,
    ControlMessage,
    WorkerEntry,
)
from taskyard.testing.conformance.harness import Harness, Sleeper

EXPIRY = KEPT / 1e6


def attend(
    harness: Harness,
    worker: str,
    report: bytes = b"report",
    *,
    listener: Sleeper | None = None,
    heard: int = 0,
) -> list[ControlMessage]:
    name = "" if listener is None else listener.name
    return harness.run(harness.broker.workers.attend(worker, report, name, heard))


def tell(harness: Harness, workers: Sequence[str], command: str, queue: str = "") -> list[str]:
    return harness.run(harness.broker.workers.tell(workers, command, queue))


def mail(harness: Harness, worker: str, heard: int = 0) -> list[ControlMessage]:
    return harness.run(harness.broker.workers.mail(worker, heard))


def retire(harness: Harness, *workers: str) -> None:
    harness.run(harness.broker.workers.retire(workers))


def entries(harness: Harness) -> dict[str, WorkerEntry]:
    present = harness.run(harness.broker.workers.find())
    assert present.now == harness.clock.now
    assert len({entry.id for entry in present.workers}) == len(present.workers)
    return {entry.id: entry for entry in present.workers}


def words(messages: Sequence[ControlMessage]) -> list[tuple[str, str]]:
    numbers = [message.number for message in messages]
    assert numbers == sorted(set(numbers))
    return [(message.command, message.queue) for message in messages]


# Entries


def test_there_are_none(harness: Harness) -> None:
    assert entries(harness) == {}
    retire(harness, "nobody")
    retire(harness)


def test_an_entry_is_made_and_refreshed(harness: Harness) -> None:
    assert attend(harness, "a", b"\x00first\xff") == []
    first = harness.clock.now
    assert entries(harness) == {"a": WorkerEntry("a", first, b"\x00first\xff")}
    harness.clock.advance(20)
    attend(harness, "b", b"other")
    attend(harness, "a", b"second")
    now = harness.clock.now
    assert entries(harness) == {
        "a": WorkerEntry("a", now, b"second"),
        "b": WorkerEntry("b", now, b"other"),
    }


def test_who_ends_is_removed(harness: Harness) -> None:
    for worker in "abc":
        attend(harness, worker)
    retire(harness, "a", "c", "nobody")
    assert entries(harness).keys() == {"b"}


def test_who_is_not_refreshed_expires(harness: Harness) -> None:
    attend(harness, "a")
    harness.clock.advance(EXPIRY)
    attend(harness, "b")
    assert entries(harness).keys() == {"a", "b"}
    harness.clock.advance(1)
    assert entries(harness).keys() == {"b"}
    assert tell(harness, ["a", "b"], "pause") == ["b"]
    attend(harness, "b")  # removes what has expired
    harness.clock.set_back(2)
    assert entries(harness).keys() == {"b"}


def test_who_comes_back_has_an_entry_again(harness: Harness) -> None:
    attend(harness, "a")
    tell(harness, ["a"], "shutdown")
    harness.clock.advance(EXPIRY + 1)
    attend(harness, "b")
    assert attend(harness, "a") == [], "its mail has expired with its entry"
    assert entries(harness).keys() == {"a", "b"}
    assert tell(harness, ["a"], "pause") == ["a"]


def test_there_may_be_many(harness: Harness) -> None:
    workers = [f"worker-{number}" for number in range(300)]
    for worker in workers:
        attend(harness, worker, worker.encode() * 20)
    found = entries(harness)
    assert found.keys() == {*workers}
    assert found["worker-7"].report == b"worker-7" * 20
    assert tell(harness, workers, "pause") == workers


# Mail


def test_what_a_worker_is_told_waits_for_it(harness: Harness) -> None:
    attend(harness, "a")
    attend(harness, "b")
    assert tell(harness, ["a", "nobody"], "pause", "q") == ["a"]
    assert tell(harness, ["a", "b"], "shutdown") == ["a", "b"]
    assert words(mail(harness, "a")) == [("pause", "q"), ("shutdown", "")]
    assert words(attend(harness, "a")) == [("pause", "q"), ("shutdown", "")]
    assert words(attend(harness, "b")) == [("shutdown", "")]
    assert mail(harness, "nobody") == []


def test_mail_stays_until_it_was_heard(harness: Harness) -> None:
    attend(harness, "a")
    tell(harness, ["a"], "pause", "q")
    tell(harness, ["a"], "pause", "r")
    first, second = attend(harness, "a")
    assert attend(harness, "a") == [first, second], "the first reply may be lost"
    assert mail(harness, "a", first.number) == [second]
    assert attend(harness, "a", heard=first.number) == [second]
    assert mail(harness, "a") == [second]
    assert attend(harness, "a", heard=second.number) == []
    assert mail(harness, "a") == []
    tell(harness, ["a"], "resume")
    (third,) = attend(harness, "a", heard=second.number)
    assert third.number > second.number, "numbers are not used again"


def test_numbers_rise_after_an_entry_was_lost(harness: Harness) -> None:
    attend(harness, "a")
    tell(harness, ["a"], "pause")
    (first,) = attend(harness, "a")
    retire(harness, "a")
    attend(harness, "a", heard=first.number)
    tell(harness, ["a"], "pause")
    assert words(attend(harness, "a", heard=first.number)) == [("pause", "")]


def test_mail_goes_with_the_entry(harness: Harness) -> None:
    attend(harness, "a")
    tell(harness, ["a"], "shutdown")
    retire(harness, "a")
    assert tell(harness, ["a"], "shutdown") == []
    assert attend(harness, "a") == []


def test_an_equal_message_is_replaced(harness: Harness) -> None:
    attend(harness, "a")
    for command in ("pause", "resume", "pause"):
        tell(harness, ["a"], command, "q")
    tell(harness, ["a"], "pause", "r")
    assert words(mail(harness, "a")) == [("resume", "q"), ("pause", "q"), ("pause", "r")]


def test_a_mailbox_is_bounded(harness: Harness) -> None:
    attend(harness, "a")
    for number in range(LONGEST_MAIL + 3):
        tell(harness, ["a"], "pause", f"q{number}")
    kept = [("pause", f"q{number}") for number in range(3, LONGEST_MAIL + 3)]
    assert words(mail(harness, "a")) == kept


# Waking


def test_who_is_told_something_is_woken(harness: Harness) -> None:
    listening, other = harness.sleeper(), harness.sleeper()
    for sleeper in (listening, other):
        sleeper.listener.ignore_changes()
    attend(harness, "a", listener=listening)
    attend(harness, "b", listener=other)
    attend(harness, "c")
    tell(harness, ["a", "c"], "pause")
    assert listening.is_woken()
    assert words(mail(harness, "a")) == [("pause", "")]
    assert other.sleeps_on()


def test_who_has_gone_hinders_nobody(harness: Harness) -> None:
    gone, listening = harness.sleeper(), harness.sleeper()
    listening.listener.ignore_changes()
    attend(harness, "a", listener=gone)
    attend(harness, "b", listener=listening)
    gone.close()
    assert tell(harness, ["a", "b"], "shutdown") == ["a", "b"]
    assert listening.is_woken()
    assert words(mail(harness, "a")) == [("shutdown", "")]
