"""Workers under a supervisor that are told to shut down, and what others see of dead ones."""

from __future__ import annotations

import signal

from tests.faults.scene import Scene, until

from taskyard.brokers.workers import WorkerInfo


def workers(scene: Scene, count: int) -> list[WorkerInfo]:
    """So many, once they are there."""
    return until(
        lambda: found if len(found := scene.yard.workers()) == count else None, f"{count} workers"
    )


def test_who_was_shut_down_is_not_replaced(scene: Scene) -> None:
    scene.fill(2, deeds={0: "hold", 1: "hold"})
    process = scene.worker(settings={"processes": 2, "concurrency": 1})
    pids = {scene.began("m0").pid, scene.began("m1").pid}
    one, other = workers(scene, 2)
    assert {one.pid, other.pid} == pids
    scene.yard.tell(one.id, "shutdown")
    until(lambda: f"worker {one.id} is stopping" in process.output(), "it stops")
    scene.release()
    until(lambda: f"worker {one.id} ended" in process.output(), "it ends")
    assert [worker.id for worker in workers(scene, 1)] == [other.id]
    assert process.output().count("started worker process") == 2
    scene.yard.tell("all", "shutdown")
    assert process.wait() == 0
    assert "died" not in process.output()
    assert scene.yard.workers() == []
    assert scene.counts.totals["done"] == 2


def test_who_is_replaced_hears_nothing_of_the_dead(scene: Scene) -> None:
    """What is told to a run stays with it, even if it is killed before it hears."""
    scene.fill(1, deeds={0: "hold"})
    process = scene.worker(settings={"processes": 1, "concurrency": 1})
    pid = scene.began("m0").pid
    (first,) = workers(scene, 1)
    scene.pause(pid)
    scene.yard.tell(first.id, "shutdown")
    scene.kill(pid)
    scene.release()
    until(lambda: process.output().count("started worker process") == 2, "it is replaced")
    until(lambda: scene.counts.totals.get("done"), "another one did it")
    (second,) = workers(scene, 1)
    assert second.id != first.id
    assert second.state == "running"
    scene.stop(process)
    assert process.wait() == 0


def test_who_was_killed_with_its_supervisor_stays_for_a_while(scene: Scene) -> None:
    scene.fill(1, deeds={0: "hold"})
    process = scene.worker(settings={"processes": 0, "concurrency": 1})
    scene.began("m0")
    (worker,) = workers(scene, 1)
    scene.kill(process.pid)
    assert process.wait() == -signal.SIGKILL
    assert [one.id for one in workers(scene, 1)] == [worker.id]
