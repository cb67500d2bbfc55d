"""The figures across processes, and of a process as a whole."""

from __future__ import annotations

from functools import partial
from statistics import quantiles
from typing import Any

from bench.measure import interleaved, run
from bench.rows import Bench, Row, measured


def latency(bench: Bench) -> list[Row]:
    """From `enqueue` to handler start in an idle system, two processes."""
    rounds = [
        bench.alone("processes.latency_producer", count=bench.count(300, 200))["seconds"]
        for _ in range(1 if bench.quick else min(3, bench.repeats))
    ]
    cuts = [quantiles(seconds, n=100, method="inclusive") for seconds in rounds]
    more: dict[str, Any] = {"unit": "ms"}
    title = "enqueue to handler start, idle system, two processes"
    return [
        measured("latency_p50", f"{title}, p50", [c[49] * 1e3 for c in cuts], most=3, **more),
        measured("latency_p99", f"{title}, p99", [c[98] * 1e3 for c in cuts], most=10, **more),
    ]


def together(bench: Bench) -> list[Row]:
    """Two producers and two workers on one file."""
    replies = []
    for _ in range(bench.repeats):
        with bench.place.folder() as folder:
            path = str(folder / "yard.db")
            run("yards.fill", path=path, count=bench.count(300_000, 200_000))
            replies.append(run("processes.together", path=path, seconds=bench.count(5, 2)))
    title = "two producers, two workers"
    return [
        measured("together_put", f"{title}: put", [r["put"] for r in replies]),
        measured("together_drain", f"{title}: drained", [r["drain"] for r in replies]),
        measured(
            "together_median", f"{title}: median put of 100",
            [r["median"] * 1e3 for r in replies], unit="ms",
        ),
        measured(
            "together_longest", f"{title}: longest put of 100",
            [r["longest"] * 1e3 for r in replies], unit="ms", most=50,
        ),
        measured(
            "together_put_share", f"{title}: larger producer over an even share",
            [r["put_share"] * 100 for r in replies], unit="%", most=20,
        ),
        measured(
            "together_drain_share", f"{title}: larger worker over an even share",
            [r["drain_share"] * 100 for r in replies], unit="%", most=20,
        ),
    ]  # fmt: skip


def importing(bench: Bench) -> list[Row]:
    """`import taskyard`, less a bare interpreter."""
    samples = interleaved(
        bench.count(21, 9),
        {
            code: partial(run, "processes.import_seconds", code=code)
            for code in ("pass", "import taskyard")
        },
    )
    both = zip(samples["import taskyard"], samples["pass"], strict=True)
    return [
        measured(
            "import", "import taskyard, less a bare interpreter",
            [(ours["seconds"] - bare["seconds"]) * 1e3 for ours, bare in both], unit="ms", most=100,
        )
    ]  # fmt: skip


def idling(bench: Bench) -> list[Row]:
    """A worker that has nothing to do."""
    share = bench.alone("processes.idle", seconds=bench.count(20, 8))["share"]
    return [measured("idle", "idle worker's CPU", [share * 100], unit="% of a core", most=0.5)]


def memory(bench: Bench) -> list[Row]:
    """The peak memory of a producer and of a worker, as the queue gets longer."""
    rows = []
    peaks: dict[str, list[float]] = {"producer": [], "worker": []}
    counts = (100_000, 2_000_000)
    for count in counts:
        with bench.place.folder() as folder:
            path = str(folder / "yard.db")
            peaks["producer"].append(
                run("processes.producer_memory", path=path, count=count)["mib"]
            )
            peaks["worker"].append(run("processes.worker_memory", path=path)["mib"])
    for who, (few, many) in peaks.items():
        rows.append(
            measured(
                f"memory_{who}", f"peak memory of a {who}, {counts[1]:,} messages", [many], [few],
                unit="MiB", base=f"{counts[0]:,} messages", most_ratio=1.1,
            )
        )  # fmt: skip
    return rows
