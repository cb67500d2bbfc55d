"""Open loops: how well calls keep to their plan."""

from __future__ import annotations

import sys
from typing import Any

from bench.compat.beside import OURS, Bench, Case, Row

__all__ = ["rows"]

ORIGINAL = "worker-dispatcher"
PROGRAM = "pace_program"
WORKERS = 100


def rows(bench: Bench) -> list[Row]:
    """Measure a constant rate of 2,000 calls a second, and a ramp from 100 to 5,000."""
    pythons = bench.pythons({ORIGINAL: "worker_dispatcher"})
    seconds = 3 if bench.quick else 10
    return [
        *_measure(
            bench, pythons, "constant", {"rate": 2_000, "seconds": seconds},
            {
                "off": _less("2,000/s: rate achieved is off by", "%", 0.5),
                "median": _less("2,000/s: lateness, median", "ms", 0.5),
                "p99": _less("2,000/s: lateness, p99", "ms"),
                "drift": _less("2,000/s: lateness, last less first", "ms", 0.5),
            },
        ),
        *_measure(
            bench, pythons, "ramp", {"start": 100, "end": 5_000, "seconds": seconds},
            {
                "off": _less("100 to 5,000/s: calls in the worst second off by", "%", 1),
                "median": _less("100 to 5,000/s: lateness, median", "ms", 0.5),
                "p99": _less("100 to 5,000/s: lateness, p99", "ms"),
                "drift": _less(
                    "100 to 5,000/s: lateness, last less first", "ms", 0.5
                ),
            },
        ),
    ]  # fmt: skip


def _less(name: str, unit: str, bound: float | None = None) -> Row:
    return Row(name, unit, less_is_better=True, bound=bound)


def _measure(
    bench: Bench,
    pythons: dict[str, str],
    plan: str,
    arguments: dict[str, Any],
    rows: dict[str, Row],
) -> list[Row]:
    ours = {**arguments, "workers": WORKERS}
    cases = {OURS: Case(sys.executable, f"{PROGRAM}.ours_{plan}", ours)}
    if ORIGINAL in pythons:
        cases[ORIGINAL] = Case(pythons[ORIGINAL], f"{PROGRAM}.original_{plan}", arguments)
    return bench.measure_each(rows, cases)
