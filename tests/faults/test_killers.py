"""A message that kills its worker ends as a dead letter, and takes nobody with it."""

from __future__ import annotations

import pytest
from tests.faults.scene import Scene

from taskyard.message import Reason


@pytest.mark.parametrize("deed", ["kill", "exit", "segfault"])
def test_a_killer_dies_and_takes_no_innocent_with_it(scene: Scene, deed: str) -> None:
    scene.setup(kind="batch", policy={"batch": 50})
    scene.fill(200, deeds={77: deed})
    supervisor = scene.worker(settings={"processes": 2})
    scene.drained()
    assert supervisor.code is None
    check_dead(scene, ["m77"])


@pytest.mark.parametrize("kind", ["ordered", "ordered_batch"])
def test_a_killer_dies_and_its_shard_goes_on_in_order(scene: Scene, kind: str) -> None:
    scene.setup(kind=kind)
    scene.fill(200, shards=20, deeds={77: "kill"})
    scene.worker(settings={"processes": 2})
    scene.drained()
    check_dead(scene, ["m77"], ordered=True)


def test_two_killers_at_once_die_alone(scene: Scene) -> None:
    scene.setup(kind="batch", policy={"batch": 50})
    scene.fill(200, deeds={10: "kill", 120: "exit"})
    scene.worker(settings={"processes": 2})
    scene.drained()
    check_dead(scene, ["m10", "m120"])


def test_a_killer_ends_a_worker_that_fails_fast(scene: Scene) -> None:
    scene.setup(kind="batch", policy={"batch": 5})
    scene.fill(5, deeds={3: "exit"})
    supervisor = scene.worker(settings={"processes": 2, "fail_fast": True})
    assert supervisor.wait() != 0
    assert f"stopped at the first dead letter: of queue '{scene.task.policy.queue}'" in (
        supervisor.output()
    )
    check_letters(scene, ["m3"])
    counts = scene.counts  # the others had been in one claim with it, and may wait for their turn
    assert counts.waiting + counts.totals["done"] == 4
    assert (counts.delayed, counts.running, counts.dead) == (0, 0, 1)


def test_a_killer_without_a_supervisor_dies_by_its_lease(scene: Scene) -> None:
    scene.setup(kind="single", policy={"max_deliveries": 2})
    scene.fill(20, deeds={3: "kill"})
    for _ in range(4):
        worker = scene.worker(settings={"burst": True, "concurrency": 1})
        worker.wait()
        scene.expire()
    scene.drained()
    check_dead(scene, ["m3"])


def check_dead(scene: Scene, ids: list[str], *, ordered: bool = False) -> None:
    check_letters(scene, ids)
    scene.check(ordered=ordered, dead=ids)
    scene.check_store()


def check_letters(scene: Scene, ids: list[str]) -> None:
    letters = {letter.id: letter for letter in scene.dead()}
    for id_ in ids:
        letter = letters[id_]
        assert letter.failure.reason == Reason.WORKER_LOST
        assert letter.deliveries >= 3 or scene.task.policy.max_deliveries < 3
        assert scene.task.codec.decode(letter.body)[0] == id_
        # Its last claim held nothing else: it died alone.
        last = scene.of("start", id_)[-1]
        beside = [
            event.message
            for event in scene.of("start")
            if event.token == last.token and event.message != id_
        ]
        assert beside == []
