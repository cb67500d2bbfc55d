"""What the charts of a report show: the same for the HTML page and the PNG.

A chart holds a bounded number of points, however long the run was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from taskyard.report.scales import (
    Axis,
    linear,
    logarithmic,
    number_text,
    of_percentiles,
    of_time,
    seconds_text,
    span_text,
)
from taskyard.report.text import duration_text

if TYPE_CHECKING:
    from taskyard.report.distribution import Distribution
    from taskyard.report.intervals import Interval
    from taskyard.report.report import Report

__all__ = ["MOST_POINTS", "Chart", "Look", "Piece", "Series", "draw", "pieces"]

MOST_POINTS = 240
"""How many points a series has at most."""

_SPREAD = 30
"""Durations that are further apart than this, as a ratio, are drawn on a logarithmic axis."""

_DECADES = 1e5
"""What is shorter than the longest by more than this, as a ratio, lies on the axis' lower end."""

Look: TypeAlias = Literal["good", "bad", "first", "second", "limit"]
"""What a series is, from which its colour and its dashes follow."""


_Shown: TypeAlias = "tuple[str, Look, Distribution]"


class Series(msgspec.Struct, frozen=True):
    """One line of a chart, or one layer of its bars.

    Attributes:
        name: in the legend.
        look: see `Look`.
        values: one per `Chart.places`; None: there is none.
        texts: the same for people.
        bars: whether it is a layer of bars, which stand on each other, rather than a line.
        steps: whether a line keeps its value up to the next place.
    """

    name: str
    look: Look
    values: list[float | None]
    texts: list[str]
    bars: bool = False
    steps: bool = False


class Chart(msgspec.Struct, frozen=True):
    """A chart.

    Attributes:
        name: what it is called in the page's code.
        title: its heading.
        about: how it is to be read, in a sentence or two.
        across: the axis from left to right.
        up: the axis from the bottom to the top.
        places: where on `across` its values are, rising.
        captions: what each place is, for people.
        series: its lines and bars.
        ends: where on `across` that ends which begins at each place; empty: places are points.
    """

    name: str
    title: str
    about: str
    across: Axis
    up: Axis
    places: list[float]
    captions: list[str]
    series: list[Series]
    ends: list[float] = []


class Piece(msgspec.Struct, frozen=True):
    """One or several intervals of a report, taken together.

    Attributes:
        started: seconds since the run began.
        ended: the same.
        begun: how many calls began.
        completed: how many succeeded.
        failed: how many failed.
        in_flight: the most at once.
        p50: of the latency; of several intervals, that of the worst.
        p99: the same.
    """

    started: float
    ended: float
    begun: int
    completed: int
    failed: int
    in_flight: int
    p50: float
    p99: float

    def rate(self, count: int) -> float:
        """So many per second; 0 where it has no length."""
        length = self.ended - self.started
        return count / length if length > 0 else 0.0

    @property
    def caption(self) -> str:
        """From when to when."""
        return f"{span_text(self.started)} – {span_text(self.ended)}"


def pieces(report: Report) -> list[Piece]:
    """The run in at most `MOST_POINTS` pieces.

    A short rest at the end is no piece of its own: its rate would be an accident.
    """
    intervals = report.intervals
    each = math.ceil(len(intervals) / MOST_POINTS) or 1
    groups = [intervals[at : at + each] for at in range(0, len(intervals), each)]
    if len(groups) > 1 and _length(groups[-1]) < _length(groups[-2]) / 2:
        groups[-2:] = [[*groups[-2], *groups[-1]]]
    return [_piece(group, report.started) for group in groups]


def draw(report: Report) -> list[Chart]:
    """All charts that there is something to show in."""
    if not report.intervals or not report.latency.count:
        return []
    run = pieces(report)
    planned = report.conditions.open_loop
    charts = [_throughput(run, planned=planned), _latency(run, planned=planned)]
    charts += [_percentiles(report), _concurrency(report)]
    if planned:
        charts.append(_lateness(report))
    return charts


def _length(group: Sequence[Interval]) -> float:
    return group[-1].ended - group[0].started


def _piece(group: Sequence[Interval], origin: float) -> Piece:
    return Piece(
        group[0].started - origin,
        group[-1].ended - origin,
        sum(interval.begun for interval in group),
        sum(interval.completed for interval in group),
        sum(interval.failed for interval in group),
        max(interval.in_flight for interval in group),
        max(interval.p50 for interval in group),
        max(interval.p99 for interval in group),
    )


# Over time


def _throughput(run: list[Piece], *, planned: bool) -> Chart:
    completed = [piece.rate(piece.completed) for piece in run]
    failed = [piece.rate(piece.failed) for piece in run]
    begun = [piece.rate(piece.begun) for piece in run] if planned else []
    high = max([*map(sum, zip(completed, failed, strict=True)), *begun])
    series = [_rates("completed", "good", completed, bars=True)]
    if any(failed):
        series.append(_rates("failed", "bad", failed, bars=True))
    if planned:
        series.append(_rates("begun", "limit", begun))
    return Chart(
        "throughput",
        "Throughput",
        "Calls per second that ended in each interval" + (", and that began." if planned else "."),
        of_time(run[-1].ended),
        linear(high, lambda value: f"{number_text(value)}/s"),
        [piece.started for piece in run],
        [piece.caption for piece in run],
        series,
        [piece.ended for piece in run],
    )


def _rates(name: str, look: Look, rates: list[float], *, bars: bool = False) -> Series:
    texts = [f"{number_text(rate)}/s" for rate in rates]
    return Series(name, look, list(rates), texts, bars=bars, steps=not bars)


def _latency(run: list[Piece], *, planned: bool) -> Chart:
    ended = [piece.completed + piece.failed for piece in run]
    p50 = [piece.p50 if count else None for piece, count in zip(run, ended, strict=True)]
    p99 = [piece.p99 if count else None for piece, count in zip(run, ended, strict=True)]
    return Chart(
        "latency",
        "Latency over time" if planned else "Duration over time",
        "Of the calls that ended in each interval"
        + (", from their planned start." if planned else "."),
        of_time(run[-1].ended),
        _of_durations([*p50, *p99]),
        [(piece.started + piece.ended) / 2 for piece in run],
        [piece.caption for piece in run],
        [_durations("p99", "second", p99), _durations("p50", "first", p50)],
    )


def _concurrency(report: Report) -> Chart:
    points = _thinned([(at - report.started, number) for at, number in report.concurrency])
    places = [at for at, _ in points]
    numbers = [float(number) for _, number in points]
    series = [
        Series("under way", "first", list(numbers), list(map(number_text, numbers)), steps=True)
    ]
    workers, high = report.conditions.workers, float(report.max_concurrency)
    if workers and (report.conditions.limited or workers <= 2 * high):
        series.append(_level("workers", workers, len(points)))
        high = max(high, workers)
    return Chart(
        "concurrency",
        "Concurrency",
        f"Calls under way at once; {number_text(report.max_concurrency)} at most.",
        of_time(report.duration),
        linear(high, number_text, whole=True),
        places,
        [f"from {span_text(at)}" for at in places],
        series,
        [*places[1:], report.duration],
    )


def _thinned(points: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most `MOST_POINTS`, each with the highest number of those that it stands for."""
    each = math.ceil(len(points) / MOST_POINTS) or 1
    groups = (points[at : at + each] for at in range(0, len(points), each))
    return [(group[0][0], max(number for _, number in group)) for group in groups]


def _level(name: str, value: float, count: int) -> Series:
    return Series(name, "limit", [float(value)] * count, [number_text(value)] * count)


# Over percentiles


def _percentiles(report: Report) -> Chart:
    about = "So many calls took no longer than this."
    if not report.conditions.open_loop:
        shown: list[_Shown] = [("duration", "first", report.latency)]
        return _curves("percentiles", "Duration by percentile", about, shown)
    about += (
        " Where the lines part, calls had to wait for their turn: that is what somebody who came "
        "at the planned instant has waited, too."
    )
    series: list[_Shown] = [
        ("latency from planned start", "second", report.latency),
        ("service time", "first", report.service),
    ]
    return _curves("percentiles", "Latency by percentile", about, series)


def _lateness(report: Report) -> Chart:
    about = (
        "How much later than planned calls began: what the generator of the load adds by itself, "
        "or by having no free worker."
    )
    series: list[_Shown] = [("lateness", "first", report.lateness)]
    return _curves("lateness", "Lateness of the generator", about, series)


def _curves(name: str, title: str, about: str, shown: list[_Shown]) -> Chart:
    across = of_percentiles(shown[0][2].count)
    steps = MOST_POINTS // 2
    places = [across.high * step / steps for step in range(steps + 1)]
    percents = [100 - 10 ** (2 - nines) for nines in places[:-1]]
    curves = [_curve(distribution, percents) for _, _, distribution in shown]
    return Chart(
        name,
        title,
        about,
        across,
        _of_durations([value for curve in curves for value in curve]),
        places,
        [f"{_percent_text(percent)} of calls" for percent in percents] + ["the longest"],
        [
            _durations(label, look, list(curve))
            for (label, look, _), curve in zip(shown, curves, strict=True)
        ],
    )


def _curve(distribution: Distribution, percents: list[float]) -> list[float]:
    low, high = distribution.min, distribution.max
    inner = distribution.histogram.percentiles(percents)
    return [*(min(max(value, low), high) for value in inner), high]


def _percent_text(percent: float) -> str:
    nines = 2 - math.log10(100 - percent)
    return f"{percent:.{max(1, math.ceil(nines) - 1)}f} %"


# Durations


def _durations(name: str, look: Look, values: list[float | None]) -> Series:
    return Series(name, look, values, ["" if v is None else duration_text(v) for v in values])


def _of_durations(values: Iterable[float | None]) -> Axis:
    known = [value for value in values if value is not None and value > 0]
    if not known:
        return linear(0.001, seconds_text)
    low, high = min(known), max(known)
    if high > _SPREAD * low:
        return logarithmic(max(low, high / _DECADES), high, seconds_text)
    return linear(high, seconds_text)
