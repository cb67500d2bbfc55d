"""A stream of items, and what of it is resident."""

from __future__ import annotations

import time
from typing import Any

from bench.local.resident import peak, restart_peak


def nothing(item: Any) -> Any:
    return item


def stream(count: int, window: int, kind: Any, workers: int) -> dict[str, float]:
    """Megabytes over those after the import, and calls a second."""
    import taskyard

    run = taskyard.stream  # imported now
    before = restart_peak()
    began = time.perf_counter()
    ended = 0
    items = (number for number in range(count))
    for outcome in run(nothing, items, window=window, kind=kind, workers=workers):
        ended += outcome.ok
    seconds = time.perf_counter() - began
    assert ended == count, (ended, count)
    return {"memory": (peak() - before) / 1e6, "rate": count / seconds}
