"""Explaining messages of a queue that is being split, from one step of the split to the next."""

from __future__ import annotations

import pytest
from tests.redis.test_split import PLAIN, SHARDS, harness, split
from tests.redis.test_split_cancel import KEEP, fill, splitting

from taskyard.brokers.explain import explain
from taskyard.brokers.explanation import Explanation, Why
from taskyard.brokers.rate import Limited, Rate, Scope
from taskyard.testing.conformance.harness import TASK, Harness, Make, micros

__all__ = ["harness"]


def why(harness: Harness, id_: str) -> Explanation:
    return harness.run(explain(harness.broker, id_))


@pytest.mark.parametrize("keep", [KEEP, None], ids=["recorded", "not recorded"])
def test_between_the_steps_of_a_split(harness: Harness, keep: float | None) -> None:
    ids = fill(harness, keep)
    before = {id_: why(harness, id_).reason for id_ in ids}
    assert {*before.values()} == {Why.RETRYING, Why.DELAYED, Why.BLOCKED, Why.NO_WORKER}
    seen: set[Why] = set()
    for number, _ in enumerate(splitting(harness)):
        for id_ in ids[number % 7 :: 7]:
            found = why(harness, id_)
            if found.reason is Why.UNKNOWN:
                assert keep is None
                assert not found.searched  # it says that it is not sure
            else:
                assert found.reason in (before[id_], Why.MOVING)
            seen.add(found.reason)
    assert (Why.MOVING if keep else Why.UNKNOWN) in seen
    assert {id_: why(harness, id_).reason for id_ in ids} == before


def test_another_program_finds_it_wherever_it_is(make: Make, harness: Harness) -> None:
    ids = fill(harness, KEEP)
    before = {id_: why(harness, id_).reason for id_ in ids}
    another = make()
    split(harness)
    assert {id_: why(another, id_).reason for id_ in ids} == before


def test_a_partition_has_its_part_of_a_rate_limit(harness: Harness) -> None:
    split(harness)
    harness.set_rate(Limited(TASK.queue), Rate(2, micros(100), 2))
    harness.put("a", "b", group=PLAIN, shard="s", keep=KEEP)
    harness.take(groups=[PLAIN], lease=1000)
    found = why(harness, "b")
    assert (found.reason, found.limit) == (Why.LIMITED, Scope.QUEUE)
    assert found.until is not None
    assert round(found.until.timestamp() * 1e6) == harness.clock.now + micros(100)
    harness.clock.advance(100)
    assert why(harness, "b").reason is Why.NO_WORKER
    assert harness.work_off(groups=[PLAIN]) == ["b"]


def test_a_shard_waits_for_what_runs_where_it_was(harness: Harness) -> None:
    for shard in SHARDS:
        harness.put(f"{shard} runs", shard=shard, keep=KEEP)
    claims = harness.claims(claims=len(SHARDS))
    harness.run(harness.broker.split(TASK.queue))  # type: ignore[attr-defined]
    for shard in SHARDS:
        harness.put(f"{shard} waits", shard=shard, keep=KEEP)
    found = {why(harness, f"{shard} waits").reason for shard in SHARDS}
    assert found == {Why.BUSY, Why.MOVING}
    assert {why(harness, f"{shard} runs").reason for shard in SHARDS} == {Why.RUNNING}
    for claim in claims:
        harness.settle(claim)
    split(harness)
    assert {why(harness, f"{shard} waits").reason for shard in SHARDS} == {Why.NO_WORKER}
