"""The report of a load whose every number is known: it says what wrk2's arithmetic says."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from statistics import fmean

import pytest
from tests.load.queueing import (
    closed,
    constant,
    ends,
    latencies,
    recorded_with_expected_interval,
    stalling,
)

from taskyard.report import Conditions, Report, Samples, make_report

RATE, NUMBER = 200, 2_000
SERVICE, STALL, EVERY = 0.001, 0.2, 400
DIGITS = 2e-3
"""What three digits of a histogram leave open, relatively."""
BASE = 1_700_000_000.0
FLOAT = 1e-6
"""What is left of a difference of unix seconds."""


def report_of(
    planned: Sequence[float],
    started: Sequence[float],
    ended: Sequence[float],
    *,
    open_loop: bool,
    workers: int = 100,
) -> Report:
    columns = [
        array("d", [BASE + instant for instant in each]) for each in (planned, started, ended)
    ]
    conditions = Conditions(kind="threads", workers=workers, open_loop=open_loop)
    return make_report(
        Samples(*columns, success=bytearray([1]) * len(ended), conditions=conditions)
    )


def nearest_rank(values: Sequence[float], percent: float) -> float:
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100 - 1e-9) - 1)]


def stalled_open_loop() -> tuple[list[float], list[float]]:
    """The plan, and when its calls end at a target that stalls."""
    planned = constant(RATE, NUMBER)
    return planned, ends(planned, stalling(NUMBER, SERVICE, STALL, EVERY))


def test_latency_counts_from_the_planned_start() -> None:
    planned, ended = stalled_open_loop()
    report = report_of(planned, planned, ended, open_loop=True)
    expected = latencies(planned, stalling(NUMBER, SERVICE, STALL, EVERY))
    assert report.latency.mean == pytest.approx(fmean(expected), abs=FLOAT)
    assert report.latency.max == pytest.approx(max(expected), abs=FLOAT)
    for name, value in report.latency.percentiles.items():
        percent = float(name.removeprefix("p"))
        assert value == pytest.approx(nearest_rank(expected, percent), rel=DIGITS, abs=FLOAT), name


def test_a_limit_on_workers_does_not_hide_the_wait() -> None:
    """One worker makes the same plan: each call is short, those who wait for it wait as long."""
    planned, ended = stalled_open_loop()
    services = stalling(NUMBER, SERVICE, STALL, EVERY)
    started = [end - service for end, service in zip(ended, services, strict=True)]
    report = report_of(planned, started, ended, open_loop=True)
    free = report_of(planned, planned, ended, open_loop=True)
    assert report.latency.percentiles == free.latency.percentiles
    assert report.service.percentiles["p99"] == pytest.approx(SERVICE, rel=DIGITS, abs=FLOAT)
    assert report.latency.percentiles["p95"] > 50 * SERVICE
    assert report.latency.mean == pytest.approx(
        report.service.mean + report.lateness.mean, abs=FLOAT
    )


def test_a_closed_loop_hides_the_stalls_and_says_that_it_may() -> None:
    services = stalling(NUMBER, SERVICE, STALL, EVERY)
    begins, ended = closed(services)
    report = report_of(begins, begins, ended, open_loop=False)
    assert report.latency.percentiles["p99"] == pytest.approx(SERVICE, rel=DIGITS, abs=FLOAT)
    assert report.latency.max == pytest.approx(SERVICE + STALL, abs=FLOAT)
    assert any("closed loop" in warning for warning in report.warnings)
    open_loop = report_of(*stalled_open_loop()[:1] * 2, stalled_open_loop()[1], open_loop=True)
    assert not any("closed loop" in each for each in open_loop.warnings)


def test_what_a_closed_loop_hides_is_what_histograms_put_back() -> None:
    """HdrHistogram's correction knows no queue that has to drain: it finds a little less."""
    planned, ended = stalled_open_loop()
    report = report_of(planned, planned, ended, open_loop=True)
    corrected = recorded_with_expected_interval(stalling(NUMBER, SERVICE, STALL, EVERY), 1 / RATE)
    for percent in (95.0, 99.0, 99.9):
        value = report.latency.percentiles[f"p{percent:g}"]
        assert nearest_rank(corrected, percent) * (1 - DIGITS) <= value
        assert value <= nearest_rank(corrected, percent) * 1.3


def in_rounds(hand_over: float) -> tuple[list[float], list[float], list[float]]:
    """200 calls a second of 40 ms each on four workers, who can do half of that.

    All four are free again at the same time, and get their next calls one after another.
    """
    planned = constant(RATE, 400)
    started, ended, free = [], [], [0.0] * 4
    for k, plan in enumerate(planned):
        start = max(plan, max(free) if k % 4 == 0 and k else free[k % 4]) + hand_over * (1 + k % 4)
        started.append(start)
        ended.append(start - hand_over * (1 + k % 4) + 0.04)
        free[k % 4] = ended[-1]
    return planned, started, ended


def test_a_generator_that_waits_for_workers_is_not_called_the_bottleneck() -> None:
    report = report_of(*in_rounds(hand_over=0.0005), open_loop=True, workers=4)
    assert report.lateness.max > 1
    assert not report.generator_bound
    assert any("limit of workers" in warning for warning in report.warnings)


def test_a_generator_that_is_slow_to_hand_over_is_the_bottleneck() -> None:
    assert report_of(*in_rounds(hand_over=0.01), open_loop=True, workers=4).generator_bound


def test_a_generator_that_is_late_with_idle_workers_is_the_bottleneck() -> None:
    planned = constant(RATE, 400)
    for late, bound in ((0.0005, False), (0.02, True)):
        started = [instant + late for instant in planned]
        ended = [instant + 0.001 for instant in started]
        report = report_of(planned, started, ended, open_loop=True)
        assert report.generator_bound is bound
        assert not any("limit of workers" in warning for warning in report.warnings)
