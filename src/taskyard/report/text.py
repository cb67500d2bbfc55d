"""A report as plain text, and its intervals as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskyard.report.distribution import Distribution
    from taskyard.report.intervals import Interval
    from taskyard.report.report import Report

__all__ = ["as_csv", "as_text", "columns", "duration_text", "one_line"]

_WIDTH = 100
_ERRORS = 10
"""How many kinds of errors are shown."""

_KIND = 60
"""How many characters of a kind of error are shown: what it says has to fit in beside it."""

_LESS = ("p75", "p99.99", "p90")
"""Percentiles that are left out, in this order, where durations are too long to stand in a line."""

_ROWS = 20
"""How many intervals are shown."""


def as_text(report: Report) -> str:
    """A report as plain text, in lines of at most 100 characters."""
    blocks = [
        _heading(report),
        _counts(report),
        _durations(report),
        _intervals(report),
        _errors(report),
        _warnings(report),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def as_csv(intervals: Iterable[Interval]) -> str:
    """Intervals as CSV, with a line of headings; durations are in seconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("started", "ended", "begun", "completed", "failed", "throughput", "in_flight")
    writer.writerow((*names, "p50", "p99"))
    for interval in intervals:
        writer.writerow(repr(getattr(interval, name)) for name in (*names, "p50", "p99"))
    return out.getvalue()


def duration_text(seconds: float) -> str:
    """A duration for people, in three digits: `740 µs`, `12.3 ms`, `1.25 s`, `12 min 5 s`."""
    if seconds < 0:
        return f"-{duration_text(-seconds)}"
    if seconds >= 120:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= 0.9995 * unit:
            return f"{_three(seconds / unit)} {name}"
    return f"{_three(seconds * 1e9)} ns" if seconds else "0 s"


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows of cells as lines, one below the other.

    Arguments:
        rows: of the same number of cells.
        left: how many columns begin at the left; the others end at the right.
    """
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def one_line(text: str, most: int) -> str:
    """Text from outside in one line, cut to so many characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _three(value: float) -> str:
    """A number in three digits, without an exponent."""
    if value >= 999.5:
        return f"{value:,.0f}"
    if value >= 99.95:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits > 0 else f"{value:.0f}"


def _heading(report: Report) -> Iterator[str]:
    yield one_line(report.title, _WIDTH)
    conditions = report.conditions
    facts = []
    if conditions.workers:
        facts.append(f"{conditions.workers:,} {conditions.kind or 'workers'}")
    elif conditions.kind:
        facts.append(conditions.kind)
    if conditions.plan:
        facts.append(conditions.plan)
    if report.is_dated:
        began = datetime.fromtimestamp(report.started, UTC)
        facts.append(f"{began:%Y-%m-%d %H:%M:%S} UTC")
    if report.latency.count:
        facts.append(duration_text(report.duration))
    if facts:
        yield " · ".join(facts)


def _counts(report: Report) -> Iterator[str]:
    rest = [
        f"{getattr(report, name):,} {name}"
        for name in ("cancelled", "undispatched", "lost", "unknown", "invalid")
        if getattr(report, name)
    ]
    calls = [f"{report.completed:,} completed", f"{report.failed:,} failed", *rest]
    if report.failed:
        calls[1] += f" ({report.error_share:.2%})"
    rows = [("Calls", f"{report.total:,}: {', '.join(calls)}")]
    if report.completed or report.failed:
        rows.append(("Throughput", f"{_three(report.throughput)}/s"))
    if report.peak is not None:
        peak = report.peak
        at = duration_text(max(0.0, peak.started - report.started))
        rows.append(
            (
                "Peak",
                f"{_three(peak.tps)}/s ({peak.count:,} in {duration_text(peak.duration)},"
                f" {at} after the start)",
            )
        )
        rows.append(("In flight", f"{report.max_concurrency:,} at most"))
    yield from columns(rows, left=2)


def _durations(report: Report) -> list[str]:
    if not report.latency.count:
        return []
    shown = [("Latency", report.latency)]
    if report.failed and report.completed:
        shown.append((" of successes", report.success_latency))
    if report.lateness.count:
        shown += [("Service time", report.service), ("Lateness", report.lateness)]
    names = [*report.latency.percentiles]
    lines = _table_of(shown, names)
    for name in _LESS:
        if max(map(len, lines)) > _WIDTH:
            names.remove(name)
            lines = _table_of(shown, names)
    return lines


def _table_of(shown: Sequence[tuple[str, Distribution]], names: Sequence[str]) -> list[str]:
    rows = [["", "mean", *names, "max"]]
    for label, found in shown:
        values = (found.mean, *(found.percentiles[name] for name in names), found.max)
        rows.append([label, *map(duration_text, values)])
    return columns(rows)


def _intervals(report: Report) -> list[str]:
    if len(report.intervals) < 2:
        return []
    size = -(-len(report.intervals) // _ROWS)
    rows = [("From", "completed/s", "failed", "in flight", "worst p99")]
    for first in range(0, len(report.intervals), size):
        group = report.intervals[first : first + size]
        length = group[-1].ended - group[0].started
        completed = sum(interval.completed for interval in group)
        waits = [piece.p99 for piece in group if piece.completed or piece.failed]
        rows.append(
            (
                duration_text(group[0].started - report.started),
                _three(completed / length) if length else "-",
                f"{sum(interval.failed for interval in group):,}",
                f"{max(interval.in_flight for interval in group):,}",
                duration_text(max(waits)) if waits else "-",
            )
        )
    return columns(rows, left=0)


def _errors(report: Report) -> list[str]:
    if not report.errors:
        return []
    most = report.errors[:_ERRORS]
    rows = [
        (one_line(error.kind, _KIND), f"{error.count:,}", " ".join(error.example.split()))
        for error in most
    ]
    lines = [line[:_WIDTH] for line in columns([("Error", "calls", ""), *rows], left=1)]
    if len(report.errors) > _ERRORS:
        rest = report.errors[_ERRORS:]
        calls = sum(error.count for error in rest)
        lines.append(f"and {len(rest):,} other kinds, of {calls:,} calls")
    return lines


def _warnings(report: Report) -> list[str]:
    lines = []
    for warning in report.warnings:
        lines += wrap(warning, _WIDTH, initial_indent="! ", subsequent_indent="  ")
    return lines
