"""Two runs beside each other."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec
import pytest

from taskyard.errors import ReportError
from taskyard.report import Comparison, Samples, compare
from taskyard.report.compare import _Estimate, _measure, _student, _wilson


def run(
    seed: int,
    count: int = 2000,
    *,
    alike: float = 0.0,
    slower: float = 1.0,
    failing: float = 0.01,
    rate: float = 100.0,
) -> Samples:
    """A run whose latencies are log-normal, each like the one before it (`alike`, from 0 to 1)."""
    dice, state, made, at = random.Random(seed), 0.0, Samples(), 1_700_000_000.0
    for _ in range(count):
        state = alike * state + dice.gauss(0, math.sqrt(1 - alike**2))
        at += 1 / rate
        made.planned.append(at)
        made.started.append(at)
        made.ended.append(at + slower * 0.02 * math.exp(state / 2))
        made.success.append(dice.random() >= failing)
    return made


def verdicts(found: Comparison) -> dict[str, str]:
    return {measure.name: measure.verdict for measure in found.measures}


def test_slower_is_worse_and_faster_is_better() -> None:
    before, after = run(1), run(2, slower=1.3)
    worse, better = compare(before, after), compare(after, before)
    assert worse.worse
    assert not worse.better
    assert better.better
    assert not better.worse
    latency = {name: verdict for name, verdict in verdicts(worse).items() if name != "errors"}
    assert latency == {
        "throughput": "no difference shown",
        "mean": "worse",
        "p50": "worse",
        "p95": "worse",
        "p99": "worse",
    }
    mean = next(measure for measure in worse.measures if measure.name == "mean")
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low < 0.3 * mean.before < mean.high
    assert mean.relative == pytest.approx(0.3, abs=0.05)


def test_errors_and_throughput() -> None:
    found = verdicts(compare(run(1), run(2, failing=0.05, rate=80.0)))
    assert (found["errors"], found["throughput"], found["mean"]) == (
        "worse",
        "worse",
        "no difference shown",
    )
    assert verdicts(compare(run(1), run(2, rate=120.0)))["throughput"] == "better"


@pytest.mark.parametrize("alike", [0.0, 0.95])
def test_runs_of_the_same_seldom_differ(alike: float) -> None:
    """Also where calls that follow each other are alike: intervals for independent ones fail."""
    alarms = 0
    for seed in range(30):
        pair = run(2 * seed, 1000, alike=alike), run(2 * seed + 1, 1000, alike=alike)
        found = compare(*pair, tolerance=0.0)
        alarms += found.worse or found.better
    assert alarms <= 4  # of 30, with 95 % confidence: 1.5 on average


def test_rare_percentiles_of_calls_that_are_alike() -> None:
    """With 2,000 calls the p99 has too few for sections of its own, but slow ones come together."""
    alarms = 0
    for seed in range(60):
        pair = run(2 * seed, alike=0.9), run(2 * seed + 1, alike=0.9)
        alarms += verdicts(compare(*pair, tolerance=0.0))["p99"] in {"better", "worse"}
    assert alarms <= 4


def test_sections_that_are_too_short_to_be_independent() -> None:
    """Of 100 calls a section has five, and the next one is like it."""
    alarms = 0
    for seed in range(100):
        pair = run(2 * seed, 100, alike=0.9), run(2 * seed + 1, 100, alike=0.9)
        alarms += verdicts(compare(*pair, tolerance=0.0))["mean"] in {"better", "worse"}
    assert alarms <= 5


def test_a_run_beside_itself() -> None:
    found = compare(run(1), run(1), tolerance=0.0)
    assert set(verdicts(found).values()) == {"no difference shown"}
    assert all(measure.difference == 0 for measure in found.measures)


def test_small_changes_do_not_count() -> None:
    before, after = run(1), run(1, slower=1.04)
    assert not compare(before, after).worse
    before, after = run(1, 20_000), run(2, 20_000, slower=1.04)
    assert compare(before, after, tolerance=0.0).worse
    assert not compare(before, after, tolerance=0.05).worse


def test_rare_percentiles_need_many_calls() -> None:
    assert "p99.9" not in verdicts(compare(run(1), run(2)))
    assert "p99.9" in verdicts(compare(run(1, 5000), run(2, 5000)))
    assert "p99" not in verdicts(compare(run(1, 400), run(2, 5000)))


@pytest.mark.parametrize("few", [Samples(), run(1, 1), run(1, 19)])
def test_too_few_calls(few: Samples) -> None:
    found = compare(few, run(2))
    assert set(verdicts(found).values()) == {"too few calls"}
    assert not found.worse
    assert "too few calls" in found.text()
    assert msgspec.json.decode(found.json())["measures"][0]["low"] is None


@pytest.mark.parametrize("options", [{"confidence": 1.0}, {"confidence": 0.1}, {"tolerance": -1}])
def test_wrong_use(options: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match=r"a (confidence|tolerance) is"):
        compare(run(1, 20), run(2, 20), **options)


def test_text_and_json() -> None:
    found = compare(run(1), run(2, slower=1.3))
    text = found.text()
    assert text.startswith("2,000 calls before, 2,000 after\n")
    assert "95% interval" in text
    assert "Changes of less than 5% do not count." in text
    decoded = msgspec.json.decode(found.json())
    assert (decoded["worse"], decoded["better"]) == (True, False)
    assert [measure["name"] for measure in decoded["measures"]] == [*verdicts(found)]


# The methods, by published figures


def test_the_quantiles_of_student() -> None:
    for freedom, quantile in ((9, 2.2622), (19, 2.0930), (30, 2.0423)):
        assert _student(1.959964, freedom) == pytest.approx(quantile, abs=1e-3)


def test_wilson_and_newcombe() -> None:
    """Newcombe (1998), method 10: 56 of 70 less 48 of 80 is 0.0524 to 0.3339."""
    one, other = _wilson(56 / 70, 70, 1.959964), _wilson(48 / 80, 80, 1.959964)
    assert (one.low, one.high) == (pytest.approx(0.6918, abs=1e-3), pytest.approx(0.8769, abs=1e-3))
    found = _measure("errors", "", [other, one], 0.0)
    assert (found.low, found.high) == (
        pytest.approx(0.0524, abs=1e-3),
        pytest.approx(0.3339, abs=1e-3),
    )


def test_half_an_interval_is_no_verdict_but_shown() -> None:
    open_end = _Estimate(2.0, 1.5, math.inf)
    found = _measure("p99", "s", [_Estimate(1.0, 0.9, 1.1), open_end], 0.0)
    assert (found.high, found.verdict) == (None, "worse")
    assert found.low == pytest.approx(1.0 - math.hypot(0.5, 0.1))
