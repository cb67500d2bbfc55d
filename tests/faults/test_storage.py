"""A storage that fails: a clear error for the producer, and the worker goes on by itself."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.program import Item, make_yard
from tests.faults.scene import Scene, until
from tests.faults.stores import SQLiteStore, gate_holders

from taskyard import Yard
from taskyard.errors import (
    BrokerUnavailable,
    CorruptDatabase,
    ForeignDatabase,
    SchemaTooNew,
    TaskyardError,
)


@pytest.fixture
def store(folder: Path) -> SQLiteStore:
    """These are about files."""
    return SQLiteStore(folder / "yard.db")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program keeps the database for itself."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=20)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


# Locked


@pytest.mark.parametrize("kind", ["single", "coroutine", "batch", "ordered"])
def test_a_worker_goes_on_by_itself_after_a_lock(
    scene: Scene, store: SQLiteStore, kind: str
) -> None:
    scene.setup(kind=kind)
    scene.fill(60, shards=6, deeds={0: "hold"})
    worker = scene.worker(busy=0.2)
    scene.began("m0")
    # Of its own: what waits for no longer may be refused by a worker that is held up, too.
    hasty = make_yard(scene.config(busy=0.2))
    with contextlib.closing(hasty), locked(store.path):
        with pytest.raises(BrokerUnavailable, match=r"locked.*Nothing was stored"):
            hasty.tasks[kind].enqueue(Item("refused", "s0"))
        scene.release()
        until(lambda: "the broker failed, trying again" in worker.output(), "it was hindered")
    scene.put([Item("later", "s0")])
    scene.drained()
    assert worker.code is None
    scene.check(ordered=kind == "ordered")


def test_a_put_waits_for_a_lock_that_passes(scene: Scene, store: SQLiteStore) -> None:
    scene.fill(1)
    with locked(store.path):
        putting = threading.Thread(target=lambda: scene.put([Item("later", "s0")]))
        putting.start()
        until(lambda: os.getpid() in gate_holders(store.path), "it waits for SQLite")
    putting.join(20)
    assert scene.counts.waiting == 2


@pytest.mark.parametrize("processes", [0, 1])
def test_a_worker_that_starts_while_it_is_locked_waits(
    scene: Scene, store: SQLiteStore, processes: int
) -> None:
    scene.fill(10)
    with locked(store.path):
        worker = scene.worker(busy=0.2, settings={"processes": processes})
        until(
            lambda: worker.code is not None or worker.output().count("keeps it locked") >= 2,
            "it has tried twice",
        )
        assert worker.code is None, worker.output()
    scene.drained()
    scene.check()


# Full


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system with little more room than a write-ahead log that is not written back yet.

    With less, housekeeping alone fills it again on a slow machine, however much is taken away.
    """
    path = folder / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def small(small_disk: Path) -> Iterator[Scene]:
    """A scene whose database is on the small disk; its journal is not."""
    made = Scene(small_disk.parent, SQLiteStore(small_disk / "yard.db"))
    yield made
    made.close()


def test_a_full_disk_is_told_and_loses_nothing(small: Scene, small_disk: Path) -> None:
    small.setup(kind="single", busy=2.0)
    small.fill(300, shards=3, deeds={0: "hold"})
    worker = small.worker()
    small.began("m0")
    ballast = small_disk / "ballast"
    fill_up(ballast)
    with pytest.raises(BrokerUnavailable, match=r"disk.*Nothing was stored"):
        put_one_by_one(small, 100_000)
    fill_up(ballast)
    small.release()
    until(lambda: "the broker failed, trying again" in worker.output(), "it was hindered")
    assert worker.code is None
    ballast.unlink()
    small.put([Item("later", "s0")])
    small.drained()
    small.check()
    small.check_store()


def put_one_by_one(scene: Scene, count: int) -> None:
    for number in range(count):
        scene.put([Item(f"more-{number}", f"s{number}" + "x" * 400)])


def fill_up(path: Path) -> None:
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"." * 512)


def test_a_file_that_may_not_grow_is_told_and_loses_nothing(scene: Scene) -> None:
    producer = scene.start(produce=1_000_000, shards=100, file_limit=400_000)
    assert producer.wait() == 1
    error = producer.output()
    assert "BrokerUnavailable" in error
    assert "Nothing was stored" in error
    whole = error.count("accepted")
    assert scene.counts.waiting == whole * 100
    scene.note_accepted(
        Item(f"{producer.pid}-{number}", f"{producer.pid}-{number % 100}")
        for number in range(whole * 100)
    )
    scene.worker(settings={"burst": True}).wait()
    scene.check()
    scene.check_store()


# Read-only


@pytest.fixture
def read_only(request: pytest.FixtureRequest, folder: Path) -> Iterator[Scene]:
    """A scene whose database, with ten messages, cannot be written any more."""
    if os.geteuid() == 0:
        path = request.getfixturevalue("small_disk")
    else:
        path = folder / "disk"
        path.mkdir()
    made = Scene(folder, SQLiteStore(path / "yard.db"), busy=0.2)
    made.fill(10)
    made.yard.close()
    if os.geteuid() == 0:
        remount = ["mount", "-o", "remount,ro", str(path)]
        subprocess.run(remount, check=True, capture_output=True)
    else:
        for entry in (*path.iterdir(), path):
            entry.chmod(0o500 if entry.is_dir() else 0o400)
    yield made
    made.close()
    if os.geteuid() != 0:
        path.chmod(0o700)


def test_a_read_only_database_is_told(read_only: Scene) -> None:
    with pytest.raises(BrokerUnavailable, match=r"read-only|cannot be opened"):
        read_only.task.enqueue(Item("refused"))


# Damaged, foreign, too new


def test_garbage_is_told_and_left_alone(scene: Scene, store: SQLiteStore) -> None:
    garbage = os.urandom(100_000)
    store.path.write_bytes(garbage)
    with pytest.raises(CorruptDatabase, match="damaged or no SQLite database"):
        scene.task.enqueue(Item("refused"))
    worker = scene.worker()
    assert worker.wait() != 0
    assert "damaged or no SQLite database" in worker.output()
    assert store.path.read_bytes() == garbage


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_truncated_database_is_told(scene: Scene, store: SQLiteStore, share: float) -> None:
    scene.fill(5000, shards=500)
    scene.yard.close()
    size = store.path.stat().st_size
    os.truncate(store.path, int(size * share))
    with pytest.raises(CorruptDatabase, match="damaged"):
        put_one_by_one(scene, 500)
    with contextlib.suppress(CorruptDatabase):
        scene.yard.close()


@pytest.mark.parametrize("processes", [0, 1])
def test_a_page_that_goes_bad_under_a_worker_is_told(
    scene: Scene, store: SQLiteStore, processes: int
) -> None:
    scene.setup(kind="ordered", busy=1.0)
    scene.fill(5000, shards=500, deeds={0: "hold"})
    worker = scene.worker(settings={"processes": processes})
    scene.began("m0")
    store.query("PRAGMA wal_checkpoint(TRUNCATE)")
    with store.path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size // 4 // 4096 * 4096)
        file.write(os.urandom(size // 2 // 4096 * 4096))
    scene.release()
    assert worker.wait() == 1  # that does not pass by itself
    assert "is damaged" in worker.output()
    assert worker.output().count("started worker process") == processes
    with pytest.raises(CorruptDatabase):
        put_one_by_one(scene, 500)
    # What was run, was run in order, and what was settled, once.
    assert len(scene.of("start")) == len({event.message for event in scene.of("start")})


def test_a_database_of_something_else_is_left_alone(scene: Scene, store: SQLiteStore) -> None:
    with contextlib.closing(sqlite3.connect(store.path)) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER)")
    before = store.path.read_bytes()
    with pytest.raises(ForeignDatabase, match="orders"):
        scene.task.enqueue(Item("refused"))
    check_refusing_worker(scene, "tables of another application")
    assert store.path.read_bytes() == before


def test_a_newer_schema_is_refused(scene: Scene, store: SQLiteStore) -> None:
    scene.fill(3)
    scene.yard.close()
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        [known] = connection.execute("SELECT schema FROM taskyard_meta").fetchone()
        connection.execute("UPDATE taskyard_meta SET schema = 99")
    with pytest.raises(SchemaTooNew, match="99"):
        scene.task.enqueue(Item("refused"))
    check_refusing_worker(scene, "written by a newer taskyard")
    scene.yard.close()
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        connection.execute("UPDATE taskyard_meta SET schema = ?", (known,))
    assert scene.counts.waiting == 3


def check_refusing_worker(scene: Scene, text: str) -> None:
    """Whether with children or without, it ends at once and says why."""
    for processes in (0, 2):
        worker = scene.worker(settings={"processes": processes})
        assert worker.wait(20) == 1
        assert text in worker.output()


def test_a_folder_that_is_missing_is_told(folder: Path) -> None:
    yard = Yard(f"sqlite:///{folder}/no/such/yard.db")
    yard.task(name="single")(print_nothing)
    with pytest.raises(TaskyardError, match="does the folder exist"):
        yard.tasks["single"].enqueue(1)


def print_nothing(number: int) -> None:
    pass
