"""When calls are due."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from decimal import Decimal, localcontext
from fractions import Fraction
from itertools import islice, pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from taskyard.dispatch.pace import (
    FASTEST,
    Bursts,
    Constant,
    Pace,
    Poisson,
    Ramp,
    Rated,
    Steps,
    Trace,
)
from taskyard.errors import PolicyError

MANY = 10_000_000
RATES = st.floats(0.01, 1e6)
LENGTHS = st.floats(0.01, 1e5)
STEPS = st.builds(
    Steps,
    st.tuples(
        st.tuples(RATES, LENGTHS), st.lists(st.tuples(st.just(0.0) | RATES, LENGTHS), max_size=5)
    ).flatmap(lambda parts: st.permutations([parts[0], *parts[1]])),
)
RAMPS = st.builds(Ramp, RATES, st.just(0.0) | RATES, LENGTHS, st.booleans()) | st.builds(
    Ramp, st.just(0.0), RATES, LENGTHS, st.booleans()
)
RATED = st.builds(Constant, RATES) | RAMPS | STEPS
BURSTS = st.builds(Bursts, st.integers(1, 50), st.floats(0.001, 100), st.integers(0, 5))
PACES = RATED | BURSTS | st.builds(Poisson, RATED, st.integers(0, 9))


def first(pace: Pace, number: int) -> list[float]:
    return list(islice(pace.instants(), number))


def exact(value: float) -> Fraction:
    return Fraction(repr(float(value)))


def rate_pieces(pace: Rated) -> list[tuple[Fraction, Fraction, Fraction]]:
    """(length, rate at its start, rate at its end) of each piece; the last may be endless."""
    forever = Fraction(10**12)
    if isinstance(pace, Constant):
        return [(forever, exact(pace.rate), exact(pace.rate))]
    if isinstance(pace, Ramp):
        ramp = (exact(pace.over), exact(pace.start), exact(pace.end))
        return [ramp, (forever, exact(pace.end), exact(pace.end))] if pace.hold else [ramp]
    return [(exact(length), exact(rate), exact(rate)) for rate, length in pace.steps]


def integral(pace: Rated, until: Fraction) -> Fraction:
    """How much is due by an instant, straight from the definition."""
    due = Fraction(0)
    for length, start, end in rate_pieces(pace):
        part = min(until, length)
        due += start * part + (end - start) / length * part * part / 2
        until -= part
        if until <= 0:
            break
    return due


# The table


@pytest.mark.parametrize(
    ("pace", "instants"),
    [
        (Constant(1), [0, 1, 2, 3]),
        (Constant(4), [0, 0.25, 0.5, 0.75, 1]),
        (Constant(0.5), [0, 2, 4]),
        (Constant(3), [0, 1 / 3, 2 / 3, 1]),
        (Ramp(0, 2, 1), [0, 1, 1.5, 2]),
        (Ramp(2, 2, 1), [0, 0.5, 1, 1.5]),
        (Ramp(0, 10, 5), [0, 1, math.sqrt(2), math.sqrt(3), 2]),
        (Ramp(10, 0, 2), [2 - 2 * math.sqrt(1 - k / 10) for k in range(10)]),
        (Ramp(4, 0, 1, hold=True), [0, 1 - math.sqrt(0.5)]),
        (Ramp(0, 4, 1, hold=False), [0, math.sqrt(0.5)]),
        (Steps([(2, 1), (4, 0.5)]), [0, 0.5, 1, 1.25]),
        (Steps([(1, 1.5), (2, 1)]), [0, 1, 1.75, 2.25]),
        (Steps([(1, 2), (0, 3), (1, 2)]), [0, 1, 5, 6]),
        (Steps([(0, 3), (1, 2), (0, 9)]), [3, 4]),
        (Steps([(0.5, 1), (0.5, 1), (0.5, 1)]), [0, 2]),
        (Trace([0, 0, 0.5, 2]), [0, 0, 0.5, 2]),
        (Trace(iter([3])), [3]),
        (Bursts(2), [0, 0, 1, 1, 2, 2]),
        (Bursts(1, 0.5, 1), [0, 0.5, 0.5, 1, 1, 1, 1.5]),
    ],
)
def test_instants(pace: Pace, instants: list[float]) -> None:
    assert first(pace, len(instants)) == pytest.approx(instants, rel=1e-15, abs=0)
    assert first(pace, len(instants)) == first(pace, len(instants)), "begins anew"


@pytest.mark.parametrize(
    ("pace", "number"),
    [
        (Steps([(200, 10)]), 2000),
        (Steps([(1.1, 10)]), 11),  # in floats, 1.1 × 10 is more than 11
        (Steps([(0.1, 3), (0.1, 3), (0.1, 4)]), 1),
        (Steps([(0.1, 30)]), 3),
        (Steps([(1, 2.5)]), 3),
        (Steps([(100, 10), (200, 10)]), 3000),
        (Ramp(100, 5000, 30, hold=False), 76_500),
        (Ramp(5000, 100, 30, hold=False), 76_500),
        (Ramp(10, 0, 2), 10),
        (Ramp(0, 1.1, 20, hold=False), 11),
        (Trace([0.0] * 7), 7),
    ],
)
def test_a_plan_that_ends_has_so_many_calls(pace: Pace, number: int) -> None:
    instants = list(pace.instants())
    assert len(instants) == number
    assert instants == sorted(instants)


@pytest.mark.parametrize("pace", [Constant(1e6), Ramp(1, 2e6, 1), Bursts(9), Poisson(1e6, 1)])
def test_a_plan_without_end_goes_on(pace: Pace) -> None:
    assert len(first(pace, 100_000)) == 100_000


@pytest.mark.parametrize(
    ("pace", "text"),
    [
        (Constant(200), "200 calls/s"),
        (Constant(0.25), "0.25 calls/s"),
        (Ramp(100, 5000, 30), "100 to 5,000 calls/s over 30 s, then 5,000"),
        (Ramp(5000, 0, 1.5), "5,000 to 0 calls/s over 1.5 s"),
        (Ramp(1, 2, 3, hold=False), "1 to 2 calls/s over 3 s"),
        (Steps([(100, 10), (0, 2)]), "100 calls/s for 10 s, then 0 calls/s for 2 s"),
        (Poisson(200, 5), "200 calls/s, Poisson arrivals (seed 5)"),
        (Trace([0, 1.5]), "a trace of 2 calls in 1.5 s"),
        (Bursts(10), "10 calls at once every 1 s"),
        (Bursts(10, 0.5, 2), "10 calls at once every 0.5 s, 2 more each time"),
    ],
)
def test_plans_in_words(pace: Pace, text: str) -> None:
    assert pace.describe() == text


# What holds of all


@given(PACES)
@example(Ramp(1e6, 0, 1e5))
@example(Ramp(0, 1e6, 0.01))
@example(Bursts(1, 0.1))
def test_instants_never_fall_nor_are_before_the_start(pace: Pace) -> None:
    instants = first(pace, 2_000)
    assert all(0 <= earlier <= later for earlier, later in pairwise([0.0, *instants]))
    assert all(map(math.isfinite, instants))


@given(RATED, st.integers(0, MANY))
@example(Constant(3), MANY)
@example(Constant(0.1), MANY)
@example(Ramp(100, 5000, 30), MANY)
def test_the_kth_call_is_due_when_the_rate_has_summed_up_to_k(pace: Rated, number: int) -> None:
    assume(pace.total is None or number < pace.total)
    due = integral(pace, Fraction(pace.at(number)))
    # A float cannot say the instant itself: what is due in a few of its smallest units is allowed.
    instant = pace.at(number)
    later = integral(pace, Fraction(instant) + 4 * Fraction(math.ulp(max(instant, 1e-300))))
    earlier = integral(pace, max(Fraction(0), Fraction(instant) - 4 * Fraction(math.ulp(instant))))
    assert min(due, earlier) <= number <= later or abs(due - number) <= Fraction(number, 10**14)


@given(RATED, st.floats(0, 1))
def test_by_any_time_so_many_are_due_as_the_rate_sums_up_to(pace: Rated, part: float) -> None:
    """The number of arrivals is the integral of the rate, to the next whole number."""
    instants = first(pace, 1_000)
    until = part * instants[-1]
    due = integral(pace, Fraction(until))
    came = sum(instant < until for instant in instants)
    assert abs(came - math.ceil(due)) <= (1 if abs(due - round(due)) < Fraction(1, 10**9) else 0)


@pytest.mark.parametrize(
    ("pace", "instant"),
    [
        (Constant(3), Decimal(MANY) / 3),
        (Constant(0.1), Decimal(MANY) * 10),
        (Constant(2000), Decimal(MANY) / 2000),
        (Ramp(100, 5000, 30), Decimal(30) + (MANY - Decimal(76_500)) / 5000),
        (Steps([(1, 1), (2000, 9999)]), 1 + Decimal(MANY - 1) / 2000),
    ],
)
def test_ten_million_calls_on_nothing_has_drifted(pace: Rated, instant: Decimal) -> None:
    assert pace.at(MANY) == pytest.approx(float(instant), rel=4e-16)


@pytest.mark.timeout(300)  # seconds of computing, which a busy machine makes minutes
def test_ten_million_calls_one_after_the_other_end_where_they_should() -> None:
    last = before = 0.0
    for number, instant in enumerate(Constant(3).instants()):
        assert instant >= before
        last = before = instant
        if number == MANY:
            break
    assert last == MANY / 3


@given(st.floats(0, 1), RATES, RATES, LENGTHS)
@example(1 - 1e-6, 2.0, 0.01, 1e5)
@example(1 - 1e-6, 0.01, 2.0, 1e5)
def test_a_ramp_is_the_exact_inverse_of_its_quadratic(
    part: float, start: float, end: float, over: float
) -> None:
    """Against the textbook's formula in sixty figures."""
    ramp = Ramp(start, end, over)
    number = int((start + end) / 2 * over * part)
    assume(number > 0 and start != end)
    with localcontext() as context:
        context.prec = 60
        a, slope = Decimal(start), (Decimal(end) - Decimal(start)) / Decimal(over)
        root = (a * a + 2 * slope * number).sqrt()
        expected = (root - a) / slope
        # Where the rate has nearly come down to nothing, a small difference is long.
        slack = Decimal(2) ** -48 * (1 + a * a / (root * (root + a)))
    assert abs(Decimal(ramp.at(number)) - expected) <= expected * slack


# Poisson


def test_poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    instants = first(Poisson(100, seed=1), 100_000)
    assert instants[-1] == pytest.approx(1000, rel=0.02)
    gaps = [later - earlier for earlier, later in pairwise(instants)]
    assert statistics.fmean(gaps) == pytest.approx(0.01, rel=0.02)
    assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.03)  # as its mean
    in_seconds = Counter(map(int, instants))
    numbers = [in_seconds[second] for second in range(990)]
    assert statistics.variance(numbers) == pytest.approx(statistics.fmean(numbers), rel=0.2)


def test_poisson_arrivals_follow_a_ramp() -> None:
    instants = list(Poisson(Ramp(0, 20_000, 10, hold=False), seed=1).instants())
    assert len(instants) == pytest.approx(100_000, rel=0.02)
    assert sum(instant < 5 for instant in instants) == pytest.approx(25_000, rel=0.03)
    assert instants[-1] < 10


def test_poisson_arrivals_come_again_with_the_same_seed() -> None:
    assert first(Poisson(5, 7), 50) == first(Poisson(5, 7), 50) != first(Poisson(5, 8), 50)
    chosen = Poisson(5)
    assert first(chosen, 50) == first(chosen, 50) == first(Poisson(5, chosen.seed), 50)


# Wrong values


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, -math.inf, "5", None, True, 1e-300])
def test_wrong_rates(rate: float) -> None:
    with pytest.raises(PolicyError, match="calls a second"):
        Constant(rate)
    with pytest.raises(PolicyError, match="calls a second"):
        Poisson(rate)
    if rate != 0:
        for make in (
            lambda: Ramp(rate, 5, 1),
            lambda: Ramp(5, rate, 1),
            lambda: Steps([(5, 1), (rate, 1)]),
        ):
            with pytest.raises(PolicyError, match="calls a second"):
                make()


@pytest.mark.parametrize("length", [0, -1, math.nan, math.inf, "5", None, True, 1e-9])
def test_wrong_durations(length: float) -> None:
    for make in (
        lambda: Ramp(1, 2, length),
        lambda: Steps([(1, length)]),
        lambda: Bursts(1, length),
    ):
        with pytest.raises(PolicyError, match="seconds"):
            make()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Constant(2 * FASTEST), "a thousand million"),
        (lambda: Ramp(0, 0, 1), "makes none"),
        (lambda: Steps([]), "make no calls"),
        (lambda: Steps([(0, 5)]), "make no calls"),
        (lambda: Steps([5]), r"must be \(calls a second, seconds\)"),
        (lambda: Steps([(1, 2, 3)]), r"must be \(calls a second, seconds\)"),
        (lambda: Trace([]), "at least one"),
        (lambda: Trace([0, 2, 1]), "instant 3 of a trace, 1, is before"),
        (lambda: Trace([-0.5]), "before the start"),
        (lambda: Trace([0, math.nan]), "instant 2 of a trace must be a number"),
        (lambda: Trace([math.inf]), "must be a number"),
        (lambda: Trace(["1"]), "must be a number"),
        (lambda: Bursts(0), "at least 1"),
        (lambda: Bursts(1.5), "whole number"),
        (lambda: Bursts(1, 1, -1), "at least 0"),
        (lambda: Poisson(1, seed=1.5), "whole number"),
    ],
)
def test_wrong_plans_say_what_is_wrong(make, says: str) -> None:
    with pytest.raises(PolicyError, match=says):
        make()
