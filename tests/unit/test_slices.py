"""How many messages a slot claims at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskyard.brokers.base import Group
from taskyard.worker.slices import SliceSizes

FAST, SLOW = Group("default", "fast"), Group("default", "slow")


def test_an_unknown_task_starts_with_one_call() -> None:
    assert SliceSizes(0.05).size(FAST, 1) == 1
    assert SliceSizes(0.05).size(FAST, 100) == 100
    assert SliceSizes(0.05).size(FAST, 10_000) == 10_000


def test_a_fast_task_soon_gets_hundreds_but_never_more_than_a_thousand() -> None:
    sizes = SliceSizes(0.05)
    seen = []
    for _ in range(8):
        size = sizes.size(FAST, 1)
        seen.append(size)
        sizes.observe(FAST, size, size * 1e-6)
    assert seen == sorted(seen)
    assert seen[:3] == [1, 8, 64]
    assert seen[-1] == 1000


def test_a_slow_task_stays_at_one() -> None:
    sizes = SliceSizes(0.05)
    for _ in range(10):
        sizes.observe(SLOW, 1, 1.0)
    assert sizes.size(SLOW, 1) == 1


def test_one_slow_call_counts_at_once_and_fast_ones_by_and_by() -> None:
    sizes = SliceSizes(0.05)
    for _ in range(10):
        sizes.observe(FAST, sizes.size(FAST, 1), sizes.size(FAST, 1) * 1e-5)
    assert sizes.size(FAST, 1) == 1000
    sizes.observe(FAST, 1, 1.0)
    assert sizes.size(FAST, 1) == 1
    sizes.observe(FAST, 1, 1e-5)
    assert sizes.size(FAST, 1) < 10


def test_tasks_are_told_apart() -> None:
    sizes = SliceSizes(0.05)
    for _ in range(10):
        sizes.observe(FAST, 100, 1e-4)
        sizes.observe(SLOW, 1, 1.0)
    assert (sizes.size(FAST, 1), sizes.size(SLOW, 1)) == (1000, 1)


def test_nothing_is_learned_from_a_claim_that_ran_nothing() -> None:
    sizes = SliceSizes(0.05)
    sizes.observe(FAST, 0, 10.0)
    assert sizes.size(FAST, 1) == 1


def test_several_batches_are_claimed_together_when_they_are_fast() -> None:
    sizes = SliceSizes(0.05)
    for _ in range(10):
        sizes.observe(FAST, 100, 1e-4)
    assert sizes.size(FAST, 100) == 1000
    assert sizes.size(FAST, 300) == 900
    assert sizes.size(FAST, 512) == 1024  # nearer to a thousand than one of them


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1e6)), max_size=30),
)
def test_always_whole_calls_at_least_one_and_about_a_thousand_messages_at_most(
    batch: int, observed: list[tuple[int, float]]
) -> None:
    sizes = SliceSizes(0.05)
    for messages, seconds in observed:
        sizes.observe(FAST, messages, seconds)
        size = sizes.size(FAST, batch)
        assert size % batch == 0
        assert batch <= size <= max(batch, 1333)
