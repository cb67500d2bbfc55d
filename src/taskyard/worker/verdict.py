"""What follows from a failed attempt: a pure decision."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import SupportsFloat, SupportsIndex

from taskyard.brokers.base import Back, Dead, Delivery, Discard, Outcome, Retried
from taskyard.context import Context
from taskyard.errors import DiscardMessage, FailMessage, RetryMessage, Verdict
from taskyard.message import Failure, Reason
from taskyard.policy import LONGEST, Retry, RetryFunction
from taskyard.task import Task

__all__ = ["HandlerTimeout", "WrongResults", "outcome_of", "wait_for_another"]

Random = Callable[[], float]

UNOPENED = Retry(count=20, longest=60.0)
"""How a message waits for a worker that has its key: a quarter of an hour in all."""


class HandlerTimeout(TimeoutError):
    """An attempt took longer than the task's `timeout`."""


class WrongResults(FailMessage):
    """A batch handler returned another number of results than it got messages."""


def outcome_of(
    error: BaseException,
    task: Task[..., object],
    context: Context,
    message_id: str,
    message: Delivery,
    random: Random,
) -> Outcome:
    """Decide what becomes of a message whose attempt ended in an error.

    Arguments:
        error: what was raised; a `Verdict` decides by itself.
        task: the message's task.
        context: the context of the call, for retry functions.
        message_id: its id.
        message: its history.
        random: a number from 0 to 1, for jitter.
    """
    retry = task.policy.retry
    if isinstance(error, Verdict):
        return _by_verdict(error, error, task, message_id)
    attempt = message.attempts + 1
    exhausted = retry.count is not None and attempt > retry.count
    if not exhausted and callable(retry.backoff):
        return _by_function(retry.backoff, error, task, context, message_id)
    if not exhausted:
        return Retried(_us(retry.delay_after(attempt, random())))
    if task.policy.on_error == "park":
        return Back(started=True, park=True)
    return Dead(Failure.of(error, _reason(error)), message_id, task.name)


def wait_for_another(message: Delivery) -> Retried | None:
    """Put a message off that this worker cannot read, and another one may.

    Arguments:
        message: its history. Being put off counts as an attempt, as any retry does.

    Returns:
        What becomes of it; None: it was put off often enough.
    """
    if UNOPENED.count is not None and message.attempts >= UNOPENED.count:
        return None
    return Retried(_us(UNOPENED.delay_after(message.attempts + 1, 0.0)))


def _by_function(
    decide: RetryFunction,
    error: BaseException,
    task: Task[..., object],
    context: Context,
    message_id: str,
) -> Outcome:
    try:
        answer = decide(context, error)
        if answer is None:
            return Dead(Failure.of(error, _reason(error)), message_id, task.name)
        if answer is FailMessage:
            raise FailMessage("refused by the retry function")
        if answer is RetryMessage or answer is DiscardMessage:
            answer = answer()
        if isinstance(answer, Verdict):
            raise answer
        return Retried(_us(min(max(0.0, _seconds(answer)), LONGEST)))
    except Verdict as verdict:
        return _by_verdict(verdict, error, task, message_id)
    except BaseException as broken:  # noqa: BLE001 - the user's; the message must end somewhere
        failure = Failure.of(error, _reason(error))
        note = f"\nThe retry function failed too: {Failure.of(broken).summary()}"
        return Dead(Failure(*_fields(failure, failure.traceback + note)), message_id, task.name)


def _seconds(answer: object) -> float:
    if isinstance(answer, timedelta):
        return answer.total_seconds()
    number = isinstance(answer, (SupportsFloat, SupportsIndex)) and not isinstance(answer, bool)
    if not number or math.isnan(seconds := float(answer)):  # type: ignore[arg-type]
        raise TypeError(f"it answered {answer!r}, not seconds, None or a verdict")
    return seconds


def _by_verdict(
    verdict: Verdict, error: BaseException, task: Task[..., object], message_id: str
) -> Outcome:
    if isinstance(verdict, RetryMessage):
        return Retried(_us(min(verdict.delay, LONGEST)))
    if isinstance(verdict, DiscardMessage):
        return Discard(message_id)
    if isinstance(verdict, WrongResults):
        failure = Failure(Reason.WRONG_RESULTS, message=Failure.of(verdict).message)
    elif error is verdict:
        failure = Failure(Reason.REFUSED, message=Failure.of(verdict).message)
    else:
        failure = Failure.of(error, Reason.REFUSED)
    return Dead(failure, message_id, task.name)


def _fields(failure: Failure, traceback: str) -> tuple[str, str, str, str]:
    return failure.reason, failure.kind, failure.message, traceback


def _reason(error: BaseException) -> str:
    return Reason.TIMEOUT if isinstance(error, HandlerTimeout) else Reason.FAILED


def _us(delay: float) -> int:
    return math.ceil(delay * 1e6)
