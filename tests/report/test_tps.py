"""What `get_tps` of a door is made of."""

from __future__ import annotations

import pytest
from tests.report.logs import START, samples

from taskyard.report import Samples
from taskyard.report.tps import Extent, TpsTable


def test_the_run_as_a_whole() -> None:
    table = TpsTable(samples((0, 1), (1, 2), (1, 4), (3, 5), failed=[2]))
    whole = table.whole
    assert (whole.started, whole.ended, whole.duration) == (START, START + 5, 5.0)
    assert (whole.tps, whole.success, whole.total) == (0.6, 3, 4)
    assert (whole.start, whole.end) == (4, 4)
    assert whole.execution_time == Extent(avg=7 / 4, max=3.0, min=1.0)
    assert whole.success_execution_time == Extent(avg=4 / 3, max=2.0, min=1.0)


def test_a_piece_holds_what_begins_and_ends_in_it() -> None:
    table = TpsTable(samples((0, 1), (1, 2), (1.5, 2.5), (2, 3), (0.5, 9)))
    piece = table.between(START + 1, START + 2)
    assert (piece.total, piece.success, piece.tps) == (1, 1, 1.0)
    # What begins at its end is the next one's, what ends at its start the one's before.
    assert (piece.start, piece.end) == (2, 1)


def test_intervals_from_either_end() -> None:
    table = TpsTable(samples((0, 0.5), (1, 1.5), (2, 2.5), (2.5, 3.5)))
    forth = table.intervals(1.0)
    assert [(part.started - START, part.ended - START) for part in forth] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 3.5),
    ]
    assert [part.total for part in forth] == [1, 1, 1, 0]
    back = table.intervals(1.0, reverse=True)
    assert [(part.started - START, part.ended - START) for part in back] == [
        (2.5, 3.5),
        (1.5, 2.5),
        (0.5, 1.5),
        (0, 0.5),
    ]
    assert [part.total for part in back] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("count", "took", "apart", "interval"),
    [
        pytest.param(10, 0.1, 1.0, 1.0, id="a second at least"),
        pytest.param(10, 2.0, 1.0, 6.0, id="three mean durations"),
        pytest.param(1000, 0.5, 1.0, 10.0, id="about a hundred at most"),
        pytest.param(10, 0.0, 0.0, 1.0, id="no time at all"),
    ],
)
def test_an_interval_is_chosen(count: int, took: float, apart: float, interval: float) -> None:
    table = TpsTable(samples(*[(at * apart, at * apart + took) for at in range(count)]))
    assert table.interval() == pytest.approx(interval, rel=1e-6)


def test_the_peak_beats_the_mean_or_there_is_none() -> None:
    even = [(at / 8, at / 8 + 0.125) for at in range(100)]
    assert TpsTable(samples((0, 0.1), (0.2, 0.3))).peak() is None
    assert TpsTable(samples(*even)).peak() is None
    table = TpsTable(samples(*even, *[(20 + at / 100, 20 + at / 100 + 0.01) for at in range(50)]))
    peak = table.peak()
    assert peak is not None
    assert (peak.tps, peak.duration) == (50.0, 1.0)
    assert peak.success == peak.total == 50
    assert peak.execution_time.avg == pytest.approx(0.01, abs=1e-6)


@pytest.mark.parametrize("run", [Samples(), samples((0, 1), failed=[0])])
def test_without_success(run: Samples) -> None:
    table = TpsTable(run)
    assert (table.whole.success, table.whole.tps) == (0, 0.0)
    assert table.peak() is None
    assert table.intervals() == []
