"""The histogram counts as HdrHistogram does, and merges."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskyard.report import Distribution, Histogram
from taskyard.report.histogram import bucket

PERCENTS = [1.0, 10.0, 50.0, 75.0, 90.0, 99.0, 99.9, 100.0]
durations = st.floats(0, 3600, allow_nan=False)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3_600 * 10**9), min_size=1))
def test_its_buckets_are_those_of_hdrhistogram(nanoseconds: list[int]) -> None:
    library = pytest.importorskip("hdrh.histogram")
    oracle = library.HdrHistogram(1, 86_400 * 10**9, 3)
    for value in nanoseconds:
        oracle.record_value(value)
    assert [oracle.get_lowest_equivalent_value(value) for value in nanoseconds] == [
        bucket(value) for value in nanoseconds
    ]
    ours = Histogram.of(value / 1e9 for value in nanoseconds)
    recorded = [item.count_added_in_this_iter_step for item in oracle.get_recorded_iterator()]
    assert recorded == [count for _, count in sorted(ours.counts.items())]
    highest = oracle.get_value_at_percentile(100.0)
    assert round(ours.percentiles([100.0])[0] * 1e9) == highest


@given(st.lists(durations, max_size=200))
def test_counting_many_is_counting_one_by_one(many: list[float]) -> None:
    one_by_one = Histogram()
    for duration in many:
        one_by_one.add(duration)
    assert Histogram.of(many).counts == one_by_one.counts
    assert one_by_one.count == len(many)


@given(st.lists(durations, min_size=1, max_size=200))
def test_percentiles_are_exact_to_three_digits(many: list[float]) -> None:
    rising = sorted(many)
    for percent, found in zip(PERCENTS, Histogram.of(many).percentiles(PERCENTS), strict=True):
        exact = rising[max(1, -(-len(rising) * percent // 100).__int__()) - 1]
        assert exact - 1e-9 <= found <= exact * 1.001 + 2e-9


@given(st.lists(durations, max_size=50), st.lists(durations, max_size=50))
def test_merged_is_as_if_counted_together(some: list[float], others: list[float]) -> None:
    whole, merged = (
        Distribution.of(some + others),
        Distribution.of(some).merged(Distribution.of(others)),
    )
    assert merged.histogram.counts == whole.histogram.counts
    assert merged.percentiles == whole.percentiles
    assert (merged.count, merged.min, merged.max) == (whole.count, whole.min, whole.max)
    assert merged.mean == pytest.approx(whole.mean)
    assert merged.stdev == pytest.approx(whole.stdev, rel=1e-6, abs=1e-3)


def test_a_distribution() -> None:
    found = Distribution.of(number / 1000 for number in range(1, 1001))
    assert (found.count, found.min, found.max) == (1000, 0.001, 1.0)
    assert found.mean == pytest.approx(0.5005)
    assert found.stdev == pytest.approx(0.288819, rel=1e-5)
    assert found.percentiles["p50"] == pytest.approx(0.5, rel=1e-3)
    assert found.percentiles["p99.9"] == pytest.approx(0.999, rel=1e-3)
    assert found.percentile(12.5) == pytest.approx(0.125, rel=1e-3)
    assert [*found.percentiles] == ["p50", "p75", "p90", "p95", "p99", "p99.9", "p99.99"]


def test_of_nothing() -> None:
    empty = Distribution.of([])
    assert empty == Distribution(percentiles=dict.fromkeys(empty.percentiles, 0.0))
    assert (
        Distribution.of([1.0]).merged(empty)
        == Distribution.of([1.0])
        == empty.merged(Distribution.of([1.0]))
    )


def test_it_survives_json() -> None:
    dice = random.Random(1)
    made = Distribution.of(dice.random() for _ in range(100))
    assert msgspec.json.decode(msgspec.json.encode(made), type=Distribution) == made
