"""Schedules of the SQLite broker: looking without writing, old files, and who sleeps no more."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from taskyard.brokers.base import Put
from taskyard.brokers.schedules import DueSchedules, Schedule
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.testing.conformance.harness import (
    TASK,
    Clock,
    Harness,
    Sleeper,
    SyncRunner,
    body,
    micros,
)


def open_harness(path: Path, busy: float = 30) -> Harness:
    clock = Clock()
    broker = SQLiteBroker(path, clock=clock, synchronous="off", busy=busy)
    return Harness(broker, SyncRunner(broker), clock)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    made = open_harness(tmp_path / "yard.db")
    yield made
    made.close()


def add(harness: Harness, name: str = "a", *, wait: float = 0) -> Schedule:
    """Add a schedule that is due in some seconds."""
    pending = harness.clock.now + micros(wait)
    schedules = harness.broker.schedules
    assert harness.run(schedules.change(Schedule(name, b"", 0), Schedule(name, b"", pending)))
    [stored] = harness.run(schedules.find([name]))
    return stored


def due(harness: Harness, sleeper: Sleeper | None = None) -> DueSchedules:
    listener = None if sleeper is None else sleeper.name
    return harness.run(harness.broker.schedules.due(10, listener))


@contextlib.contextmanager
def nobody_may_write(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


# Looking


@pytest.fixture
def hurried(tmp_path: Path) -> Iterator[Harness]:
    """A harness that fails at once where it would have to wait for its turn at writing."""
    made = open_harness(tmp_path / "yard.db", busy=0)
    yield made
    made.close()


@pytest.mark.parametrize("wait", [0, 60])
def test_a_look_without_a_listener_does_not_write(
    hurried: Harness, tmp_path: Path, wait: float
) -> None:
    stored = add(hurried, wait=wait)
    with nobody_may_write(tmp_path / "yard.db"):
        assert hurried.run(hurried.broker.schedules.find()) == [stored]
        assert len(due(hurried).schedules) == (0 if wait else 1)


@pytest.mark.parametrize("scheduled", [False, True])
def test_who_sleeps_already_looks_without_writing(
    hurried: Harness, tmp_path: Path, scheduled: bool
) -> None:
    if scheduled:
        add(hurried, wait=60)
    sleeper = hurried.sleeper()
    found = due(hurried, sleeper)
    with nobody_may_write(tmp_path / "yard.db"):
        assert due(hurried, sleeper) == found


def test_who_is_awake_looks_at_what_is_due_without_writing(
    hurried: Harness, tmp_path: Path
) -> None:
    add(hurried)
    sleeper = hurried.sleeper()
    with nobody_may_write(tmp_path / "yard.db"):
        assert len(due(hurried, sleeper).schedules) == 1


# Sleeping


def test_who_stops_sleeping_leaves_its_instant_to_another(harness: Harness) -> None:
    first, other = harness.sleeper(), harness.sleeper()
    due(harness, first)
    harness.clock.advance(1)
    due(harness, other)
    add(harness, wait=60)
    assert first.is_woken()
    due(harness, first)
    assert other.sleeps_on()
    first.close()
    assert other.is_woken()


def test_a_sleeper_for_schedules_is_not_woken_by_messages(harness: Harness) -> None:
    sleeper = harness.sleeper()
    due(harness, sleeper)
    worker = harness.idle_worker()
    harness.put("x", delay=5)
    assert worker.is_woken()
    assert sleeper.sleeps_on()


def test_a_worker_is_not_woken_by_schedules(harness: Harness) -> None:
    worker = harness.idle_worker()
    add(harness, wait=5)
    assert worker.sleeps_on()


# With messages


def test_an_id_whose_record_has_expired_can_be_put_again(harness: Harness) -> None:
    harness.put("x", keep=5)
    assert harness.settle(harness.take(), results={"x": b""})
    harness.clock.advance(6)
    old = add(harness)
    again = Put(TASK, [body("x")], ids=["x"], record_ttl=micros(5))
    assert harness.run(harness.broker.schedules.change(old, old, again))
    assert harness.work_off() == ["x"]


# Files


def test_a_file_of_the_first_schema_is_upgraded(tmp_path: Path) -> None:
    path = tmp_path / "yard.db"
    folder = resources.files("taskyard.brokers.sqlite").joinpath("migrations")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(folder.joinpath("0001_initial.sql").read_text(encoding="utf-8"))
    harness = open_harness(path)
    harness.put("kept")
    stored = add(harness, wait=1)
    harness.close()
    again = open_harness(path)
    assert again.run(again.broker.schedules.find()) == [stored]
    assert again.work_off() == ["kept"]
    again.close()
