"""Cancelling messages of a queue that is being split, from one step of the split to the next."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest
from tests.redis.splitting import atomic
from tests.redis.test_split import PLAIN, SHARDS, _alone, harness, split

from taskyard.brokers.base import Back, Group, Retried
from taskyard.brokers.cancelling import Cancellation, Cancelled
from taskyard.testing.conformance.harness import TASK, Harness, Make, micros

__all__ = ["harness"]

KEEP = 600.0
BOTH = [TASK, PLAIN]
DONE = {Cancelled.REMOVED, Cancelled.NOTED}


def cancel(harness: Harness, id_: str, *, note: bool = True) -> Cancellation:
    return harness.run(harness.broker.cancel(id_, note=note))


def total(harness: Harness, what: str) -> int:
    return sum(counts.totals.get(what, 0) for counts in harness.all_counts())


def fill(harness: Harness, keep: float | None) -> list[str]:
    """Put messages of many shards: at once, delayed, and backing off; returns their ids."""
    ids = []
    for group, shard in itertools.product(BOTH, SHARDS[:8]):
        mine = [f"{group.name} {shard} {kind}" for kind in ("failed", "a", "b", "c", "later")]
        harness.put(mine[0], group=group, shard=shard, keep=keep)
        claim = harness.take(groups=[group])
        harness.settle(claim, every=Retried(micros(30)), records=keep is not None)
        harness.put(*mine[1:4], group=group, shard=shard, keep=keep)
        harness.put(mine[4], group=group, shard=shard, keep=keep, delay=60)
        ids += mine
    return ids


def splitting(harness: Harness) -> Iterator[None]:
    """Split, and stop after each step."""
    steps = atomic(harness.broker.split(TASK.queue))  # type: ignore[attr-defined]
    with contextlib.suppress(StopIteration):
        step = next(steps)
        while True:
            reply = harness.run(_alone(step))
            yield
            step = steps.send(reply)


def work_off(harness: Harness) -> list[str]:
    """All that is run in the end."""
    left = harness.work_off(groups=BOTH)
    for _ in range(3):
        harness.clock.advance(61)
        left += harness.work_off(groups=BOTH)
    return left


@pytest.mark.parametrize("keep", [KEEP, None], ids=["recorded", "noted"])
@pytest.mark.parametrize("between", [1, 3])
def test_messages_are_cancelled_between_the_steps_of_a_split(
    harness: Harness, keep: float | None, between: int
) -> None:
    ids = fill(harness, keep)
    gone = ids[::3]
    rest = iter(gone)
    steps = itertools.islice(splitting(harness), 0, None, between)
    outcomes = [
        cancel(harness, id_, note=keep is None).outcome for _, id_ in zip(steps, rest, strict=False)
    ]
    split(harness)
    outcomes += [cancel(harness, id_, note=keep is None).outcome for id_ in rest]
    assert set(outcomes) <= DONE
    assert sorted(work_off(harness)) == sorted(set(ids).difference(gone))
    assert total(harness, "cancelled") == len(gone)
    if keep is not None:
        assert {harness.state(id_) for id_ in gone} == {"cancelled"}


def test_records_lead_to_messages_that_moved(harness: Harness) -> None:
    ids = fill(harness, KEEP)
    split(harness)
    assert {cancel(harness, id_).outcome for id_ in ids} == {Cancelled.REMOVED}
    assert work_off(harness) == []


def test_another_program_finds_what_moved(make: Make, harness: Harness) -> None:
    another = make()
    ids = fill(harness, KEEP)
    another.records(ids[0])
    split(harness)
    assert {cancel(another, id_).outcome for id_ in ids} == {Cancelled.REMOVED}


@pytest.mark.parametrize("group", BOTH, ids=str)
def test_what_is_noted_does_not_leave(harness: Harness, group: Group) -> None:
    harness.put("a", "b", group=group, shard="a")
    harness.put("c", "d", group=group, shard="a", delay=1)
    for id_ in "ac":
        assert cancel(harness, id_).outcome is Cancelled.NOTED
    split(harness)
    harness.clock.advance(1)
    assert harness.work_off(groups=BOTH) == ["b", "d"]
    assert total(harness, "cancelled") == 2


@pytest.mark.parametrize("group", BOTH, ids=str)
def test_what_runs_is_told_where_it_was(harness: Harness, group: Group) -> None:
    harness.put("x", "y", group=group, shard="a", keep=KEEP)
    claim = harness.take(groups=[group])
    steps = atomic(harness.broker.split(TASK.queue))  # type: ignore[attr-defined]
    step = next(steps)
    while step.script.name != "export":
        step = steps.send(harness.run(_alone(step)))
    assert cancel(harness, "x").outcome is Cancelled.TOLD
    assert [token for token, _ in harness.run(harness.broker.pulse([claim.token]))] == [claim.token]
    harness.settle(claim, every=Back(started=True))
    split(harness)
    assert harness.state("x") == "cancelled"
    assert harness.work_off(groups=BOTH) == ["y"]
