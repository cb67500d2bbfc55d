"""Lost replies, interruptions and forks: no transaction stays open, and no lock is kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.faults.forks import SCENARIOS
from tests.faults.scene import ROOT, until
from tests.faults.stores import gate_holders

from taskyard import Yard
from taskyard.brokers.base import Group, GroupWant, Put, Settlement, Want
from taskyard.brokers.sqlite import SQLiteBroker

GROUP = Group("queue", "task")


class Stop:
    """Stops a broker at one of its points until it is let go."""

    def __init__(self, point: str) -> None:
        self._point = point
        self.is_there = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, point: str) -> None:
        if point == self._point:
            self.is_there.set()
            assert self.go_on.wait(20)


@pytest.mark.parametrize("point", ["put", "put committed"])
async def test_a_cancelled_put_leaves_no_transaction_open(folder: Path, point: str) -> None:
    stop = Stop(point)
    broker = SQLiteBroker(folder / "yard.db", synchronous="off", probe=stop)
    driver = broker.async_driver()
    putting = asyncio.create_task(driver.run(broker.put([Put(GROUP, [b"body"] * 10)])))
    await asyncio.to_thread(stop.is_there.wait, 20)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    stop.go_on.set()
    (counts,) = await driver.run(broker.counts())
    assert counts.waiting == 10  # whole, though nobody heard of it
    # Another connection need not wait.
    with contextlib.closing(sqlite3.connect(folder / "yard.db", timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
    await driver.close()


@pytest.mark.parametrize("point", ["claimed", "claim committed"])
async def test_a_cancelled_claim_can_be_taken_back(folder: Path, point: str) -> None:
    stop = Stop(point)
    broker = SQLiteBroker(folder / "yard.db", synchronous="off", probe=stop)
    driver = broker.async_driver()
    await driver.run(broker.put([Put(GROUP, [b"one", b"two"])]))
    want = Want([GroupWant(GROUP, 2)], "me", 60_000_000)
    claiming = asyncio.create_task(driver.run(broker.step([], want)))
    await asyncio.to_thread(stop.is_there.wait, 20)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    stop.go_on.set()
    assert await driver.run(broker.reap(["me"])) == 1
    claims = (await driver.run(broker.step([], want))).claims
    bodies = [message.body for _, message in claims[0].lanes[0].messages]
    assert bodies == [b"one"]  # in smaller company, after a loss
    step = await driver.run(broker.step([Settlement(claims[0].token)], None))
    assert step.lost == []
    await driver.close()


def test_an_interrupted_wait_for_the_turn_keeps_nobody_out(folder: Path) -> None:
    """Ctrl-C while it waits at the gate: the turn that comes later must not be kept."""
    path = folder / "yard.db"
    yard = Yard(SQLiteBroker(path, synchronous="off", busy=30.0))
    yard.task(name="count")(len_of)
    yard.tasks["count"].enqueue("a")
    script = f"""
import signal, sys
from taskyard import Yard
from taskyard.brokers.sqlite import SQLiteBroker
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` switches it off
yard = Yard(SQLiteBroker({str(path)!r}, synchronous="off", busy=30.0))
yard.remote("count").enqueue("b")
print("ready", flush=True)
sys.stdin.readline()
try:
    yard.remote("count").enqueue("never")
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
yard.remote("count").enqueue("c")
print("went on", flush=True)
"""
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(
            command, text=True, cwd=ROOT, bufsize=1, stdin=pipe, stdout=pipe
        ) as process,
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        other.execute("BEGIN EXCLUSIVE")
        blocked = threading.Thread(target=lambda: yard.tasks["count"].enqueue("first in line"))
        blocked.start()
        until(lambda: os.getpid() in gate_holders(path), "somebody has the turn")
        process.stdin.write("\n")
        until(lambda: waits_at_gate(process.pid), "it waits for its turn")
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        other.execute("ROLLBACK")
        blocked.join(20)
        # It sits there and does nothing; everybody else goes on.
        for _ in range(20):
            yard.tasks["count"].enqueue("d")
        process.stdin.write("\n")
        assert process.stdout.readline() == "went on\n"
    assert yard.counts()[0].waiting == 24
    yard.close()


def len_of(text: str) -> int:
    return len(text)


def waits_at_gate(pid: int) -> bool:
    """Whether a process waits for a file lock (an arrow stands before those that wait)."""
    lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return any("->" in line and line.split()[5] == str(pid) for line in lines)


@pytest.mark.timeout(90)  # many starts of a Python
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_yard_can_be_used_after_a_fork(folder: Path, scenario: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.forks", scenario, str(folder / "yard.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(folder / "yard.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
