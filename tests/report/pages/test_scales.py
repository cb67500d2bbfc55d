"""Axes, ticks, and how numbers are written."""

from __future__ import annotations

import pytest

from taskyard.report.scales import (
    Axis,
    linear,
    logarithmic,
    number_text,
    of_percentiles,
    of_time,
    seconds_text,
    share_text,
    span_text,
)
from taskyard.report.text import duration_text


def ticks(axis: Axis) -> list[str]:
    return [tick.text for tick in axis.ticks]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (2e-10, "0.2 ns"),
        (1e-9, "1 ns"),
        (2.5e-6, "2.5 µs"),
        (0.00123456, "1.23 ms"),
        (0.0123456, "12.3 ms"),
        (0.123456, "123 ms"),
        (0.9999, "1 s"),
        (0.99949, "999 ms"),
        (1.5, "1.5 s"),
        (119.9, "120 s"),
        (150, "2 min 30 s"),
        (-0.5, "-500 ms"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "500 ms"), (60, "1 min"), (3725, "1 h 2 min"), (86_400 * 2 + 3600, "2 d 1 h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (12.345, "12.3"),
        (0.5, "0.5"),
        (0.015, "0.015"),
        (1234.5, "1,234"),
    ],
)
def test_numbers(number: float, text: str) -> None:
    assert number_text(number) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0 %"),
        (0, 5, "0 %"),
        (5, 5, "100 %"),
        (1, 3, "33.33 %"),
        (1, 10**6, "< 0.01 %"),
        (10**6 - 1, 10**6, "> 99.99 %"),
    ],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert share_text(part, whole) == text


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (linear(0, number_text), ["0", "0.25", "0.5", "0.75", "1"]),
        (linear(3, number_text, whole=True), ["0", "1", "2", "3"]),
        (linear(1, number_text, whole=True), ["0", "1"]),
        (linear(437, number_text), ["0", "200", "400", "600"]),
        (linear(0.015, number_text), ["0", "0.005", "0.01", "0.015"]),
        (logarithmic(500, 4000, seconds_text), ["500 s", "1,000 s", "2,000 s", "5,000 s"]),
        (linear(0.3, duration_text), ["0 s", "100 ms", "200 ms", "300 ms"]),
        (logarithmic(0.012, 1.2, duration_text), ["10 ms", "100 ms", "1 s"]),
        (logarithmic(0.1, 0.9, duration_text), ["100 ms", "200 ms", "500 ms", "1 s"]),
        (of_time(0.05), ["0 s", "10 ms", "20 ms", "30 ms", "40 ms", "50 ms"]),
        (of_time(60), ["0 s", "15 s", "30 s", "45 s", "60 s"]),
        (of_time(3600), ["0 min", "15 min", "30 min", "45 min", "60 min"]),
        (of_time(86_400), ["0 h", "6 h", "12 h", "18 h", "24 h"]),
        (of_time(0), ["0 s", "200 ms", "400 ms", "600 ms", "800 ms", "1 s"]),
        (of_percentiles(1), ["0 %", "50 %", "90 %"]),
        (of_percentiles(1000), ["0 %", "50 %", "90 %", "99 %", "99.9 %"]),
    ],
)
def test_ticks(axis: Axis, texts: list[str]) -> None:
    assert ticks(axis) == texts


@pytest.mark.parametrize("exponent", range(-9, 9))
@pytest.mark.parametrize("leading", [1.0, 1.7, 2.5, 3.3, 4.9, 9.99])
def test_every_value_is_on_its_axis(exponent: int, leading: float) -> None:
    high = leading * 10.0**exponent
    for axis in (
        linear(high, number_text),
        logarithmic(high / 1000, high, number_text),
        logarithmic(high, high, number_text),
        of_time(high),
    ):
        assert 2 <= len(axis.ticks) <= 12
        assert axis.low < axis.high
        assert axis.high >= high * (1 - 1e-9)
        assert axis.high <= high * 2.6
        places = [axis.at(tick.value) for tick in axis.ticks]
        assert places == sorted(set(places))
        assert (axis.at(axis.low), axis.at(axis.high)) == (0, 1)
        assert (axis.at(-1), axis.at(high * 100)) == (0, 1)
