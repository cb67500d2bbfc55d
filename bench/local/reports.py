"""Reports: from logs to numbers."""

from __future__ import annotations

import sys

from bench.compat.beside import OURS, Bench, Case, Floor, Row

__all__ = ["rows"]

ORIGINAL = "worker-dispatcher"
PROGRAM = "reports_program"
FASTER = (Floor(100, ORIGINAL),)


def rows(bench: Bench) -> list[Row]:
    """Measure the original's interface, the report of as many logs, and that of a million."""
    pythons = bench.pythons({ORIGINAL: "worker_dispatcher"})
    few, many = (5_000, 200_000) if bench.quick else (20_000, 1_000_000)
    # Its search takes the longer the more seconds there are: more than as many.
    found = _beside(bench, pythons, few, 60, floors=())
    for length in (100,) if bench.quick else (200, 1000):  # the document's example has 1,202
        found += _beside(bench, pythons, few, length, floors=FASTER)
    for function, of_what in (("report_of_logs", "logs"), ("report_of_columns", "calls of a run")):
        what = f"report of {many:,} {of_what}"
        found += bench.measure_each(
            {
                "seconds": Row(what, "s", less_is_better=True, bound=5),
                "memory": Row(f"{what}: memory beyond them", "MB", less_is_better=True, bound=300),
            },
            {OURS: _case(sys.executable, function, many, 1_000)},
        )
    return found


def _beside(
    bench: Bench, pythons: dict[str, str], count: int, length: int, *, floors: tuple[Floor, ...]
) -> list[Row]:
    """Rows of so many logs of so many seconds."""
    what = f"{count:,} logs of {length} s"
    cases = {OURS: _case(sys.executable, "ours", count, length)}
    if ORIGINAL in pythons:
        cases[ORIGINAL] = _case(pythons[ORIGINAL], "original", count, length)
    seconds, peak = bench.measure_each(
        {
            "seconds": Row(f"get_tps, {what}", "s", floors, less_is_better=True),
            "peak": Row(f"get_tps, {what}: peak", "calls/s", (Floor(1, ORIGINAL),)),
        },
        cases,
    )
    report = Row(f"report, {what}", "s", floors, less_is_better=True)
    report.samples[ORIGINAL] = seconds.samples.get(ORIGINAL, [])
    cases = {OURS: _case(sys.executable, "report_of_logs", count, length)}
    return [seconds, peak, *bench.measure_each({"seconds": report}, cases)]


def _case(python: str, function: str, count: int, length: int) -> Case:
    return Case(python, f"{PROGRAM}.{function}", {"count": count, "length": length})
