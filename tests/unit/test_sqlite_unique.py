"""What SQLite keeps of unique keys."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from taskyard.brokers.base import Dead, Discard, Outcome, Retried
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.brokers.unique import Mode
from taskyard.message import Failure
from taskyard.testing.conformance.harness import Clock, Harness, SyncRunner, names


@pytest.mark.parametrize("concurrency", [0, 1])
def test_nothing_is_left_of_keys_when_all_is_done(tmp_path: Path, concurrency: int) -> None:
    clock = Clock()
    broker = SQLiteBroker(tmp_path / "yard.db", clock=clock, synchronous="off")
    harness = Harness(broker, SyncRunner(broker), clock)
    harness.declare(concurrency=concurrency, max_deliveries=2)
    ends: list[Outcome | None] = [None, Retried(0), Dead(Failure("failed")), Discard(), None]
    for index in range(200):
        mode = list(Mode)[index % 4]
        harness.put_unique(mode, f"m{index}", f"k{index % 11}", span=1, longest=2, shard="s")
        clock.advance(0.1)
        if index % 3 == 0 and (claim := harness.claim(2, lease=1, owner=f"{index % 2}")):
            end = ends[index % len(ends)]
            if end is not None:
                harness.settle(claim, dict.fromkeys(names(claim)[:1], end))
        if index % 40 == 0:
            harness.reap("0")
            harness.retry_dead(limit=2)
    clock.advance(100)
    harness.reap("0", "1")
    harness.work_off()
    harness.discard_dead(limit=1000)
    harness.tidy()
    connection = sqlite3.connect(broker.path)
    assert connection.execute("SELECT * FROM taskyard_unique").fetchall() == []
    for statement in (
        "SELECT * FROM taskyard_unique WHERE grp = 1 AND shard = 's' AND key = 'k'",
        "SELECT * FROM taskyard_unique WHERE until > 0 AND until <= 5 ORDER BY until LIMIT 5",
    ):
        [(*_, plan)] = connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        assert plan.startswith("SEARCH"), plan
    connection.close()
    harness.close()
