"""Several producers and workers on one file: everything is done, and everybody gets a share."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.faults.program import Item
from tests.faults.scene import Scene, until
from tests.variants import some_in_short


@pytest.mark.parametrize("kind", some_in_short(["ordered", "ordered_batch"], ["ordered"]))
def test_everybody_gets_a_share(scene: Scene, kind: str) -> None:
    # So long that both are needed: an idle worker is woken only when the others have enough to do.
    scene.setup(kind=kind, takes=0.001 if kind == "ordered" else 0.005)
    workers = [scene.worker() for _ in range(2)]
    for worker in workers:
        until(lambda: "slots" in worker.output(), "it has started")  # noqa: B023
    producers = [scene.start(produce=3000, shards=100) for _ in range(2)]
    assert [producer.wait() for producer in producers] == [0, 0]
    for producer in producers:
        scene.note_accepted(
            Item(f"{producer.pid}-{number}", f"{producer.pid}-{number % 100}")
            for number in range(3000)
        )
    scene.drained()
    scene.check(ordered=True)
    scene.check_store()
    shares = Counter(event.pid for event in scene.of("end"))
    assert set(shares) == {worker.pid for worker in workers}
    assert min(shares.values()) > 300, shares
