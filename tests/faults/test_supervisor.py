"""The supervisor: what the end of a process means, and whether all of them are well."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from tests.faults.scene import Scene, until

from taskyard import Yard
from taskyard.errors import WorkerError


def nothing(number: int) -> None:
    pass


# What the end of a process means


def test_a_burst_goes_on_when_a_process_is_replaced(scene: Scene) -> None:
    scene.fill(30)  # each process does one or two
    worker = scene.worker(settings={"processes": 1, "burst": True, "max_messages": 1})
    assert worker.wait() == 0
    replaced = worker.output().count("is replaced after")
    assert replaced >= 1
    assert worker.output().count("started worker process") == replaced + 1
    assert "died" not in worker.output()
    assert scene.counts.totals["done"] == 30


def test_a_burst_goes_on_when_somebody_stops_a_process(scene: Scene) -> None:
    scene.fill(20, deeds={0: "hold"})
    worker = scene.worker(settings={"processes": 1, "burst": True, "concurrency": 1})
    os.kill(scene.began("m0").pid, signal.SIGTERM)
    until(lambda: "is stopping" in worker.output(), "it stops")
    scene.release()
    assert worker.wait() == 0
    assert worker.output().count("started worker process") == 2
    assert scene.counts.totals["done"] == 20


@pytest.mark.parametrize("deed", ["orphan", "exit-well"])
def test_a_death_is_noticed_whatever_it_looks_like(scene: Scene, deed: str) -> None:
    """A process that the dead one had forked lives on; it says that it ended well."""
    scene.fill(20, deeds={0: f"{deed} once"})
    worker = scene.worker(settings={"processes": 1, "burst": True, "lease": 60.0})
    assert worker.wait() == 0
    assert worker.output().count("a worker process died") == 1
    assert scene.counts.totals["done"] == 20
    assert scene.of("end", "m0")[0].pid != scene.of("die")[0].pid


# Health


def test_a_crash_loop_is_not_healthy(scene: Scene) -> None:
    health = scene.folder / "health"
    scene.setup(
        probe="claim committed", action="crash", healthy=1.5, policy={"max_deliveries": 1000}
    )
    scene.fill(5)
    worker = scene.worker(settings={"processes": 1, "lease": 0.3, "health_file": str(health)})
    until(health.exists, "it counts as well at first")
    until(lambda: "makes no progress" in worker.output(), "it does not any more")
    health.unlink()
    deaths = worker.output().count("process died")
    until(lambda: worker.output().count("process died") >= deaths + 2, "it went on dying")
    assert not health.exists()
    assert worker.output().count("makes no progress") == 1


# Threads and signals


def test_processes_are_started_from_the_main_thread_only(folder: Path) -> None:
    yard = Yard(f"sqlite:///{folder}/yard.db")
    yard.task(name="nothing")(nothing)
    said: list[str] = []

    def work() -> None:
        try:
            yard.run_worker(processes=1, burst=True)
        except WorkerError as error:
            said.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert ["main thread only" in text for text in said] == [True]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_worker_leaves_signals_as_they_were(folder: Path, number: signal.Signals) -> None:
    yard = Yard(f"sqlite:///{folder}/yard.db")
    yard.task(name="nothing")(nothing)

    def handler(number: int, frame: object) -> None:
        pass

    before = signal.signal(number, handler)
    try:
        yard.run_worker(burst=True)
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
        yard.close()
