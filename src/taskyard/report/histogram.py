"""A histogram of durations in the layout of HdrHistogram: it is exact to three digits, and merges.

A duration is counted in a bucket as wide as a two-thousandth of it at most (a nanosecond at least):
of its nanoseconds, the leading eleven bits are kept. That is all there is to the layout, so two
histograms merge by adding up their counts, whoever made them, on whichever machine.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["Histogram", "bucket"]

DIGITS = 3
"""How many decimal digits are kept; what other programs call the number of significant figures."""

_BITS = 11
_NANO = 1e9


def bucket(nanoseconds: int) -> int:
    """The lowest number of nanoseconds that is counted together with this one."""
    shift = nanoseconds.bit_length() - _BITS
    return nanoseconds if shift <= 0 else nanoseconds >> shift << shift


def _width(edge: int) -> int:
    return 1 << max(0, edge.bit_length() - _BITS)


class Histogram(msgspec.Struct):
    """How often which duration was seen.

    Attributes:
        counts: the lowest nanoseconds of a bucket, and how many durations fell into it.
    """

    counts: dict[int, int] = {}

    @classmethod
    def of(cls, durations: Iterable[float]) -> Histogram:
        """Count durations.

        Arguments:
            durations: seconds; those below 0 are counted as 0.
        """
        return cls.of_sorted(sorted(durations))

    @classmethod
    def of_sorted(cls, durations: Sequence[float]) -> Histogram:
        """Count durations (seconds) that rise, in a step for each bucket."""
        counts: dict[int, int] = {}
        total = len(durations)
        at = bisect_left(durations, 0.5 / _NANO)
        if at:
            counts[0] = at
        while at < total:
            # As in `bucket`, but not called a million times.
            edge = round(durations[at] * _NANO)
            shift = max(0, edge.bit_length() - _BITS)
            edge = edge >> shift << shift
            end = bisect_left(durations, (edge + (1 << shift) - 0.5) / _NANO, at + 1)
            counts[edge] = counts.get(edge, 0) + end - at
            at = end
        return cls(counts)

    def add(self, duration: float, count: int = 1) -> None:
        """Count one more duration.

        Arguments:
            duration: seconds; below 0 counts as 0.
            count: how often it is counted.
        """
        edge = bucket(max(0, round(duration * _NANO)))
        self.counts[edge] = self.counts.get(edge, 0) + count

    def merge(self, other: Histogram) -> None:
        """Add what another histogram counted."""
        counts = self.counts
        for edge, count in other.counts.items():
            counts[edge] = counts.get(edge, 0) + count

    @property
    def count(self) -> int:
        """How many durations were counted."""
        return sum(self.counts.values())

    def percentiles(self, percents: Sequence[float]) -> list[float]:
        """The durations that so many per cent did not exceed.

        Arguments:
            percents: rising, each from 0 to 100.

        Returns:
            Seconds, of each the highest that falls into its bucket (as HdrHistogram has it); 0
            where nothing was counted.
        """
        total, found = self.count, []
        edges = iter(sorted(self.counts))
        edge, seen = 0, 0
        for percent in percents:
            # A rank that is whole but for a float's last digit is not rounded up: 99.9 % of 1000.
            rank = max(1, math.ceil(percent * total / 100 - 1e-9 * total))
            while total and seen < rank:
                edge = next(edges)
                seen += self.counts[edge]
            found.append((edge + _width(edge) - 1) / _NANO if total else 0.0)
        return found
