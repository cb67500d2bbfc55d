"""Axes of charts, their ticks, and how numbers are written beside them."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from taskyard.report.text import duration_text

__all__ = [
    "Axis",
    "Tick",
    "linear",
    "logarithmic",
    "number_text",
    "of_percentiles",
    "of_time",
    "seconds_text",
    "share_text",
    "span_text",
]

Text = Callable[[float], str]

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
_SECONDS = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800)
_HOURS = (1, 2, 3, 6, 12, 24, 48)


class Tick(msgspec.Struct, frozen=True):
    """A mark on an axis.

    Attributes:
        value: where it is.
        text: what stands beside it.
    """

    value: float
    text: str


class Axis(msgspec.Struct, frozen=True):
    """What a chart measures in one direction.

    Attributes:
        low: the value at its beginning.
        high: the value at its end; more than `low`.
        ticks: its marks, rising.
        log: whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: list[Tick]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value is: 0 at the beginning, 1 at the end, never outside."""
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


# How numbers are written


def span_text(seconds: float) -> str:
    """A longer time, to the second: "45 s", "12 min 30 s", "3 h 5 min"; exact below a minute."""
    if abs(seconds) < 60:
        return duration_text(seconds)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    while not parts[0][0]:
        del parts[0]
    return " ".join(f"{number} {unit}" for number, unit in parts[:2] if number)


def seconds_text(seconds: float) -> str:
    """A duration beside an axis: its unit is the second at most, so that it stays short."""
    return duration_text(seconds) if seconds < 120 else f"{seconds:,.0f} s"


def number_text(number: float) -> str:
    """A number with its thousands apart; what is below 100, to three digits."""
    if number == int(number) or abs(number) >= 100:
        return f"{number:,.0f}"
    return _three_digits(number)


def share_text(part: float, whole: float) -> str:
    """A part in per cent; never "0 %" or "100 %" unless it is exactly that."""
    if not whole:
        return "0 %"
    share = 100 * part / whole
    if 0 < share < 0.01:
        return "< 0.01 %"
    if 99.99 < share < 100:
        return "> 99.99 %"
    return f"{share:.2f}".rstrip("0").rstrip(".") + " %"


def _three_digits(number: float) -> str:
    size = abs(number)
    if size < 0.995:
        return f"{number:.3g}"
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    text = f"{number:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


# Axes


def linear(high: float, text: Text, *, whole: bool = False) -> Axis:
    """From 0 to a little more than the highest value.

    Arguments:
        high: the highest value.
        text: writes a tick's value.
        whole: whether only whole numbers make sense as ticks.
    """
    high = high if high > 0 else 1.0
    step = _round_up(high / 4)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    count = max(1, math.ceil(high / step - 1e-9))
    marks = [round(step * index, 12) for index in range(count + 1)]
    return Axis(0.0, step * count, [Tick(mark, text(mark)) for mark in marks])


def logarithmic(low: float, high: float, text: Text) -> Axis:
    """From a little below the lowest value to a little above the highest; a decade at least.

    Arguments:
        low: the lowest value; above 0.
        high: the highest value.
        text: writes a tick's value.
    """
    end = _round_up(high)
    begin = min(_round_down(low), end / 10)
    powers = range(math.floor(math.log10(begin)) - 1, math.ceil(math.log10(end)) + 1)
    decades = math.log10(end / begin)
    leading = (1, 2, 5) if decades < 2.2 else (1,)
    marks = (round(first * 10.0**power, 15) for power in powers for first in leading)
    within = [mark for mark in marks if begin * (1 - 1e-9) <= mark <= end * (1 + 1e-9)]
    return Axis(begin, end, [Tick(mark, text(mark)) for mark in within], log=True)


def of_time(duration: float) -> Axis:
    """Seconds since the start of a run."""
    duration = duration if duration > 0 else 1.0
    step = _time_step(duration / 5)
    count = int(duration / step + 1e-9)
    write = _moment(step)
    return Axis(
        0.0, duration, [Tick(step * index, write(step * index)) for index in range(count + 1)]
    )


def of_percentiles(count: int) -> Axis:
    """Percentiles, each nine as long as the one before: a value is the number of nines.

    Arguments:
        count: of how many; there are no more nines than it has digits.
    """
    nines = max(1.0, math.log10(max(count, 1)))
    ticks = [Tick(0.0, "0 %")]
    if nines <= 3.2:
        ticks.append(Tick(math.log10(2), "50 %"))
    ticks += (
        Tick(float(nine), f"{100 - 10.0 ** (2 - nine):.{max(0, nine - 2)}f} %")
        for nine in range(1, int(nines + 1e-9) + 1)
    )
    return Axis(0.0, nines, ticks)


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _ROUND if step * power >= value * (1 - 1e-9))


def _round_down(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= value * (1 + 1e-9))


def _time_step(least: float) -> float:
    if least <= 1:
        return _round_up(least)
    for step in _SECONDS:
        if step >= least:
            return float(step)
    for hours in _HOURS:
        if hours * 3600 >= least:
            return hours * 3600.0
    return math.ceil(least / 86_400) * 86_400.0


def _moment(step: float) -> Text:
    if step < 60:
        return lambda seconds: f"{seconds:g} s" if step >= 1 else duration_text(seconds)
    if step < 3600:
        return lambda seconds: f"{seconds / 60:g} min"
    return lambda seconds: f"{seconds / 3600:g} h"
