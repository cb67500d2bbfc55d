"""Memory stays bounded by the batch, never by the queue; storage goes back to where it began."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.faults.program import Item
from tests.faults.scene import Scene, until
from tests.faults.stores import SQLiteStore

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

SQLITE_CACHE = 16_000
"""Kilobytes."""
MINUTES = 20 * 60.0


@pytest.fixture
def store(folder: Path) -> SQLiteStore:
    """Of Redis, tests/redis/test_soak.py says it."""
    return SQLiteStore(folder / "yard.db")


@pytest.mark.parametrize("shards", [1, 10_000])
@pytest.mark.parametrize("kind", ["quiet", "quiet_batch"])
def test_memory_is_flat_in_the_length_of_the_queue(scene: Scene, kind: str, shards: int) -> None:
    scene.setup(kind=kind, shards=shards, policy={"shard": "by shard"})
    peaks = {count: through(scene, count) for count in (50_000, 300_000, 2_000_000)}
    for few, full, many in zip(*peaks.values(), strict=True):
        # SQLite fills its cache of pages with the first hundred thousand; after that it is flat.
        assert many < full * 1.1, peaks
        assert many < few * 1.1 + SQLITE_CACHE, peaks


def through(scene: Scene, count: int) -> list[int]:
    """Put that many in one process and work them off in another: the peak memory of both, in kB."""
    producer = scene.start(produce=count)
    assert producer.wait(MINUTES) == 0
    assert scene.counts.waiting == count
    worker = scene.worker(settings={"burst": True, "lease": 60.0})
    assert worker.wait(MINUTES) == 0
    assert scene.counts.waiting == 0
    found = [re.search(r"peak (\d+) kB", process.output()) for process in (producer, worker)]
    peaks = [int(match[1]) for match in found if match]
    assert len(peaks) == 2
    return peaks


def test_storage_is_back_to_where_it_began_after_a_soak(scene: Scene) -> None:
    scene.setup(kind="single", policy={"result_ttl": 1.0, "retry": {"count": 3, "delay": 0.05}})
    scene.worker(settings={"concurrency": 4})
    soak(scene, "warm", 2_000)
    rows, pages = settled(scene)
    for part in range(20):
        soak(scene, f"part{part}", 10_000)
    scene.drained(MINUTES)
    rows_after, pages_after = settled(scene)
    assert rows_after == rows
    assert pages_after <= pages + 32, "pages that nobody needs are used"
    totals = scene.counts.totals
    assert totals["put"] == 202_000
    assert totals["dead"] == 202_000 // 100
    assert totals["retried"] == 202_000 // 40
    assert totals["done"] == totals["put"] - totals["dead"]


def soak(scene: Scene, name: str, count: int) -> None:
    """Put messages of every kind, wait for their ends, and discard the dead letters."""

    def deed(number: int) -> str:
        if number % 100 == 1:
            return "give-up"
        return "fail-first" if number % 40 == 2 else ""

    items = [Item(f"{name}-{n}", f"s{n % 500}", deed(n)) for n in range(count)]
    scene.put((item for n, item in enumerate(items) if n % 20 < 19))
    scene.put((item for n, item in enumerate(items) if n % 20 == 19), delay=0.5)
    scene.drained(MINUTES)
    assert scene.yard.dead.discard() == count // 100


def settled(scene: Scene) -> tuple[dict[str, int], int]:
    """What is stored once all records have expired."""
    until(lambda: storage(scene)[0]["taskyard_record"] == 0, "all records have expired", 120)
    return storage(scene)


def storage(scene: Scene) -> tuple[dict[str, int], int]:
    """The rows of every table, and the pages in use."""
    tables = [
        name for (name,) in scene.store.query("SELECT name FROM sqlite_master WHERE type='table'")
    ]
    rows = {name: scene.store.query(f"SELECT count(*) FROM {name}")[0][0] for name in tables}
    rows["taskyard_listener"] = 0  # who sleeps just now
    pages = (
        scene.store.query("PRAGMA page_count")[0][0]
        - scene.store.query("PRAGMA freelist_count")[0][0]
    )
    return rows, pages
