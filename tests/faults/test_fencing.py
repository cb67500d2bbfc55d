"""A fenced settle: who lost the lease cannot overwrite, and its handler can see that it did."""

from __future__ import annotations

import os
import re
import signal

import pytest
from tests.faults.evidence import ENDS, Event
from tests.faults.program import Item
from tests.faults.scene import Process, Scene, is_stopped, until
from tests.variants import some_in_short

KINDS = ["single", "coroutine", "batch", "ordered", "ordered_coroutine", "ordered_batch"]


@pytest.mark.parametrize(
    "kind", some_in_short(KINDS, ["single", "ordered_coroutine", "ordered_batch"])
)
def test_who_lost_the_lease_sees_it_and_settles_nothing(scene: Scene, kind: str) -> None:
    scene.setup(kind=kind)
    scene.put([Item("held", "s", "hold once"), Item("behind", "s")])
    # It keeps what is behind: given back, that would be claimed anew, and might just begin. So it
    # might in another slot.
    first = scene.worker(settings={"lease": 0.5, "slice": 60.0, "concurrency": 1})
    began = scene.began("held")
    scene.pause(first.pid)
    second = scene.worker()
    again = scene.began("held", 2)
    assert again.token > began.token
    assert again.delivery == 2
    scene.drained()  # the second one is done, while the first is still stopped
    scene.resume(first.pid)
    seen = until(lambda: scene.of("lost", "held"), "the first sees that it lost its lease")
    assert (seen[0].pid, seen[0].token) == (first.pid, began.token)
    scene.release()
    until(lambda: has_ended(scene, began), "the first has ended")
    scene.stop(first)
    scene.stop(second)
    assert (first.wait(), second.wait()) == (0, 0)
    evidence = scene.check(ordered=kind.startswith("ordered"))
    assert evidence.runs["held"][0].saw_loss
    # Told at the renewal, or at the settling if that came first.
    assert re.search("was lost|had been lost", first.output())


@pytest.mark.parametrize(
    "kind",
    some_in_short(
        ["single", "coroutine", "ordered", "ordered_batch"], ["coroutine", "ordered_batch"]
    ),
)
def test_a_claim_that_was_lost_on_its_way_is_not_begun(scene: Scene, kind: str) -> None:
    """Stopped between the commit of a claim and its reply, for longer than the lease."""
    scene.setup(kind=kind)
    scene.fill(4, shards=2)
    first = scene.worker(
        probe="claim committed", action="pause", settings={"lease": 0.5, "concurrency": 1}
    )
    until(lambda: scene.of("pause"), "it has claimed something")
    until(lambda: is_stopped(first.pid), "it is stopped")
    scene.worker()
    scene.drained()
    scene.resume(first.pid)
    until(lambda: "lost" in first.output(), "it hears of it")
    scene.stop(first)
    assert first.wait() == 0
    assert {event.pid for event in scene.of("start")} != {first.pid}
    scene.check(ordered=kind.startswith("ordered"))
    assert len(scene.of("start")) == 4


def has_ended(scene: Scene, began: Event) -> bool:
    """Whether that run is over; a coroutine is cancelled, if it does not end by itself before."""
    ends = [event for kind in ENDS for event in scene.of(kind, began.message)]
    return any((event.pid, event.token) == (began.pid, began.token) for event in ends)


@pytest.mark.parametrize("kind", ["single", "batch", "ordered"])
def test_a_settle_after_the_lease_is_refused_by_the_broker(scene: Scene, kind: str) -> None:
    """The handler ends in the moment in which its process goes on: nobody had time to tell it."""
    scene.setup(kind=kind)
    scene.put([Item("held", "s", "hold once"), Item("behind", "s")])
    # One slot: what it had claimed and not begun, it would begin, unaware that its lease is gone.
    first = scene.worker(settings={"lease": 60.0, "concurrency": 1})
    began = scene.began("held")
    scene.pause(first.pid)
    scene.expire()
    scene.worker()
    scene.began("held", 2)
    scene.drained()
    scene.release()
    scene.resume(first.pid)
    until(lambda: str(began.token) in first.output(), "the refusal is told")
    assert "had been lost; nothing of it is settled" in first.output()
    # Nobody else's claim was open any more, so this overlap is none of the checker's.
    evidence = scene.check()
    assert len(evidence.runs["held"]) == 2


def test_a_worker_that_only_paused_goes_on(scene: Scene) -> None:
    """Nobody took the claim meanwhile, so it is still held, and nothing is repeated."""
    scene.setup(kind="ordered")
    scene.put([Item("held", "s", "hold once"), Item("behind", "s")])
    worker = scene.worker(settings={"lease": 60.0})
    scene.began("held")
    os.kill(worker.pid, signal.SIGSTOP)
    until(lambda: is_stopped(worker.pid), "it is stopped")
    scene.release()
    scene.resume(worker.pid)
    scene.drained()
    evidence = scene.check(ordered=True)
    assert len(evidence.runs["held"]) == 1


def test_fifo_holds_while_workers_pause_over_many_shards(scene: Scene) -> None:
    scene.setup(kind="ordered", policy={"max_deliveries": 1000})
    holding = dict.fromkeys(range(0, 1000, 211), "hold once")
    scene.fill(3000, shards=1000, deeds=holding)
    first = scene.worker(settings={"lease": 0.5, "concurrency": 4})
    second = scene.worker(settings={"lease": 0.5, "concurrency": 4})
    for victim in (first, second):
        # All that it holds in this moment is lost to the other one.
        until(
            lambda: len([e for e in scene.of("start") if e.pid == victim.pid]) >= 2,  # noqa: B023
            "it works",
        )
        scene.pause(victim.pid)
        survivor = second if victim is first else first
        until(lambda: owner_of(victim) not in scene.store.owners(), "its claims are lost")  # noqa: B023
        assert survivor.code is None
        scene.resume(victim.pid)
    scene.release()
    scene.drained()
    for worker in (first, second):
        scene.stop(worker)
        assert worker.wait() == 0
    scene.check(ordered=True)
    scene.check_store()


def owner_of(worker: Process) -> str:
    """Its name in the broker, as its log has it."""
    found = re.search(r"worker (\S+) started", worker.output())
    assert found is not None
    return found[1]
