"""Plans as they are written on a command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from taskyard.dispatch.notation import (
    parse_duration,
    parse_ramp,
    parse_rate,
    parse_steps,
    read_trace,
)
from taskyard.dispatch.pace import Constant, Ramp, Steps
from taskyard.errors import PolicyError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0.5", 0.5),
        (".5s", 0.5),
        ("1e3", 1000),
        (" 30s ", 30),
        ("250ms", 0.25),
        ("2m", 120),
        ("1h30m", 5400),
        ("1m30.5S", 90.5),
        ("1d", 86_400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "30 s", "30sec", "m30", "nan", "inf", "1_000", "2m30"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(PolicyError, match="is no duration: write 30s"):
        parse_duration(text)


def test_rates() -> None:
    assert parse_rate("200") == parse_rate("200/1") == parse_rate("12000/1m") == Constant(200)
    assert parse_rate("0.5") == parse_rate("30/60") == Constant(0.5)


def test_ramps() -> None:
    assert parse_ramp("100:5000:30s") == Ramp(100, 5000, 30)
    assert parse_ramp("0:2.5:1m") == Ramp(0, 2.5, 60)


def test_steps() -> None:
    assert parse_steps("100x10s,200x1m") == Steps([(100, 10), (200, 60)])
    assert parse_steps(" 0.5x10, 0x1 ") == Steps([(0.5, 10), (0, 1)])


@pytest.mark.parametrize(
    ("parse", "text", "says"),
    [
        (parse_rate, "fast", "'fast' in 'fast' is no number of calls: write 200"),
        (parse_rate, "0", "more than 0"),
        (parse_rate, "-3", "more than 0"),
        (parse_rate, "nan", "must be a number"),
        (parse_rate, "1/0", "after / must be more than 0"),
        (parse_rate, "1/x", "is no duration"),
        (parse_ramp, "100:5000", "is no ramp: write START:END:DURATION"),
        (parse_ramp, "a:5000:3s", "'a' in 'a:5000:3s' is no number of calls"),
        (parse_ramp, "1:2:0", "at least 0.001 seconds"),
        (parse_ramp, "0:0:5", "makes none"),
        (parse_steps, "100", "are no steps: write RATExDURATION"),
        (parse_steps, "100x10s,", "are no steps"),
        (parse_steps, "x10s", "is no number of calls"),
        (parse_steps, "5x", "is no duration"),
    ],
)
def test_wrong_notations_say_what_to_write(
    parse: Callable[[str], object], text: str, says: str
) -> None:
    with pytest.raises(PolicyError, match=says):
        parse(text)


def test_a_trace_is_a_number_per_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("# a trace\n0\n\n0.25\n 1e0\n")
    assert list(read_trace(path).instants()) == [0, 0.25, 1]


def test_a_trace_in_unix_time_counts_from_its_first_instant(tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    path.write_text("1700000000.5\n1700000001\n1700000003.5\n")
    assert list(read_trace(path).instants()) == [0, 0.5, 3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0\nsoon\n", "line 2: 'soon' is no instant"),
        ("1\n0\n", "sort it"),
        ("nan\n", "must be a number"),
        ("# nothing\n", "at least one instant"),
    ],
)
def test_wrong_traces_say_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "trace.txt"
    path.write_text(text)
    with pytest.raises(PolicyError, match=says):
        read_trace(path)
