"""The peak is exact: of all windows that there are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskyard.report import find_peak, peak

START = 1_700_000_000.0


def tried(started: Sequence[float], ended: Sequence[float], window: float) -> float:
    """The best rate of all windows that could be the best."""
    best = 0.0
    for end in ended:
        for begin in [start for start in started if start <= end - window] + [end - window]:
            count = sum(
                begin <= start and stop <= end for start, stop in zip(started, ended, strict=True)
            )
            best = max(best, count / max(end - begin, window))
    return best


instants = st.integers(0, 80).map(lambda eighths: eighths / 8)  # many of them at the same time
durations = st.integers(0, 40).map(lambda eighths: eighths / 8)
calls = st.lists(st.tuples(instants, durations), min_size=1, max_size=16)


@pytest.mark.parametrize("rough", [False, True])
@settings(max_examples=100, deadline=None)
@given(calls=calls, window=st.sampled_from([0.125, 0.5, 1.0, 3.0]))
def test_no_window_beats_the_peak(
    rough: bool, calls: list[tuple[float, float]], window: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if rough:  # what spares work with many calls is done with few ones
            patch.setattr(peak, "_MANY", 2)
            patch.setattr(peak, "_STRIDE", 2)
            patch.setattr(peak, "_BLOCK", 2)
        started = [START + start for start, _ in calls]
        ended = [START + start + took for start, took in calls]
        found = find_peak(started, ended, window)
    assert found is not None
    assert found.tps == pytest.approx(tried(started, ended, window), rel=1e-9)
    inside = sum(
        found.started <= start and stop <= found.ended
        for start, stop in zip(started, ended, strict=True)
    )
    assert inside == found.count
    assert found.tps == found.count / found.duration
    assert found.duration >= found.window == window


@pytest.mark.parametrize(("mean", "rate"), [(0.01, 40), (0.5, 40), (30.0, 40)])
def test_of_many_calls_with_real_instants(mean: float, rate: float) -> None:
    dice = random.Random(1)
    started = [START]
    for _ in range(150):
        started.append(started[-1] + dice.expovariate(rate))
    ended = [start + dice.expovariate(1 / mean) for start in started]
    found = find_peak(started, ended)
    assert found is not None
    assert found.tps == pytest.approx(tried(started, ended, 1.0), rel=1e-9)


def test_a_burst_between_whole_seconds_is_seen_whole() -> None:
    started = [START + 0.5 + number / 100 for number in range(100)]
    ended = [start + 0.001 for start in started]
    found = find_peak(started, ended)
    assert found is not None
    assert (found.count, found.tps, found.started) == (100, 100.0, started[0])


@pytest.mark.parametrize(
    ("calls", "tps", "count"),
    [
        pytest.param([(0, 0)], 1.0, 1, id="one call that took no time"),
        pytest.param([(0, 5)], 0.2, 1, id="a call longer than the window makes it longer"),
        pytest.param([(0, 0.1)] * 7, 7.0, 7, id="a run shorter than the window"),
        pytest.param([(0, 10)] * 7, 0.7, 7, id="all at the same time"),
        pytest.param([(0, 0.5), (0.5, 1), (1, 1)], 3.0, 3, id="the bounds belong to the window"),
    ],
)
def test_small_runs(calls: list[tuple[float, float]], tps: float, count: int) -> None:
    started, ended = zip(*calls, strict=True)
    found = find_peak(started, ended)
    assert found is not None
    assert (found.tps, found.count) == (pytest.approx(tps), count)


def test_without_calls_there_is_none() -> None:
    assert find_peak([], []) is None
