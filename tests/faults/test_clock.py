"""Moved clocks: a due time is never early, no lease gets long, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.program import Item, shifted_clock
from tests.faults.scene import Scene, clock_file, until
from tests.variants import some_in_short

HOUR = 3600.0
Move = Callable[[float], None]


@pytest.fixture
def move(scene: Scene) -> Iterator[Move]:
    """Moves the clock of all processes by so many seconds."""
    with clock_file(scene.folder) as mover:
        yield mover


@pytest.mark.parametrize(
    "kind",
    some_in_short(["single", "coroutine", "ordered", "ordered_batch"], ["single", "ordered_batch"]),
)
def test_nothing_is_lost_when_the_clock_jumps_ahead_in_mid_task(
    scene: Scene, move: Move, kind: str
) -> None:
    scene.setup(kind=kind)
    scene.put([Item("held", "s", "hold once"), Item("behind", "s")])
    first = scene.worker(settings={"lease": 3.0, "concurrency": 1})
    began = scene.began("held")

    # To the broker the lease is over, unless it is renewed just then.
    def jump() -> bool:
        move(HOUR)
        scene.yard.driver.run(scene.yard.broker.reap())
        return began.token not in scene.store.deadlines()

    until(jump, "it is lost")
    scene.worker()
    again = scene.began("held", 2)
    assert again.token > began.token
    scene.drained()
    until(lambda: scene.of("lost", "held") or first.code is not None, "the first one sees it")
    scene.check(ordered=kind.startswith("ordered"))


def test_a_lease_does_not_become_an_hour_long_when_the_clock_is_set_back(
    scene: Scene, move: Move
) -> None:
    scene.setup(kind="ordered")
    scene.put([Item("held", "s", "hold once"), Item("behind", "s")])
    first = scene.worker(settings={"lease": 20.0})
    scene.began("held")
    scene.kill(first.pid)
    move(-HOUR)
    clock = shifted_clock(scene.folder / "clock")
    scene.worker()
    until(
        lambda: max(scene.store.deadlines().values(), default=0) <= clock() + 20e6,
        "the lease is cut to its length",
    )
    move(21)
    scene.drained()
    scene.check(ordered=True)


def test_fifo_holds_while_the_clock_is_set_back_and_ahead(scene: Scene, move: Move) -> None:
    scene.setup(kind="ordered")
    # No jump ends this lease, so nothing runs twice: what has begun may not be settled yet.
    worker = scene.worker(settings={"lease": 3 * HOUR})
    for part, jump in enumerate([0, -HOUR, HOUR / 2, -5.0, 2 * HOUR]):
        move(jump)
        scene.put(
            Item(f"m{part}-{number}", f"s{number % 20}", "fail once" if number == 7 else "")
            for number in range(100)
        )
    scene.drained()
    assert worker.code is None
    evidence = scene.check(ordered=True)
    assert sum(len(runs) for runs in evidence.runs.values()) == 505


@pytest.mark.parametrize("jump", [-HOUR, -2.0, 2.0, HOUR])
def test_a_due_time_is_never_early(scene: Scene, move: Move, jump: float) -> None:
    clock = shifted_clock(scene.folder / "clock")
    scene.setup(kind="single", policy={"retry": {"count": 3, "delay": 8.0, "jitter": 0.0}})
    # No jump ends this lease: what has begun may not be settled yet when the clock is moved.
    scene.worker(settings={"lease": 3 * HOUR})
    due = clock() + 5_000_000
    scene.put((Item(f"later-{n}") for n in range(20)), delay=5.0)
    scene.put([Item("again", "", "fail once"), Item("now")])
    scene.began("now")
    until(lambda: scene.counts.totals.get("retried"), "the first attempt has failed")
    failed = int(scene.of("raised", "again")[0].note)
    move(jump)
    scene.put([Item("marker")])
    scene.began("marker")  # so it has looked since
    # The last part step by step, so that it would be seen if it came early.
    end = max(due, failed + 8_000_000)
    while (remaining := (end - clock()) / 1e6) > 0:
        move(1.5 if remaining < 15 else remaining - 12)
        name = f"marker-{clock()}"
        scene.put([Item(name)])
        scene.began(name)
    scene.drained()
    for event in scene.of("start"):
        if event.message.startswith("later"):
            assert int(event.note) >= due, event
    assert int(scene.of("start", "again")[1].note) >= failed + 8_000_000
    scene.check()


def test_a_batch_that_fills_does_not_wait_for_an_hour(scene: Scene, move: Move) -> None:
    scene.setup(kind="batch", policy={"batch": {"size": 100, "within": 5.0}})
    scene.worker()
    scene.put(Item(f"m{n}") for n in range(3))
    move(-HOUR)
    # Something that touches the lane after the jump.
    scene.put([Item("m3")])
    move(6.0)
    scene.drained()
    scene.check()


def test_the_clock_of_a_scene_is_shared(scene: Scene, move: Move) -> None:
    clock = shifted_clock(Path(scene.folder) / "clock")
    before = clock()
    move(HOUR)
    assert clock() - before >= HOUR * 1e6
