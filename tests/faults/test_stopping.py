"""SIGTERM at every moment: nothing stays leased or is lost; what was not begun is not counted."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from tests.faults.evidence import Event
from tests.faults.scene import Scene, until
from tests.variants import some_in_short

from taskyard.worker.run import Signals


@pytest.mark.parametrize("point", ["claimed", "claim committed", "settling", "settle committed"])
@pytest.mark.parametrize("kind", some_in_short(["single", "batch", "ordered"], ["ordered"]))
def test_nothing_stays_leased_when_stopped_while_talking_to_the_broker(
    scene: Scene, kind: str, point: str
) -> None:
    scene.setup(kind=kind)
    scene.fill(60, shards=6)
    worker = scene.worker(probe=point, skip=1, action="stop")
    assert worker.wait() == 0
    check_left(scene)


@pytest.mark.parametrize("kind", ["single", "coroutine", "batch", "ordered_batch"])
def test_what_ends_within_the_grace_time_is_done(scene: Scene, kind: str) -> None:
    scene.setup(kind=kind)
    scene.fill(40, shards=2, deeds={0: "hold"})
    worker = scene.worker()
    scene.began("m0")
    scene.stop(worker)
    until(lambda: "is stopping" in worker.output(), "it stops")
    scene.release()
    assert worker.wait() == 0
    assert [event.message for event in scene.of("end", "m0")] == ["m0"]
    check_left(scene)


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.parametrize(
    "kind",
    some_in_short(
        ["single", "coroutine", "batch", "ordered", "batch_coroutine"],
        ["single", "batch_coroutine"],
    ),
)
def test_what_outlives_the_grace_time_is_given_back_as_redelivered(
    scene: Scene, kind: str, processes: int
) -> None:
    scene.setup(kind=kind)
    scene.fill(40, shards=2, deeds={0: "hold once"})
    worker = scene.worker(settings={"grace": 1.0, "processes": processes})
    child = scene.began("m0").pid
    scene.stop(worker, child)
    assert worker.wait() == 0
    if "coroutine" in kind:
        assert scene.of("cancelled", "m0")
    check_left(scene, redelivered={"m0"})


@pytest.mark.parametrize("kind", ["single", "coroutine"])
def test_a_second_signal_stops_hard(scene: Scene, kind: str) -> None:
    scene.setup(kind=kind)
    scene.fill(40, deeds={0: "hold once"})
    worker = scene.worker(settings={"grace": 600.0, "processes": 1})
    child = scene.began("m0").pid
    scene.stop(worker, child)
    until(lambda: "is stopping" in worker.output(), "it stops")
    first = time.monotonic()
    until(lambda: time.monotonic() - first > Signals.MOMENT, "the next one counts as another")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == 0  # long before the grace time is over
    check_left(scene, redelivered={"m0"})


def test_nothing_stays_leased_when_stopped_during_restart_backoff(scene: Scene) -> None:
    scene.setup(kind="single", policy={"max_deliveries": 1000})
    scene.fill(20, deeds={0: "exit"})
    worker = scene.worker(settings={"processes": 1, "lease": 60.0})
    until(lambda: worker.output().count("worker process died") >= 4, "it died four times")
    scene.stop(worker)  # it waits for 0.8 s before it starts another one
    assert worker.wait() == 0
    # This process may have been held up for longer than that, so what it saw before says nothing.
    _, received, after = worker.output().partition("received SIGTERM")
    assert received
    assert "started worker process" not in after
    assert scene.counts.running == 0
    assert scene.counts.waiting + scene.counts.totals.get("done", 0) == 20


def test_nothing_stays_leased_when_stopped_at_any_moment(scene: Scene) -> None:
    """Also while it starts: then a signal must not get lost between a process and its child."""
    chance = random.Random("stopped at any moment")
    scene.setup(kind="ordered_batch")
    scene.fill(3000, shards=600)
    for round_ in range(8):
        worker = scene.worker(settings={"processes": 2, "grace": 60.0, "lease": 60.0})
        if round_ % 2:
            before = len(scene.of("start"))
            goal = before + chance.randrange(1, 200)
            until(lambda: len(scene.of("start")) >= goal, "it works")  # noqa: B023
        else:
            started = chance.randrange(1, 3)
            until(
                lambda: worker.output().count("started worker process") >= started,  # noqa: B023
                "a child is started",
            )
        scene.stop(worker)
        assert worker.wait() == 0, "it took the grace time, so a child did not hear of it"
        assert "does not end; killing it" not in worker.output()
        assert scene.counts.running == 0
    scene.worker()
    scene.drained()
    scene.check(ordered=True)


def name(scene: Scene, message: object) -> str:
    found: str = scene.task.codec.decode(message.body)[0]  # type: ignore[attr-defined]
    return found


def check_left(scene: Scene, *, redelivered: set[str] | None = None) -> None:
    """What was begun is done, or given back as such; all else waits as if it was never claimed."""
    counts = scene.counts
    assert counts.running == 0
    assert counts.waiting + counts.totals.get("done", 0) == len(scene.accepted)
    scene.check_store()
    left = {name(scene, message): message for message in scene.left()}
    begun = begun_again(scene.of("start"), redelivered or set())
    for message, found in left.items():
        expected = 1 if message in begun else 0
        assert found.deliveries == expected, f"{message}: {found}"
        assert (found.attempts, found.losses) == (0, 0)
    ended = {event.message for event in scene.of("end")}
    assert (redelivered or set()) <= left.keys()
    assert ended | left.keys() == scene.accepted.keys()
    assert not ended & left.keys()


def begun_again(starts: list[Event], redelivered: set[str]) -> set[str]:
    """All messages of the calls that were given back."""
    tokens = {(event.token, event.at) for event in starts if event.message in redelivered}
    return {event.message for event in starts if (event.token, event.at) in tokens}
