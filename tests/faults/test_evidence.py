"""The checker finds what it is there to find."""

from __future__ import annotations

import pytest
from tests.faults.evidence import REPLICATION_LAG, Event, Evidence, Put

ACCEPTED = {"a": Put("s", 0), "b": Put("s", 1)}


def line(kind: str, message: str, token: int, pid: int = 1, delivery: int = 1) -> Event:
    return Event(kind, pid, message, "s", ord(message), token, delivery, at=token)


def check(*events: Event, ordered: bool = True, dead: tuple[str, ...] = ()) -> None:
    Evidence(list(events)).check(ACCEPTED, ordered=ordered, dead=dead)


WELL = [line("start", "a", 1), line("end", "a", 1), line("start", "b", 2), line("end", "b", 2)]


def test_nothing_wrong() -> None:
    check(*WELL)
    check(*WELL[:2], dead=("b",))
    check(line("start", "a", 1), line("start", "b", 1), line("end", "a", 1), line("end", "b", 1))


def test_again_when_allowed() -> None:
    again = [line("start", "a", 2, 2, 2), line("end", "a", 2, 2)]
    last = [line("start", "b", 3), line("end", "b", 3)]
    check(line("start", "a", 1), Event("die", 1), *again, *last)
    check(line("start", "a", 1), line("raised", "a", 1), *again, *last)
    check(line("start", "a", 1), line("cancelled", "a", 1), *again, *last)
    check(line("start", "a", 1), Event("stop", 1), *again, *last)
    check(line("start", "a", 1), *again, line("lost", "a", 1), line("end", "a", 1), *last)


def test_one_call_may_begin_late_where_a_process_was_paused() -> None:
    pause = Event("pause", 1)
    late = [line("start", "a", 1), line("end", "a", 1)]
    again = [line("start", "a", 2, 2, 2), line("end", "a", 2, 2)]
    last = [line("start", "b", 2, 2, 2), line("end", "b", 2, 2)]
    check(pause, *again, *late, *last)
    check(pause, again[0], *late, again[1], *last)
    check(pause, *again, last[0], *late, last[1])
    with pytest.raises(AssertionError, match="ran again"):
        check(*again, *late, *last)
    with pytest.raises(AssertionError, match="not marked as redelivered"):
        check(pause, again[0]._replace(delivery=1), again[1], *late, *last)
    late_too = [line("start", "b", 1)._replace(at=9), line("end", "b", 1)]
    with pytest.raises(AssertionError, match="begun when lost"):
        check(pause, *again, *late, *last, *late_too)


def test_again_after_a_failover() -> None:
    failover = Event("failover", 0, at=1)
    check(*WELL[:2], failover, *WELL)
    check(WELL[0], failover, WELL[1], *WELL)
    for at in (-REPLICATION_LAG, 2 * REPLICATION_LAG):
        with pytest.raises(AssertionError, match="ran again"):
            check(*WELL[:2], failover._replace(at=at), *WELL)
    with pytest.raises(AssertionError, match="ran again"):
        check(*WELL[:2], *WELL, failover)


@pytest.mark.parametrize(
    ("events", "match"),
    [
        (WELL[:2], "never run to the end"),
        ([*WELL[:2], line("start", "b", 2)], "never run to the end"),
        ([*WELL, line("start", "c", 3)], "never accepted"),
        ([*WELL[:2], *WELL], "ran again"),
        ([*WELL[2:], *WELL[:2]], "overtook|fall"),
        ([WELL[0], WELL[2], WELL[1], WELL[3]], "before a was done"),
        ([WELL[0], Event("die", 1), line("start", "a", 2, 2), line("end", "a", 2, 2), *WELL[2:]],
         "not marked as redelivered"),
        ([WELL[0], line("start", "a", 2, 2, 2), line("end", "a", 2, 2), WELL[1], *WELL[2:]],
         "ran again"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(events: list[Event], match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check(*events)


def test_two_claims_at_once_are_found() -> None:
    # Paused, so it may run again; but its handler never saw that its claim was lost.
    paused = [WELL[0], Event("pause", 1), line("start", "a", 2, 2, 2), line("end", "a", 2, 2)]
    rest = [line("start", "b", 3), line("end", "b", 3)]
    with pytest.raises(AssertionError, match="two claims of s"):
        check(*paused, line("end", "a", 1), *rest)
    check(*paused, line("lost", "a", 1), line("end", "a", 1), *rest)


def test_falling_tokens_are_found() -> None:
    with pytest.raises(AssertionError, match="tokens fall"):
        check(
            line("start", "a", 5),
            Event("die", 1),
            line("start", "a", 4, 2, 2),
            line("end", "a", 4, 2),
            line("start", "b", 6),
            line("end", "b", 6),
        )
