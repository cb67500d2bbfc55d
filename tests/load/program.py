"""A load that goes on until a signal comes: `python program.py KIND`; it tells what it did."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from typing import Any

import taskyard

ENOUGH = 10
"""Calls that have ended before it says that it works."""


def work(item: int) -> int:
    time.sleep(0.01)
    return item


async def awork(item: int) -> int:
    await asyncio.sleep(0.01)
    return item


def main(kind: Any) -> None:
    ended = itertools.count(1)

    def note(_: object) -> None:
        if next(ended) == ENOUGH:
            print("working", flush=True)  # noqa: T201

    run = taskyard.run(
        awork if kind == "async" else work,
        itertools.count(),
        kind=kind,
        workers=4,
        rate=100,
        on_result=note,
    )
    report = run.report()
    told = {
        "interrupted": run.info.interrupted,
        "completed": run.counts.completed,
        "failed": run.counts.failed,
        "cancelled": run.counts.cancelled,
        "lost": run.counts.lost,
        "reported": report.completed,
        "latencies": report.latency.count,
        "text": report.text(),
        "pid": os.getpid(),
    }
    print(json.dumps(told), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
