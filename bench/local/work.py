"""Calls that wait, and calls that compute: what a dispatcher leaves of the workers' time."""

from __future__ import annotations

import sys
from typing import Any

from bench.compat.beside import OURS, Bench, Case, Floor, Row

__all__ = ["rows"]

THREADS, PROCESSES, IDEAL = "ThreadPoolExecutor.map", "ProcessPoolExecutor.map", "ideal"
PROGRAM = "work_program"
SAME = 0.98
"""Two measurements of the same thing are as far apart as this."""


def rows(bench: Bench) -> list[Row]:
    """Measure sleeps of a millisecond, and computing on two cores."""
    found: list[Row] = []
    for kind, pool, workers in (
        ("threads", THREADS, 8),
        ("threads", THREADS, 64),
        ("processes", PROCESSES, 2),
        ("processes", PROCESSES, 8),
    ):
        count = workers * (300 if bench.quick else 2_000)
        found += bench.measure_each(
            {"value": Row(f"sleeps of 1 ms, {workers} {kind}", "calls/s", (Floor(SAME, pool),))},
            {
                OURS: _case("ours_sleeps", count=count, kind=kind, workers=workers),
                pool: _case("pool_sleeps", count=count, kind=kind, workers=workers),
            },
        )
    count = 200 if bench.quick else 1_000
    found += bench.measure_each(
        {
            "value": Row(
                "computing for some ms, 2 processes", "calls/s",
                (Floor(0.97, IDEAL), Floor(SAME, PROCESSES)),
            )
        },
        {
            OURS: _case("ours_computes", count=count, workers=2),
            PROCESSES: _case("pool_computes", count=count, workers=2),
            IDEAL: _case("ideal_computes", count=count, workers=2),
        },
    )  # fmt: skip
    return found


def _case(function: str, **arguments: Any) -> Case:
    return Case(sys.executable, f"{PROGRAM}.{function}", arguments)
