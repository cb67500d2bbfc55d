"""What is to be seen of a report first."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from taskyard.report.scales import number_text, share_text, span_text
from taskyard.report.text import duration_text

if TYPE_CHECKING:
    from taskyard.report.report import Report

__all__ = ["Number", "facts", "headline", "instant_text", "workers_text"]


class Number(msgspec.Struct, frozen=True):
    """A number with what is to be said of it.

    Attributes:
        label: what it is.
        value: as text.
        about: more of it, in a few words.
        short: the same in fewer.
        bad: whether it is nothing to be happy about.
    """

    label: str
    value: str
    about: str
    short: str
    bad: bool = False


def headline(report: Report) -> list[Number]:
    """The numbers that everybody asks for."""
    return list(_numbers(report))


def facts(report: Report) -> list[str]:
    """Who made the calls, by which plan, for how long, and when."""
    when = instant_text(report.started) if report.is_dated else ""
    found = (workers_text(report), report.conditions.plan, span_text(report.duration), when)
    return [fact for fact in found if fact]


def workers_text(report: Report) -> str:
    """How many workers there were, and of which kind; "": not known."""
    conditions = report.conditions
    if not conditions.workers:
        return conditions.kind
    count = "1 worker" if conditions.workers == 1 else f"{number_text(conditions.workers)} workers"
    return f"{count} ({conditions.kind})" if conditions.kind else count


def instant_text(at: float) -> str:
    """Unix seconds as a date and a time of UTC."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{at:g}"


def _numbers(report: Report) -> Iterator[Number]:
    ended = report.completed + report.failed
    yield Number(
        "Throughput",
        f"{number_text(report.throughput)}/s",
        "successes, over the whole run",
        "successes",
    )
    if report.peak is not None:
        length = duration_text(report.peak.duration)
        value = f"{number_text(report.peak.tps)}/s"
        yield Number("Peak", value, f"best window of {length}", f"over {length}")
    share = share_text(report.completed, report.total)
    of_all = f"{share} of {number_text(report.total)} call{'s' if report.total != 1 else ''}"
    yield Number("Completed", number_text(report.completed), of_all, share)
    share = share_text(report.failed, ended)
    of_ended = f"{share} of those that ended"
    yield Number("Failed", number_text(report.failed), of_ended, share, report.failed > 0)
    if report.latency.count:
        yield from _latencies(report)
    workers = report.conditions.workers
    about = f"of {number_text(workers)} workers" if workers else "calls under way"
    yield Number("Most at once", number_text(report.max_concurrency), about, about)


def _latencies(report: Report) -> Iterator[Number]:
    word = "latency" if report.conditions.open_loop else "duration"
    for name, label in (("p50", f"Median {word}"), ("p99", f"p99 {word}")):
        about = short = "from start to end"
        if report.conditions.open_loop:
            service = duration_text(report.service.percentiles[name])
            about, short = f"service time: {service}", f"service: {service}"
        yield Number(label, duration_text(report.latency.percentiles[name]), about, short)
    longest = duration_text(report.latency.max)
    yield Number("Longest", longest, f"{word} of the slowest call", word)
