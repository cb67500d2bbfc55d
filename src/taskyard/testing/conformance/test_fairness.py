"""A tenant with many messages beside one with few: the few do not wait for the many."""

from __future__ import annotations

import pytest

from taskyard.brokers.base import Group
from taskyard.testing.conformance.harness import TASK, Harness, names

MANY, FEW = 10_000, 10
OTHER = Group(TASK.queue, "other task")


def fill(harness: Harness) -> None:
    """A tenant puts many messages, of which a worker has begun with some."""
    for first in range(0, MANY, 1000):
        harness.put(*(f"large {number}" for number in range(first, first + 1000)), shard="large")
    claim = harness.take(10)
    assert harness.settle(claim)


def done_before_the_few(harness: Harness, messages: int) -> int:
    """Work until the few messages are done, and say how many of the many were done meanwhile."""
    large = small = 0
    while small < FEW:
        claim = harness.take(messages, groups=[TASK, OTHER])
        for name in names(claim):
            if name.startswith("small"):
                small += 1
            else:
                large += 1
        assert harness.settle(claim)
    return large


@pytest.mark.parametrize("concurrency", [0, 1])
@pytest.mark.parametrize("messages", [1, 10])
def test_a_few_of_another_shard_are_done_before_a_hundredth_of_the_many(
    harness: Harness, messages: int, concurrency: int
) -> None:
    harness.declare(concurrency=concurrency)
    fill(harness)
    harness.put(*(f"small {number}" for number in range(FEW)), shard="small")
    assert done_before_the_few(harness, messages) < MANY // 100


def test_a_few_of_another_task_are_done_before_a_hundredth_of_the_many(harness: Harness) -> None:
    fill(harness)
    harness.put(*(f"small {number}" for number in range(FEW)), group=OTHER)
    assert done_before_the_few(harness, 1) < MANY // 100
