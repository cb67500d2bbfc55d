"""Two runs beside each other: which differences are more than chance.

Of each run, each measure gets a confidence interval of its own, and the two give the interval of
their difference (MOVER, the method of variance estimates recovery; for shares that is Newcombe's).

Calls that follow each other are alike: a stall hits many of them. Intervals for independent calls
would be far too narrow, and find differences between any two runs. So a run is cut into sections of
consecutive calls, each treated as a small run, and it is their spread that counts:

- mean, throughput: batch means, with Student's t; wider where neighbouring sections are alike.
- percentiles: sectioning (the spread of the sections' percentiles about that of the run), or the
  binomial interval of order statistics where that is wider, of as many independent calls as the
  sections' spread leaves (how many of their calls take longer).
- share of errors: Wilson's interval for as many independent calls as the sections' spread leaves.

As several measures are looked at, each is given its part of the error (Bonferroni): with 95 %
confidence, two runs of the same have *any* false alarm in 5 % of cases. What no statistics of two
runs can see is that the machines were in different moods: a difference below `tolerance` never
counts, and a verdict is best based on runs that alternate.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from statistics import NormalDist, fmean, variance
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from taskyard.errors import ReportError
from taskyard.report.intervals import ranked
from taskyard.report.samples import Calls, Samples
from taskyard.report.text import columns, duration_text

__all__ = ["Comparison", "Measure", "Verdict", "compare"]

Verdict: TypeAlias = Literal["better", "worse", "no difference shown", "too few calls"]

SECTIONS = 20
"""Into how many sections a run is cut."""

_FEWEST = 5  # calls that a section needs beyond a percentile for it to mean something
_PERCENTS = (50.0, 95.0, 99.0, 99.9)


class Measure(msgspec.Struct):
    """One number of both runs.

    Attributes:
        name: "throughput", "errors", "mean" or a percentile of the latency.
        unit: "/s", "" (a share) or "s".
        before: what it was.
        after: what it is.
        difference: after less before.
        low: the least that the difference may be, with confidence; None: not known.
        high: the most.
        verdict: what that means.
    """

    name: str
    unit: Literal["/s", "", "s"]
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    verdict: Verdict

    @property
    def relative(self) -> float | None:
        """The difference as a share of what it was; None: that was 0."""
        return self.difference / self.before if self.before else None


class Comparison(msgspec.Struct):
    """Two runs beside each other.

    Attributes:
        measures: number by number.
        confidence: how sure all the verdicts together are, from 0 to 1.
        tolerance: the share by which a number may change without a verdict.
        calls: how many calls ended, before and after.
    """

    measures: list[Measure]
    confidence: float
    tolerance: float
    calls: tuple[int, int]

    @property
    def worse(self) -> bool:
        """Whether anything has become worse."""
        return any(measure.verdict == "worse" for measure in self.measures)

    @property
    def better(self) -> bool:
        """Whether anything has become better."""
        return any(measure.verdict == "better" for measure in self.measures)

    def json(self) -> str:
        """The comparison as JSON: its attributes under their names, indented."""
        made = {**msgspec.to_builtins(self), "worse": self.worse, "better": self.better}
        return msgspec.json.format(msgspec.json.encode(made)).decode()

    def text(self) -> str:
        """The comparison as plain text."""
        rows: list[Sequence[str]] = [
            ("", "before", "after", "change", f"{100 * self.confidence:.4g}% interval", "")
        ]
        rows += [_row(measure) for measure in self.measures]
        before, after = self.calls
        lines = [f"{before:,} calls before, {after:,} after", "", *columns(rows)]
        if self.tolerance:
            lines += ["", f"Changes of less than {100 * self.tolerance:.3g}% do not count."]
        return "\n".join(lines) + "\n"


def compare(
    before: Samples, after: Samples, *, confidence: float = 0.95, tolerance: float = 0.05
) -> Comparison:
    """Say in what two runs differ.

    Arguments:
        before: the calls of one.
        after: those of the other.
        confidence: how sure the verdicts are to be, all together; between 0.5 and 1.
        tolerance: by what share a number may change without a verdict.

    Raises:
        ReportError: no such confidence or tolerance.
    """
    if not 0.5 <= confidence < 1:
        raise ReportError(f"a confidence is between 0.5 and 1, as in 0.95, not {confidence:g}")
    if not 0 <= tolerance < math.inf:
        raise ReportError(f"a tolerance is a share, as in 0.05, not {tolerance:g}")
    runs = (_Run(before.ordered()), _Run(after.ordered()))
    least = min(run.count for run in runs)
    percents = [
        percent for percent in _PERCENTS if percent < 99 or _beyond(percent, least) >= _FEWEST
    ]
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2 / (3 + len(percents)))
    measures = [
        _measure("throughput", "/s", [run.throughput(z) for run in runs], tolerance),
        _measure("errors", "", [run.errors(z) for run in runs], tolerance),
        _measure("mean", "s", [run.mean(z) for run in runs], tolerance),
    ]
    measures += [
        _measure(f"p{percent:g}", "s", [run.percentile(percent, z) for run in runs], tolerance)
        for percent in percents
    ]
    return Comparison(measures, confidence, tolerance, (runs[0].count, runs[1].count))


class _Estimate(NamedTuple):
    """A number with its confidence interval; infinite where there are too few calls."""

    value: float
    low: float
    high: float


_UNKNOWN = _Estimate(0.0, -math.inf, math.inf)


class _Run:
    """The calls of a run, and in sections of consecutive ones."""

    def __init__(self, calls: Calls) -> None:
        self.count = len(calls.ended)
        order = sorted(range(self.count), key=calls.planned.__getitem__)
        self._calls = calls
        self._latencies = array("d", [calls.ended[at] - calls.planned[at] for at in order])
        self._failed = bytearray(1 - calls.success[at] for at in order)
        self._rising = sorted(self._latencies)
        self._sections = _sections(self.count)

    def throughput(self, z: float) -> _Estimate:
        """Successes per second: by sections of time."""
        if not self.count:
            return _UNKNOWN
        ends, seen = self._calls.ended, [0, *accumulate(self._calls.success)]
        start = min(chain(self._calls.begins[:1], self._calls.planned))
        length = (ends[-1] - start) / SECTIONS
        if length <= 0 or self.count < SECTIONS:
            return _UNKNOWN
        borders = [bisect_left(ends, start + length * place) for place in range(1, SECTIONS)]
        totals = [seen[border] for border in (0, *borders, self.count)]
        rates = [(later - earlier) / length for earlier, later in pairwise(totals)]
        return _by_spread(fmean(rates), rates, z)

    def errors(self, z: float) -> _Estimate:
        """The share of calls that failed."""
        if self.count < SECTIONS:
            return _UNKNOWN
        share = sum(self._failed) / self.count
        return _wilson(share, self.count / self._effect(self._failed), z)

    def _effect(self, marks: bytearray) -> float:
        """By how much more the sections differ in marked calls than if calls were independent."""
        share = sum(marks) / self.count
        chance = share * (1 - share) / (self.count / SECTIONS)
        shares = [fmean(marks[first:last]) for first, last in self._sections]
        return max(1.0, variance(shares) / chance) if chance else 1.0

    def mean(self, z: float) -> _Estimate:
        """The mean latency."""
        if self.count < SECTIONS:
            return _UNKNOWN
        means = [fmean(self._latencies[first:last]) for first, last in self._sections]
        return _by_spread(fmean(self._latencies), means, z)

    def percentile(self, percent: float, z: float) -> _Estimate:
        """What so many per cent of the latencies did not exceed."""
        value = ranked(self._rising, percent)
        if self.count < SECTIONS:
            return _UNKNOWN
        low, high = self._order_statistics(percent, z)
        # Sections that are too short for the percentile say nothing of it: then fewer, longer ones.
        number = min(SECTIONS, int(_beyond(percent, self.count) / _FEWEST))
        if number >= _FEWEST:
            found = [
                ranked(sorted(self._latencies[first:last]), percent)
                for first, last in _sections(self.count, number)
            ]
            wide = _by_spread(value, found, z)
            low, high = min(low, wide.low), max(high, wide.high)
        return _Estimate(value, low, high)

    def _order_statistics(self, percent: float, z: float) -> tuple[float, float]:
        """Between which two latencies the percentile is, for as many calls as the spread leaves."""
        share = percent / 100
        value = ranked(self._rising, percent)
        effect = self._effect(bytearray(map(value.__lt__, self._latencies)))
        middle = self.count * share
        spread = z * math.sqrt(self.count * share * (1 - share) * effect)
        first, last = math.floor(middle - spread), math.ceil(middle + spread) + 1
        low = self._rising[first - 1] if first >= 1 else -math.inf
        return low, self._rising[last - 1] if last <= self.count else math.inf


def _beyond(percent: float, count: int) -> float:
    """How many of so many calls take longer than a percentile."""
    return count * (100 - percent) / 100 + 1e-9


def _sections(count: int, number: int = SECTIONS) -> list[tuple[int, int]]:
    borders = [count * place // number for place in range(number + 1)]
    return list(pairwise(borders))


def _by_spread(value: float, parts: Sequence[float], z: float) -> _Estimate:
    """The interval of a number by how its sections spread about it."""
    number = len(parts)
    squares = sum((part - value) ** 2 for part in parts)
    reach = _student(z, number - 1) * math.sqrt(squares / (number - 1) / number)
    reach *= _stretch([part - value for part in parts], squares)
    return _Estimate(value, value - reach, value + reach)


def _stretch(parts: Sequence[float], squares: float) -> float:
    """By how much wider an interval is where sections are too short to be independent.

    Sections that follow each other differ less than they should then. (For a process of first order
    with this correlation it is right for many sections; chance alone seldom gives as much.)
    """
    together = sum(one * other for one, other in pairwise(parts)) / squares if squares else 0.0
    if together <= 2 / math.sqrt(len(parts)):
        return 1.0
    return math.sqrt((1 + together) / max(1 - together, 1 / len(parts)))


def _student(z: float, freedom: int) -> float:
    """The quantile of Student's t that belongs to one of the normal distribution."""
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def _wilson(share: float, count: float, z: float) -> _Estimate:
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    reach /= 1 + z * z / count
    return _Estimate(share, max(0.0, middle - reach), min(1.0, middle + reach))


def _measure(
    name: str, unit: Literal["/s", "", "s"], found: Sequence[_Estimate], tolerance: float
) -> Measure:
    before, after = found
    difference = after.value - before.value
    low = difference - math.hypot(after.value - after.low, before.high - before.value)
    high = difference + math.hypot(after.high - after.value, before.value - before.low)
    if not (math.isfinite(low) or math.isfinite(high)):
        verdict: Verdict = "too few calls"
    elif low <= 0 <= high or abs(difference) <= tolerance * abs(before.value):
        verdict = "no difference shown"
    else:
        verdict = "better" if (difference > 0) == (unit == "/s") else "worse"
    return Measure(
        name,
        unit,
        before.value,
        after.value,
        difference,
        low if math.isfinite(low) else None,
        high if math.isfinite(high) else None,
        verdict,
    )


def _row(measure: Measure) -> tuple[str, ...]:
    relative = measure.relative
    change = f"{relative:+.1%}" if relative is not None else "-"
    unit = measure.unit
    low = "…" if measure.low is None else _signed(measure.low, unit)
    high = "…" if measure.high is None else _signed(measure.high, unit)
    values = (_shown(measure.before, unit), _shown(measure.after, unit))
    return (measure.name, *values, change, f"{low} to {high}", measure.verdict)


def _shown(value: float, unit: str) -> str:
    if unit == "s":
        return duration_text(value)
    return f"{value:,.1f}/s" if unit else f"{value:.2%}"


def _signed(value: float, unit: str) -> str:
    return ("+" if value >= 0 else "") + _shown(value, unit)
