"""Sleepers of the SQLite broker: sockets, their names, and doing without them."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskyard.brokers.base import Put
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.brokers.sqlite.wakeup import Doorbells
from taskyard.testing.conformance.harness import (
    TASK,
    AsyncRunner,
    Clock,
    Harness,
    Runner,
    SyncRunner,
    body,
)

OLD = 1_000_000_000


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ty-"))  # sockets have little room for a path
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(params=[SyncRunner, AsyncRunner])
def harness(request: pytest.FixtureRequest, folder: Path) -> Iterator[Harness]:
    clock = Clock()
    broker = SQLiteBroker(folder / "yard.db", clock=clock, synchronous="off")
    runner: Runner = request.param(broker)
    made = Harness(broker, runner, clock)
    yield made
    made.close()


def rows(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "yard.db")
    found = [name for (name,) in connection.execute("SELECT name FROM taskyard_listener")]
    connection.close()
    return found


def sockets(folder: Path) -> set[str]:
    return set(os.listdir(folder / "yard.db-wake"))


def die_asleep(folder: Path, name: str) -> Path:
    """Leave behind what a sleeper that is killed leaves."""
    path = folder / "yard.db-wake" / name
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bell:
        bell.bind(str(path))
    return path


# Names


@pytest.mark.parametrize("name", ["{folder}/precious", "../precious", "precious", "1-0000000g"])
def test_a_name_from_the_database_chooses_no_file(folder: Path, name: str) -> None:
    bells = Doorbells(folder / "wake")
    (folder / "wake").mkdir()
    files = [folder / "precious", folder / "wake" / "precious", folder / "wake" / "1-0000000g"]
    for path in files:
        path.write_text("precious")
    name = name.format(folder=folder)
    assert not bells.ring(name)
    bells.remove(name)
    bells.close()
    assert all(path.exists() for path in files)


def test_only_a_socket_is_removed(folder: Path) -> None:
    bells = Doorbells(folder / "yard.db-wake")
    name = "12-0123abcd"
    dead = die_asleep(folder, name)
    assert not bells.ring(name)
    assert not dead.exists()
    dead.write_text("precious")
    assert not bells.ring(name)
    bells.close()
    assert dead.exists()


# Without a socket


@pytest.mark.parametrize("before", [False, True])
def test_without_a_socket_a_change_is_noticed_at_once(
    harness: Harness, folder: Path, before: bool
) -> None:
    (folder / "yard.db-wake").write_text("no folder")
    harness.declare()
    sleeper = harness.sleeper()
    assert sleeper.name == ""
    assert harness.claim() is None
    other = SQLiteBroker(folder / "yard.db", synchronous="off").driver()

    def put() -> None:
        other.run(harness.broker.put([Put(TASK, [body("a")])]))

    timer = threading.Timer(0 if before else 0.05, put)
    timer.start()
    if before:
        timer.join()
    began = time.monotonic()
    assert sleeper._runner.wait(sleeper.listener, 50)
    assert time.monotonic() - began < 25, "at its end it looks in any case"
    timer.join()
    other.close()


def test_an_idle_sleeper_is_not_woken_by_nothing(harness: Harness, folder: Path) -> None:
    (folder / "yard.db-wake").write_text("no folder")
    harness.declare()
    sleeper = harness.idle_worker()
    assert all(sleeper.sleeps_on() for _ in range(5))


# What sleepers leave behind


def test_a_closed_sleeper_leaves_nothing(harness: Harness, folder: Path) -> None:
    harness.put("a", keep=60, delay=5)
    for _ in range(3):
        waiting, worker = harness.sleeper(), harness.idle_worker()
        harness.records("a", listener=waiting)
        assert len(set(rows(folder))) == 2
        waiting.close()
        worker.close()
        harness.counts()  # behind them in the thread of the driver
        assert rows(folder) == []
        assert sockets(folder) == set()


def test_closing_does_not_raise(folder: Path) -> None:
    broker = SQLiteBroker(folder / "yard.db", synchronous="off", busy=0.1)
    harness = Harness(broker, SyncRunner(broker), Clock())
    sleeper = harness.idle_worker()
    other = sqlite3.connect(folder / "yard.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    sleeper.close()
    other.close()
    harness.close()


def test_what_a_closed_sleeper_was_to_be_woken_for_is_left_to_others(harness: Harness) -> None:
    harness.put("a", delay=5)
    first = harness.idle_worker()
    harness.clock.advance(0.001)
    second = harness.idle_worker()
    harness.put("b", delay=4)  # tells who has slept longest
    assert first.is_woken()
    assert harness.claim(listener=first) is None
    first.close()
    assert second.is_woken()


def test_who_was_killed_in_its_sleep_is_not_counted_on(harness: Harness, folder: Path) -> None:
    harness.put("a", delay=1)
    died = harness.idle_worker()
    harness.clock.advance(1)
    assert harness.take() is not None  # by another, which does not sleep
    assert died.name in rows(folder)
    sleeper = harness.idle_worker()
    harness.clock.advance(1)
    harness.put("b", delay=5)
    assert sleeper.is_woken()


def test_tidying_up_removes_what_the_killed_left(harness: Harness, folder: Path) -> None:
    harness.declare()
    alive = harness.idle_worker()
    died, young = "1-00000001", "1-00000002"
    for name in (died, young):
        die_asleep(folder, name)
    os.utime(folder / "yard.db-wake" / died, (OLD, OLD))
    os.utime(folder / "yard.db-wake" / alive.name, (OLD, OLD))
    (folder / "yard.db-wake" / "something else").write_text("")
    connection = sqlite3.connect(folder / "yard.db")
    for name in ("1-00000003", "../yard.db"):
        connection.execute("INSERT INTO taskyard_listener VALUES ('r:x', ?, 0, 0)", (name,))
    connection.commit()
    connection.close()
    assert harness.tidy() == 0
    assert set(rows(folder)) == {alive.name}
    assert sockets(folder) == {alive.name, young, "something else"}
    harness.put("a")
    assert alive.is_woken()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="long paths need /proc")
def test_looking_for_the_dead_opens_no_more_files(folder: Path) -> None:
    long = folder / ("x" * 120)
    long.mkdir()
    bells = Doorbells(long)
    for number in range(3):
        bells.is_dead(f"1-0000000{number}")
    before = opened(long)
    for number in range(9):
        bells.is_dead(f"1-0000000{number}")
    assert opened(long) == before == 1
    bells.close()


def opened(path: Path) -> int:
    """How often this process has something open; what else it has may be closed meanwhile."""
    found = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    return found.count(os.path.realpath(path))


# Many files


def test_a_sleeper_is_woken_in_a_process_with_many_files(harness: Harness) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1040)]
    try:
        sleeper = harness.idle_worker()
        harness.put("a")
        assert sleeper.is_woken()
        sleeper.close()
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Cancelled operations


async def test_an_operation_that_queues_for_the_thread_is_run_though_cancelled(
    folder: Path,
) -> None:
    let_go = threading.Event()
    reached = threading.Event()

    def probe(point: str) -> None:
        reached.set()
        assert let_go.wait(20)

    slow = SQLiteBroker(folder / "yard.db", synchronous="off", probe=probe)
    broker = SQLiteBroker(folder / "yard.db", synchronous="off")
    driver = slow.async_driver()
    first = asyncio.create_task(driver.run(slow.put([Put(TASK, [b"first"])])))
    await asyncio.to_thread(reached.wait, 20)
    second = asyncio.create_task(driver.run(broker.put([Put(TASK, [b"second"])])))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    let_go.set()
    await first
    (counts,) = await driver.run(broker.counts())
    assert counts.waiting == 2
    await driver.close()
