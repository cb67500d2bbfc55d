"""Memory: a stream of millions of items needs no more than its window."""

from __future__ import annotations

import sys

from bench.compat.beside import OURS, Bench, Case, Row

__all__ = ["rows"]

PROGRAM = "memory_program"
WINDOW = 1_000


def rows(bench: Bench) -> list[Row]:
    """Measure how much more is resident at the peak than after the import, in our own process."""
    count = 500_000 if bench.quick else 10_000_000
    found: list[Row] = []
    for kind, workers in (("threads", 8), ("processes", 2)):
        what = f"{count:,} items streamed, {kind}, window {WINDOW:,}"
        arguments = {"count": count, "window": WINDOW, "kind": kind, "workers": workers}
        found += bench.measure_each(
            {
                "memory": Row(f"{what}: memory", "MB", less_is_better=True, bound=50),
                "rate": Row(what, "calls/s"),
            },
            {OURS: Case(sys.executable, f"{PROGRAM}.stream", arguments)},
        )
    return found
