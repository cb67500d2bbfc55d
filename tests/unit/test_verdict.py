"""What follows from a failed attempt: back-off, retry functions, verdicts, dead letters."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskyard import Context, DiscardMessage, FailMessage, Retry, RetryMessage, Task, Yard
from taskyard.brokers.base import Back, Dead, Delivery, Discard, Outcome, Retried
from taskyard.context import MessageInfo
from taskyard.errors import PolicyError, Verdict
from taskyard.message import Reason
from taskyard.worker.verdict import HandlerTimeout, WrongResults, outcome_of

LONGEST = 100 * 365 * 86_400

# Back-off


@pytest.mark.parametrize(
    ("kind", "delays"),
    [
        ("constant", [2, 2, 2, 2, 2]),
        ("linear", [2, 4, 6, 8, 10]),
        ("exponential", [2, 4, 8, 16, 32]),
    ],
)
def test_backoff(kind: Any, delays: list[float]) -> None:
    retry = Retry(None, kind, delay=2, jitter=0)
    assert [retry.delay_after(attempt, 0.5) for attempt in range(1, 6)] == delays


@pytest.mark.parametrize("kind", ["constant", "linear", "exponential"])
@pytest.mark.parametrize("attempt", [1, 10, 64, 1025, 5000, 1_000_000])
def test_backoff_is_never_longer_than_longest(kind: Any, attempt: int) -> None:
    assert Retry(None, kind, delay=10, longest=7, jitter=0).delay_after(attempt, 0) == 7


@given(
    st.sampled_from(["constant", "linear", "exponential"]),
    st.floats(0, 1000),
    st.floats(0, 100_000),
    st.floats(0, 1),
    st.integers(1, 1_000_000),
    st.floats(0, 1),
)
def test_jitter_only_shortens_and_by_its_share_at_most(
    kind: Any, delay: float, longest: float, jitter: float, attempt: int, random: float
) -> None:
    full = Retry(None, kind, delay, longest, jitter=0).delay_after(attempt, random)
    delayed = Retry(None, kind, delay, longest, jitter).delay_after(attempt, random)
    assert 0 <= delayed <= full <= longest
    assert delayed >= full * (1 - jitter) - 1e-6


def test_jitter_bounds_are_reached() -> None:
    retry = Retry(None, "constant", delay=10, jitter=0.2)
    assert (retry.delay_after(1, 0.0), retry.delay_after(1, 1.0)) == (10, 8)


# Outcomes


def outcome(
    error: BaseException,
    retry: Any = None,
    *,
    attempts: int = 0,
    random: Callable[[], float] = lambda: 0.0,
    **options: Any,
) -> Outcome:
    """Of a message whose attempt, after so many failed ones, raised the error."""
    yard = Yard("memory://")
    given = options if retry is None else {**options, "retry": retry}

    def save(number: int) -> None: ...

    task: Task[..., Any] = yard.task(name="save", **given)(save)

    message = Delivery(10, 10, attempts, attempts, 0, 0, b"")
    info = MessageInfo("id-1", 10, attempts + 1, attempts + 1, 0)
    context = Context("save", "default", "", 1, lambda: [info], lambda: False)
    return outcome_of(error, task, context, "id-1", message, random)


def dead(error: BaseException, retry: Any = None, **options: Any) -> Dead:
    found = outcome(error, retry, **options)
    assert isinstance(found, Dead), found
    assert (found.id, found.task) == ("id-1", "save")
    return found


BROKEN = ValueError("broken")


def answering(answer: Any) -> Callable[[Context, BaseException], Any]:
    return lambda context, error: answer


def raising(error: BaseException) -> Callable[[Context, BaseException], Any]:
    def decide(context: Context, given: BaseException) -> Any:
        raise error

    return decide


@pytest.mark.parametrize(
    ("count", "attempts", "dies"),
    [(0, 0, True), (1, 0, False), (1, 1, True), (3, 2, False), (3, 3, True), (None, 10**6, False)],
)
def test_a_count_of_retries(count: int | None, attempts: int, dies: bool) -> None:
    found = outcome(BROKEN, Retry(count, "constant"), attempts=attempts)
    assert isinstance(found, Dead if dies else Retried)


def test_without_a_policy_there_are_three_retries() -> None:
    assert isinstance(outcome(BROKEN, attempts=2), Retried)
    assert dead(BROKEN, attempts=3).failure.reason == Reason.FAILED


def test_delays_are_rounded_up_to_microseconds() -> None:
    assert outcome(BROKEN, Retry(1, "constant", delay=1e-7)) == Retried(1)
    assert outcome(BROKEN, Retry(1, "constant", delay=2.0)) == Retried(2_000_000)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (5, Retried(5_000_000)),
        (0.5, Retried(500_000)),
        (0, Retried(0)),
        (-3, Retried(0)),
        (math.inf, Retried(LONGEST * 1_000_000)),
        (timedelta(minutes=1), Retried(60_000_000)),
        (timedelta(seconds=-1), Retried(0)),
        (RetryMessage, Retried(0)),
        (RetryMessage(7), Retried(7_000_000)),
        (DiscardMessage, Discard("id-1")),
        (DiscardMessage("not needed"), Discard("id-1")),
    ],
)
def test_what_a_retry_function_answers(answer: Any, expected: Outcome) -> None:
    assert outcome(BROKEN, answering(answer)) == expected


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RetryMessage(7), Retried(7_000_000)),
        (DiscardMessage("not needed"), Discard("id-1")),
    ],
)
def test_what_a_retry_function_raises(raised: Verdict, expected: Outcome) -> None:
    assert outcome(BROKEN, raising(raised)) == expected


def test_a_retry_function_that_answers_none_fails_the_message() -> None:
    failure = dead(BROKEN, answering(None)).failure
    assert (failure.reason, failure.kind, failure.message) == ("failed", "ValueError", "broken")


@pytest.mark.parametrize(
    "decide", [answering(FailMessage), answering(FailMessage("no")), raising(FailMessage("no"))]
)
def test_a_retry_function_that_fails_the_message_keeps_the_error(decide: Any) -> None:
    failure = dead(BROKEN, decide).failure
    assert failure.reason == Reason.REFUSED
    assert (failure.kind, failure.message) == ("ValueError", "broken")


@pytest.mark.parametrize(
    "answer",
    ["soon", math.nan, [1], {}, b"1", True, False, object(), Verdict, ValueError, 1j, WrongResults],
)
def test_garbage_of_a_retry_function_ends_as_a_dead_letter_that_names_it(answer: Any) -> None:
    failure = dead(BROKEN, answering(answer)).failure
    assert (failure.kind, failure.message) == ("ValueError", "broken")
    assert "retry function" in failure.traceback


def test_numbers_of_other_kinds_are_delays_too() -> None:
    assert outcome(BROKEN, answering(Decimal("1.5"))) == Retried(1_500_000)


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), KeyboardInterrupt()])
def test_a_retry_function_that_raises_does_not_hide_the_error(error: BaseException) -> None:
    failure = dead(BROKEN, raising(error)).failure
    assert (failure.reason, failure.kind, failure.message) == ("failed", "ValueError", "broken")
    assert f"The retry function failed too: {type(error).__name__}" in failure.traceback


def test_a_retry_function_sees_the_context_and_the_error() -> None:
    seen: list[Any] = []

    def decide(context: Context, error: BaseException) -> float:
        seen.append((context.message_id, context.attempt, context.task, error))
        return context.attempt * 10.0

    assert outcome(BROKEN, decide, attempts=2) == Retried(30_000_000)
    assert seen == [("id-1", 3, "save", BROKEN)]


def test_a_retry_function_with_a_count_is_not_asked_once_that_is_used_up() -> None:
    retry = Retry(1, backoff=answering(5))
    assert outcome(BROKEN, retry) == Retried(5_000_000)
    assert dead(BROKEN, retry, attempts=1).failure.message == "broken"


# Verdicts of handlers go before any policy


@pytest.mark.parametrize("attempts", [0, 100])
def test_verdicts_of_the_handler(attempts: int) -> None:
    assert outcome(RetryMessage(2), 0, attempts=attempts) == Retried(2_000_000)
    assert outcome(RetryMessage(1e30), 0, attempts=attempts) == Retried(LONGEST * 1_000_000)
    assert outcome(DiscardMessage(), 5, attempts=attempts) == Discard("id-1")
    failure = dead(FailMessage("the account is closed"), 5, attempts=attempts).failure
    assert failure.reason == Reason.REFUSED
    assert failure.summary() == "the account is closed"


@pytest.mark.parametrize("delay", [-1, math.nan, math.inf])
def test_a_verdict_with_an_absurd_delay_cannot_be_made(delay: float) -> None:
    with pytest.raises(PolicyError, match="retry delay must be 0 or more seconds"):
        RetryMessage(delay)


def test_a_verdict_takes_a_timedelta() -> None:
    assert RetryMessage(timedelta(minutes=1)).delay == 60.0


def test_the_reason_of_timeouts_and_wrong_results() -> None:
    assert dead(HandlerTimeout("too long"), 0).failure.reason == Reason.TIMEOUT
    wrong = dead(WrongResults("3 for 2"), 5).failure
    assert (wrong.reason, wrong.summary()) == (Reason.WRONG_RESULTS, "3 for 2")


# Ordered shards


def test_on_error_park() -> None:
    options: dict[str, Any] = {"ordered": True, "on_error": "park", "retry": Retry(1, "constant")}
    assert isinstance(outcome(BROKEN, **options), Retried)
    assert outcome(BROKEN, attempts=1, **options) == Back(started=True, park=True)


def test_on_error_skip() -> None:
    assert dead(BROKEN, ordered=True, on_error="skip").failure.message == "broken"


def test_on_error_block() -> None:
    assert isinstance(outcome(BROKEN, ordered=True, attempts=2), Retried)
    assert isinstance(outcome(BROKEN, ordered=True, attempts=3), Dead)
