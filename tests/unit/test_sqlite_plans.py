"""How SQLite runs the statements of daily work: by an index, in the order that is wanted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskyard.brokers.base import Dead, Group, Put, Retried
from taskyard.brokers.bounds import Bounds, Overflow
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.schedules import Schedule
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.brokers.unique import Mode
from taskyard.message import Failure
from taskyard.testing.conformance.harness import Clock, Harness, SyncRunner, body

ORDERED = Group("orders", "ordered")
BATCH = Group("orders", "batch")

# Not for every message: open claims are few, and so are sleepers, groups, gates, limits and bounds.
FEW = (
    *("taskyard_claim", "taskyard_listener", "taskyard_group", "taskyard_meta"),
    *("taskyard_gate", "taskyard_queue_rate", "taskyard_bound"),
)

# Lanes of equal times: at most those of one transaction or so. The words depend on the version.
SORTS_TIES = ("USE TEMP B-TREE FOR RIGHT PART OF ORDER BY", "USE TEMP B-TREE FOR LAST ")


class Traced(Harness):
    """A harness that knows which statements were run."""

    def __init__(self, path: Path) -> None:
        clock = Clock()
        broker = SQLiteBroker(path, clock=clock, synchronous="off")
        runner = SyncRunner(broker)
        super().__init__(broker, runner, clock)
        database = runner._driver._runner._opened()  # type: ignore[attr-defined]
        self.connection: sqlite3.Connection = database._connection
        self.statements: set[str] = set()
        self.connection.set_trace_callback(self.statements.add)

    def plans(self, *parts: str) -> list[tuple[str, list[str]]]:
        """The statements that have all of these parts, with the steps of their plans."""
        self.connection.set_trace_callback(None)
        found = [text for text in sorted(self.statements) if all(part in text for part in parts)]
        return [
            (text, [row[3] for row in self.connection.execute(f"EXPLAIN QUERY PLAN {text}")])
            for text in found
            if text.startswith(("SELECT", "DELETE", "UPDATE"))
        ]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    """After a bit of everything that a worker and a producer do daily."""
    harness = Traced(tmp_path / "yard.db")
    every = [Group("orders", "save"), ORDERED, BATCH]
    harness.declare(every[0])
    harness.declare(ORDERED, concurrency=1)
    harness.declare(BATCH, size=5, within=10)
    for limited in (Limited("orders"), Limited("orders", "ordered", shards=True)):
        harness.set_rate(limited, Rate(1000, 1_000_000, 1000))
    sleeper = harness.idle_worker(groups=every)
    for group in every:
        for shard in "", "a", "b":
            harness.put("x", "y", "z", group=group, shard=shard)
            harness.put("p", group=group, shard=shard, priority=-1)
        harness.put("d", group=group, delay=1)
        harness.put(f"kept of {group}", group=group, keep=60)
    for mode in Mode:
        for id_ in ("u", "v"):
            harness.put_unique(mode, id_, f"{mode}", span=1, longest=2, group=every[0])
    harness.clock.advance(1)
    for end in (Retried(5), Dead(Failure("failed"), "x"), None):
        for claim in harness.claims(2, claims=3, groups=every, listener=sleeper):
            harness.settle(claim, every=end)
    for id_ in ("kept of orders/save", "noted"):
        harness.run(harness.broker.cancel(id_))
    harness.claims(10, groups=[BATCH], drain=True)
    harness.run(harness.broker.pulse([1, 2], [(1, "kept of orders/save", b"half")]))
    harness.run(harness.broker.pulse([1, 2]))
    harness.tidy()
    harness.records("kept of orders/save", listener=sleeper)
    harness.records("kept of orders/save")
    keep_many_schedules(harness, sleeper.name)
    overflow(harness)
    harness.clock.advance(60)
    harness.reap()
    harness.work_off(10, groups=every, claims=2, listener=sleeper, drain=True)
    yield harness
    harness.close()


def overflow(harness: Harness) -> None:
    """Put into a bounded queue, in which messages of all kinds of lanes make room."""
    task, batch = Group("bounded", "task"), Group("bounded", "batch")
    harness.declare(batch, size=5, within=10)
    harness.run(harness.broker.set_bounds("bounded", Bounds(6, 5, Overflow.DROP)))
    for shard in "abcd":
        harness.put("x", "y", group=batch, shard=shard)
    for shard in "abcd":
        harness.put("x", group=task, shard=shard)
        harness.put("y", "z", group=task, shard=shard, priority=3)


def keep_many_schedules(harness: Harness, listener: str) -> None:
    """Add schedules, a few of which are due, and look at them in every way."""
    schedules = harness.broker.schedules
    now = harness.clock.now
    for number in range(200):
        new = Schedule(f"s{number}", b"", now + 60 * number, paused=number % 3 == 0)
        assert harness.run(schedules.change(Schedule(new.name, b"", 0), new))
    harness.run(schedules.due(10, listener))  # nothing yet
    harness.clock.advance(0.0005)
    harness.run(schedules.find(after="s1", limit=10))
    for old in harness.run(schedules.find(["s1", "s2", "s4", "s5", "s7"])):
        harness.run(schedules.due(10, listener))
        assert harness.run(schedules.change(old, None, Put(BATCH, [body("s")])))
    harness.run(schedules.due(10, listener))


def test_no_statement_of_daily_work_reads_a_whole_table(traced: Traced) -> None:
    plans = traced.plans()
    assert len(plans) > 50
    for text, steps in plans:
        if "INTO" not in text and "parts, CAST" not in text:
            for step in steps:
                _, _, scanned = step.partition("SCAN ")
                assert not scanned.startswith(("taskyard_", "lane", "message", "record")) or (
                    scanned.startswith(FEW) or "taskyard_lane_later" in scanned
                ), f"{step}: {text}"


@pytest.mark.parametrize(
    ("parts", "steps"),
    [
        # A claim reads lane after lane as they were given, each by its primary key.
        (
            ["CROSS JOIN taskyard_message"],
            ["SCAN wanted", "SEARCH message USING PRIMARY KEY (lane=?)"],
        ),
        (
            ["FROM taskyard_lane", "place = 1 AND (priority, turn) >"],
            ["SEARCH taskyard_lane USING INDEX taskyard_lane_ready (grp=? AND "],
        ),
        (
            ["FROM taskyard_lane", "place = 2 AND blocked <="],
            ["SEARCH taskyard_lane USING INDEX taskyard_lane_filling (grp=? AND at>", SORTS_TIES],
        ),
        (
            ["FROM taskyard_lane", "place = 2 AND blocked < at"],
            ["SEARCH taskyard_lane USING INDEX taskyard_lane_filling (grp=?)", SORTS_TIES],
        ),
        (
            ["SELECT grp", "FROM taskyard_lane", "place = 2 AND at <="],
            ["SEARCH taskyard_lane USING INDEX taskyard_lane_later (at<?)", SORTS_TIES],
        ),
        (
            ["FROM taskyard_lane WHERE id IN"],
            [
                "SEARCH taskyard_lane USING INTEGER PRIMARY KEY (rowid=?)",
                "LIST SUBQUERY",
                "SCAN json_each",
            ],
        ),
        (
            ["FROM taskyard_due WHERE at <="],
            ["SEARCH taskyard_due USING PRIMARY KEY (at<?)"],
        ),
        (
            ["taskyard_listener WHERE topic >= 'r:'"],
            ["SEARCH taskyard_listener USING PRIMARY KEY (topic>? AND topic<?)"],
        ),
        # What makes room is read from the front, and a queue's length from its groups' counters.
        (
            ["CROSS JOIN taskyard_counter"],
            ["SCAN bounded", "SEARCH counter USING PRIMARY KEY (grp=? AND name=?)"],
        ),
        (
            ["FROM taskyard_message", "ORDER BY sequence LIMIT"],
            ["SEARCH taskyard_message USING PRIMARY KEY (lane=? AND priority=?)"],
        ),
        # What is due is read in order, and no further than it is due.
        (
            ["FROM taskyard_schedule", "pending <="],
            ["SEARCH taskyard_schedule USING INDEX taskyard_schedule_due (pending>? AND "],
        ),
        (
            ["min(pending) FROM taskyard_schedule"],
            ["SEARCH taskyard_schedule USING INDEX taskyard_schedule_due (pending>?)"],
        ),
        (
            ["FROM taskyard_schedule WHERE name > 's1' ORDER BY"],
            ["SEARCH taskyard_schedule USING PRIMARY KEY (name>?)"],
        ),
    ],
)
def test_the_plans_of_hot_statements(
    traced: Traced, parts: list[str], steps: list[str | tuple[str, ...]]
) -> None:
    plans = traced.plans(*parts)
    assert plans, sorted(traced.statements)
    for text, found in plans:
        assert len(found) == len(steps), (found, text)
        for step, expected in zip(found, steps, strict=True):
            assert step.startswith(expected), text
