"""How much the SQLite broker reads and writes for what it is asked."""

from __future__ import annotations

import os
import sqlite3
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskyard.brokers.base import Dead
from taskyard.brokers.sqlite import SQLiteBroker
from taskyard.brokers.sqlite.gate import Gate, threading
from taskyard.message import Failure
from taskyard.testing.conformance.harness import Clock, Harness, SyncRunner

MEGABYTE = 1 << 20


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[Harness]:
    clock = Clock()
    broker = SQLiteBroker(tmp_path / "yard.db", clock=clock, synchronous="off", busy=0.2)
    made = Harness(broker, SyncRunner(broker), clock)
    yield made
    made.close()


@pytest.fixture
def peak() -> Iterator[None]:
    """Fails when more than 40 MB are used at a time."""
    tracemalloc.start()
    yield
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40 * MEGABYTE


@pytest.mark.parametrize("shards", [1, 100])
def test_a_claim_reads_what_it_takes(harness: Harness, peak: None, shards: int) -> None:
    for index in range(100):
        harness.put(f"m{index}", shard=str(index % shards), size=MEGABYTE)
    claim = harness.take(1000)
    assert len(claim) == 4


def test_a_step_lets_in_a_bounded_number_of_bytes(harness: Harness, peak: None) -> None:
    for index in range(100):
        harness.put(f"m{index}", delay=1, size=MEGABYTE)
    harness.clock.advance(1)
    harness.take()
    assert (harness.counts().delayed, harness.counts().waiting) == (96, 3)


def test_dead_letters_are_retried_a_few_at_a_time(harness: Harness, peak: None) -> None:
    for index in range(60):
        harness.put(f"m{index}", size=MEGABYTE)
    while (claim := harness.claim(1000)) is not None:
        harness.settle(claim, every=Dead(Failure("failed"), "x"))
    assert harness.retry_dead() == 60


def test_a_record_is_read_while_another_process_writes(harness: Harness, tmp_path: Path) -> None:
    harness.put("a", keep=60)
    other = sqlite3.connect(tmp_path / "yard.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert harness.state("a") == "waiting"
    other.execute("ROLLBACK")
    other.close()


def test_a_gate_without_a_thread_to_wait_keeps_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Gate(tmp_path / "gate", 1), Gate(tmp_path / "gate", 1)
    first.enter()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gate = tmp_path / "gate"
    before = opened(gate)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            second.enter()
    assert opened(gate) == before
    first.leave()
    second.enter()
    second.leave()
    first.close()
    second.close()


def opened(path: Path) -> int:
    """How often this process has a file open; what else it has may be closed meanwhile."""
    folder = Path("/proc/self/fd")
    links = list(folder.iterdir()) if folder.is_dir() else []
    return [os.path.realpath(link) for link in links].count(os.path.realpath(path))
