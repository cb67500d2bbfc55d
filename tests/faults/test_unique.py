"""Who dies releases no key of a message that is still there, and keeps none of one that is not."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.faults.program import Item
from tests.faults.scene import Scene
from tests.variants import some_in_short

MESSAGES, SHARDS = 60, 3
POINTS = ["claimed", "claim committed", "in mid task", "settled", "settle committed"]


KINDS = ["unique", "unique_batch", "unique_ordered"]


def cases() -> list[Any]:
    every = [
        (store, point, kind)
        for store, point, kind in itertools.product(("sqlite", "redis"), POINTS, KINDS)
        if (store, point) != ("redis", "settled")  # a script is one step
    ]
    # Each point with one of them: whose key it is says nothing of when it is released.
    often = itertools.cycle(KINDS)
    return some_in_short(
        every, [(store, point, next(often)) for store, point, _ in every[:: len(KINDS)]]
    )


def again(scene: Scene, round_: int) -> int:
    """Put each message once more; those that found their keys free are accepted."""
    items = [Item(f"m{n}#{round_}", f"s{n % SHARDS}") for n in range(MESSAGES)]
    results = scene.task.enqueue_many(items, id=lambda item: item.name)
    new = [item for item, result in zip(items, results, strict=True) if result.created]
    scene.note_accepted(new)
    return len(new)


@pytest.mark.parametrize(("store", "point", "kind"), cases(), indirect=["store"])
def test_a_worker_that_is_killed_releases_nothing_early(
    scene: Scene, kind: str, point: str
) -> None:
    scene.setup(kind=kind)
    deeds = {17: "kill once"} if point == "in mid task" else {}
    scene.fill(MESSAGES, shards=SHARDS, deeds=deeds)
    victim = scene.worker(probe=point, skip=1)
    assert victim.wait() == -9
    done = scene.counts.totals.get("done", 0)
    assert again(scene, 1) == done, "messages that are there hold their keys, others do not"
    scene.expire()
    assert again(scene, 2) == 0
    scene.worker()
    scene.drained()
    scene.check(ordered=kind == "unique_ordered")
    assert again(scene, 3) == MESSAGES
    scene.drained()
    scene.check_store()
