"""The figures beside much that waits, of both brokers, and what the project promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.measure import interleaved, run
from bench.redis_server import redis_server
from bench.rows import Bench, Row, measured

Where = Callable[[Bench], Any]
"""Opens a place for one broker; a context that gives its path, or URL."""

FAIR = 1000
"""Milliseconds."""
UNMEASURABLE = 0.1
"""Percent of a core by which two idle workers may differ, and two servers of them."""


@contextmanager
def in_file(bench: Bench) -> Iterator[str]:
    """A file for one measurement."""
    with bench.place.folder() as folder:
        yield str(folder / "yard.db")


@contextmanager
def on_server(bench: Bench) -> Iterator[str]:
    """A server for one measurement."""
    with bench.place.folder() as folder, redis_server(folder) as url:
        yield url


def _tenants(bench: Bench, where: Where, prefix: str) -> list[Row]:
    count = bench.count(1_000_000, 100_000)

    def measure(batch: int) -> Any:
        with where(bench) as path:
            return run("beside.tenants", path=path, count=count, batch=batch)

    cases = {"": ("single-message sync handler", 1), "_batch": ("batch handler of 100", 100)}
    samples = interleaved(
        bench.repeats, {name: partial(measure, batch) for name, (_, batch) in cases.items()}
    )
    rows = []
    for name, (title, _) in cases.items():
        what = f"ten messages of a tenant, put beside {count:,} of another, {title}"
        rows += [
            measured(
                f"{prefix}tenants{name}", f"{what}: from the put until all are done",
                [reply["seconds"] * 1e3 for reply in samples[name]], unit="ms", most=FAIR,
            ),
            measured(
                f"{prefix}tenants{name}_others", f"{what}: of the other done meanwhile",
                [reply["others"] for reply in samples[name]], unit="messages",
            ),
        ]  # fmt: skip
    return rows


def _idle(bench: Bench, where: Where, prefix: str) -> list[Row]:
    delayed, schedules = bench.count(1_000_000, 100_000), bench.count(100_000, 10_000)
    seconds = bench.count(40, 12)
    with where(bench) as empty, where(bench) as full:
        run("beside.fill", path=full, delayed=delayed, schedules=schedules)
        samples = interleaved(
            2,
            {
                "empty": partial(run, "beside.idle", path=empty, seconds=seconds),
                "full": partial(run, "beside.idle", path=full, seconds=seconds),
            },
        )
    what = f"with {delayed:,} delayed messages and {schedules:,} schedules"
    rows = []
    for name, title in {"share": "idle worker's CPU", "server": "CPU of its server"}.items():
        if name == "server" and not prefix:
            continue
        base, ours = ([100 * reply[name] for reply in samples[case]] for case in ("empty", "full"))
        rows += [
            measured(f"{prefix}idle_{name}_empty", f"{title}, nothing there", base,
                     unit="% of a core"),
            measured(
                f"{prefix}idle_{name}", f"{title}, {what}", ours, base, base="nothing there",
                unit="% of a core", most=min(base) + UNMEASURABLE,
            ),
        ]  # fmt: skip
    return rows


def tenants(bench: Bench) -> list[Row]:
    """A small tenant beside a large one, in a file."""
    return _tenants(bench, in_file, "")


def redis_tenants(bench: Bench) -> list[Row]:
    """The same on a server."""
    return _tenants(bench, on_server, "redis_")


def idling(bench: Bench) -> list[Row]:
    """An idle worker beside much that is for later, in a file."""
    return _idle(bench, in_file, "")


def redis_idling(bench: Bench) -> list[Row]:
    """The same on a server, and what that does."""
    return _idle(bench, on_server, "redis_")
