"""What must not be, as in `p99 > 250ms`, `errors > 1%`, `throughput < 100`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from taskyard.errors import ReportError
from taskyard.report.text import duration_text

if TYPE_CHECKING:
    from taskyard.report.distribution import Distribution
    from taskyard.report.report import Report

__all__ = ["Threshold", "broken"]

_FORM = re.compile(
    r"\s*(?P<measure>[a-z_][a-z_.0-9]*)\s*"
    r"(?P<comparison>>=|<=|==|!=|>|<)\s*"
    # A comma stands between thousands only: with 1,5 some mean one and a half.
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(?:\.[0-9]+)?)"
    r"\s*(?P<unit>[a-zµ%/]*)\s*"
)
_COMPARISONS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    ">": (operator.gt, "more than"),
    ">=": (operator.ge, "at least"),
    "<": (operator.lt, "less than"),
    "<=": (operator.le, "at most"),
    "==": (operator.eq, "equal to"),
    "!=": (operator.ne, "other than"),
}
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
_DISTRIBUTIONS = {
    "latency": "latency",
    "success": "success_latency",
    "service": "service",
    "lateness": "lateness",
}
_STATISTIC = re.compile(r"mean|min|max|stdev|p(?P<percent>\d{1,2}(?:\.\d+)?|100)")
_COUNTS = ("completed", "failed", "cancelled", "undispatched", "lost", "unknown", "invalid")
_RATES = ("throughput", "peak")
_WHOLE = ("total", "concurrency")

_HELP = (
    "It is written as in p99 > 250ms, service.mean > 20ms, errors > 1%, lost > 0, throughput < 100,"
    " peak < 150 or duration > 2min"
)


class Threshold(msgspec.Struct, frozen=True):
    """A condition that must not be met.

    Attributes:
        measure: of the report: a percentile ("p99") or "mean", "min", "max", "stdev" of the
            latency, or of "service.", "lateness." or "success."; "throughput", "peak"; "errors",
            "completed", "failed", "cancelled", "undispatched", "lost", "unknown", "invalid",
            "total"; "concurrency"; "duration".
        comparison: ">", ">=", "<", "<=", "==" or "!=".
        limit: in seconds, in calls (a second), or as a share (0.01 for 1 %).
        share: whether the limit is a share of all calls (of "errors": of those that ended).
    """

    measure: str
    comparison: str
    limit: float
    share: bool = False

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read one, as in `p99 > 250ms`.

        Raises:
            ReportError: it is none; says what is expected.
        """
        found = _FORM.fullmatch(text.lower())
        if found is None:
            raise ReportError(f"{text!r} is no threshold. {_HELP}")
        measure, unit = found["measure"], found["unit"]
        number = float(found["number"].replace(",", "").replace("_", ""))
        if measure == "duration" or _statistic(measure):
            if unit not in _SECONDS:
                units = ", ".join(_SECONDS)
                raise ReportError(f"{text!r} needs a unit of time behind the number: {units}")
            return cls(measure, found["comparison"], number * _SECONDS[unit])
        if measure not in {"errors", *_COUNTS, *_RATES, *_WHOLE}:
            raise ReportError(f"{text!r}: there is no measure {measure!r}. {_HELP}")
        if unit == "%" and measure in {"errors", *_COUNTS}:
            return cls(measure, found["comparison"], number / 100, share=True)
        if unit and not (unit == "/s" and measure in _RATES):
            raise ReportError(f"{text!r}: {measure} is not measured in {unit!r}. {_HELP}")
        if measure not in _RATES and not number.is_integer():
            raise ReportError(f"{text!r}: there are no parts of calls; a share ends in %")
        return cls(measure, found["comparison"], number)

    def value(self, report: Report) -> float | None:
        """What the report has to compare with the limit; None: it has no such number."""
        statistic = _statistic(self.measure)
        if statistic is not None:
            kind, name = statistic
            if kind == "lateness" and not report.lateness.count and report.latency.count:
                return 0.0  # nothing was planned, so nothing was late
            return _of(getattr(report, _DISTRIBUTIONS[kind]), name)
        count = _count(report, self.measure)
        if not self.share:
            return count
        ended = report.completed + report.failed
        whole = ended if self.measure == "errors" else report.total
        return count / whole if whole else None

    def breach(self, report: Report) -> str | None:
        """Say what is wrong with a report; None: nothing is.

        A condition on something that was not measured (the p99, or a share, of no calls) counts as
        met.
        """
        value = self.value(report)
        if value is None:
            return f"{self.measure} could not be measured: there are no such calls"
        compare, words = _COMPARISONS[self.comparison]
        if not compare(value, self.limit):
            return None
        return f"{self.measure} is {self._shown(value)}, {words} {self._shown(self.limit)}"

    def _shown(self, value: float) -> str:
        if self.share:
            return f"{100 * value:.4g}%"
        if self.measure == "duration" or _statistic(self.measure):
            return duration_text(value)
        return f"{value:,.1f}/s" if self.measure in _RATES else f"{value:,.0f}"


def broken(report: Report, thresholds: Iterable[Threshold]) -> list[str]:
    """What is wrong with a report, in a line each."""
    found = (threshold.breach(report) for threshold in thresholds)
    return [text for text in found if text is not None]


def _count(report: Report, measure: str) -> float:
    if measure == "peak":
        return report.peak.tps if report.peak else 0.0
    names = {"concurrency": "max_concurrency", "errors": "failed"}
    return float(getattr(report, names.get(measure, measure)))


def _statistic(measure: str) -> tuple[str, str] | None:
    """The distribution and the statistic that a measure means; None: it means neither."""
    kind, dot, name = measure.partition(".")
    if not dot or kind not in _DISTRIBUTIONS:
        kind, name = "latency", measure
    return (kind, name) if _STATISTIC.fullmatch(name) else None


def _of(distribution: Distribution, name: str) -> float | None:
    if not distribution.count:
        return None
    if name in distribution.__struct_fields__:
        return float(getattr(distribution, name))
    return distribution.percentile(float(name.removeprefix("p")))
