"""When each call of an open loop is due: pure functions of its number, without a clock.

Instants are seconds from the start of a run. The k-th one is worked out from k and never from the
one before it, so that a plan does not drift however long it is. The first call is number 0.

A plan that lasts so many seconds holds what is due *before* they are over: 200 calls a second for
10 seconds are 2,000 calls, the last of them at 9.995 s.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, chain, count, repeat
from typing import Protocol, TypeAlias

from taskyard.errors import PolicyError
from taskyard.policy import LONGEST, seconds

__all__ = [
    "FASTEST",
    "Bursts",
    "Constant",
    "Pace",
    "Poisson",
    "Ramp",
    "Rated",
    "Steps",
    "Trace",
]

FASTEST = 1e9
"""Calls a second; more than any machine makes."""
SHORTEST = 1e-3
"""Seconds of a ramp, a step or an interval, at least."""


class Pace(Protocol):
    """When calls are due."""

    def instants(self) -> Iterator[float]:
        """The instants of all calls in order: seconds from the start, which never fall.

        Each call begins anew, with the same instants. It ends when the plan does.
        """
        ...

    def describe(self) -> str:
        """The plan in words, for people."""
        ...


class _Smooth:
    """A rate at any time. What is due by then is its integral, which `at` inverts.

    Attributes:
        total: how many calls the plan is good for, not rounded; None: it is endless.
    """

    total: Fraction | None

    def at(self, amount: float) -> float:
        """The instant by which so many calls are due; `amount` need not be whole."""
        raise NotImplementedError

    def instants(self) -> Iterator[float]:
        return map(self.at, count() if self.total is None else range(math.ceil(self.total)))


@dataclass(frozen=True)
class Constant(_Smooth):
    """So many calls a second, evenly, for as long as there are calls.

    Arguments:
        rate: calls a second, more than 0; 0.1 is one in ten seconds.

    Raises:
        PolicyError: that is no rate.
    """

    rate: float
    total: Fraction | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", _rate("rate", self.rate))

    def at(self, amount: float) -> float:
        return amount / self.rate

    def describe(self) -> str:
        return f"{_number(self.rate)} calls/s"


@dataclass(frozen=True)
class Ramp(_Smooth):
    """A rate that rises, or falls, evenly.

    Arguments:
        start: calls a second at the beginning; may be 0.
        end: calls a second at the end; may be 0 if `start` is not.
        over: seconds from one to the other.
        hold: whether it goes on with the rate `end`, for as long as there are calls; otherwise it
            ends there. A ramp down to 0 always ends there.

    Raises:
        PolicyError: a value is wrong.
    """

    start: float
    end: float
    over: float
    hold: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _rate("start of a ramp", self.start, nought=True))
        object.__setattr__(self, "end", _rate("end of a ramp", self.end, nought=True))
        object.__setattr__(self, "over", seconds("duration of a ramp", self.over, least=SHORTEST))
        if not self.start and not self.end:
            raise PolicyError("a ramp from 0 to 0 calls a second makes none: give a rate above 0")

    @cached_property
    def total(self) -> Fraction | None:  # type: ignore[override]
        return None if self.hold and self.end else self._ramped

    @cached_property
    def _ramped(self) -> Fraction:
        """What is due by the end of the ramp."""
        return (_exact(self.start) + _exact(self.end)) / 2 * _exact(self.over)

    @cached_property
    def _ramped_float(self) -> float:
        return float(self._ramped)

    def at(self, amount: float) -> float:
        if amount > self._ramped_float:
            return self.over + (amount - self._ramped_float) / (self.end or math.nan)
        if amount <= 0:
            return 0.0
        # start × t + (end - start) / (2 × over) × t² = amount, solved without a difference of
        # nearly equal numbers. (At the end of a fall to 0, rounding can take us below it.)
        root = self.start * self.start + 2 * amount * ((self.end - self.start) / self.over)
        return min(2 * amount / (self.start + math.sqrt(max(root, 0.0))), self.over)

    def describe(self) -> str:
        text = f"{_number(self.start)} to {_number(self.end)} calls/s over {_number(self.over)} s"
        return f"{text}, then {_number(self.end)}" if self.total is None else text


@dataclass(frozen=True)
class Steps(_Smooth):
    """One rate after the other.

    Arguments:
        steps: pairs of calls a second (0 is a pause) and for how many seconds.

    Raises:
        PolicyError: a value is wrong, there are no steps, or none of them has a call.
    """

    steps: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(map(_step, self.steps)))
        if not any(rate for rate, _ in self.steps):
            raise PolicyError("steps make no calls: give at least one (calls a second, seconds)")

    @cached_property
    def _due(self) -> list[Fraction]:
        """What is due before each step, and after the last one."""
        each = (_exact(rate) * _exact(length) for rate, length in self.steps)
        return list(accumulate(each, initial=Fraction(0)))

    @cached_property
    def _begins(self) -> list[float]:
        """When each step begins, and when the last one ends."""
        lengths = (_exact(length) for _, length in self.steps)
        return [float(begin) for begin in accumulate(lengths, initial=Fraction(0))]

    @cached_property
    def _due_floats(self) -> list[float]:
        return [float(due) for due in self._due[:-1]]

    @cached_property
    def total(self) -> Fraction | None:  # type: ignore[override]
        return self._due[-1]

    def at(self, amount: float) -> float:
        step = bisect_right(self._due_floats, amount) - 1
        rate, _ = self.steps[step]
        if not rate:  # a pause at the end
            return self._begins[step]
        begin, end = self._begins[step : step + 2]
        return min(begin + (amount - self._due_floats[step]) / rate, end)

    def describe(self) -> str:
        steps = (f"{_number(rate)} calls/s for {_number(length)} s" for rate, length in self.steps)
        return ", then ".join(steps)


Rated: TypeAlias = Constant | Ramp | Steps
"""Paces that have a rate at any time."""


class Poisson:
    """Calls that know nothing of each other, as those of many users: a Poisson process.

    They come in clusters and with gaps, so queues form below the rate at which even calls make
    none.

    Arguments:
        rate: calls a second on average, or a pace that says how many at which time.
        seed: of the random numbers; the same seed gives the same instants. If left out, one is
            chosen, and kept.

    Raises:
        PolicyError: that is no rate, or no whole number.
    """

    def __init__(self, rate: float | Rated, seed: int | None = None) -> None:
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise PolicyError(f"the seed of Poisson arrivals must be a whole number, not {seed!r}")
        self.rate: Rated = rate if isinstance(rate, _RATED) else Constant(rate)
        self.seed = random.SystemRandom().getrandbits(32) if seed is None else seed

    def __repr__(self) -> str:
        return f"Poisson({self.rate!r}, seed={self.seed})"

    def instants(self) -> Iterator[float]:
        at, total = self.rate.at, self.rate.total
        last = math.inf if total is None else float(total)
        chance = random.Random(self.seed).random
        # Gaps of mean 1, laid over the rate's integral. Their sum carries what rounding took from
        # it (Kahan), so that it is right also after many.
        due = lost = 0.0
        while True:
            gap = -math.log(1.0 - chance()) - lost
            following = due + gap
            lost = (following - due) - gap
            due = following
            if due >= last:
                return
            yield at(due)

    def describe(self) -> str:
        return f"{self.rate.describe()}, Poisson arrivals (seed {self.seed})"


class Trace:
    """Instants that were written down.

    Arguments:
        instants: seconds from the start, which never fall. All are read at once (8 bytes each).

    Raises:
        PolicyError: one is no number, negative or earlier than the one before, or there is none.
    """

    def __init__(self, instants: Iterable[float]) -> None:
        self._instants = array("d")
        before = 0.0
        for place, given in enumerate(instants):
            before = _instant(place, given, before)
            self._instants.append(before)
        if not self._instants:
            raise PolicyError("a trace must have at least one instant")

    def __repr__(self) -> str:
        return f"<Trace of {len(self._instants):,} instants>"

    def instants(self) -> Iterator[float]:
        return iter(self._instants)

    def describe(self) -> str:
        return f"a trace of {len(self._instants):,} calls in {_number(self._instants[-1])} s"


@dataclass(frozen=True)
class Bursts:
    """Several calls at once, again and again.

    Arguments:
        number: calls at the beginning of the first interval.
        interval: seconds from one beginning to the next.
        growth: so many calls more each time.

    Raises:
        PolicyError: a value is wrong.
    """

    number: int
    interval: float = 1.0
    growth: int = 0

    def __post_init__(self) -> None:
        _whole("number of calls in a burst", self.number, 1)
        _whole("growth of bursts", self.growth, 0)
        interval = seconds("interval of bursts", self.interval, least=SHORTEST)
        object.__setattr__(self, "interval", interval)

    def instants(self) -> Iterator[float]:
        return chain.from_iterable(
            repeat(at * self.interval, self.number + at * self.growth) for at in count()
        )

    def describe(self) -> str:
        text = f"{self.number:,} calls at once every {_number(self.interval)} s"
        return f"{text}, {self.growth:,} more each time" if self.growth else text


_RATED = (Constant, Ramp, Steps)


def _rate(name: str, value: object, *, nought: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PolicyError(f"the {name} must be a number of calls a second, not {value!r}")
    if (nought and value == 0) or 1 / LONGEST <= value <= FASTEST:
        return float(value)
    if value <= 0:
        bound = "at least 0" if nought else "more than 0"
        raise PolicyError(f"the {name} must be {bound} calls a second, not {value!r}")
    bound = "more than a thousand million a second" if value > 1 else "less than one in a century"
    raise PolicyError(f"the {name} of {value!r} calls a second is {bound}")


def _step(given: Iterable[float]) -> tuple[float, float]:
    try:
        rate, length = given
    except (TypeError, ValueError):
        raise PolicyError(
            f"a step must be (calls a second, seconds), as (200, 10), not {given!r}"
        ) from None
    return (
        _rate("rate of a step", rate, nought=True),
        seconds("duration of a step", length, least=SHORTEST),
    )


def _instant(place: int, value: object, before: float) -> float:
    which = f"instant {place + 1} of a trace"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise PolicyError(f"{which} must be a number of seconds from the start, not {value!r}")
    if value < 0:
        raise PolicyError(f"{which} is before the start: {value!r} seconds")
    if value < before:
        raise PolicyError(f"{which}, {value!r}, is before the one ahead of it, {before!r}: sort it")
    return float(value)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PolicyError(f"the {name} must be a whole number, at least {least}, not {value!r}")


def _exact(value: float) -> Fraction:
    """The decimal number that was written: 1.1 calls a second for 10 seconds are 11, not more."""
    return Fraction(repr(value))


def _number(value: float) -> str:
    """`5,000`, `0.25`: no more figures than it needs, and six at most."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"
