"""How a plan is written on a command line: `200`, `100:5000:30s`, `100x10s,200x10s`, `2m`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from taskyard.dispatch.pace import Constant, Ramp, Steps, Trace
from taskyard.errors import PolicyError

__all__ = ["parse_duration", "parse_ramp", "parse_rate", "parse_steps", "read_trace"]

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
UNIX = 1e8
"""A trace whose first instant is later than this many seconds (three years) is in unix time."""

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_NUMBER}(?:ms|s|m|h|d))+")
_PLAIN = re.compile(_NUMBER)


def parse_duration(text: str) -> float:
    """Read a duration: `30` and `30s` are seconds, `250ms`, `2m`, `1h30m`, `1d`.

    Returns:
        Seconds.

    Raises:
        PolicyError: it is none.
    """
    given = text.strip().lower()
    if _PLAIN.fullmatch(given):
        return float(given)
    if _DURATION.fullmatch(given):
        return sum(float(number) * UNITS[unit] for number, unit in _PART.findall(given))
    raise PolicyError(f"{text!r} is no duration: write 30s, 250ms, 2m, 1h30m or seconds")


def parse_rate(text: str) -> Constant:
    """Read a rate: `200` is so many calls a second, `100/60` and `100/1m` so many in a time.

    Raises:
        PolicyError: it is none.
    """
    number, slash, per = text.partition("/")
    calls = _calls(number, text, "200 for calls a second, or 100/1m")
    length = parse_duration(per) if slash else 1.0
    if not length:
        raise PolicyError(f"{text!r} is no rate: the time after / must be more than 0")
    return Constant(calls / length)


def parse_ramp(text: str) -> Ramp:
    """Read a ramp: `100:5000:30s` is from 100 to 5,000 calls a second over 30 s, then 5,000.

    Raises:
        PolicyError: it is none.
    """
    parts = text.split(":")
    if len(parts) != 3:
        raise PolicyError(f"{text!r} is no ramp: write START:END:DURATION, as 100:5000:30s")
    start, end = (_calls(part, text, "START:END:DURATION, as 100:5000:30s") for part in parts[:2])
    return Ramp(start, end, parse_duration(parts[2]))


def parse_steps(text: str) -> Steps:
    """Read steps: `100x10s,200x1m` is 100 calls a second for 10 s, then 200 for a minute.

    Raises:
        PolicyError: they are none.
    """
    return Steps([_step(part, text) for part in text.split(",")])


def read_trace(path: str | Path) -> Trace:
    """Read a file with an instant per line: seconds from the start, or unix time.

    Unix time counts from the first instant. Empty lines and those that begin with `#` count for
    nothing.

    Raises:
        PolicyError: a line is no number, or what Trace raises.
        OSError: the file cannot be read.
    """
    instants = list(_lines(Path(path)))
    start = instants[0] if instants and instants[0] > UNIX else 0.0
    return Trace(instant - start for instant in instants)


def _lines(path: Path) -> Iterator[float]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            try:
                yield float(text)
            except ValueError:
                raise PolicyError(
                    f"{path}, line {number}: {text[:40]!r} is no instant; write seconds from the "
                    f"start, one number per line"
                ) from None


def _step(part: str, text: str) -> tuple[float, float]:
    rate, times, length = part.partition("x")
    if not times:
        raise PolicyError(f"{text!r} are no steps: write RATExDURATION, as 100x10s,200x10s")
    return _calls(rate, text, "RATExDURATION, as 100x10s,200x10s"), parse_duration(length)


def _calls(part: str, text: str, how: str) -> float:
    try:
        return float(part)
    except ValueError:
        raise PolicyError(f"{part!r} in {text!r} is no number of calls: write {how}") from None
