"""Calls that wait or compute, by each of those that are measured.

What a pool takes to start and to end is part of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

LOOPS = 100_000
"""Of one call that computes: some milliseconds."""


def sleep(_: Any) -> None:
    time.sleep(0.001)


def compute(_: Any) -> int:
    total = 0
    for number in range(LOOPS):
        total += number * number
    return total


def _compute_many(count: int) -> None:
    for item in range(count):
        compute(item)


def ours_sleeps(count: int, kind: Any, workers: int) -> dict[str, float]:
    return _ours(sleep, count, kind, workers)


def ours_computes(count: int, workers: int) -> dict[str, float]:
    return _ours(compute, count, "processes", workers)


def pool_sleeps(count: int, kind: str, workers: int) -> dict[str, float]:
    if kind == "processes":
        # So many at once that what is handed over does not count, and nobody is idle at the end.
        return _pool(ProcessPoolExecutor(workers), sleep, count, chunk=10)
    return _pool(ThreadPoolExecutor(workers), sleep, count)


def pool_computes(count: int, workers: int) -> dict[str, float]:
    return _pool(ProcessPoolExecutor(workers), compute, count)


def ideal_computes(count: int, workers: int) -> dict[str, float]:
    """Bare processes that have their shares from the beginning."""
    began = time.perf_counter()
    context = get_context("fork")
    each = [context.Process(target=_compute_many, args=(count // workers,)) for _ in range(workers)]
    for process in each:
        process.start()
    for process in each:
        process.join()
    return {"value": count / (time.perf_counter() - began)}


def _ours(function: Callable[[Any], Any], count: int, kind: Any, workers: int) -> dict[str, float]:
    import taskyard

    began = time.perf_counter()
    run = taskyard.run(function, count, kind=kind, workers=workers)
    seconds = time.perf_counter() - began
    assert run.counts.completed == count, run
    return {"value": count / seconds}


def _pool(
    pool: ThreadPoolExecutor | ProcessPoolExecutor,
    function: Callable[[Any], Any],
    count: int,
    chunk: int = 1,
) -> dict[str, float]:
    began = time.perf_counter()
    with pool:
        results = list(pool.map(function, range(count), chunksize=chunk))
    seconds = time.perf_counter() - began
    assert len(results) == count
    return {"value": count / seconds}
