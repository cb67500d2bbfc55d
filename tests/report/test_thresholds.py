"""Conditions that a report must not meet."""

from __future__ import annotations

import pytest
from tests.report.logs import samples

from taskyard.errors import ReportError
from taskyard.report import Report, Samples, Threshold, broken, make_report


@pytest.fixture
def report() -> Report:
    """100 calls, one each 0.1 s, planned 10 ms before; of 0.1 s, the last of 1 s; 2 failed."""
    calls = [(at / 10, at / 10 + 0.01, at / 10 + 0.11) for at in range(99)]
    run = samples(*calls, (9.9, 9.91, 10.91), failed=[3, 4], open_loop=True, workers=20)
    run.lost = 1
    return make_report(run)


MET = [
    "p50 > 100ms",
    "p50 >= 0.11 s",
    "P99.9 > 1s",
    "mean > 110 ms",
    "max > 1s",
    "min < 200ms",
    "stdev > 1ms",
    "latency.p50 > 105ms",
    "service.p50 < 105ms",
    "lateness.p99 > 5ms",
    "success.p50 > 100ms",
    "errors > 1%",
    "errors >= 2",
    "failed == 2",
    "lost > 0",
    "lost > 0.5%",
    "unknown == 0",
    "completed < 99",
    "completed != 99",
    "total > 100",
    "throughput < 9",
    "throughput < 9/s",
    "peak < 100",
    "concurrency >= 1",
    "duration > 10s",
    "duration <= 1 min",
]
NOT_MET = [
    "p50 > 250ms",
    "p99.9 > 2,000ms",
    "errors > 2%",
    "errors > 2",
    "throughput < 5",
    "peak < 8.5/s",
    "lateness.max > 11ms",
    "service.p50 > 101 ms",
    "duration > 2min",
    "concurrency > 2",
    "lost > 1",
]


@pytest.mark.parametrize("text", MET)
def test_met(report: Report, text: str) -> None:
    (found,) = broken(report, [Threshold.parse(text)])
    measure = text.split(" ", maxsplit=1)[0].lower()
    assert found.startswith(f"{measure} is ")


@pytest.mark.parametrize("text", NOT_MET)
def test_not_met(report: Report, text: str) -> None:
    assert broken(report, [Threshold.parse(text)]) == []


def test_what_is_said(report: Report) -> None:
    texts = ["max > 250ms", "errors > 1%", "throughput < 100", "lost > 0", "duration > 10s"]
    assert broken(report, map(Threshold.parse, texts)) == [
        "max is 1.01 s, more than 250 ms",
        "errors is 2%, more than 1%",
        "throughput is 9.0/s, less than 100.0/s",
        "lost is 1, more than 0",
        "duration is 10.9 s, more than 10 s",
    ]


@pytest.mark.parametrize(
    "text", ["p99 > 1ms", "p99 < 1h", "success.mean > 1s", "errors > 1%", "lost > 1%"]
)
def test_what_was_not_measured_does_not_pass(text: str) -> None:
    (found,) = broken(make_report(Samples()), [Threshold.parse(text)])
    assert "could not be measured" in found


def test_without_a_plan_nothing_is_late() -> None:
    unplanned = make_report(samples((0, 1)))
    assert broken(unplanned, [Threshold.parse("lateness.p99 > 5ms")]) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no threshold. It is written as in p99 > 250ms"),
        ("p99", "is no threshold"),
        ("p99 > ", "is no threshold"),
        ("250ms < p99", "is no threshold"),
        ("p99 > -5ms", "is no threshold"),
        ("p99 > 250", "needs a unit of time behind the number: ns, us, µs, ms, s, min, h"),
        ("p99 > 2%", "needs a unit of time"),
        ("p99 > 1,5s", "is no threshold"),
        ("errors > 1,5%", "is no threshold"),
        ("p101 > 1s", "there is no measure 'p101'"),
        ("speed < 1", "there is no measure 'speed'"),
        ("fast.p99 > 1s", r"there is no measure 'fast\.p99'"),
        ("throughput < 10%", "throughput is not measured in '%'"),
        ("lost > 1s", "lost is not measured in 's'"),
        ("errors > 0.01", "there are no parts of calls; a share ends in %"),
    ],
)
def test_what_is_none(text: str, message: str) -> None:
    with pytest.raises(ReportError, match=message):
        Threshold.parse(text)
