"""One call: what its function may know about it, and whether it is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from taskyard.errors import RetryMessage, Verdict
from taskyard.policy import LONGEST, Retry

__all__ = ["Call", "late", "next_delay"]


class Call:
    """What a function gets beside its item, with `context=True`.

    Attributes:
        id: the number of the call, from 1, in the order of the items.
        planned: when it was to begin, as unix seconds; None: there is no plan.
        attempt: the number of this attempt, from 1.
        metadata: what is put here is kept in the log.
    """

    __slots__ = ("attempt", "id", "metadata", "planned")

    def __init__(self, id_: int, planned: float | None = None, attempt: int = 1) -> None:
        self.id = id_
        self.planned = planned
        self.attempt = attempt
        self.metadata: dict[str, Any] = {}


def next_delay(retry: Retry | None, error: BaseException, call: Call) -> float | None:
    """Decide whether a failed call is tried again.

    Arguments:
        retry: the policy; None: it never is. A function as its `backoff` gets the `Call` and the
            error.
        error: what was raised. `RetryMessage` asks for another attempt, within `count`; any other
            `Verdict` refuses one.
        call: the call, with the attempt that failed.

    Returns:
        Seconds to wait before that; None: it has failed.
    """
    if retry is None or (retry.count is not None and call.attempt > retry.count):
        return None
    if isinstance(error, RetryMessage):
        return min(error.delay, LONGEST)
    if isinstance(error, Verdict) or not isinstance(error, Exception):
        return None
    if callable(retry.backoff):
        return _asked(retry.backoff, error, call)
    return retry.delay_after(call.attempt, random.random())


def _asked(decide: Callable[..., Any], error: BaseException, call: Call) -> float | None:
    try:
        answer = decide(call, error)
        if isinstance(answer, timedelta):
            answer = answer.total_seconds()
        elif isinstance(answer, RetryMessage):
            answer = answer.delay
        elif answer is None or isinstance(answer, Verdict):
            return None
        return min(max(0.0, float(answer)), LONGEST)
    except Exception as broken:  # noqa: BLE001 - the caller's; the call has to end somehow
        with suppress(Exception):  # the class may refuse notes, as a frozen dataclass does
            error.add_note(f"The retry function failed too: {broken!r}")
        return None


def late(timeout: float) -> TimeoutError:
    """The error of a call that takes too long."""
    return TimeoutError(f"it took longer than its timeout of {timeout:g} s")
