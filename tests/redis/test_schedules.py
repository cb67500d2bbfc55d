"""Schedules and their messages in different containers: together, whoever is killed on the way."""

from __future__ import annotations

import random
import uuid
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from itertools import combinations
from typing import Any

import msgspec
import pytest
from tests.servers.cluster import RedisCluster
from tests.servers.server import RedisServer

from taskyard.brokers.base import Group, GroupWant, Operation, Put, Settlement, Want
from taskyard.brokers.lane import Gate
from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.brokers.redis.calls import Call
from taskyard.brokers.redis.drivers import RedisDriver
from taskyard.brokers.redis.placement import Placement
from taskyard.brokers.schedules import Schedule
from taskyard.errors import BrokerError, DuplicateId, QueueDraining
from taskyard.message import read_envelope
from taskyard.testing.conformance.harness import START, Clock, body, micros

Q = "q"
GROUP = Group(Q, "task")
PATIENCE = 2.1
KEPT = 901

Stepwise = Generator[str, None, Any]


class Scene:
    """An empty broker, whose time stands still, and a plain client of its server.

    Arguments:
        partitions: of the queue; 0: it is at home, as the schedules are.
    """

    def __init__(self, url: str, client: Any, partitions: int = 0) -> None:
        self.prefix = f"schedules-{uuid.uuid4().hex}"
        self.client = client
        self.clock = Clock()
        self._url = f"{url}?prefix={self.prefix}"
        self._partitions = partitions
        self.broker = self.another()
        self.driver: RedisDriver = self.broker.driver()

    def another(self) -> RedisBroker:
        """The broker as somebody else has it, who learns of splits only from the containers."""
        made = RedisBroker(parse_url(self._url), clock=self.clock)
        if self._partitions:
            made.set_partitions(Q, self._partitions)
        return made

    def run(self, operation: Operation[Any]) -> Any:
        return self.driver.run(operation)

    def stepwise(self, operation: Operation[Any]) -> Stepwise:
        """Carry an operation out, a step each time that it is advanced: it says which is next."""

        def once(step: Any) -> Operation[Any]:
            return (yield step)

        try:
            step = next(operation)
            while True:
                yield step.script.name if isinstance(step, Call) else ""
                step = operation.send(self.run(once(step)))
        except StopIteration as end:
            return end.value

    def find(self, name: str = "a") -> Schedule | None:
        found = self.run(self.broker.schedules.find([name]))
        return found[0] if found else None

    def one(self, name: str = "a") -> Schedule:
        found = self.find(name)
        assert found is not None
        return found

    def add(self, name: str = "a") -> Schedule:
        """Add a schedule that is due."""
        absent = Schedule(name, b"", 0)
        new = Schedule(name, b"\xff", self.clock.now)
        assert self.run(self.broker.schedules.change(absent, new))
        return self.one(name)

    def look(self) -> list[str]:
        """What a worker finds due once it need not wait for those who began something."""
        self.clock.advance(PATIENCE)
        return [one.name for one in self.run(self.broker.schedules.due(10)).schedules]

    def put_record(self, id_: str, *, ttl: float = 1e6) -> None:
        """Let a message be done whose id stays taken for a while."""
        put = Put(GROUP, [body(id_)], ids=[id_], record_ttl=micros(ttl))
        self.run(self.broker.put([put]))
        assert self.drain() == [id_]

    def drain(self) -> list[str]:
        """Claims and ends everything; the names."""
        found: list[str] = []
        want = Want([GroupWant(GROUP, 100)], "me", micros(60), claims=100, messages=10_000)
        settlements: list[Settlement] = []
        while claims := self.run(self.broker.step(settlements, want)).claims:
            settlements = []
            for claim in claims:
                bodies = [message.body for lane in claim.lanes for _, message in lane.messages]
                names = [envelope.id for envelope in map(read_envelope, bodies) if envelope]
                settlements.append(Settlement(claim.token, {}, [(name, b"") for name in names]))
                found += names
        return found

    def split(self) -> None:
        """Double the partitions, to the end."""
        partitions = 2 * len(self.place()[1:])
        while not self.run(self.broker.split(Q, partitions)).done:
            pass

    def place(self) -> list[int]:
        """Where the queue is, as home knows it: epoch, containers."""
        packed = self.client.hget(f"{self.prefix}:{{0}}:places", Q)
        return [] if packed is None else list(msgspec.msgpack.decode(packed))

    def may_split(self, most: int) -> int:
        """How many partitions a split is to lead to now; 0: there may be none."""
        number = len(self.place()[1:])
        if self.client.hexists(f"{self.prefix}:{{0}}:splits", Q):
            return number
        return 2 * number if number < most else 0

    def marks(self) -> set[str]:
        """The schedules that are known to containers."""
        marks = {
            field.decode()
            for container in {0, *self.place()[1:]}
            for field in self.client.hkeys(f"{self.prefix}:{{{container}}}:transfers")
        }
        return {mark.removeprefix("schedule\0") for mark in marks}


@pytest.fixture(params=[0, 1, 4])
def scene(shared_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Scene]:
    made = Scene(shared_server.url, shared_server.client(), request.param)
    yield made
    made.driver.close()


def fire(
    broker: RedisBroker, old: Schedule, *, shard: str = "", recorded: str = "", last: bool = False
) -> Operation[bool]:
    """Put a message that is named for the revision, and go on; `last`: remove the schedule."""
    new = msgspec.structs.replace(old, last=old.pending, pending=old.pending + micros(60))
    ids = [recorded] if recorded else None
    bodies = [body(f"{old.name} {old.revision}")]
    put = Put(GROUP, bodies, shard, ids=ids, record_ttl=micros(1000))
    return broker.schedules.change(old, None if last else new, put)


def finish(steps: Stepwise) -> Any:
    """Carry it out to the end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def until(steps: Stepwise, script: str) -> Stepwise:
    """Carry it out until a script is next."""
    while next(steps) != script:
        pass
    return steps


def together(turns: tuple[int, ...], first: Stepwise, second: Stepwise) -> list[Any]:
    """Carry two out at once, the first one at these turns; what they return or raise."""
    results: list[Any] = [None, None]
    left = {0: first, 1: second}
    for turn in range(100):
        if not left:
            break
        index = 0 if (turn in turns and 0 in left) or 1 not in left else 1
        try:
            next(left[index])
        except StopIteration as end:
            results[index] = end.value
            del left[index]
        except DuplicateId as error:
            results[index] = error
            del left[index]
    return results


ORDERS = list(combinations(range(8), 4))
"""In which two can make their calls, three each at most, and their ends."""


def pair(scene: Scene) -> tuple[RedisBroker, RedisBroker]:
    """Two who know where the queue is."""
    brokers = scene.another(), scene.another()
    for broker in brokers:
        scene.run(broker.put([Put(GROUP, [])]))
    return brokers


# Killed between any two calls


def test_what_a_killed_one_began_is_finished(scene: Scene) -> None:
    began = []
    for calls in range(4):  # places, change, put, changed
        name = f"killed after {calls}"
        old = scene.add(name)
        steps = scene.stepwise(fire(scene.another(), old))
        for _ in range(calls + 1):
            next(steps)
        steps.close()
        if scene.look() == [name]:
            assert scene.run(fire(scene.broker, old))
        else:
            began.append(calls)
        assert scene.one(name).revision == 2
        assert not scene.run(fire(scene.broker, old))
        assert scene.drain() == [f"{name} 1"]
    assert began == [2, 3]


@pytest.mark.parametrize("calls", range(5))
def test_whoever_changes_it_next_finishes_it(scene: Scene, calls: int) -> None:
    old = scene.add()
    steps = scene.stepwise(fire(scene.another(), old))
    for _ in range(calls + 1):
        next(steps, None)
    steps.close()
    paused = msgspec.structs.replace(old, paused=True)
    changed = scene.run(scene.broker.schedules.change(old, paused))
    assert changed == (calls < 2)
    assert scene.drain() == ([] if changed else ["a 1"])
    assert scene.one().paused == changed
    assert scene.one().revision == 2


@pytest.mark.parametrize("calls", range(5))
def test_so_is_one_that_is_added_with_messages(scene: Scene, calls: int) -> None:
    absent = Schedule("a", b"", scene.clock.now)
    steps = scene.stepwise(fire(scene.another(), absent))
    for _ in range(calls + 1):
        next(steps, None)
    steps.close()
    assert scene.look() == []
    found = scene.find()
    assert (found is not None) == (calls >= 2)
    assert scene.drain() == ([] if found is None else ["a 0"])


def test_what_is_due_again_once_it_is_finished(scene: Scene) -> None:
    old = scene.add()
    until(scene.stepwise(fire(scene.another(), old)), "put").close()
    scene.clock.advance(60)
    [found] = scene.run(scene.broker.schedules.due(10)).schedules
    assert (found.last, found.revision) == (old.pending, 2)


def test_what_is_under_way_is_left_to_who_began(scene: Scene) -> None:
    old = scene.add()
    steps = until(scene.stepwise(fire(scene.another(), old)), "put")
    assert scene.run(scene.broker.schedules.due(10)).schedules == []
    assert scene.one() == old
    assert finish(steps)
    assert scene.drain() == ["a 1"]


def test_what_cannot_be_finished_holds_nothing_up(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    old = scene.add()
    steps = until(scene.stepwise(fire(scene.another(), old)), "put")
    steps.close()
    scene.add("b")
    container = Placement(1, tuple(scene.place()[1:])).of("")
    broken = f"{scene.prefix}:{{{container}}}:transfers"
    scene.client.set(broken, "somebody else's")
    assert scene.look() == ["b"]
    assert "'a' was left half changed" in caplog.text
    assert scene.run(scene.broker.schedules.due(10)).next_at == 0
    with pytest.raises(BrokerError):
        scene.run(fire(scene.broker, old))
    scene.client.delete(broken)
    assert scene.look() == ["b"]
    assert scene.drain() == ["a 1"]
    assert scene.one().revision == 2


# Two at once


@pytest.mark.parametrize("last", [False, True])
def test_of_two_that_fire_at_once_one_does(scene: Scene, last: bool) -> None:
    first, second = pair(scene)
    for number, order in enumerate(ORDERS):
        name = f"s{number}"
        old = scene.add(name)
        found = together(
            order,
            scene.stepwise(fire(first, old, last=last)),
            scene.stepwise(fire(second, old, last=last)),
        )
        assert sorted(found) == [False, True], order
        assert scene.drain() == [f"{name} 1"]
        left = scene.find(name)
        assert (left.revision if left else 0) == (0 if last else 2)


def test_of_two_that_are_refused_both_hear_of_it(scene: Scene) -> None:
    scene.put_record("taken")
    first, second = pair(scene)
    old = scene.add()
    for order in ORDERS:
        found = together(
            order,
            scene.stepwise(fire(first, old, recorded="taken")),
            scene.stepwise(fire(second, old, recorded="taken")),
        )
        assert list(map(type, found)) == [DuplicateId] * 2, order
        assert scene.one() == old
    assert scene.drain() == []
    assert scene.run(fire(scene.broker, old))
    assert scene.drain() == ["a 1"]


def test_a_refusal_holds_though_the_record_ends_meanwhile(scene: Scene) -> None:
    scene.put_record("taken", ttl=5)
    old = scene.add()
    slow = until(scene.stepwise(fire(scene.another(), old, recorded="taken")), "put")
    with pytest.raises(DuplicateId):
        scene.run(fire(scene.broker, old, recorded="taken"))
    scene.clock.advance(6)
    assert finish(slow), "it begins anew"
    assert scene.one().revision == 2
    assert scene.drain() == ["a 1"]


def test_a_draining_queue_leaves_out_an_instant(scene: Scene) -> None:
    old = scene.add()
    scene.run(scene.broker.set_gate(Q, Gate.DRAINING))
    for _ in range(2):
        with pytest.raises(QueueDraining, match="the schedule 'a' is as it was"):
            scene.run(fire(scene.broker, old))
    assert scene.one() == old
    moved = msgspec.structs.replace(old, last=old.pending, pending=old.pending + micros(60))
    assert scene.run(scene.broker.schedules.change(old, moved))
    assert scene.one().revision == 2
    scene.run(scene.broker.set_gate(Q, Gate.OPEN))
    assert scene.run(fire(scene.broker, scene.one()))
    assert scene.drain() == ["a 2"]


@pytest.mark.parametrize("calls", [2, 3])
def test_what_a_killed_one_began_is_refused_by_a_draining_queue(scene: Scene, calls: int) -> None:
    old = scene.add()
    steps = scene.stepwise(fire(scene.another(), old))
    for _ in range(calls):
        next(steps)  # places, change
    scene.run(scene.broker.set_gate(Q, Gate.DRAINING))
    next(steps)
    steps.close()
    assert scene.look() == ["a"], "it is as it was"
    scene.run(scene.broker.set_gate(Q, Gate.OPEN))
    assert scene.run(fire(scene.broker, old))
    assert scene.drain() == ["a 1"]


def test_a_refusal_holds_though_the_queue_is_open_again(scene: Scene) -> None:
    old = scene.add()
    slow = until(scene.stepwise(fire(scene.another(), old)), "put")
    scene.run(scene.broker.set_gate(Q, Gate.DRAINING))
    with pytest.raises(QueueDraining):
        scene.run(fire(scene.broker, old))
    scene.run(scene.broker.set_gate(Q, Gate.OPEN))
    assert finish(slow), "it begins anew"
    assert scene.one().revision == 2
    assert scene.drain() == ["a 1"]


def test_who_is_late_stores_nothing_though_the_schedule_is_gone(scene: Scene) -> None:
    old = scene.add()
    steps = until(scene.stepwise(fire(scene.another(), old)), "put")
    assert not scene.run(fire(scene.broker, old))
    assert scene.run(scene.broker.schedules.change(scene.one(), None))
    assert scene.drain() == ["a 1"]
    assert not finish(steps)
    assert scene.drain() == []
    assert scene.find() is None


# What is left


def test_what_containers_know_of_a_removed_one_is_forgotten(scene: Scene) -> None:
    old = scene.add()
    for shard in map(str, range(10)):
        assert scene.run(fire(scene.broker, old, shard=shard))
        old = scene.one()
    assert scene.marks() == {"a"}
    assert scene.run(scene.broker.schedules.change(old, None))
    assert scene.look() == []
    assert scene.marks() == {"a"}
    scene.clock.advance(KEPT)
    assert scene.look() == []
    assert scene.marks() == set()
    assert not scene.client.exists(f"{scene.prefix}:{{0}}:changes")
    assert not scene.client.exists(f"{scene.prefix}:{{0}}:removed")
    assert len(scene.drain()) == 10


def test_one_that_is_added_again_is_not_forgotten(scene: Scene) -> None:
    assert scene.run(fire(scene.broker, scene.add(), last=True))
    scene.clock.advance(KEPT)
    forgetting = until(scene.stepwise(scene.another().schedules.due(10)), "forget")
    old = scene.add()
    slow = until(scene.stepwise(fire(scene.another(), old)), "put")
    assert not scene.run(fire(scene.broker, old))
    finish(forgetting)
    assert finish(slow)
    assert scene.drain() == ["a 1"] * 2
    assert scene.marks() == {"a"}


# A queue that is split


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("times", [1, 2])
def test_a_queue_is_split_meanwhile(scene: Scene, times: int, stored: bool, killed: bool) -> None:
    for number in range(8):
        name = f"s{number}"
        old = scene.add(name)
        steps = scene.stepwise(fire(scene.another(), old, shard=name))
        until(steps, "changed" if stored else "put")
        if number == 0:
            for _ in range(times):
                scene.split()
        if killed:
            steps.close()
            assert scene.look() == []
        else:
            assert finish(steps)
        assert scene.one(name).revision == 2
        assert scene.drain() == [f"{name} 1"]


class Chaos:
    """Those who change schedules and those who split the queue, in steps of a random order.

    A schedule counts in `last` how often it has put, and its messages are named for that.
    """

    def __init__(self, scene: Scene, seed: int, most: int) -> None:
        self.scene = scene
        self.random = random.Random(seed)
        self._most = most
        self._lives = 0
        self._under_way: list[Stepwise] = []
        self._brokers = [scene.another() for _ in range(3)]

    def start(self) -> None:
        if len(self._under_way) >= 5:
            return
        broker = self.random.choice(self._brokers)
        actions: list[Callable[[RedisBroker], Stepwise]] = [self._change] * 6
        actions += [self._look] * 2 + [self._split]
        self._under_way.append(self.random.choice(actions)(broker))

    def _look(self, broker: RedisBroker) -> Stepwise:
        yield from self.scene.stepwise(broker.schedules.due(3))

    def _split(self, broker: RedisBroker) -> Stepwise:
        number = self.scene.may_split(self._most)
        if number:
            yield from self.scene.stepwise(broker.split(Q, number))

    def _change(self, broker: RedisBroker) -> Stepwise:
        """Finds a schedule, and puts, pauses or removes it, one or the other at once."""
        name = f"s{self.random.randrange(3)}"
        old = self.scene.find(name)
        yield ""
        if old is None:
            self._lives += 1
            old = Schedule(name, b"%d" % self._lives, START)
        roll = self.random.random()
        new: Schedule | None = msgspec.structs.replace(old, paused=not old.paused)
        put = None
        if roll < 0.75:
            put = self._message(old)
            new = msgspec.structs.replace(old, last=old.last + 1, pending=old.pending + 1)
        if roll < 0.1 or roll > 0.9:
            new = None
        try:
            yield from self.scene.stepwise(broker.schedules.change(old, new, put))
        except DuplicateId:
            assert put is not None
            assert put.ids

    def _message(self, old: Schedule) -> Put:
        life, number = old.rule.decode(), old.last + 1
        ids = ["taken"] if self.random.random() < 0.1 else None
        shard = f"shard {self.random.randrange(6)}"
        return Put(GROUP, [body(f"{life} {number}")], shard, ids=ids, record_ttl=micros(1e6))

    def step(self) -> None:
        if self._under_way:
            one = self.random.choice(self._under_way)
            if next(one, None) is None:
                self._under_way.remove(one)

    def kill(self) -> None:
        if self._under_way:
            self._under_way.pop(self.random.randrange(len(self._under_way))).close()

    def wait(self) -> None:
        self.scene.clock.advance(PATIENCE)

    def run(self) -> None:
        for _ in range(800):
            self.random.choice([self.start, self.start, self.kill, self.wait, *[self.step] * 8])()

    def end(self) -> None:
        """Let everything come to an end, with nobody else about."""
        for left in self._under_way:
            left.close()
        broker = self._brokers[0]
        while self.scene.client.hexists(f"{self.scene.prefix}:{{0}}:splits", Q):
            self.scene.run(broker.split(Q, self.scene.may_split(self._most)))
        for _ in range(3):
            self.scene.look()
        self.scene.run(self.scene.broker.tidy())  # it learns where the queue is now


@pytest.mark.parametrize("seed", range(12))
def test_messages_are_stored_once_and_with_their_change(scene: Scene, seed: int) -> None:
    scene.put_record("taken")
    chaos = Chaos(scene, seed, 8)
    chaos.run()
    chaos.end()
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for name in scene.drain():
        life, number = name.split()
        numbers[life].append(int(number))
    assert len(numbers) > 3
    for life, found in numbers.items():
        assert sorted(found) == [*range(1, len(found) + 1)], life
    left = scene.run(scene.broker.schedules.find())
    for schedule in left:
        assert len(numbers[schedule.rule.decode()]) == schedule.last
    scene.clock.advance(KEPT)
    scene.look()
    assert scene.marks() <= {schedule.name for schedule in left}


# A cluster


def test_schedules_in_a_cluster(redis_cluster: RedisCluster) -> None:
    with redis_cluster.client() as client:
        scene = Scene(redis_cluster.url, client, 4)
        expected = []
        for number in range(30):
            name = f"s{number}"
            assert scene.run(fire(scene.another(), scene.add(name), shard=name))
            expected.append(f"{name} 1")
        assert sorted(scene.drain()) == sorted(expected)
        scene.driver.close()


# Sleepers


def test_a_listener_that_ends_hands_on_what_it_was_woken_for(
    scene: Scene, request: pytest.FixtureRequest
) -> None:
    first, second = scene.driver.listener(), scene.driver.listener()
    request.addfinalizer(second.close)
    for listener in (first, second):
        assert scene.run(scene.broker.schedules.due(10, listener.name)).next_at == 0
    scene.add()
    assert first.wait(10)
    assert not second.wait(0)
    first.close()
    assert second.wait(10)
    assert not scene.client.hexists(f"{scene.prefix}:{{0}}:sleepers", first.name)
