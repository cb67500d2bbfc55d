"""Successes per second, of a run and of pieces of it: what the `get_tps` of a door is made of."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from functools import cached_property
from itertools import compress
from operator import sub

import msgspec

from taskyard.report.peak import find_peak
from taskyard.report.samples import Samples

__all__ = ["Extent", "Tps", "TpsTable"]

_MOST = 100
"""How many intervals an automatic length makes, about."""


class Extent(msgspec.Struct):
    """What durations extend over, in seconds; all 0 where there are none."""

    avg: float = 0.0
    max: float = 0.0
    min: float = 0.0

    @classmethod
    def of(cls, durations: Iterable[float]) -> Extent:
        """That of these."""
        found = list(durations)
        if not found:
            return cls()
        return cls(math.fsum(found) / len(found), max(found), min(found))


class Tps(msgspec.Struct):
    """The successes of a piece of a run.

    Attributes:
        tps: successes per second.
        started: when the piece begins, as unix seconds.
        ended: when it ends.
        duration: how long it is, in seconds.
        execution_time: of the calls inside it, that is those that begin and end in it.
        success_execution_time: of those that succeeded.
        success: how many succeeded.
        total: how many calls are inside it.
        start: how many calls begin in it. What begins at its end belongs to the next piece.
        end: how many calls end in it. What ends at its start belongs to the one before.
    """

    tps: float
    started: float
    ended: float
    duration: float
    execution_time: Extent
    success_execution_time: Extent
    success: int
    total: int
    start: int
    end: int


class TpsTable:
    """The calls of a run, to be looked at in pieces.

    Arguments:
        samples: the calls.
    """

    def __init__(self, samples: Samples) -> None:
        calls = samples.ordered()
        order = sorted(range(len(calls.ended)), key=calls.started.__getitem__)
        self._started = calls.begins
        self._ended = array("d", (calls.ended[at] for at in order))
        self._success = bytearray(calls.success[at] for at in order)
        self._ends = calls.ended

    @cached_property
    def whole(self) -> Tps:
        """The run as a whole, from the first begin to the last end."""
        count = len(self._started)
        if not count:
            return Tps(0.0, 0.0, 0.0, 0.0, Extent(), Extent(), 0, 0, 0, 0)
        made = self.between(self._started[0], self._ends[-1])
        made.start = made.end = count
        return made

    def between(self, started: float, ended: float) -> Tps:
        """The piece between two instants."""
        piece = slice(bisect_left(self._started, started), bisect_right(self._started, ended))
        inside = bytearray(map(ended.__ge__, self._ended[piece]))
        took = list(compress(map(sub, self._ended[piece], self._started[piece]), inside))
        success = bytearray(compress(self._success[piece], inside))
        duration = ended - started
        return Tps(
            tps=sum(success) / duration if duration > 0 else 0.0,
            started=started,
            ended=ended,
            duration=duration,
            execution_time=Extent.of(took),
            success_execution_time=Extent.of(compress(took, success)),
            success=sum(success),
            total=len(took),
            start=bisect_left(self._started, ended) - piece.start,
            end=bisect_right(self._ends, ended) - bisect_right(self._ends, started),
        )

    def interval(self) -> float:
        """An interval that suits the run, in seconds.

        It is three mean durations, but at least a second, and so long that there are about a
        hundred of them at most.
        """
        whole = self.whole
        three = 3 * whole.execution_time.avg
        if three and whole.duration / three <= _MOST:
            return max(1.0, round(three, 2))
        return float(max(1, math.ceil(whole.duration / _MOST)))

    def intervals(self, interval: float = 0.0, *, reverse: bool = False) -> list[Tps]:
        """The run in pieces, from its start on; the last one may be shorter.

        Arguments:
            interval: seconds of one; 0 chooses: see `interval`.
            reverse: whether to begin at the end, so that the first piece of the run is the shorter.
        """
        if not any(self._success):
            return []
        length = interval or self.interval()
        first, last = self._started[0], self._ends[-1]
        number = max(1, math.ceil((last - first) / length - 1e-9))
        if reverse:
            bounds = [(last - length * (at + 1), last - length * at) for at in range(number)]
        else:
            bounds = [(first + length * at, first + length * (at + 1)) for at in range(number)]
        return [self.between(max(first, begin), min(last, end)) for begin, end in bounds]

    def peak(self, window: float = 1.0) -> Tps | None:
        """The best piece of at least some length; None: none beats the run as a whole.

        Arguments:
            window: the least length, in seconds.
        """
        found = find_peak(
            array("d", compress(self._started, self._success)),
            array("d", compress(self._ended, self._success)),
            window,
        )
        # Instants since 1970 are good to a quarter of a microsecond: less is no difference.
        if found is None or found.tps <= self.whole.tps * (1 + 1e-6):
            return None
        made = self.between(found.started, found.ended)
        made.tps, made.duration = found.tps, found.duration
        return made
