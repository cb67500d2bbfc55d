"""A run in pieces, and how many calls were under way at once."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import compress, count, pairwise, repeat
from operator import lt, not_, sub
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from taskyard.report.samples import Calls

__all__ = ["Interval", "automatic", "cut", "peaks", "ranked"]

_MOST = 100
"""How many intervals an automatic length makes at most."""

_STEPS = (
    *(base * 10.0**power for power in (-3, -2, -1, 0) for base in (1, 2, 5)),
    *(
        10.0,
        15.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        900.0,
        1800.0,
        3600.0,
        7200.0,
        21_600.0,
        86_400.0,
    ),
)


class Interval(msgspec.Struct):
    """A piece of a run. An instant at its end belongs to the next one.

    Attributes:
        started: unix seconds.
        ended: the same; of the last one, when the run ended.
        begun: how many calls began in it.
        completed: how many ended in it and succeeded.
        failed: how many ended in it and failed.
        in_flight: the most that were under way at once in it.
        p50: half of the calls that ended in it took no longer, in seconds from their planned start;
            0 where none ended.
        p99: the same of 99 in 100.
    """

    started: float
    ended: float
    begun: int
    completed: int
    failed: int
    in_flight: int
    p50: float
    p99: float

    @property
    def throughput(self) -> float:
        """Successes per second; 0 where it has no length."""
        length = self.ended - self.started
        return self.completed / length if length > 0 else 0.0


def automatic(duration: float) -> float:
    """An interval's length that people like, for a run of so many seconds: at most 100 of them."""
    for step in _STEPS:
        if duration <= step * _MOST:
            return step
    return math.ceil(duration / _MOST / 86_400.0) * 86_400.0


def cut(calls: Calls, bounds: tuple[float, float], length: float) -> list[Interval]:
    """Cut a run into intervals.

    Arguments:
        calls: its calls, in the order of their ends.
        bounds: when the run began and ended.
        length: of an interval, in seconds; the last one may be shorter.
    """
    origin, end = bounds
    number = max(1, math.ceil((end - origin) / length - 1e-9))
    borders = [origin + place * length for place in range(1, number)]
    # What begins or ends at the very end has no next interval to belong to.
    begun = [0, *map(bisect_left, repeat(calls.begins), borders), len(calls.begins)]
    gone = [0, *map(bisect_left, repeat(calls.ended), borders), len(calls.ended)]
    highest = peaks(calls, borders)
    made = []
    for place, (first, last) in enumerate(pairwise(gone)):
        waits = sorted(map(sub, calls.ended[first:last], calls.planned[first:last]))
        completed = sum(calls.success[first:last])
        made.append(
            Interval(
                started=origin + place * length,
                ended=borders[place] if place < number - 1 else end,
                begun=begun[place + 1] - begun[place],
                completed=completed,
                failed=last - first - completed,
                in_flight=highest[place],
                p50=ranked(waits, 50),
                p99=ranked(waits, 99),
            )
        )
    return made


def ranked(rising: Sequence[float], percent: float) -> float:
    """The percentile of values that rise, by the nearest rank; 0 where there are none."""
    if not rising:
        return 0.0
    return rising[max(1, math.ceil(len(rising) * percent / 100 - 1e-9)) - 1]


def peaks(calls: Calls, borders: Sequence[float]) -> list[int]:
    """How many calls were under way at most, in each of some stretches of time.

    A call that ends at the instant at which another begins is over by then. One that took no time
    at all, because the clock is too coarse, is under way if nothing else is.

    Arguments:
        calls: the calls.
        borders: when each stretch but the first begins, rising; a border belongs to the later one.
    """
    begins, ends, brief = calls.begins, calls.ended, array("d")
    longer = list(map(lt, calls.started, calls.ended))
    if not all(longer):
        brief = array("d", compress(ends, map(not_, longer)))
        begins = array("d", sorted(compress(calls.started, longer)))
        ends = array("d", compress(ends, longer))
    # With each call that begins: those that have begun so far, less those that have ended.
    under_way = list(map(sub, count(1), map(bisect_right, repeat(ends), begins)))
    places = [0, *map(bisect_left, repeat(begins), borders), len(begins)]
    gone = [0, *map(bisect_right, repeat(ends), borders)]
    highest = [
        max(first - before, max(under_way[first:last], default=0))
        for (first, last), before in zip(pairwise(places), gone, strict=True)
    ]
    for instant in brief:
        place = bisect_right(borders, instant)
        highest[place] = max(1, highest[place])
    return highest
