"""Dead letters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from taskyard.brokers.base import Dead, DeadLetter, DeadQuery, Group, Operation, Retried
from taskyard.message import Failure, Reason, State
from taskyard.testing.conformance.harness import TASK, Harness, Make, body, deliveries, names

OTHER = Group("orders", "mail")
BROKEN = Failure("failed", "ValueError", "it is broken", "Traceback: …")


def bury(harness: Harness, *ids: str, **put: object) -> None:
    """Put messages and let them die."""
    harness.put(*ids, **put)  # type: ignore[arg-type]
    group = put.get("group", TASK)
    while (claim := harness.claim(1000, groups=[group])) is not None:
        harness.settle(claim, {id_: Dead(BROKEN, id_) for id_ in names(claim)})


def ids(letters: list[DeadLetter]) -> list[str]:
    return [letter.id for letter in letters]


def test_a_dead_letter_tells_the_whole_story(harness: Harness) -> None:
    harness.put("a", shard="s", priority=3)
    (message,) = deliveries(claim := harness.take())
    harness.settle(claim, every=Retried(1))
    harness.clock.advance(1)
    claim = harness.take()
    harness.clock.advance(1)
    harness.settle(claim, every=Dead(BROKEN, "a", "inner"))
    (letter,) = harness.dead()
    assert letter == DeadLetter(
        number=letter.number,
        group=TASK,
        task="inner",
        shard="s",
        priority=3,
        id="a",
        failure=BROKEN,
        deliveries=2,
        attempts=2,
        since=message.since,
        at=harness.clock.now,
        body=body("a"),
    )


@pytest.mark.parametrize(
    ("reason", "attempts"),
    [
        (Reason.FAILED, 1),
        (Reason.REFUSED, 1),
        (Reason.TIMEOUT, 1),
        (Reason.WRONG_RESULTS, 1),
        ("some text of a handler", 1),
        (Reason.EXPIRED, 0),
        (Reason.UNREADABLE, 0),
        (Reason.WORKER_LOST, 0),
    ],
)
def test_attempts_are_counted_up_to_the_last(harness: Harness, reason: str, attempts: int) -> None:
    harness.put("a")
    harness.settle(harness.take(), every=Dead(Failure(reason), "a"))
    (letter,) = harness.dead()
    assert (letter.deliveries, letter.attempts) == (1, attempts)


def test_a_dead_letter_is_of_its_group_unless_it_names_a_task(harness: Harness) -> None:
    bury(harness, "a")
    assert [letter.task for letter in harness.dead()] == [TASK.name]


def test_dead_letters_are_not_handed_out(harness: Harness) -> None:
    bury(harness, "a", "b")
    assert harness.claim() is None
    counts = harness.counts()
    assert (counts.dead, counts.waiting, counts.totals["dead"]) == (2, 0, 2)


def test_dead_letters_are_listed_oldest_first_by_rising_numbers(harness: Harness) -> None:
    bury(harness, "a")
    bury(harness, "b", group=OTHER)
    bury(harness, "c")
    letters = harness.dead()
    assert ids(letters) == ["a", "b", "c"]
    numbers = [letter.number for letter in letters]
    assert numbers == sorted(set(numbers))


def test_dead_letters_are_found_by_what_they_are(harness: Harness) -> None:
    bury(harness, "a")
    bury(harness, "b", group=OTHER)
    bury(harness, "c", group=Group("elsewhere", "save"))
    assert ids(harness.dead(queue="orders")) == ["a", "b"]
    assert ids(harness.dead(queue="elsewhere")) == ["c"]
    assert ids(harness.dead(queue="nowhere")) == []
    assert ids(harness.dead(task="save")) == ["a", "c"]
    assert ids(harness.dead(queue="orders", task="mail")) == ["b"]
    numbers = [letter.number for letter in harness.dead()]
    assert ids(harness.dead(numbers=[numbers[2], numbers[0], 10**9])) == ["a", "c"]
    assert harness.dead(numbers=[]) == []


def test_dead_letters_are_read_page_by_page(harness: Harness) -> None:
    bury(harness, *"abcde")
    first = harness.dead(limit=2)
    second = harness.dead(limit=2, after=first[-1].number)
    third = harness.dead(limit=2, after=second[-1].number)
    assert ids(first + second + third) == list("abcde")


def test_a_dead_letter_is_retried_as_new(harness: Harness) -> None:
    harness.declare(concurrency=1)
    bury(harness, "a", shard="s", priority=4, keep=60)
    harness.put("b", shard="s", priority=4)
    harness.clock.advance(5)
    assert harness.retry_dead() == 1
    assert harness.dead() == []
    assert harness.state("a") == "waiting"
    record = harness.record("a")
    assert record is not None
    assert record.failure is None
    claim = harness.take(2)
    assert names(claim) == ["b", "a"]
    message = deliveries(claim)[1]
    assert (message.deliveries, message.attempts, message.losses, message.cap) == (0, 0, 0, 0)
    assert message.since == message.sequence >= harness.clock.now
    assert [priority for priority, _ in claim.lanes[0].messages] == [4, 4]
    assert harness.settle(claim, results={"a": b"at last"})
    assert harness.state("a") == "done"


@pytest.mark.parametrize("tidied", [True, False])
def test_a_dead_letter_outlives_its_record(harness: Harness, tidied: bool) -> None:
    bury(harness, "a", keep=1)
    harness.clock.advance(2)
    if tidied:
        harness.tidy()
    assert harness.retry_dead() == 1
    assert harness.record("a") is None
    assert harness.work_off() == ["a"]


def test_some_dead_letters_are_retried(harness: Harness) -> None:
    bury(harness, *"abcde")
    numbers = [letter.number for letter in harness.dead()]
    assert harness.retry_dead(numbers=numbers[1:3]) == 2
    assert harness.work_off() == ["b", "c"]
    assert harness.retry_dead(limit=1) == 1
    assert harness.work_off() == ["a"]
    assert harness.retry_dead(queue="nowhere") == 0
    assert ids(harness.dead()) == ["d", "e"]


def test_dead_letters_are_discarded_by_hand(harness: Harness) -> None:
    bury(harness, "a", "b", keep=60)
    (first, _) = harness.dead()
    assert harness.discard_dead(numbers=[first.number]) == 1
    assert ids(harness.dead()) == ["b"]
    assert harness.state("a") == "discarded"
    assert harness.total("discarded") == 1
    assert harness.discard_dead() == 1
    assert harness.counts().dead == 0
    assert harness.discard_dead() == 0


def test_the_record_of_a_discarded_dead_letter_still_says_why_it_died(harness: Harness) -> None:
    harness.declare(max_deliveries=1)
    bury(harness, "failed", keep=60)
    harness.put("lost", keep=60)
    harness.take(owner="w")
    harness.reap("w")
    died_of = [letter.failure for letter in harness.dead()]
    assert [failure.reason for failure in died_of] == [BROKEN.reason, Reason.WORKER_LOST]
    harness.discard_dead()
    found = [harness.record(id_) for id_ in ("failed", "lost")]
    assert [(record.state, record.failure) for record in found if record] == [
        (State.DISCARDED, failure) for failure in died_of
    ]


def test_a_thousand_dead_letters_are_retried_and_discarded(harness: Harness) -> None:
    expected = [f"m{index:04}" for index in range(1300)]
    bury(harness, *expected)
    assert harness.retry_dead(limit=1200) == 1200
    assert harness.work_off(1000) == expected[:1200]
    assert harness.discard_dead(limit=10_000) == 100
    bury(harness, *expected)
    assert harness.discard_dead(limit=1250) == 1250
    assert len(harness.dead(limit=1000)) == 50


@pytest.mark.parametrize("change", ["retry", "discard"])
@pytest.mark.parametrize("size", [0, 3 << 20])
def test_letters_that_die_again_meanwhile_are_not_meant(
    harness: Harness, change: str, size: int
) -> None:
    first = 3 if size else 600
    bury(harness, *(f"m{index}" for index in range(first)), size=size)
    query = DeadQuery(limit=1 << 62)
    broker = harness.broker
    operation = broker.retry_dead(query) if change == "retry" else broker.discard_dead(query)
    assert changed_while(harness, operation, lambda: bury(harness, "again")) == first
    assert "again" in ids(harness.dead(limit=1000))


def changed_while(
    harness: Harness, operation: Operation[int], happens: Callable[[], None]
) -> int | None:
    """Run an operation while something happens after each of its first ten steps."""

    def once(step: Any) -> Operation[Any]:
        return (yield step)

    try:
        step = next(operation)
        for _ in range(10):
            reply = harness.run(once(step))
            happens()
            step = operation.send(reply)
    except StopIteration as end:
        return int(end.value)
    return None


def test_dead_letters_are_retried_up_to_a_number(harness: Harness) -> None:
    bury(harness, *"abc")
    (_, second, _) = harness.dead()
    assert ids(harness.dead(upto=second.number)) == ["a", "b"]
    assert harness.retry_dead(upto=second.number) == 2
    assert ids(harness.dead()) == ["c"]


def test_large_dead_letters_are_retried_all_the_same(harness: Harness) -> None:
    bury(harness, *"abcde", size=3 << 20)
    assert harness.retry_dead() == 5
    assert harness.work_off() == list("abcde")


def test_a_group_keeps_the_newest_dead_letters(make: Make) -> None:
    harness = make(dead_limit=3)
    bury(harness, *"abcde")
    bury(harness, *"xyz", group=OTHER)
    assert ids(harness.dead()) == ["c", "d", "e", "x", "y", "z"]
    counts = harness.counts()
    assert (counts.dead, counts.totals["dead"], counts.totals["dead_dropped"]) == (3, 5, 2)


def test_dead_letters_are_not_kept_for_ever(make: Make) -> None:
    harness = make(dead_age=3600)
    bury(harness, "a")
    harness.clock.advance(1800)
    bury(harness, "b")
    assert harness.tidy() == 0
    harness.clock.advance(1801)
    assert harness.tidy() == 1
    assert ids(harness.dead()) == ["b"]
    assert harness.total("dead_dropped") == 1


def test_without_another_wish_ten_thousand_are_kept_for_thirty_days(harness: Harness) -> None:
    bury(harness, "a")
    harness.clock.advance(29 * 86_400)
    assert harness.tidy() == 0
    harness.clock.advance(1.1 * 86_400)
    assert harness.tidy() == 1
    bury(harness, *(f"m{index}" for index in range(10_005)))
    assert harness.counts().dead == 10_000
    assert ids(harness.dead(limit=1)) == ["m5"]
