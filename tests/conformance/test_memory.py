"""What only the memory broker can be asked: whether it forgets, and whom its listeners serve."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator

import pytest

from taskyard.brokers.base import Back, Broker, Dead, Operation, Retried
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.memory.agenda import Agenda
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.rate import Rate
from taskyard.brokers.unique import Mode
from taskyard.message import Failure
from taskyard.testing.conformance.harness import (
    TASK,
    AsyncRunner,
    Clock,
    Harness,
    SyncRunner,
    names,
)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(clock=Clock())


@pytest.fixture(params=[SyncRunner, AsyncRunner])
def harness(request: pytest.FixtureRequest, broker: MemoryBroker) -> Iterator[Harness]:
    clock = broker._clock
    assert isinstance(clock, Clock)
    harness = Harness(broker, request.param(broker), clock)
    yield harness
    harness.close()


def size(state: MemoryState) -> int:
    """Everything that could grow."""
    groups = state.groups.values()
    return (
        sum(len(lane) for group in groups for lane in (group.lanes, group.claims))
        + sum(len(agenda._heap) for group in groups for agenda in (group.ready, group.filling))
        + sum(len(lane._fifos) for group in groups for lane in group.lanes.values())
        + len(state._later._heap)
        + len(state._fading._heap)
        + len(state.leases._heap)
        + len(state.due._heap)
        + len(state._delayed)
        + len(state.keys)
        + len(state.keys._windows._heap)
        + len(state.claims)
        + len(state.records._by_id)
        + len(state.records._expiring)
        + len(state.letters._groups)
        + len(state.listeners._by_name)
        + len(state.listeners._idle)
        + len(state.listeners._waiting)
        + len(state.listeners._ids)
        + len(state._ready_news)
        + len(state._time_news)
    )


def test_lanes_are_forgotten_when_their_limit_is_as_good_as_unused(
    harness: Harness, broker: MemoryBroker
) -> None:
    harness.declare(concurrency=1, shard_rate=Rate(1, 1_000_000, 1))
    groups = broker._state.groups
    for turn in range(20):
        for number in range(100):
            harness.put("x", shard=f"{turn} {number}")
        assert len(harness.work_off()) == 100
        # As they go, each new one forgets two: those of one turn are left, and no more.
        assert len(groups[TASK].lanes) <= 200
        assert len(broker._state._fading) == len(groups[TASK].lanes)
        harness.clock.advance(1)
    harness.tidy()
    assert not groups[TASK].lanes
    assert not broker._state._fading


@pytest.mark.parametrize("concurrency", [0, 1, 2])
def test_nothing_is_left_when_all_is_done(
    harness: Harness, broker: MemoryBroker, concurrency: int
) -> None:
    chance = random.Random(concurrency)
    harness.declare(concurrency=concurrency, size=3, within=2, max_deliveries=2)
    for index in range(1000):
        shard = f"shard {chance.randint(0, 200)}"
        priority, delay = chance.randint(0, 2), chance.choice([0, 0, 3])
        harness.put(f"m{index}", shard=shard, priority=priority, delay=delay, keep=5)
        mode, key = chance.choice(list(Mode)), chance.choice("kl")
        harness.put_unique(mode, f"u{index}", key, span=2, longest=5, shard=shard)
        harness.clock.advance(0.1)
    sleepers = [harness.sleeper() for _ in range(5)]
    harness.records(*(f"m{index}" for index in range(1000)), listener=sleepers[0])
    assert size(broker._state) > 2000
    while broker._state.groups[TASK].present():
        for claim in harness.claims(9, claims=3, drain=True, listener=sleepers[1]):
            ends = [Back(started=True), Retried(10**6), Dead(Failure("failed")), None, None, None]
            outcomes = {id_: chance.choice(ends) for id_ in names(claim)}
            if chance.random() < 0.9:
                done = dict.fromkeys(names(claim), b"")
                chosen = {id_: end for id_, end in outcomes.items() if end is not None}
                harness.settle(claim, chosen, results=done)
        harness.clock.advance(0.5)
        harness.reap("worker")
    assert harness.claim(drain=True, listener=sleepers[2]) is None
    for sleeper in sleepers:
        sleeper.close()
    harness.discard_dead(limit=1000)
    harness.clock.advance(10)
    harness.tidy()
    assert size(broker._state) < 100, "but for the slack of the heaps"


def test_a_queue_that_is_never_empty_is_as_large_as_what_waits(
    harness: Harness, broker: MemoryBroker
) -> None:
    harness.put(*(f"m{index}" for index in range(100)))
    for index in range(100, 3000, 10):
        harness.put(*(f"m{index + number}" for number in range(10)))
        harness.settle(harness.take(10))
    (lane,) = broker._state.groups[TASK].lanes.values()
    (fifo,) = lane._fifos.values()
    assert lane.state.waiting == 100
    assert len(fifo._fresh) < 400


def test_a_listener_that_is_closed_leaves_its_wake_up_to_another(harness: Harness) -> None:
    first, second = harness.idle_worker(), harness.idle_worker()
    harness.put("a")
    assert first.is_woken()
    first.close()
    assert second.is_woken()


def test_a_listener_that_is_closed_leaves_its_time_to_another(harness: Harness) -> None:
    unaware, keeper = harness.idle_worker(), harness.sleeper()
    harness.put("a", delay=60)
    assert unaware.is_woken()
    assert harness.claim(listener=keeper) is None
    other = harness.idle_worker()
    harness.put("b", delay=30)
    assert keeper.is_woken()
    keeper.close()
    assert other.is_woken()


def test_closing_ends_a_wait(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    heard: list[bool] = []
    waiting = threading.Thread(target=lambda: heard.append(sleeper.is_woken()))
    waiting.start()
    sleeper.close()
    waiting.join(5)
    assert heard == [False]


def test_a_listener_of_a_loop_that_is_gone_harms_nobody(broker: MemoryBroker) -> None:
    listener = broker.async_driver().listener()
    loop = asyncio.new_event_loop()
    task = loop.create_task(listener.wait_async(60))
    loop.run_until_complete(asyncio.sleep(0))
    listener.wake()
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    listener.wake()
    assert listener.wait(0)


async def test_a_cancelled_wait_loses_no_wake_up(broker: MemoryBroker) -> None:
    listener = broker.async_driver().listener()
    waiting = asyncio.create_task(listener.wait_async(60))
    await asyncio.sleep(0)
    listener.wake()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await listener.wait_async(5)


async def test_the_drivers_of_a_broker_share_it(broker: MemoryBroker) -> None:
    harness = Harness(broker, SyncRunner(broker), Clock())
    harness.put("a")
    step = await broker.async_driver().run(broker.step([], harness.want()))
    assert names(step.claims[0]) == ["a"]


def test_two_brokers_of_one_url_are_two() -> None:
    first, second = MemoryBroker("memory://"), MemoryBroker("memory://")
    Harness(first, SyncRunner(first), Clock()).put("a")
    assert Harness(second, SyncRunner(second), Clock()).all_counts() == []
    assert (first.durable, first.shared, first.url) == (False, False, "memory://")


def test_without_a_clock_it_goes_by_the_wall_clock() -> None:
    broker = MemoryBroker()
    driver = broker.driver()
    before = time.time_ns() // 1000
    step = driver.run(broker.step([], None))
    after, second = time.time_ns() // 1000, 1_000_000  # it may be set a little meanwhile
    assert before - second < step.now < after + second


def test_a_step_that_fails_changes_nothing(harness: Harness, broker: MemoryBroker) -> None:
    def broken(state: MemoryState) -> None:
        raise ZeroDivisionError

    def operation() -> Operation[str]:
        try:
            yield broken
        except ZeroDivisionError:
            return "told"
        return "not told"

    assert harness.run(operation()) == "told"
    harness.put("a")
    assert harness.work_off() == ["a"]


def test_a_forked_process_has_a_copy_that_works(broker: MemoryBroker) -> None:
    driver = broker.driver()
    harness = Harness(broker, SyncRunner(broker), Clock())
    harness.put("a", "b")
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            driver.run(broker.counts())

    busy = threading.Thread(target=work)
    busy.start()
    try:
        for _ in range(10):
            child = multiprocessing.get_context("fork").Process(target=_take_all, args=(broker,))
            child.start()
            child.join(20)
            assert child.exitcode == 0
    finally:
        stop.set()
        busy.join()
    assert harness.work_off() == ["a", "b"]


def _take_all(broker: Broker) -> None:
    assert Harness(broker, SyncRunner(broker), Clock()).work_off() == ["a", "b"]


# The ordered set below it


def test_an_agenda_gives_items_in_the_order_of_their_keys() -> None:
    agenda: Agenda[str] = Agenda()
    for item, key in (("c", 3), ("a", 1), ("b", 2)):
        agenda.put(item, (key, 0))
    assert agenda.first() == ((1, 0), "a")
    agenda.put("a", (9, 0))
    agenda.drop("b")
    agenda.drop("b")
    assert agenda.first() == ((3, 0), "c")
    assert agenda.take_until(8, 10) == ["c"]
    assert agenda.take_until(9, 10) == ["a"]
    assert agenda.first() is None
    assert len(agenda) == 0


def test_an_agenda_forgets_what_came_and_went() -> None:
    agenda: Agenda[int] = Agenda()
    for index in range(10_000):
        agenda.put(index % 10, (10_000 - index, index))
        agenda.drop(index % 7)
    assert len(agenda._heap) < 200


@pytest.mark.parametrize("seed", range(5))
def test_an_agenda_is_a_sorted_dictionary(seed: int) -> None:
    chance = random.Random(seed)
    agenda: Agenda[int] = Agenda()
    known: dict[int, tuple[int, int]] = {}
    for number in range(3000):
        item = chance.randint(0, 50)
        if chance.random() < 0.7:
            known[item] = (chance.randint(0, 20), number)
            agenda.put(item, known[item])
        else:
            known.pop(item, None)
            agenda.drop(item)
        expected = min(((key, item) for item, key in known.items()), default=None)
        assert agenda.first() == expected
        assert agenda.key(item) == known.get(item)
