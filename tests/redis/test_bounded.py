"""Bounded queues over several containers, in splits, and filled by inboxes and schedules."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import msgspec
import pytest
from tests.redis.test_inbox import Scene as InboxScene
from tests.redis.test_inbox import courier as move_lots
from tests.redis.test_inbox_worker import Site, site_on
from tests.redis.test_schedules import GROUP, Scene
from tests.redis.test_split import advance, split
from tests.servers.cluster import RedisCluster
from tests.servers.server import RedisServer
from tests.worker.support import WorkerThread

from taskyard.brokers.base import Group, Put
from taskyard.brokers.bounds import NO_BOUNDS, Bounds, Overflow
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.schedules import Schedule
from taskyard.errors import QueueFull
from taskyard.testing.conformance.harness import TASK, Clock, Harness, SyncRunner, body
from taskyard.worker.inbox import Reader
from taskyard.yard import Yard

SHARDS = [str(number) for number in range(40)]
Q = "q1"
Make = Callable[..., Harness]


@pytest.fixture(params=["redis_server", "redis_cluster"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes a harness with a broker of its own; all of them share their keys and clock."""
    server: RedisServer | RedisCluster = request.getfixturevalue(request.param)
    prefix, clock = f"bounded-{uuid.uuid4().hex[:8]}", Clock()
    made: list[Harness] = []

    def make(partitions: int = 0, **options: int) -> Harness:
        broker = RedisBroker(parse_url(f"{server.url}?prefix={prefix}"), clock=clock, **options)
        if partitions:
            broker.set_partitions(TASK.queue, partitions)
        made.append(Harness(broker, SyncRunner(broker), clock))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


def bound(harness: Harness, bounds: Bounds | None, queue: str = TASK.queue) -> None:
    harness.run(harness.broker.set_bounds(queue, bounds))


def fill(harness: Harness, shards: list[str] = SHARDS) -> dict[Hashable, int]:
    """Put a message per shard; returns how many of them each container took."""
    taken: dict[Hashable, int] = {}
    for shard in shards:
        put = Put(TASK, [body(shard)], shard)
        try:
            harness.put_all(put)
        except QueueFull:
            continue
        container = harness.broker.partition(put)
        taken[container] = taken.get(container, 0) + 1
    return taken


# Partitions


def test_partitions_share_the_limit(make: Make) -> None:
    harness = make(4)
    bound(harness, Bounds(10))
    assert sorted(fill(harness).values()) == [2, 2, 2, 2]
    with pytest.raises(QueueFull, match=r"of 2 at most \(this partition's part of 10\)"):
        harness.put("more", shard="0")
    with pytest.raises(QueueFull, match=r"holds 2 .* at most \(this partition's part of 10\)"):
        harness.put("a", "b", "c", shard="0")
    assert len(harness.work_off(100)) == 8


def test_each_partition_has_room_for_one(make: Make) -> None:
    harness = make(4)
    bound(harness, Bounds(2))
    assert sorted(fill(harness).values()) == [1, 1, 1, 1]


def test_the_limit_of_a_shard_is_not_shared(make: Make) -> None:
    harness = make(4)
    bound(harness, Bounds(shard=3))
    for shard in SHARDS[:8]:
        harness.put("a", "b", "c", shard=shard)
        with pytest.raises(QueueFull) as caught:
            harness.put("d", shard=shard)
        assert (caught.value.shard, caught.value.limit) == (shard, 3)


def test_partitions_drop_their_own(make: Make) -> None:
    harness = make(4)
    bound(harness, Bounds(8, overflow=Overflow.DROP))
    assert sum(fill(harness).values()) == len(SHARDS)
    assert harness.counts().waiting == 8
    assert harness.counts().dead == len(SHARDS) - 8


def test_what_other_partitions_stored_is_not_put_again(make: Make) -> None:
    harness = make(4)
    harness.declare()
    bound(harness, Bounds(4))
    harness.put("first", shard="0")
    puts = [Put(TASK, [body(shard)], shard) for shard in SHARDS[:8]]
    by_place: dict[Any, Put] = {}
    for put in puts:
        by_place.setdefault(harness.broker.partition(put), put)
    with pytest.raises(QueueFull, match="its messages of other partitions are stored") as caught:
        harness.put_all(*by_place.values())
    assert caught.value.left == [puts[0]]
    assert harness.counts().waiting == 4


def test_a_call_that_waits_puts_the_rest(make: Make) -> None:
    harness = make(4)
    with Yard(harness.broker) as yard:
        yard.queue(TASK.queue, max_length=40, overflow="block")

        @yard.task(name=TASK.name, queue=TASK.queue, shard="item", result_ttl=None)
        def save(item: str) -> None:
            pass

        numbers = [str(number) for number in range(200)]
        threads = [
            threading.Thread(target=save.enqueue_many, args=(numbers[first : first + 20],))
            for first in range(0, 200, 20)
        ]
        for thread in threads:
            thread.start()
        done = 0
        while done < len(numbers):
            assert harness.counts().waiting <= 40
            done += len(harness.work_off(100))
        for thread in threads:
            thread.join(20)
        assert done == len(numbers)
        assert harness.counts().totals["put"] == len(numbers)


# Splits


def test_a_split_takes_bounds_along(make: Make) -> None:
    harness = make(1)
    harness.declare(concurrency=1)
    bound(harness, Bounds(20, 2))
    late = make()
    fill(late, SHARDS[:10])
    split(harness)
    assert harness.counts().bounds == Bounds(20, 2)
    for one in (harness, late):
        for shard in SHARDS[:10]:
            with pytest.raises(QueueFull):
                one.put("x", "y", shard=shard)
    harness.work_off(100)
    for one in (harness, late):
        assert set(fill(one).values()) == {10}
        harness.work_off(100)
    bound(late, Bounds(6))
    assert set(fill(harness).values()) == {3}
    split(harness)
    harness.work_off(100)
    assert set(fill(make()).values()) == {1}
    harness.work_off(100)
    bound(harness, NO_BOUNDS)
    assert sum(fill(late).values()) == len(SHARDS)


def test_a_group_that_is_made_after_a_split_is_bounded(make: Make) -> None:
    harness = make(1)
    harness.put("a", shard="0")
    bound(harness, Bounds(shard=1))
    split(harness)
    for shard in SHARDS[:6]:
        new = Group(TASK.queue, "new")
        harness.put("a", shard=shard, group=new)
        with pytest.raises(QueueFull):
            harness.put("b", shard=shard, group=new)


def test_producers_wait_for_room_through_splits(make: Make) -> None:
    harness = make(1)
    harness.declare(concurrency=1)
    bound(harness, Bounds(24, 3, Overflow.BLOCK, 60_000_000))
    failures: list[BaseException] = []

    def produce(name: int) -> None:
        with Yard(make().broker) as yard:
            save = yard.remote(TASK.name, queue=TASK.queue)
            try:
                for number in range(60):
                    save.options(shard=str(number % 12)).enqueue(f"{name} {number}")
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=produce, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    done, targets = 0, [2, 4]
    while (done < 180 or targets) and not failures:
        if done > 20 and targets and advance(harness, targets[0]).done:
            targets.pop(0)
        claim = harness.claim(5)
        if claim is not None:
            done += len(claim)
            assert harness.settle(claim)
    for thread in threads:
        thread.join(20)
    assert failures == targets == []
    counts = harness.counts()
    assert (counts.totals["put"], counts.totals["done"], counts.waiting) == (180, 180, 0)


# Inboxes


@pytest.fixture
def inbox(shared_server: RedisServer) -> Iterator[InboxScene]:
    made = InboxScene(shared_server.url, shared_server.client())
    yield made
    made.close()


def work(number: int) -> None:
    pass


def test_a_full_queue_leaves_lots_where_they_are(inbox: InboxScene) -> None:
    reader = Reader(Q, [inbox.yard.task(queue=Q, result_ttl=None)(work)])
    inbox.run(inbox.broker.set_bounds(Q, Bounds(10)))
    inbox.push(*(str(number) for number in range(6)))
    inbox.run(move_lots(inbox, "ann", reader))
    inbox.push(*(str(number) for number in range(6, 12)))
    for _ in range(2):
        with pytest.raises(QueueFull, match="the lot stays beside the inbox"):
            inbox.run(move_lots(inbox, "ann", reader))
    lot = inbox.collect("ann")
    assert lot is not None
    assert len(lot.values) == 6
    assert [value for _, value in inbox.drain()] == list(range(6))
    inbox.run(move_lots(inbox, "ann", reader))
    assert [value for _, value in inbox.drain()] == list(range(6, 12))


def test_a_lot_that_is_more_than_the_limit_enters_when_there_is_room(inbox: InboxScene) -> None:
    reader = Reader(Q, [inbox.yard.task(queue=Q, result_ttl=None)(work)])
    inbox.run(inbox.broker.set_bounds(Q, Bounds(3, 3)))
    inbox.push(*(str(number) for number in range(20)))
    inbox.run(move_lots(inbox, "ann", reader))
    inbox.push("20")
    with pytest.raises(QueueFull):
        inbox.run(move_lots(inbox, "ann", reader))
    assert len(inbox.drain()) == 20
    inbox.run(move_lots(inbox, "ann", reader))
    assert inbox.drain() == [("", 20)]


def test_a_lot_makes_itself_room(inbox: InboxScene) -> None:
    reader = Reader(Q, [inbox.yard.task(queue=Q, result_ttl=None)(work)])
    inbox.run(inbox.broker.set_bounds(Q, Bounds(10, overflow=Overflow.DROP)))
    inbox.push(*(str(number) for number in range(8)))
    inbox.run(move_lots(inbox, "ann", reader))
    inbox.push(*(str(number) for number in range(8, 14)))
    inbox.run(move_lots(inbox, "ann", reader))
    assert [value for _, value in inbox.drain()] == list(range(4, 14))


@pytest.mark.parametrize("burst", [False, True])
def test_a_worker_moves_what_there_is_room_for(shared_server: RedisServer, burst: bool) -> None:
    with site_on(shared_server.url, shared_server.client()) as site:
        _move_all(site, burst)


def _move_all(site: Site, burst: bool) -> None:
    site.yard.queue(Q, max_length=20)
    site.serve(Q)
    site.push(*range(1500))
    thread = WorkerThread(site.yard, burst=burst)
    thread.start()
    try:
        assert sorted(site.next() for _ in range(1500)) == list(range(1500))
    finally:
        thread.stop()
    assert site.yard.counts()[0].bounds == Bounds(20)


# Schedules


@pytest.fixture(params=[0, 4])
def scene(request: pytest.FixtureRequest, shared_server: RedisServer) -> Scene:
    return Scene(shared_server.url, shared_server.client(), request.param)


def fire(scene: Scene, old: Schedule) -> Any:
    new = msgspec.structs.replace(old, pending=old.pending + 1)
    return scene.broker.schedules.change(old, new, Put(GROUP, [body("fired")], "s"))


def test_a_schedule_does_not_wait_for_room(scene: Scene) -> None:
    scene.run(scene.broker.set_bounds(GROUP.queue, Bounds(1, 1, Overflow.BLOCK, 1_000_000)))
    scene.run(scene.broker.put([Put(GROUP, [body("first")], "s")]))
    old = scene.add()
    with pytest.raises(QueueFull, match="the schedule 'a' is as it was"):
        scene.run(fire(scene, old))
    assert scene.one().pending == old.pending
    assert scene.drain() == ["first"]
    assert scene.run(fire(scene, scene.one()))
    assert scene.drain() == ["fired"]


@pytest.mark.parametrize("calls", [2, 3])
def test_an_instant_that_was_refused_stays_refused(scene: Scene, calls: int) -> None:
    """However often it is asked again by those who find it begun."""
    scene.run(scene.broker.set_bounds(GROUP.queue, Bounds(shard=1)))
    scene.run(scene.broker.put([Put(GROUP, [body("first")], "s")]))
    old = scene.add()
    steps = scene.stepwise(fire(scene, old))
    for name in steps:
        if name == "changed":
            break
    steps.close()
    assert scene.drain() == ["first"]
    for _ in range(calls):
        scene.look()
    assert scene.drain() == []
    assert scene.one().pending == old.pending


# At once


def test_producers_at_once_never_exceed(shared_server: RedisServer) -> None:
    prefix = f"bounded-{uuid.uuid4().hex[:8]}"
    broker = RedisBroker(parse_url(f"{shared_server.url}?prefix={prefix}"))
    broker.driver().run(broker.set_bounds("q", Bounds(100)))
    stored: list[int] = []

    def produce() -> None:
        own = RedisBroker(parse_url(f"{shared_server.url}?prefix={prefix}"))
        driver, number = own.driver(), 0
        try:
            while True:
                driver.run(own.put([Put(Group("q", "t"), [body(str(number))] * 3)]))
                number += 3
        except QueueFull:
            stored.append(number)
        finally:
            driver.close()

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    [counts] = broker.driver().run(broker.counts())
    assert counts.waiting == sum(stored) == 99
