"""The numbers of a run."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from itertools import compress
from math import inf
from operator import sub
from pathlib import Path

import msgspec

from taskyard.errors import ReportError
from taskyard.report.distribution import Distribution
from taskyard.report.intervals import Interval, automatic, cut, peaks
from taskyard.report.peak import Peak, find_peak
from taskyard.report.samples import Calls, Conditions, Samples
from taskyard.report.text import duration_text
from taskyard.report.verdict import judge

__all__ = ["ErrorKind", "Report", "make_report"]

_POINTS = 600
"""How many points there are of the concurrency over time."""

_YEAR = 365 * 86_400.0

MOST_INTERVALS = 1_000_000
"""Into how many intervals a run is cut at most."""


class ErrorKind(msgspec.Struct):
    """Calls that failed in the same way.

    Attributes:
        kind: "ValueError", "HTTP 503"…
        count: how many.
        example: what the first of them said.
    """

    kind: str
    count: int
    example: str = ""


class Report(msgspec.Struct):
    """What the calls of a run add up to.

    All instants are unix seconds, all durations seconds.

    Attributes:
        conditions: under which the calls were made.
        total: how many calls there were, whatever became of them.
        completed: how many succeeded.
        failed: how many ended, but failed.
        cancelled: how many were cancelled.
        undispatched: how many were never begun.
        lost: how many were under way in a process that died.
        unknown: how many may have ended, but nobody knows how.
        invalid: how many entries of the log could not be understood; not part of `total`.
        started: when the first call began (or was to begin); 0: there was none.
        ended: when the last call ended.
        duration: from one to the other.
        throughput: successes per second over the whole duration.
        peak: the best window; None: nothing succeeded, or there was no time to do it in.
        latency: from the instant at which a call was to begin until it ended: what a user who
            arrived at that instant has waited. Of all calls that ended, failed ones too.
        success_latency: the same, of those that succeeded.
        service: from the instant at which it really began: how long the call itself took.
        lateness: how much later than planned it began: what the generator adds.
        intervals: the run in pieces of the same length.
        interval: the length of one.
        concurrency: how many calls were under way: (instant, number from then on), of bounded
            length; each stretch is represented by its highest number.
        max_concurrency: the exact maximum.
        errors: by kind, the most frequent first.
        warnings: what whoever reads the numbers must know, in sentences.
        generator_bound: whether the generator of the load was the bottleneck, so that the numbers
            speak of it rather than of what was called.
    """

    conditions: Conditions
    total: int
    completed: int
    failed: int
    cancelled: int
    undispatched: int
    lost: int
    unknown: int
    invalid: int
    started: float
    ended: float
    duration: float
    throughput: float
    peak: Peak | None
    latency: Distribution
    success_latency: Distribution
    service: Distribution
    lateness: Distribution
    intervals: list[Interval]
    interval: float
    concurrency: list[tuple[float, int]]
    max_concurrency: int
    errors: list[ErrorKind]
    warnings: list[str]
    generator_bound: bool

    @property
    def title(self) -> str:
        """What to call the run."""
        return self.conditions.title or self.conditions.function or "Calls"

    @property
    def is_dated(self) -> bool:
        """Whether the instants are since 1970, and not since the start as hey and oha have them."""
        return self.started >= _YEAR

    @property
    def error_share(self) -> float:
        """The share of ended calls that failed: 0 to 1."""
        ended = self.completed + self.failed
        return self.failed / ended if ended else 0.0

    def text(self) -> str:
        """The report as plain text."""
        from taskyard.report.text import as_text

        return as_text(self)

    def json(self) -> str:
        """The report as JSON: the attributes of `Report` under their names, indented."""
        try:
            return msgspec.json.format(msgspec.json.encode(self)).decode()
        except UnicodeEncodeError:  # halves of characters, as names of files have them
            return json.dumps(msgspec.to_builtins(self, str_keys=True), indent=2)

    def csv(self) -> str:
        """The intervals as CSV, with a line of headings."""
        from taskyard.report.text import as_csv

        return as_csv(self.intervals)

    def html(self) -> str:
        """The report as an HTML page of its own: it needs no network, and nothing beside it."""
        from taskyard.report.page import as_html

        return as_html(self)

    def png(self) -> bytes:
        """The report as a picture.

        Raises:
            MissingExtra: the package that draws is not installed.
        """
        from taskyard.report.png import as_png

        return as_png(self)

    def save(self, path: str | Path, samples: Samples | None = None) -> None:
        """Write the report to a file, as its ending says.

        Arguments:
            path: it ends in .html, .xlsx, .png, .json, .csv (the intervals) or .txt.
            samples: the calls; a workbook (.xlsx) holds them too then.

        Raises:
            ReportError: another ending, or the file cannot be written.
            MissingExtra: the package that writes such files is not installed.
        """
        from taskyard.report.files import save

        save(self, Path(path), samples)


def make_report(samples: Samples, *, interval: float | None = None, window: float = 1.0) -> Report:
    """Add up what the calls of a run come to.

    Arguments:
        samples: the calls.
        interval: seconds of one interval; None chooses, so that there are at most 100 of them.
        window: of the peak, the least number of seconds.

    Raises:
        ReportError: no such interval or window, or more intervals than anybody can look at.
    """
    _check_length("interval", interval or 1.0)
    _check_length("window", window)
    calls = samples.ordered()
    started = min(min(calls.planned, default=0.0), min(calls.begins, default=0.0))
    ended = max(calls.ended[-1:], default=0.0)
    duration = ended - started
    step = interval or automatic(duration)
    if duration / step > MOST_INTERVALS:
        raise ReportError(
            f"intervals of {step:g} s would be {duration / step:,.0f} pieces of a run of"
            f" {duration:,.0f} s; at most {MOST_INTERVALS:,} are made: choose"
            f" {duration / MOST_INTERVALS:.2g} s or more"
        )
    completed = sum(calls.success)
    latency = Distribution.of(map(sub, calls.ended, calls.planned))
    service, lateness = latency, Distribution.of([])
    if calls.planned != calls.started:
        service = Distribution.of(map(sub, calls.ended, calls.started))
        lateness = Distribution.of(map(sub, calls.started, calls.planned))
    concurrency, highest = _concurrency(calls, started, duration)
    verdict = judge(samples, calls, latency, service, lateness)
    peak = _peak(calls, window)
    throughput = completed / duration if duration else 0.0
    if peak is not None and duration < window and peak.tps < throughput:
        verdict.warnings.append(
            f"The run took {duration_text(duration)}, less than the {duration_text(window)} over"
            " which the peak counts: so it is below the throughput."
        )
    return Report(
        conditions=samples.conditions,
        total=len(samples)
        + samples.cancelled
        + samples.undispatched
        + samples.lost
        + samples.unknown,
        completed=completed,
        failed=len(samples) - completed,
        cancelled=samples.cancelled,
        undispatched=samples.undispatched,
        lost=samples.lost,
        unknown=samples.unknown,
        invalid=samples.invalid,
        started=started,
        ended=ended,
        duration=duration,
        throughput=throughput,
        peak=peak,
        latency=latency,
        success_latency=_of_successes(calls, latency),
        service=service,
        lateness=lateness,
        intervals=cut(calls, (started, ended), step) if len(samples) else [],
        interval=step,
        concurrency=concurrency,
        max_concurrency=highest,
        errors=_errors(samples),
        warnings=verdict.warnings,
        generator_bound=verdict.generator_bound,
    )


def _check_length(name: str, seconds: float) -> None:
    if not 0 < seconds < inf:
        raise ReportError(f"{name} is a number of seconds above 0, not {seconds:g}")


def _peak(calls: Calls, window: float) -> Peak | None:
    begins, ends = calls.started, calls.ended
    if not all(calls.success):
        begins = array("d", compress(begins, calls.success))
        ends = array("d", compress(ends, calls.success))
    return find_peak(begins, ends, window)


def _of_successes(calls: Calls, latency: Distribution) -> Distribution:
    if all(calls.success):
        return latency
    return Distribution.of(
        compress(map(sub, calls.ended, calls.planned), calls.success),
    )


def _concurrency(
    calls: Calls, started: float, duration: float
) -> tuple[list[tuple[float, int]], int]:
    if not calls.begins:
        return [], 0
    length = duration / _POINTS
    stretches = [started + place * length for place in range(_POINTS if length else 1)]
    highest = peaks(calls, stretches[1:])
    points = [
        (stretch, number)
        for stretch, before, number in zip(stretches, [None, *highest], highest, strict=False)
        if number != before
    ]
    return points, max(highest)


def _errors(samples: Samples) -> list[ErrorKind]:
    counts = Counter(samples.kinds.values())
    rest = len(samples) - sum(samples.success) - sum(counts.values())
    if rest:
        counts["failed"] += rest
    first: dict[str, str] = {}
    for index, kind in samples.kinds.items():
        if kind not in first and index in samples.messages:
            first[kind] = samples.messages[index]
    return [ErrorKind(kind, count, first.get(kind, "")) for kind, count in counts.most_common()]
