"""What is stored of rate limits in SQLite, and when it is forgotten."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.testing.conformance.harness import TASK, Clock, Harness, SyncRunner, micros

SLOW = Rate(1, micros(1), 1)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    clock = Clock()
    broker = SQLiteBroker(tmp_path / "yard.db", clock=clock, synchronous="off")
    harness = Harness(broker, SyncRunner(broker), clock)
    yield harness
    harness.close()


def rows(tmp_path: Path, table: str) -> int:
    with sqlite3.connect(tmp_path / "yard.db") as connection:
        found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return int(found)


def test_lanes_are_forgotten_when_their_limit_is_as_good_as_unused(
    harness: Harness, tmp_path: Path
) -> None:
    harness.declare(concurrency=1, shard_rate=SLOW)
    for turn in range(5):
        for number in range(20):
            harness.put("x", shard=f"{turn} {number}")
        assert len(harness.work_off()) == 20
        # As they go, each new one forgets two: those of one turn are left, and no more.
        assert rows(tmp_path, "taskyard_lane") <= 40
        harness.clock.advance(1)
    harness.tidy()
    assert rows(tmp_path, "taskyard_lane") == 0


def test_nothing_is_stored_of_what_has_no_limit(harness: Harness, tmp_path: Path) -> None:
    harness.put("a", "b")
    harness.work_off()
    assert rows(tmp_path, "taskyard_bucket") == 0
    assert rows(tmp_path, "taskyard_queue_rate") == 0


def test_another_process_learns_of_a_limit_at_once(harness: Harness, tmp_path: Path) -> None:
    other_broker = SQLiteBroker(tmp_path / "yard.db", clock=harness.clock, synchronous="off")
    other = Harness(other_broker, SyncRunner(other_broker), harness.clock)
    other.put("a", "b", "c")
    assert other.claim() is not None
    for limited in (Limited(TASK.queue), Limited(TASK.queue, TASK.name)):
        harness.set_rate(limited, SLOW)
    assert other.claim() is not None
    assert other.claim() is None
    other.close()
