"""Calls that do nothing: what a call costs, its log included."""

from __future__ import annotations

import sys

from bench.compat.beside import OURS, Bench, Case, Floor, Row

__all__ = ["rows"]

ORIGINAL, THREADS, PROCESSES, JOBLIB, BY_HAND = (
    "worker-dispatcher",
    "ThreadPoolExecutor.map",
    "ProcessPoolExecutor.map",
    "joblib",
    "asyncio by hand",
)
PROGRAM = "calls_program"
WORKERS = 8


def rows(bench: Bench) -> list[Row]:
    """Measure threads, processes and coroutines."""
    pythons = bench.pythons({ORIGINAL: "worker_dispatcher", JOBLIB: "joblib"})
    here = sys.executable
    few, some, many = (10_000, 100_000, 300_000) if bench.quick else (50_000, 300_000, 2_000_000)

    def case(name: str, count: int, python: str = here, **arguments: object) -> Case:
        return Case(python, f"{PROGRAM}.{name}", {"count": count, **arguments})

    threads = {
        OURS: case("ours", many, kind="threads", workers=WORKERS),
        THREADS: case("thread_pool", few * 2, workers=WORKERS),
    }
    processes = {
        OURS: case("ours", many, kind="processes", workers=2),
        PROCESSES: case("process_pool", some, workers=2),
    }
    coroutines = {
        OURS: case("ours", many, kind="async", workers=100),
        BY_HAND: case("by_hand", many, workers=100),
    }
    if ORIGINAL in pythons:
        python = pythons[ORIGINAL]
        threads[ORIGINAL] = case("original", few, python, workers=WORKERS, processing=False)
        processes[ORIGINAL] = case("original", few // 2, python, workers=2, processing=True)
    if JOBLIB in pythons:
        processes[JOBLIB] = case("joblib_parallel", some, pythons[JOBLIB], workers=2)
    return [
        *bench.measure_each(
            {
                "value": Row(
                    f"calls of nothing, {WORKERS} threads", "calls/s",
                    (Floor(10, THREADS), Floor(10, ORIGINAL)), bound=700_000,
                )
            },
            threads,
        ),
        *bench.measure_each(
            {
                "value": Row(
                    "calls of nothing, 2 processes", "calls/s",
                    (Floor(1, JOBLIB), Floor(50, ORIGINAL)), bound=700_000,
                )
            },
            processes,
        ),
        *bench.measure_each(
            {"value": Row("calls of nothing, 100 coroutines", "calls/s", bound=200_000)},
            coroutines,
        ),
    ]  # fmt: skip
