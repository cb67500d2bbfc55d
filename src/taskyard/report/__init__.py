"""From logs to numbers: what was called, how often, how fast, and how it failed."""

from __future__ import annotations

from taskyard.report.compare import Comparison, Measure, compare
from taskyard.report.distribution import Distribution
from taskyard.report.foreign import MEANINGS
from taskyard.report.histogram import Histogram
from taskyard.report.intervals import Interval
from taskyard.report.peak import Peak, find_peak
from taskyard.report.reading import read_rows, read_samples, succeeded
from taskyard.report.report import ErrorKind, Report, make_report
from taskyard.report.samples import Conditions, Samples
from taskyard.report.thresholds import Threshold, broken

__all__ = [
    "MEANINGS",
    "Comparison",
    "Conditions",
    "Distribution",
    "ErrorKind",
    "Histogram",
    "Interval",
    "Measure",
    "Peak",
    "Report",
    "Samples",
    "Threshold",
    "broken",
    "compare",
    "find_peak",
    "make_report",
    "read_rows",
    "read_samples",
    "succeeded",
]
