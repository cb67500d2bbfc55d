"""Open loops of calls that do nothing, on ours and on the original.

The original knows no rate but so many calls at once in each interval. That is its plan, and its
calls are held against that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from statistics import median
from typing import Any

INTERVAL = 0.01
"""Seconds: of the original, at a constant rate."""
LONG_INTERVAL = 0.1
"""Of the original on a ramp: each interval has some calls more, and there is no half one."""
ENDS = 200
"""Calls at the beginning and at the end whose lateness is compared."""


def nothing(item: Any) -> Any:
    return item


def _task(id: int, config: Any, task: Any, metadata: dict[str, Any]) -> bool:  # noqa: A002, ARG001
    return True


def ours_constant(rate: int, seconds: int, workers: int) -> dict[str, float]:
    import taskyard

    run = taskyard.run(nothing, rate * seconds, rate=rate, workers=workers)
    return _figures(*_columns(run), length=seconds)


def ours_ramp(start: int, end: int, seconds: int, workers: int) -> dict[str, float]:
    import taskyard

    count = (start + end) * seconds // 2
    run = taskyard.run(nothing, count, ramp=(start, end, seconds), workers=workers)
    return _figures(*_columns(run))


def original_constant(rate: int, seconds: int) -> dict[str, float]:
    number = round(rate * INTERVAL)
    started = _original(rate * seconds, number, INTERVAL, 0)
    planned = [started[0] + call // number * INTERVAL for call in range(len(started))]
    return _figures(planned, started, length=seconds)


def original_ramp(start: int, end: int, seconds: int) -> dict[str, float]:
    intervals = round(seconds / LONG_INTERVAL)
    first, last = round(start * LONG_INTERVAL), round(end * LONG_INTERVAL)
    growth = round((last - first) / intervals)
    numbers = [first + growth * interval for interval in range(intervals)]
    started = _original(sum(numbers), first, LONG_INTERVAL, growth)
    each = (repeat(at * LONG_INTERVAL, number) for at, number in enumerate(numbers))
    return _figures([started[0] + instant for instant in chain.from_iterable(each)], started)


def _original(count: int, number: int, interval: float, growth: int) -> list[float]:
    import worker_dispatcher

    frequency = {
        "enabled": True,
        "interval": interval,
        "accumulated_workers": growth,
        "max_workers": 100,
    }
    worker_dispatcher.start(
        {
            "task": {"list": count, "function": _task},
            "worker": {"number": number, "frequency_mode": frequency},
            "verbose": False,
        }
    )
    logs = sorted(worker_dispatcher.get_logs(), key=lambda log: log["task_id"])
    return [log["started_at"] for log in logs]


def _columns(run: Any) -> tuple[list[float], list[float]]:
    samples = run.samples()
    order = sorted(range(len(samples)), key=samples.planned.__getitem__)
    return [samples.planned[at] for at in order], [samples.started[at] for at in order]


def _figures(
    planned: Sequence[float], started: Sequence[float], length: int | None = None
) -> dict[str, float]:
    """What a run comes to.

    Arguments:
        planned: when its calls were due, in this order.
        started: when they began.
        length: seconds of a plan with a constant rate.
    """
    late = [1e3 * (start - plan) for plan, start in zip(planned, started, strict=True)]
    rising = sorted(late)
    off = _rate_off(started, length) if length else _worst_second(planned, started)
    return {
        "off": off,
        "median": median(late),
        "p99": rising[len(rising) * 99 // 100],
        "drift": median(late[-ENDS:]) - median(late[:ENDS]),
    }


def _rate_off(started: Sequence[float], length: int) -> float:
    """By how many per cent the rate differs from that of the plan."""
    planned = len(started) / length
    achieved = (len(started) - 1) / (max(started) - min(started))
    return abs(achieved / planned - 1) * 100


def _worst_second(planned: Sequence[float], started: Sequence[float]) -> float:
    """By how many per cent the calls of a second are more or fewer than planned, at worst."""
    begin, seconds = planned[0], int(planned[-1] - planned[0])
    worst = 0.0
    for second in range(seconds):
        low, high = begin + second, begin + second + 1
        due = sum(low <= instant < high for instant in planned)
        came = sum(low <= instant < high for instant in started)
        worst = max(worst, abs(came / due - 1) * 100)
    return worst
