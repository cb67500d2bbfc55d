"""Calls that do nothing, by each of those that are measured; each is imported where it is used.

What a pool takes to start and to end is part of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

CHUNKS = (100, 1_000, 10_000)
"""What a process pool hands over at once; the best of them counts."""


def nothing(item: Any) -> Any:
    return item


async def nothing_async(item: Any) -> Any:
    return item


def _task(id: int, config: Any, task: Any, metadata: dict[str, Any]) -> bool:  # noqa: A002, ARG001
    return True


def _rate(count: int, began: float, ended: int) -> dict[str, float]:
    seconds = time.perf_counter() - began
    assert ended == count, (ended, count)
    return {"value": count / seconds}


def ours(count: int, kind: Any, workers: int) -> dict[str, float]:
    """Calls a second, with a log of each."""
    import taskyard

    function = nothing_async if kind == "async" else nothing
    began = time.perf_counter()
    run = taskyard.run(function, count, kind=kind, workers=workers)
    return _rate(count, began, run.counts.completed)


def thread_pool(count: int, workers: int) -> dict[str, float]:
    """The same of the standard library, without a log."""
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(nothing, range(count)))
    return _rate(count, began, len(results))


def process_pool(count: int, workers: int) -> dict[str, float]:
    """The same in processes, with the chunks that suit it best."""
    best = 0.0
    for chunk in CHUNKS:
        began = time.perf_counter()
        with ProcessPoolExecutor(workers) as pool:
            results = list(pool.map(nothing, range(count), chunksize=chunk))
        best = max(best, _rate(count, began, len(results))["value"])
    return {"value": best}


def joblib_parallel(count: int, workers: int) -> dict[str, float]:
    """The same by joblib, which chooses its batches itself."""
    from joblib import Parallel, delayed

    began = time.perf_counter()
    results = Parallel(n_jobs=workers)(delayed(nothing)(item) for item in range(count))
    return _rate(count, began, len(results))


def original(count: int, workers: int, processing: bool) -> dict[str, float]:
    """The same by worker-dispatcher, which keeps a log too."""
    import worker_dispatcher

    began = time.perf_counter()
    worker_dispatcher.start(
        {
            "task": {"list": count, "function": _task},
            "worker": {"number": workers, "use_processing": processing},
            "verbose": False,
        }
    )
    return _rate(count, began, len(worker_dispatcher.get_logs()))


def by_hand(count: int, workers: int) -> dict[str, float]:
    """What one would write with asyncio: workers that share an iterator, and a log."""
    began = time.perf_counter()
    return _rate(count, began, len(asyncio.run(_by_hand(count, workers))))


async def _by_hand(count: int, workers: int) -> list[tuple[float, float, Any]]:
    log: list[tuple[float, float, Any]] = []

    async def work(items: Iterator[int]) -> None:
        for item in items:
            started = time.monotonic()
            result = await nothing_async(item)
            log.append((started, time.monotonic(), result))

    items = iter(range(count))
    await asyncio.gather(*(work(items) for _ in range(workers)))
    return log
