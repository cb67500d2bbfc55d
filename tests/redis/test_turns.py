"""Whose turn it is, among containers from which the same slots are filled."""

from __future__ import annotations

import pytest

from taskyard.brokers.redis.turns import STAY, Turns

CONTAINERS = [1, 2, 3, 4]


class Time:
    """What is taken for the clock of the process."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr("taskyard.brokers.redis.turns.time", made)
    return made


def serve(turns: Turns, *settled: int, empty: tuple[int, ...] = ()) -> int:
    """Claim one; returns where."""
    order = turns.order(CONTAINERS, settled)
    assert sorted(order) == CONTAINERS
    found = next(container for container in order if container not in empty)
    turns.gave(found)
    return found


def test_who_settles_claims_there_for_a_while(time: Time) -> None:
    turns = Turns()
    first = serve(turns)
    assert [serve(turns, first) for _ in range(5)] == [first] * 5
    time.now += STAY
    assert serve(turns, first) != first


def test_each_gets_its_turn(time: Time) -> None:
    turns, served = Turns(), []
    for _ in range(2 * len(CONTAINERS)):
        served.append(serve(turns, 2))
        assert serve(turns, 2) == serve(turns, 3) == served[-1]  # whatever is settled meanwhile
        time.now += STAY
    assert set(served[:4]) == set(CONTAINERS)
    assert served[:4] == served[4:]


def test_who_is_behind_empty_ones_gets_no_more_turns(time: Time) -> None:
    turns, served = Turns(), []
    for _ in range(8):
        served.append(serve(turns, 1, empty=(2, 3)))
        time.now += STAY
    assert served.count(1) == served.count(4)


def test_who_settles_nothing_goes_on_to_the_next() -> None:
    turns = Turns()
    assert {serve(turns) for _ in CONTAINERS} == set(CONTAINERS)


def test_what_is_settled_elsewhere_is_asked_too() -> None:
    assert set(Turns().order([1, 2], [7])) == {1, 2, 7}
