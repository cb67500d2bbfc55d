"""The numbers of a run."""

from __future__ import annotations

import itertools
import math
import random
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.logs import START, samples

from taskyard.errors import ReportError
from taskyard.report import ErrorKind, Report, Samples, intervals, make_report


def test_counts_and_throughput() -> None:
    run = samples((0, 1), (1, 2), (2, 3), (3, 5), failed=[3])
    run.undispatched, run.cancelled, run.lost, run.unknown, run.invalid = 10, 20, 30, 40, 50
    made = make_report(run)
    assert (made.total, made.completed, made.failed) == (104, 3, 1)
    assert (made.undispatched, made.cancelled, made.lost, made.unknown) == (10, 20, 30, 40)
    assert made.invalid == 50
    assert (made.started, made.ended, made.duration) == (START, START + 5, 5)
    assert made.throughput == 3 / 5
    assert made.error_share == 0.25


def test_latency_is_from_the_planned_start() -> None:
    """A server stalls for 2 s while a call a second is planned: what a closed loop hides."""
    run = samples((0, 0, 0.1), (1, 1, 3.0), (2, 3.0, 3.1), (3, 3.1, 3.2), workers=1, open_loop=True)
    made = make_report(run)
    assert made.service.max == pytest.approx(2.0)
    assert made.service.percentiles["p50"] == pytest.approx(0.1, rel=1e-3)
    assert made.latency.percentiles["p50"] == pytest.approx(0.2, rel=1e-3)
    assert made.latency.percentiles["p75"] == pytest.approx(1.1, rel=1e-3)
    assert made.lateness.max == pytest.approx(1.0)
    assert made.started == START


def test_failed_calls_are_apart() -> None:
    made = make_report(samples((0, 1), (0, 1), (0, 0.001), failed=[2]))
    assert made.latency.min == pytest.approx(0.001, abs=1e-6)
    assert (made.success_latency.count, made.success_latency.min) == (2, 1.0)
    assert made.peak is not None
    assert made.peak.count == 2


@pytest.mark.parametrize("run", [Samples(), Samples(undispatched=3)])
def test_no_calls(run: Samples) -> None:
    made = make_report(run)
    assert (made.total, made.completed, made.throughput) == (run.undispatched, 0, 0.0)
    assert made.peak is None
    assert made.intervals == made.concurrency == []
    assert "No call has ended: there is nothing to measure." in made.warnings
    assert "0 completed" in made.text()
    assert made.csv().count("\n") == 1


def test_one_call_that_took_no_time() -> None:
    made = make_report(samples((5, 5)))
    assert (made.completed, made.duration, made.throughput, made.max_concurrency) == (1, 0, 0, 1)
    assert [interval.completed for interval in made.intervals] == [1]
    assert "1 completed" in made.text()


def test_all_failed() -> None:
    made = make_report(samples((0, 1), (1, 2), failed=[0, 1]))
    assert (made.completed, made.failed, made.throughput, made.error_share) == (0, 2, 0.0, 1.0)
    assert made.peak is None
    assert made.success_latency.count == 0
    assert "100.00%" in made.text()


def test_a_clock_that_goes_back() -> None:
    made = make_report(samples((0, 1), (5, 2), (3, 4)))
    assert made.service.min == 0.0
    assert made.ended == START + 5
    assert any("the clock was put back" in warning for warning in made.warnings)
    assert sum(interval.completed for interval in made.intervals) == 3


def test_errors_by_kind() -> None:
    run = samples(*[(at, at + 1) for at in range(6)], failed=[1, 2, 4])
    run.kinds[4] = "HTTP 503"
    run.messages[2] = "wrong"
    run.success[5] = 0  # nobody said why
    assert make_report(run).errors == [
        ErrorKind("ValueError", 2, "wrong"),
        ErrorKind("HTTP 503", 1),
        ErrorKind("failed", 1),
    ]


# Intervals and concurrency

instants = st.integers(0, 60).map(lambda quarters: quarters / 4)
runs = st.lists(
    st.tuples(instants, st.integers(0, 20).map(lambda quarters: quarters / 4)), min_size=1
)


@settings(deadline=None)
@given(calls=runs, length=st.sampled_from([0.25, 1.0, 3.0, None]))
def test_intervals_hold_every_call_once(
    calls: list[tuple[float, float]], length: float | None
) -> None:
    run = samples(*[(start, start + took) for start, took in calls], failed=[0])
    made = make_report(run, interval=length)
    assert made.intervals[0].started == made.started
    assert made.intervals[-1].ended == made.ended
    for earlier, later in itertools.pairwise(made.intervals):
        assert earlier.ended == later.started
    assert sum(interval.begun for interval in made.intervals) == len(calls)
    assert sum(interval.completed for interval in made.intervals) == len(calls) - 1
    assert sum(interval.failed for interval in made.intervals) == 1
    assert max(interval.in_flight for interval in made.intervals) == made.max_concurrency


@settings(deadline=None)
@given(calls=runs)
def test_concurrency_is_exact(calls: list[tuple[float, float]]) -> None:
    run = samples(*[(start, start + took) for start, took in calls])
    made = make_report(run, interval=1.0)

    def under_way(at: float) -> int:
        return sum(START + start <= at < START + start + took for start, took in calls)

    moments = [START + start for start, _ in calls]
    assert made.max_concurrency == max(1, *map(under_way, moments))
    assert len(made.concurrency) <= 600
    for interval in made.intervals[:-1]:
        inside = [at for at in moments if interval.started <= at < interval.ended]
        most = max(map(under_way, [interval.started, *inside]))
        assert interval.in_flight == max(most, bool(inside))


@pytest.mark.parametrize(
    ("duration", "length"),
    [
        (0, 0.001),
        (0.09, 0.001),
        (10, 0.1),
        (60, 1),
        (100, 1),
        (101, 2),
        (3600, 60),
        (10**7, 172800),
    ],
)
def test_an_interval_of_a_length_that_people_like(duration: float, length: float) -> None:
    assert intervals.automatic(duration) == length


def test_percentiles_of_intervals() -> None:
    run = samples((0, 0.5), (0, 0.6), (0, 0.7), (1.0, 1.25), (2.5, 4))
    made = make_report(run, interval=1.0)
    assert [(round(part.p50, 3), round(part.p99, 3)) for part in made.intervals] == [
        (0.6, 0.7),
        (0.25, 0.25),
        (0.0, 0.0),
        (1.5, 1.5),
    ]


# What the numbers are worth


def planned(lateness: float, took: float, count: int = 100, every: float = 0.1) -> Samples:
    calls = [
        (number * every, number * every + lateness, number * every + lateness + took)
        for number in range(count)
    ]
    return samples(*calls, open_loop=True, workers=10)


def test_a_generator_that_is_late_while_workers_are_idle_is_the_bottleneck() -> None:
    made = make_report(planned(0.050, 0.010))
    assert made.generator_bound
    assert "generator of the load was the bottleneck: 100 of 100" in made.warnings[0]


@pytest.mark.parametrize(
    ("lateness", "took"), [(0.0005, 0.010), (0.004, 0.010), (0.050, 0.8), (0.0, 0.010)]
)
def test_lateness_that_does_not_matter(lateness: float, took: float) -> None:
    made = make_report(planned(lateness, took))
    assert not made.generator_bound
    assert not any("bottleneck" in warning for warning in made.warnings)


def test_a_limit_of_workers_is_not_the_generators_fault() -> None:
    """One call at a time, of 0.2 s, ten planned a second: each begins when the one before ends."""
    calls = [(number * 0.1, number * 0.2, number * 0.2 + 0.2) for number in range(100)]
    made = make_report(samples(*calls, open_loop=True, workers=1))
    assert not made.generator_bound
    assert "The limit of workers was hit: 99 of 100" in made.warnings[0]


def test_what_the_run_says_of_its_limit_counts() -> None:
    run = planned(0.050, 0.010)
    run.conditions.limited, run.conditions.workers = 100, 0
    made = make_report(run)
    assert not made.generator_bound
    assert "100 of 100 calls began late because no worker was free" in made.warnings[0]


def test_workers_that_wait_for_work_in_a_closed_loop() -> None:
    calls = [(number * 0.1, number * 0.1 + 0.001) for number in range(100)]
    made = make_report(samples(*calls, workers=2))
    assert made.generator_bound
    assert "busy for 1% of the time" in made.warnings[0]
    busy = [(number * 0.1, number * 0.1 + 0.1) for number in range(100)]
    assert not make_report(samples(*busy, workers=1)).generator_bound


def test_a_stall_in_a_closed_loop_is_pointed_at() -> None:
    calls = [(number * 0.01, number * 0.01 + 0.01) for number in range(100)] + [(1.0, 1.2)]
    made = make_report(samples(*calls, workers=1))
    assert any("a closed loop" in warning for warning in made.warnings)


def test_other_warnings() -> None:
    run = samples((0, 1), interrupted=True)
    run.lost, run.unknown, run.invalid = 1, 2, 3
    run.notes.append("A note.")
    text = " ".join(make_report(run).warnings)
    parts = ["interrupted", "1 call got lost", "2 calls nobody", "3 lines", "A note.", "the p50"]
    for part in parts:
        assert part in text


# Out


def test_json_is_the_report() -> None:
    dice = random.Random(1)
    calls = [(at / 10, at / 10 + dice.random(), at / 10 + 1 + dice.random()) for at in range(50)]
    made = make_report(samples(*calls, failed=[3], title="A run", open_loop=True))
    assert msgspec.json.decode(made.json(), type=Report) == made


def test_text() -> None:
    dice = random.Random(1)
    calls = [(at / 10, at / 10, at / 10 + dice.random() / 10) for at in range(600)]
    run = samples(*calls, failed=range(20), function="buy", kind="threads", workers=8, plan="10/s")
    run.kinds.update({at: f"Kind{at}" for at in range(20)})
    run.messages[0] = "of\nseveral lines " + 30 * "and long "
    made = make_report(run)
    text = made.text()
    assert text.startswith("buy\n8 threads · 10/s · 2023-11-14 22:13:20 UTC · 60 s")
    assert "600: 580 completed, 20 failed (3.33%)" in text
    assert "and 10 other kinds, of 10 calls" in text
    assert all(len(line) <= 110 for line in text.splitlines())
    rows = text[text.index("From") : text.index("Error")].strip().splitlines()
    assert len(rows) == 21


def test_csv() -> None:
    lines = make_report(samples((0, 0.5), (1, 1.5)), interval=1.0).csv().splitlines()
    assert lines[0] == "started,ended,begun,completed,failed,throughput,in_flight,p50,p99"
    assert lines[1] == f"{START!r},{START + 1!r},1,1,0,1.0,1,0.5,0.5"
    assert len(lines) == 3


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["interval", "window"])
def test_lengths_that_are_none(name: str, seconds: float) -> None:
    with pytest.raises(ReportError, match=f"{name} is a number of seconds above 0"):
        make_report(samples((0, 1)), **{name: seconds})


def test_intervals_are_of_a_number_that_fits_into_memory() -> None:
    with pytest.raises(ReportError, match=r"3,600,000,000 pieces .* choose 0\.0036 s or more"):
        make_report(samples((0, 3600)), interval=1e-6)


def test_text_of_instants_since_the_start_has_no_date() -> None:
    run = Samples.from_columns([0.25, 0.5], [0.5, 1.25], [True, True])
    assert make_report(run).text().splitlines()[1] == "1 s"
    assert "1970" not in make_report(run).html()


def test_text_of_a_kind_of_error_that_is_long() -> None:
    run = samples((0, 1), (0, 1), failed=[0])
    run.kinds[0], run.messages[0] = "a\nkind " * 40, "what it said"
    shown = next(line for line in make_report(run).text().splitlines() if line.startswith("a kind"))
    assert len(shown) <= 100
    assert shown.endswith("…      1  what it said")


def test_text_of_intervals_in_which_nothing_ended() -> None:
    text = make_report(samples((0, 1), (9, 10)), interval=1.0).text()
    assert re.findall(r"^ *5 s .*", text, re.MULTILINE)[0].split()[-1] == "-"


def test_a_peak_below_the_throughput_is_explained() -> None:
    run = samples(*[(at / 1000, at / 1000 + 0.001) for at in range(20)])
    said = "The run took 20 ms, less than the 1 s over which the peak counts"
    assert any(warning.startswith(said) for warning in make_report(run).warnings)
    assert not any("peak" in warning for warning in make_report(run, window=0.01).warnings)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(5e-10, "0.0000000005"), (2.78e-5, "0.0000278"), (0.5, "0.5"), (99.96, "100"), (0.0, "0")],
)
def test_text_of_rates_has_no_exponent(rate: float, text: str) -> None:
    made = make_report(samples((0, 1)))
    made.throughput = rate
    assert f"Throughput  {text}/s" in made.text()


def test_nobody_says_that_calls_of_other_tools_waited() -> None:
    """vegeta, for one, has an open loop; its log does not say when calls were to begin."""
    calls = [(at, at + 0.01) for at in range(20)]
    ours = make_report(samples(*calls, (20, 22), workers=1))
    others = make_report(samples(*calls, (20, 22)))
    assert any(said.startswith("Calls waited for earlier") for said in ours.warnings)
    assert any("If they waited for earlier ones" in said for said in others.warnings)
    assert not any(said.startswith("Calls waited") for said in others.warnings)
    assert "<dt>Loop</dt>" in ours.html()
    assert "<dt>Loop</dt>" not in others.html()


def test_text_of_long_durations_fits_into_lines() -> None:
    run = samples(*[(at, at + 5, at + 1275) for at in range(9)], failed=[0], open_loop=True)
    lines = make_report(run).text().splitlines()
    assert max(map(len, lines)) <= 100
    heads = next(line for line in lines if "mean" in line).split()
    assert heads == ["mean", "p50", "p95", "p99", "p99.9", "max"]
