"""From logs to numbers, by the original and by ours; each is imported where it is used."""

from __future__ import annotations

import gc
import random
import time
from array import array
from collections.abc import Callable
from typing import Any

from bench.local.resident import peak, restart_peak

BEGAN = 1_700_000_000.0


def _calls(count: int, length: float) -> list[tuple[float, float, bool]]:
    """Calls with a rush in the middle, a few of them long, some of them failed."""
    chance = random.Random(count)
    calls = []
    for _ in range(count):
        rush = chance.random() < 0.05
        at = chance.gauss(length / 2, length / 20) if rush else chance.uniform(0, length)
        began = BEGAN + min(max(at, 0.0), length)
        took = chance.expovariate(2) if chance.random() < 0.99 else chance.expovariate(0.2)
        calls.append((began, began + took, chance.random() > 0.02))
    return sorted(calls)


def _logs(count: int, length: float) -> list[dict[str, Any]]:
    return [
        {
            "task_id": number,
            "started_at": began,
            "ended_at": ended,
            "duration": ended - began,
            "result": result,
            "metadata": {},
        }
        for number, (began, ended, result) in enumerate(_calls(count, length), 1)
    ]


def original(count: int, length: float) -> dict[str, float]:
    """Seconds of the original's search, and the peak that it finds."""
    import worker_dispatcher

    return _get_tps(worker_dispatcher.get_tps, _logs(count, length))


def ours(count: int, length: float) -> dict[str, float]:
    """The same of ours."""
    from taskyard.compat.worker_dispatcher import get_tps

    get_tps(_logs(10, 1))  # what is imported at the first call, is
    return _get_tps(get_tps, _logs(count, length))


def _get_tps(
    get_tps: Callable[[list[dict[str, Any]]], Any], logs: list[dict[str, Any]]
) -> dict[str, float]:
    began = time.perf_counter()
    found = get_tps(logs)
    return {"seconds": time.perf_counter() - began, "peak": found["peak"]["tps"]}


def report_of_logs(count: int, length: float) -> dict[str, float]:
    """Seconds and megabytes from logs to the text of the report."""
    from taskyard.report import Samples, make_report

    make_report(Samples.from_logs(_logs(10, 1))).text()
    logs = _logs(count, length)
    return _measured(lambda: make_report(Samples.from_logs(logs)).text())


def report_of_columns(count: int, length: float) -> dict[str, float]:
    """The same from the columns that a run keeps."""
    from taskyard.report import Samples, make_report

    make_report(Samples.from_logs(_logs(10, 1))).text()
    calls = _calls(count, length)
    began, ended = array("d", [call[0] for call in calls]), array("d", [call[1] for call in calls])
    success = bytearray(call[2] for call in calls)
    del calls
    samples = Samples(began, began, ended, success)
    return _measured(lambda: make_report(samples).text())


def _measured(make: Callable[[], object]) -> dict[str, float]:
    gc.collect()
    before = restart_peak()
    began = time.perf_counter()
    make()
    return {"seconds": time.perf_counter() - began, "memory": (peak() - before) / 1e6}
