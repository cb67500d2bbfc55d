"""A message accepted is not lost, and runs again only after a crash, whenever the crash comes."""

from __future__ import annotations

import itertools
import random
from functools import partial
from typing import Any

import pytest
from tests.faults.evidence import Evidence
from tests.faults.program import Item
from tests.faults.scene import Scene, is_alive, until
from tests.variants import some_in_short

KINDS = ["single", "coroutine", "batch", "ordered", "ordered_batch"]
POINTS = [
    "claimed",  # before the claim commits
    "claim committed",  # before its reply is used
    "in mid task",
    "settling",  # before the settle
    "settled",  # before it commits
    "settle committed",  # before its reply is used
]


OFTEN = {"sqlite": ("single", "ordered_batch"), "redis": ("coroutine", "ordered_batch")}


def cases() -> list[Any]:
    every = [
        (store, point, kind)
        for store, point, kind in itertools.product(OFTEN, POINTS, KINDS)
        if (store, point) != ("redis", "settled")  # a script is one step
    ]
    return some_in_short(every, [case for case in every if case[2] in OFTEN[case[0]]])


@pytest.mark.parametrize(("store", "point", "kind"), cases(), indirect=["store"])
def test_accepted_is_not_lost_when_a_worker_is_killed(scene: Scene, kind: str, point: str) -> None:
    scene.setup(kind=kind)
    ordered = kind.startswith("ordered")
    killing = {} if point != "in mid task" else {17: "kill once"}
    scene.fill(60, shards=3, deeds=killing)
    victim = scene.worker(probe=point, skip=1, settings={"lease": 0.3})
    assert victim.wait() == -9
    assert len(Evidence(scene.events()).died) == 1

    scene.worker()
    scene.drained()
    evidence = scene.check(ordered=ordered)
    scene.check_store()
    again = [message for message, runs in evidence.runs.items() if len(runs) > 1]
    if point == "in mid task":
        assert "m17" in again
    elif point in ("claimed", "claim committed", "settle committed"):
        # What was killed with other claims in mid task may run again; what was settled, may not.
        assert scene.counts.totals["done"] == 60
    else:
        assert again


@pytest.mark.parametrize("point", ["put", "put committed"])
def test_accepted_is_not_lost_when_its_producer_is_killed(scene: Scene, point: str) -> None:
    producer = scene.start(produce=300, probe=point, skip=1)
    assert producer.wait() == -9
    # Calls that returned are whole, and the one that was killed is there whole or not at all.
    whole = 100 if point == "put" else 200
    assert scene.counts.waiting == whole
    scene.note_accepted(
        Item(f"{producer.pid}-{number}", f"{producer.pid}-0") for number in range(whole)
    )
    scene.worker(settings={"burst": True}).wait()
    scene.check()


@pytest.mark.parametrize(
    ("store", "kind", "shards"),
    some_in_short(
        [
            (store, kind, shards)
            for store in OFTEN
            for kind, shards in (("ordered", 3000), ("ordered_batch", 2000))
        ],
        [("sqlite", "ordered", 3000), ("redis", "ordered_batch", 2000)],
    ),
    indirect=["store"],
)
def test_accepted_is_not_lost_and_order_holds_through_random_kills(
    scene: Scene, kind: str, shards: int
) -> None:
    chance = random.Random(f"kills of {kind}")
    # Whoever is killed at random is no killer: nothing may end as a dead letter here.
    scene.setup(kind=kind, policy={"max_deliveries": 1000})
    scene.fill(shards * 3, shards=shards, deeds=dict.fromkeys(range(shards * 3), "work"))
    supervisor = scene.worker(settings={"processes": 2, "concurrency": 4, "lease": 20.0})
    kills = 0
    goal = 0
    while kills < 6:
        goal += chance.randrange(1, 150)
        if not scene.counts.waiting:
            break
        victims = until(partial(at_work, scene, goal), "a child works")
        scene.kill(chance.choice(sorted(victims)))
        kills += 1
    assert kills
    scene.drained()
    assert supervisor.code is None
    scene.check(ordered=True)
    scene.check_store()


def at_work(scene: Scene, goal: int) -> set[int]:
    """The living processes that began with something lately, once so much was begun."""
    started = scene.of("start")
    if len(started) < goal and scene.counts.waiting:
        return set()
    return {event.pid for event in started[-20:]} - set(Evidence(scene.events()).died)


def test_claims_of_a_dead_child_are_given_back_at_once(scene: Scene) -> None:
    scene.setup(kind="ordered")
    scene.put([Item("held", "s", "hold once"), Item("behind", "s")])
    supervisor = scene.worker(settings={"processes": 1, "lease": 60.0})
    victim = scene.began("held").pid
    assert victim != supervisor.pid
    scene.kill(victim)
    scene.drained()  # in less than the lease
    again = scene.of("start", "held")[1]
    assert again.pid != victim
    assert again.delivery == 2
    scene.check(ordered=True)


def test_children_end_when_their_supervisor_is_killed(scene: Scene) -> None:
    scene.setup(kind="ordered")
    scene.put(
        [Item("held", "s", "hold once"), Item("behind", "s"), Item("other", "o", "hold once")]
    )
    supervisor = scene.worker(settings={"processes": 2, "grace": 0.5})
    children = {scene.began("held").pid, scene.began("other").pid}
    scene.kill(supervisor.pid)
    supervisor.wait()
    # They hold what does not end: after the grace time it is given back, and they are gone.
    until(lambda: not any(map(is_alive, children)), "the children have ended")
    scene.mark_stopped(children)
    assert scene.counts.running == 0
    scene.worker()
    scene.drained()
    scene.check(ordered=True)
