"""The source of a run: numbers, the window, what was done before, instants."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults.scene import until

from taskyard.dispatch.engine import Chunk
from taskyard.dispatch.source import CallSource


def source(items: Any, **options: Any) -> CallSource:
    made = CallSource(items, **{"window": 100, **options})
    made.begin()
    return made


def taken(chunk: Chunk | bool | None) -> list[tuple[int, Any]]:
    assert isinstance(chunk, Chunk)
    return list(zip(chunk.ids, chunk.items, strict=True))


def test_items_are_numbered_from_one() -> None:
    made = source("abcde")
    assert taken(made.take(2)) == [(1, "a"), (2, "b")]
    assert taken(made.take(10)) == [(3, "c"), (4, "d"), (5, "e")]
    assert made.take(1) is None


def test_no_more_is_given_than_fits_into_the_window() -> None:
    made = source("abcde", window=3)
    changes = []
    made.on_change(lambda: changes.append(1))
    assert len(taken(made.poll(10))) == 3
    assert made.poll(1) is False
    made.release(2)
    assert changes
    assert taken(made.poll(10)) == [(4, "d"), (5, "e")]


def test_take_waits_until_there_is_room() -> None:
    made = source("ab", window=1)
    made.take(1)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(made.take(1)))
    thread.start()
    made.release(1)
    thread.join(10)
    assert taken(found[0]) == [(2, "b")]


def test_who_waits_is_told_of_the_end() -> None:
    made = source("ab", window=1)
    made.take(1)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(made.take(1)))
    thread.start()
    made.stop()
    thread.join(10)
    assert found == [None]


def test_what_was_done_before_is_left_out() -> None:
    made = source("abcdef", done={1, 2, 4, 6})
    assert taken(made.take(1)) == [(3, "c")]
    assert taken(made.take(5)) == [(5, "e")]
    assert made.take(1) is None
    assert made.taken == 2


def test_planned_calls_are_given_out_when_they_are_due_soon() -> None:
    made = source("abcd", instants=iter([0.0, 0.001, 100.0, 200.0]))
    first = made.take(10)
    assert taken(first)[:2] == [(1, "a"), (2, "b")]
    assert first is not None
    assert first.planned is not None
    assert first.planned[0] == made.started
    assert len(first.ids) == 3  # the next one after those that are due, to wait for
    assert taken(made.take(10)) == [(4, "d")]


def test_the_plan_may_end_before_the_items() -> None:
    made = source("abcd", instants=iter([0.0, 0.0]))
    assert len(taken(made.take(10))) == 2
    assert made.take(10) is None


def test_what_is_due_after_the_runtime_is_not_given_out() -> None:
    made = source("abcd", instants=iter([0.0, 0.5, 1.0, 1.5]), runtime=1.0)
    found = [*taken(made.take(1)), *taken(made.take(1))]
    assert found == [(1, "a"), (2, "b")]
    assert made.take(1) is None


def test_what_was_due_within_the_runtime_and_not_asked_for_is_counted() -> None:
    instants = iter([0.0, 0.01, 0.02, 0.04, 0.06, 5.0, 6.0])
    made = source(itertools.count(), instants=instants, runtime=0.05)
    assert taken(made.take(2)) == [(1, 0), (2, 1)]
    assert made.deadline is not None
    until(lambda: time.monotonic() >= made.deadline, "the runtime is over")
    assert made.take(9) is None
    made.count_missed()
    assert made.missed == 2


def test_items_before_an_error_are_given_out_first() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError

    made = source(items())
    assert len(taken(made.take(10))) == 2
    assert made.take(10) is None
    assert isinstance(made.error, KeyError)


@pytest.mark.parametrize("keep", [True, False])
def test_items_are_remembered_if_they_are_to_be(keep: bool) -> None:
    made = source("abc", keep=keep)
    made.take(3)
    assert made.items_of([3, 1]) == (["c", "a"] if keep else [None, None])
    assert made.items_of([3]) == [None]
