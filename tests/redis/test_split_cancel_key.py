"""Cancelling who holds a unique key, in a queue that is being split, and in one that was."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from tests.redis.test_split import MOVES, PLAIN, SHARDS, STAYS, advance, harness, split, until
from tests.redis.test_split_cancel import BOTH, splitting, total, work_off

from taskyard.brokers.base import Group
from taskyard.brokers.cancelling import Cancelled
from taskyard.brokers.unique import Mode
from taskyard.testing.conformance.harness import Harness, Make

__all__ = ["harness"]

KEEP = 600.0
HELD = [Mode.STARTED, Mode.DONE, Mode.WINDOW, Mode.DEBOUNCE]
RECORDS = pytest.mark.parametrize("keep", [KEEP, None], ids=["recorded", "unrecorded"])
TIMES: dict[Mode, dict[str, float]] = {
    Mode.WINDOW: {"span": 600},
    Mode.DEBOUNCE: {"span": 5, "longest": 50},
}


def put(harness: Harness, mode: Mode, id_: str, group: Group = PLAIN, **more: Any) -> str | None:
    """Put under the mode as the key; answers who stands, None: it is new."""
    return harness.put_unique(mode, id_, mode, group=group, **TIMES.get(mode, {}), **more)


def cancel(harness: Harness, mode: Mode, shard: str = MOVES, group: Group = PLAIN) -> Cancelled:
    return harness.run(harness.broker.cancel_key(group, shard, mode)).outcome


@RECORDS
@pytest.mark.parametrize("between", [1, 4])
def test_keys_are_found_between_the_steps_of_a_split(
    harness: Harness, keep: float | None, between: int
) -> None:
    places = list(itertools.product(BOTH, SHARDS[:8], HELD))
    for group, shard, mode in places:
        put(harness, mode, name_of((group, shard, mode)), group, shard=shard, keep=keep)
    steps = itertools.islice(splitting(harness), 0, None, between)
    rest = iter(places[::2] + places[1::2])
    gone = []
    for _, place in zip(steps, rest, strict=False):
        assert is_cancelled(harness, *place, keep is not None)
        gone.append(place)
    split(harness)
    for place in itertools.islice(rest, 20):
        assert is_cancelled(harness, *place, keep is not None)
        gone.append(place)
    left = [place for place in places if place not in gone]
    assert sorted(work_off(harness)) == sorted(map(name_of, left))
    assert total(harness, "cancelled") == len(gone)
    for group, shard, mode in gone:
        assert put(harness, mode, f"new {group.name} {shard} {mode}", group, shard=shard) is None


def name_of(place: tuple[Group, str, Mode]) -> str:
    group, shard, mode = place
    return f"{group.name} {shard} {mode}"


def is_cancelled(harness: Harness, group: Group, shard: str, mode: Mode, recorded: bool) -> bool:
    outcome = cancel(harness, mode, shard, group)
    # What is about to leave, and not in its lane, is not looked for.
    may_be_noted = not recorded or mode is Mode.DEBOUNCE
    return outcome is Cancelled.REMOVED or (may_be_noted and outcome is Cancelled.NOTED)


@pytest.mark.parametrize("mode", [Mode.DONE, Mode.WINDOW])
@RECORDS
def test_what_runs_where_it_was_is_told(harness: Harness, mode: Mode, keep: float | None) -> None:
    put(harness, mode, "a", shard=MOVES, keep=keep)
    claim = harness.take(groups=[PLAIN])
    assert not advance(harness).done
    assert cancel(harness, mode) is Cancelled.TOLD
    assert [token for token, _ in harness.run(harness.broker.pulse([claim.token]))] == [claim.token]
    assert put(harness, mode, "b", shard=MOVES) == ("a" if mode is Mode.DONE else None)
    harness.settle(claim)
    split(harness)
    assert put(harness, mode, "c", shard=MOVES) == (None if mode is Mode.DONE else "b")


@pytest.mark.parametrize("before", [True, False])
def test_the_window_of_what_ended_stays(harness: Harness, before: bool) -> None:
    put(harness, Mode.WINDOW, "a", shard=MOVES, keep=KEEP)
    if not before:
        split(harness)
    harness.settle(harness.take(groups=[PLAIN]), results={"a": b"result"})
    if before:
        split(harness)
    assert cancel(harness, Mode.WINDOW) is Cancelled.ENDED
    assert put(harness, Mode.WINDOW, "b", shard=MOVES) == "a"


@RECORDS
def test_what_is_left_of_a_window_is_not_taken_for_the_next(
    harness: Harness, keep: float | None
) -> None:
    put(harness, Mode.WINDOW, "a", shard=MOVES, keep=keep)
    split(harness)
    assert cancel(harness, Mode.WINDOW) in (Cancelled.REMOVED, Cancelled.NOTED)
    assert cancel(harness, Mode.WINDOW) is Cancelled.UNKNOWN
    assert put(harness, Mode.WINDOW, "b", shard=MOVES, keep=keep) is None
    assert cancel(harness, Mode.WINDOW) in (Cancelled.REMOVED, Cancelled.NOTED)
    assert harness.work_off(groups=[PLAIN]) == []
    assert total(harness, "cancelled") == 2


@RECORDS
def test_a_debounced_message_that_was_replaced_while_it_moved(
    harness: Harness, keep: float | None
) -> None:
    put(harness, Mode.DEBOUNCE, "a", shard=MOVES, keep=keep)
    until(harness, "export")
    assert put(harness, Mode.DEBOUNCE, "b", shard=MOVES, keep=keep) is None
    assert cancel(harness, Mode.DEBOUNCE) is Cancelled.REMOVED
    split(harness)
    assert cancel(harness, Mode.DEBOUNCE) is Cancelled.UNKNOWN
    assert work_off(harness) == []


@pytest.mark.parametrize("mode", HELD)
@pytest.mark.parametrize("shard", [MOVES, STAYS])
def test_another_program_finds_what_moved(
    make: Make, harness: Harness, mode: Mode, shard: str
) -> None:
    another = make()
    put(harness, mode, "a", shard=shard, keep=KEEP)
    another.records("a")
    split(harness)
    assert cancel(another, mode, shard) is Cancelled.REMOVED
    assert put(harness, mode, "b", shard=shard, keep=KEEP) is None
