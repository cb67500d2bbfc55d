"""Dead letters over many calls: which, in which order, and what others do in between."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar, cast

import pytest
from tests.redis.splitting import atomic
from tests.servers.server import RedisServer

from taskyard.brokers.base import Dead, DeadLetter, DeadQuery, Group, Operation
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.redis.calls import Call
from taskyard.message import Failure
from taskyard.testing.conformance.harness import Clock, Harness, SyncRunner, names

T = TypeVar("T")

BROKEN = Failure("failed")
GROUPS = [Group("orders" if number % 2 else "mails", f"g{number}") for number in range(7)]


@pytest.fixture
def harness(redis_server: RedisServer) -> Iterator[Harness]:
    clock = Clock()
    url = f"{redis_server.url}?prefix=letters-{uuid.uuid4().hex[:8]}"
    broker = RedisBroker(parse_url(url), clock=clock)
    made = Harness(broker, SyncRunner(broker), clock)
    yield made
    made.close()


def bury(harness: Harness, *ids: str, group: Group = GROUPS[0]) -> None:
    harness.put(*ids, group=group)
    while (claim := harness.claim(1000, groups=[group])) is not None:
        harness.settle(claim, {id_: Dead(BROKEN, id_) for id_ in names(claim)})


def bury_in_turn(harness: Harness, number: int) -> None:
    """Letters whose numbers say in which order they died, in all groups by turns."""
    for index in range(number):
        bury(harness, f"m{index}", group=GROUPS[index * 3 % 7])


def ids(letters: list[DeadLetter]) -> list[str]:
    return [letter.id for letter in letters]


def test_the_oldest_of_all_groups_come_first(harness: Harness) -> None:
    bury_in_turn(harness, 70)
    expected = [f"m{index}" for index in range(70)]
    assert ids(harness.dead(limit=1)) == expected[:1]
    assert ids(harness.dead(limit=30)) == expected[:30]
    assert ids(harness.dead(limit=100)) == expected
    assert ids(harness.dead(limit=10, after=harness.dead(limit=30)[-1].number)) == expected[30:40]


def test_pages_of_a_queue_are_all_of_it(harness: Harness) -> None:
    bury_in_turn(harness, 70)
    found: list[DeadLetter] = []
    while page := harness.dead(limit=8, queue="orders", after=found[-1].number if found else 0):
        found += page
    assert ids(found) == [f"m{index}" for index in range(70) if index * 3 % 7 % 2]


@pytest.mark.parametrize("change", ["retry", "discard"])
def test_the_oldest_are_taken_away(harness: Harness, change: str) -> None:
    bury_in_turn(harness, 70)
    take = harness.retry_dead if change == "retry" else harness.discard_dead
    assert take(limit=30) == 30
    assert ids(harness.dead()) == [f"m{index}" for index in range(30, 70)]


def test_numbers_may_be_named_twice_and_be_gone(harness: Harness) -> None:
    bury_in_turn(harness, 10)
    numbers = [letter.number for letter in harness.dead()]
    assert harness.discard_dead(numbers=numbers[:2]) == 2
    named = [999, *numbers[::-1], *numbers]
    assert ids(harness.dead(numbers=named, limit=3)) == ["m2", "m3", "m4"]
    assert harness.discard_dead(numbers=named, limit=3) == 3
    assert harness.discard_dead(numbers=named, queue="orders") == 2
    assert ids(harness.dead(numbers=named)) == ["m6", "m7", "m9"]


def beside(operation: Operation[T], script: str, happens: Callable[[], object]) -> Operation[T]:
    """Let something happen before each call of a script."""
    steps = atomic(operation)
    try:
        step = next(steps)
        while True:
            if isinstance(step, Call) and step.script.name == script:
                happens()
            step = steps.send((yield step))
    except StopIteration as end:
        return cast("T", end.value)


def test_others_take_the_place_of_letters_that_went_meanwhile(harness: Harness) -> None:
    bury_in_turn(harness, 20)
    first = [letter.number for letter in harness.dead(limit=4)]

    def discard() -> None:
        harness.discard_dead(numbers=first)

    found = harness.run(beside(harness.broker.dead(DeadQuery(limit=6)), "letters", discard))
    assert ids(found) == [f"m{index}" for index in range(4, 10)]


def test_two_at_once_put_each_letter_back_once(harness: Harness) -> None:
    for group in GROUPS:
        bury(harness, *(f"{group.name}-{index}" for index in range(200)), group=group)
    others: list[int] = []
    query = DeadQuery(limit=1 << 62)

    def also() -> None:
        others.append(harness.run(harness.broker.retry_dead(DeadQuery(limit=150))))

    changed = harness.run(beside(harness.broker.retry_dead(query), "redrive", also))
    assert (changed + sum(others), len(others)) == (1400, 3)
    waiting: Counter[str] = Counter()
    for group in GROUPS:
        while (claim := harness.claim(1000, groups=[group])) is not None:
            waiting.update(names(claim))
            harness.settle(claim)
    assert (len(waiting), set(waiting.values())) == (1400, {1})


def test_one_tidying_removes_only_so_many(harness: Harness) -> None:
    for group in GROUPS[:2]:
        bury(harness, *(f"{group.name}-{index}" for index in range(550)), group=group)
    harness.clock.advance(31 * 86_400)
    removed = [harness.run(harness.broker.tidy()) for _ in range(4)]
    assert removed == [500, 500, 100, 0]
