"""How durations are distributed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import mul

import msgspec

from taskyard.report.histogram import Histogram

__all__ = ["PERCENTS", "Distribution"]

PERCENTS = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99)


class Distribution(msgspec.Struct):
    """How durations are distributed; all in seconds.

    Attributes:
        count: of how many.
        mean: their mean.
        min: the shortest.
        max: the longest.
        stdev: their standard deviation, as that of a sample.
        percentiles: "p50" to "p99.99": what so many per cent did not exceed, to three digits.
        histogram: all of them, counted; by it, distributions of several runs merge.
    """

    count: int = 0
    mean: float = 0.0
    min: float = 0.0
    max: float = 0.0
    stdev: float = 0.0
    percentiles: dict[str, float] = {}
    histogram: Histogram = msgspec.field(default_factory=Histogram)

    @classmethod
    def of(cls, durations: Iterable[float]) -> Distribution:
        """Describe durations, in seconds."""
        rising = sorted(durations)
        count = len(rising)
        if not count:
            return _filled(cls())
        mean = math.fsum(rising) / count
        squares = math.fsum(map(mul, rising, rising)) - count * mean**2
        stdev = math.sqrt(max(squares, 0.0) / (count - 1)) if count > 1 else 0.0
        histogram = Histogram.of_sorted(rising)
        return _filled(cls(count, mean, rising[0], rising[-1], stdev, {}, histogram))

    def merged(self, other: Distribution) -> Distribution:
        """Describe the durations of both."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        squares = self.stdev**2 * (self.count - 1) + other.stdev**2 * (other.count - 1)
        squares += apart**2 * self.count * other.count / count
        histogram = Histogram(dict(self.histogram.counts))
        histogram.merge(other.histogram)
        least, most = min(self.min, other.min), max(self.max, other.max)
        stdev = math.sqrt(squares / (count - 1))
        return _filled(Distribution(count, mean, least, most, stdev, {}, histogram))

    def percentile(self, percent: float) -> float:
        """What so many per cent of the durations did not exceed.

        Arguments:
            percent: from 0 to 100.

        Returns:
            Seconds, to three digits; 0 where there are none.
        """
        return min(max(self.histogram.percentiles([percent])[0], self.min), self.max)


def _filled(made: Distribution) -> Distribution:
    found = made.histogram.percentiles(PERCENTS)
    made.percentiles = {
        f"p{percent:g}": min(max(value, made.min), made.max)
        for percent, value in zip(PERCENTS, found, strict=True)
    }
    return made
