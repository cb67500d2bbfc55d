"""Finding the bad messages of a failed batch, against simulated handlers."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from taskyard.worker.bisect import Search, bisect, bisect_ordered

WHOLE = ValueError("the whole batch")


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, frozenset[int]]:
    """The size of a batch of two or more, and the indices of its bad messages, at least one."""
    count = draw(st.integers(2, 300))
    some = st.frozensets(st.integers(0, count - 1), min_size=1, max_size=20)
    return count, draw(some | st.just(frozenset(range(count))))


class Handler:
    """Fails when its batch has a bad message; remembers what it was called with."""

    def __init__(self, bad: frozenset[int]) -> None:
        self.bad = bad
        self.calls: list[tuple[int, int]] = []
        self.done: list[int] = []

    def __call__(self, first: int, last: int) -> BaseException | None:
        assert first < last, "called with an empty batch"
        self.calls.append((first, last))
        found = [index for index in range(first, last) if index in self.bad]
        if found:
            return ValueError(found[0])
        self.done.extend(range(first, last))
        return None


def carry_out(search: Search, handler: Handler) -> dict[int, BaseException]:
    try:
        first, last = next(search)
        while True:
            first, last = search.send(handler(first, last))
    except StopIteration as end:
        failed: dict[int, BaseException] = end.value
        return failed


def expected_failures(first: int, last: int, bad: frozenset[int]) -> set[int]:
    """By the rule: where both halves fail, all of it does; else the failing half is looked at."""
    if last - first == 1:
        return {first}
    middle = (first + last) // 2
    halves = [(first, middle), (middle, last)]
    failing = [half for half in halves if bad.intersection(range(*half))]
    if len(failing) == 2:
        return set(range(first, last))
    return expected_failures(*failing[0], bad) if failing else set()


@given(batches())
def test_to_singles_exactly_the_bad_ones_fail(batch: tuple[int, frozenset[int]]) -> None:
    count, bad = batch
    handler = Handler(bad)
    failed = carry_out(bisect(count, WHOLE, to_singles=True), handler)
    assert set(failed) == bad
    assert all(error.args == (index,) for index, error in failed.items())
    assert sorted(handler.done) == sorted(set(range(count)) - bad)


@given(batches())
def test_to_singles_calls_are_bounded(batch: tuple[int, frozenset[int]]) -> None:
    count, bad = batch
    handler = Handler(bad)
    carry_out(bisect(count, WHOLE, to_singles=True), handler)
    assert len(handler.calls) <= 2 * len(bad) * math.ceil(math.log2(count))
    assert len(handler.calls) <= 2 * (count - 1)
    assert len(set(handler.calls)) == len(handler.calls)


@given(batches())
def test_where_both_halves_fail_all_of_it_fails(batch: tuple[int, frozenset[int]]) -> None:
    count, bad = batch
    handler = Handler(bad)
    failed = carry_out(bisect(count, WHOLE, to_singles=False), handler)
    assert set(failed) == expected_failures(0, count, bad)
    assert bad <= set(failed)
    assert len(handler.calls) <= 2 * math.ceil(math.log2(count))


@given(st.integers(2, 10_000))
def test_an_outage_costs_two_calls(count: int) -> None:
    handler = Handler(frozenset(range(count)))
    failed = carry_out(bisect(count, WHOLE, to_singles=False), handler)
    assert failed == dict.fromkeys(range(count), WHOLE)
    assert len(handler.calls) == 2


@given(st.integers(2, 10_000), st.data())
def test_one_bad_one_is_found_and_the_others_run_once_more(count: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, count - 1))
    handler = Handler(frozenset([bad]))
    failed = carry_out(bisect(count, WHOLE, to_singles=False), handler)
    assert set(failed) == {bad}
    assert sorted(handler.done) == [index for index in range(count) if index != bad]


def test_a_batch_whose_halves_both_succeed_is_done() -> None:
    handler = Handler(frozenset())
    assert carry_out(bisect(8, WHOLE, to_singles=False), handler) == {}
    assert handler.calls == [(0, 4), (4, 8)]
    handler = Handler(frozenset())
    assert carry_out(bisect_ordered(8, WHOLE, go_on=False), handler) == {}
    assert handler.calls == [(0, 4), (4, 8)]


@given(batches())
def test_ordered_stops_at_the_first_bad_one(batch: tuple[int, frozenset[int]]) -> None:
    count, bad = batch
    handler = Handler(bad)
    failed = carry_out(bisect_ordered(count, WHOLE, go_on=False), handler)
    assert set(failed) == {min(bad)}
    assert handler.done == list(range(min(bad)))
    assert len(handler.calls) <= 2 * math.ceil(math.log2(count))


@given(batches())
def test_ordered_that_goes_on_runs_all_good_ones_in_order(
    batch: tuple[int, frozenset[int]],
) -> None:
    count, bad = batch
    handler = Handler(bad)
    failed = carry_out(bisect_ordered(count, WHOLE, go_on=True), handler)
    assert set(failed) == bad
    assert list(failed) == sorted(bad)
    assert handler.done == [index for index in range(count) if index not in bad]
    assert len(handler.calls) <= 2 * len(bad) * math.ceil(math.log2(count)) + 1


@given(batches(), st.booleans())
def test_ordered_runs_nothing_before_what_is_ahead_of_it(
    batch: tuple[int, frozenset[int]], go_on: bool
) -> None:
    count, bad = batch
    handler = Handler(bad)
    carry_out(bisect_ordered(count, WHOLE, go_on=go_on), handler)
    settled = 0
    for first, last in handler.calls:
        assert first == settled, "a message was run, or left out, before its turn"
        if not bad.intersection(range(first, last)):
            settled = last
        elif last - first == 1:
            settled = last if go_on else settled
