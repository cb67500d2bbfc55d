"""Inboxes: what plain clients push becomes messages, once, whoever is killed on the way."""

from __future__ import annotations

import json
import random
import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from tests.servers.cluster import RedisCluster
from tests.servers.server import RedisServer

from taskyard import Yard
from taskyard.brokers.base import (
    Claim,
    DeadQuery,
    GroupWant,
    Operation,
    Put,
    Settlement,
    Want,
)
from taskyard.brokers.inboxes import Lot
from taskyard.brokers.lane import Gate
from taskyard.brokers.redis import RedisBroker, inbox, parse_url
from taskyard.brokers.redis.drivers import RedisDriver
from taskyard.errors import QueueDraining
from taskyard.message import Failure, read_envelope
from taskyard.policy import Batch
from taskyard.worker.inbox import Reader

Q = "q1"


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_patience(self) -> None:
        self.now += 3_000_000


class Scene:
    """An empty broker, whose time stands still, and a plain client of its server."""

    def __init__(self, url: str, client: Any, partitions: int = 0) -> None:
        self.prefix = f"inbox-{uuid.uuid4().hex}"
        self.clock = Clock()
        self.url = f"{url}?prefix={self.prefix}"
        self.broker = RedisBroker(parse_url(self.url), clock=self.clock)
        if partitions:
            self.broker.set_partitions(Q, partitions)
        self.driver: RedisDriver = self.broker.driver()
        self.client = client
        self.yard = Yard(self.broker)

    def close(self) -> None:
        self.driver.close()
        self.yard.close()

    def push(self, *values: str | bytes) -> None:
        self.client.lpush(f"{self.prefix}:inbox:{Q}", *values)

    def run(self, operation: Operation[Any]) -> Any:
        return self.driver.run(operation)

    def collect(self, courier: str = "me", done: int = 0) -> Lot | None:
        found: Lot | None = self.run(self.broker.inboxes.collect(Q, courier, done))
        return found

    def keys(self) -> set[str]:
        name = f"{self.prefix}:{{{self.prefix}:inbox:{Q}}}:"
        return {key.decode().removeprefix(name) for key in self.client.keys(f"{name}*")}

    def may_split(self, most: int) -> int:
        """How many partitions a split is to lead to now; 0: there may be none."""
        home = f"{self.prefix}:{{0}}"
        place = self.client.hget(f"{home}:places", Q)
        if place is None:
            return 0
        number = len(msgspec.msgpack.decode(place)) - 1
        if self.client.hexists(f"{home}:splits", Q):
            return number
        return 2 * number if number < most else 0

    def drain(self) -> list[tuple[str, Any]]:
        """Claims and ends everything; (shard, value) in order."""
        groups = [GroupWant(task.group, 10_000) for task in self.yard.tasks.values()]
        want = Want(groups, "me", 60_000_000, claims=100, messages=10_000)
        found, claims = [], self._claims([], want)
        while claims:
            for lane in (lane for claim in claims for lane in claim.lanes):
                for _, message in lane.messages:
                    envelope = read_envelope(message.body)
                    assert envelope is not None
                    found.append((lane.shard, envelope.payload[0]))
            claims = self._claims([Settlement(claim.token) for claim in claims], want)
        return found

    def _claims(self, settlements: Sequence[Settlement], want: Want) -> list[Claim]:
        return list(self.run(self.broker.step(settlements, want)).claims)

    def dead(self) -> list[tuple[bytes, Failure]]:
        letters = self.run(self.broker.dead(DeadQuery(limit=10_000)))
        assert all(letter.id == "" and letter.group.queue == Q for letter in letters)
        return [(letter.body, letter.failure) for letter in letters]


@pytest.fixture
def scene(shared_server: RedisServer) -> Iterator[Scene]:
    made = Scene(shared_server.url, shared_server.client())
    yield made
    made.close()


def courier(scene: Scene, name: str, reader: Reader, *, bare: bool = False) -> Operation[int]:
    """What `worker.courier` does, as an operation: until the inbox is empty, or somebody at it."""
    done = 0
    while True:
        lot = yield from scene.broker.inboxes.collect(Q, name, done, bare=bare)
        if lot is None or not lot.values:
            return done
        yield from scene.broker.inboxes.store(lot, list(map(reader.read, lot.values)))
        done = lot.number


def stepwise(scene: Scene, operation: Operation[Any]) -> Generator[None, None, None]:
    """Carry an operation out, a step each time that it is advanced."""

    def once(step: Any) -> Operation[Any]:
        return (yield step)

    try:
        step = next(operation)
        while True:
            yield
            try:
                reply = scene.run(once(step))
            except Exception as error:
                step = operation.throw(error)
            else:
                step = operation.send(reply)
    except StopIteration:
        return


# Lots


def test_a_lot_is_the_same_until_it_is_confirmed(scene: Scene) -> None:
    assert scene.collect() is None
    assert scene.keys() == set()
    scene.push(b"1", b"2")
    first = scene.collect()
    assert first is not None
    assert (first.values, first.epoch) == ([b"1", b"2"], 1)
    scene.push(b"3")
    assert scene.collect() == first
    assert scene.keys() == {"out", "lot", "meta"}
    second = scene.collect(done=first.number)
    assert second is not None
    assert second.values == [b"3"]
    assert second.number > first.number
    assert scene.collect(done=first.number) == second  # a call that comes late
    assert scene.collect(done=second.number) is None
    assert scene.keys() == {"meta"}


def test_a_lot_is_left_to_one_for_a_while(scene: Scene) -> None:
    scene.push(b"1")
    lot = scene.collect("one")
    assert lot is not None
    other = scene.collect("other")
    assert other is not None
    assert (other.number, list(other.values)) == (lot.number, [])
    scene.clock.pass_patience()
    assert scene.collect("other") == lot
    other = scene.collect("one")
    assert other is not None
    assert not other.values


def test_what_woke_somebody_comes_first(scene: Scene) -> None:
    scene.push(b"1", b"2", b"3")
    name = f"{scene.prefix}:inbox:{Q}"
    for _ in range(2):
        scene.client.blmove(name, f"{scene.prefix}:{{{name}}}:woken", 1, "RIGHT", "LEFT")
    lot = scene.collect()
    assert lot is not None
    assert lot.values == [b"1", b"2", b"3"]


def test_lots_are_bounded(scene: Scene) -> None:
    scene.push(*(b"%d" % number for number in range(1200)))
    sizes, done = [], 0
    while (lot := scene.collect(done=done)) is not None:
        sizes.append(len(lot.values))
        done = lot.number
    assert sizes == [500, 500, 200]
    large = b"x" * 700_000
    scene.push(large, large, large)
    lot = scene.collect()
    assert lot is not None
    assert len(lot.values) == 2


def test_numbers_rise_though_a_server_forgot_the_last(scene: Scene) -> None:
    scene.push(b"1")
    lot = scene.collect()
    assert lot is not None
    scene.client.delete(f"{scene.prefix}:{{{scene.prefix}:inbox:{Q}}}:meta")
    scene.clock.now += 1
    scene.push(b"2")
    later = scene.collect(done=lot.number)
    assert later is not None
    assert later.number > lot.number


def test_a_key_of_another_kind_is_left_alone(scene: Scene) -> None:
    scene.client.set(f"{scene.prefix}:inbox:{Q}", "mine")
    with pytest.raises(Exception, match="WRONGTYPE"):
        scene.collect()
    assert scene.client.get(f"{scene.prefix}:inbox:{Q}") == b"mine"


@pytest.mark.parametrize(
    ("queue", "name", "bare"),
    [
        ("q1", "p:inbox:q1", "q1"),
        ("a b:ü{", "p:inbox:a b:ü{", ""),
        ("a}b", "", ""),
        ("{a}", "", ""),
        ("p", "p:inbox:p", "p"),
        ("p:inbox:q1", "p:inbox:p:inbox:q1", ""),  # it is the inbox of another queue
    ],
)
def test_names(queue: str, name: str, bare: str) -> None:
    broker = RedisBroker(parse_url("redis://localhost?prefix=p"))
    assert broker.inboxes.name(queue) == name
    assert broker.inboxes.name(queue, bare=True) == bare


# Storing


def save(items: list[Any]) -> None:
    """A handler that nobody calls."""


def test_a_lot_is_stored_once(scene: Scene) -> None:
    reader = Reader(Q, [scene.yard.task(save, queue=Q, batch=Batch(1000), shard="of")])
    scene.push('{"of": "a", "n": 1}', '{"of": "b", "n": 2}', "[")
    lot = scene.collect()
    assert lot is not None
    for _ in range(2):
        items = list(map(reader.read, lot.values))
        misfits = scene.run(scene.broker.inboxes.store(lot, items))
        assert [item.dead.failure.kind for item in misfits] == ["PayloadError"]
    assert sorted(scene.drain()) == [("a", {"of": "a", "n": 1}), ("b", {"of": "b", "n": 2})]
    assert [body for body, _ in scene.dead()] == [b"["]
    [counts] = scene.run(scene.broker.counts())
    assert (counts.totals["put"], counts.totals["done"], counts.dead) == (3, 2, 1)


@pytest.mark.parametrize("partitions", [0, 4])
def test_a_draining_queue_leaves_lots_where_they_are(scene: Scene, partitions: int) -> None:
    if partitions:
        scene.broker.set_partitions(Q, partitions)
    reader = Reader(Q, [scene.yard.task(save, queue=Q, batch=Batch(1000), shard="of")])
    values = [{"of": f"s{number}", "n": number} for number in range(20)]
    scene.push(*map(json.dumps, values), "[")
    scene.run(scene.broker.set_gate(Q, Gate.DRAINING))
    for _ in range(2):
        with pytest.raises(QueueDraining, match="'q1' is draining"):
            scene.run(courier(scene, "ann", reader))
        assert scene.drain() == []
    lot = scene.collect("ann")
    assert lot is not None
    assert len(lot.values) == 21
    scene.run(scene.broker.set_gate(Q, Gate.OPEN))
    scene.run(courier(scene, "ann", reader))
    assert sorted(payload["n"] for _, payload in scene.drain()) == list(range(20))
    assert [body for body, _ in scene.dead()] == [b"["]
    assert scene.collect("ann") is None


def test_an_id_that_is_taken_ends_as_a_dead_letter(scene: Scene) -> None:
    task = scene.yard.task(save, queue=Q, batch=Batch(1000), result_ttl=60)
    task.enqueue_many(["first"], id=lambda _: "a")

    def value(text: str, message_id: str) -> str:
        return json.dumps({"taskyard": {"id": message_id}, "value": text})

    pushed = [value("second", "a"), value("one", "b"), value("two", "b"), value("more", "a"), '"c"']
    scene.push(*pushed)
    lot = scene.collect()
    assert lot is not None
    items = list(map(Reader(Q, [task]).read, lot.values))
    misfits = scene.run(scene.broker.inboxes.store(lot, items))
    assert [misfit.dead.failure.kind for misfit in misfits] == ["DuplicateId"] * 3
    assert [value for _, value in scene.drain()] == ["first", "one", "c"]
    dead = scene.dead()
    assert [body.decode() for body, _ in dead] == [pushed[0], pushed[2], pushed[3]]
    assert "the id 'a' has a record already" in dead[0][1].message
    [record] = scene.run(scene.broker.records(["a"]))
    assert record.failure is None


@pytest.mark.parametrize("queue", [Q, "0", "1"])
@pytest.mark.parametrize("partitions", [0, 4])
def test_lots_of_a_bare_inbox_are_no_lots_of_the_other(
    scene: Scene, redis_server: RedisServer, partitions: int, queue: str
) -> None:
    if partitions:
        scene.broker.set_partitions(queue, partitions)
    reader = Reader(queue, [scene.yard.task(save, queue=queue, batch=Batch(1000), shard="n")])
    inboxes = scene.broker.inboxes
    lots = []
    for number, bare in enumerate((False, True)):
        values = (f'{{"n": {number}}}', f'{{"n": {10 + number}}}', f"[{number}")
        scene.client.lpush(inboxes.name(queue, bare=bare), *values)
        lot = scene.run(inboxes.collect(queue, "me", bare=bare))
        assert (lot.bare, len(lot.values)) == (bare, 3)
        lots.append(lot)
    assert lots[0].number == lots[1].number  # as the time stands still
    for lot in (*lots, *lots):
        scene.run(inboxes.store(lot, list(map(reader.read, lot.values))))
    assert sorted(value["n"] for _, value in scene.drain()) == [0, 1, 10, 11]
    letters = scene.run(scene.broker.dead(DeadQuery(limit=100)))
    assert sorted(letter.body for letter in letters) == [b"[0", b"[1"]
    for lot in lots:
        done = inboxes.collect(queue, "me", lot.number, bare=lot.bare)
        assert scene.run(done) is None


def test_messages_keep_a_time_of_their_own(scene: Scene) -> None:
    task = scene.yard.task(save, queue=Q, batch=Batch(1000))
    scene.push(b"1", b"2")
    lot = scene.collect()
    assert lot is not None
    items = [task.options().put_of(1), task.options(expires=5).put_of(2)]
    assert scene.run(scene.broker.inboxes.store(lot, items)) == []
    want = Want([GroupWant(task.group, 2)], "w", 30_000_000)
    (claim,) = scene.run(scene.broker.step([], want)).claims
    assert [one.expires for _, one in claim.lanes[0].messages] == [0, 5_000_000]


def test_messages_keep_their_order_and_way(scene: Scene) -> None:
    task = scene.yard.task(save, queue=Q, batch=Batch(1000))
    other = scene.yard.task(save, name="other", queue=Q, batch=Batch(1000))
    reader = Reader(Q, [task, other])

    def value(number: int, **options: Any) -> str:
        return json.dumps({"taskyard": options, "value": number})

    name = task.name
    scene.push(
        value(1, task=name),
        value(2, task=name, priority=-1),
        value(3, task=name, shard="s"),
        value(4, task="other"),
        value(5, task=name),
        value(6, task=name, delay=30),
        value(7, task=name),
    )
    scene.run(courier(scene, "me", reader))
    found = scene.drain()
    assert [number for shard, number in found if shard == "" and number != 4] == [2, 1, 5, 7]
    assert ("s", 3) in found
    assert ("", 4) in found
    scene.clock.now += 30_000_000
    assert scene.drain() == [("", 6)]


# Killed between any two steps, and several at once


def random_shard(item: Any) -> int:
    del item
    return random.randrange(6)


class Chaos:
    """Couriers, and those who split the queue, in steps of a random schedule.

    Arguments:
        scene: where.
        seed: of the schedule. With odd ones shards are random too: who goes on with a lot makes
            others than who began.
        most: how many partitions there may be.
    """

    def __init__(self, scene: Scene, seed: int, most: int) -> None:
        shard: Any = random_shard if seed % 2 else "n"
        task = scene.yard.task(save, queue=Q, batch=Batch(1000), shard=shard)
        self.pushed: list[str] = []
        self._scene = scene
        self._reader = Reader(Q, [task])
        self._chance = random.Random(seed)
        self._most = most
        # It learns of splits only from the containers.
        self._splitter = RedisBroker(parse_url(scene.url), clock=scene.clock)
        self._under_way: list[Generator[None, None, None]] = []

    def push(self) -> None:
        number = len(self.pushed)
        value = json.dumps({"n": number % 3, "number": number})
        self.pushed.append(value if self._chance.random() < 0.8 else value[:-1])
        self._scene.push(self.pushed[-1])

    def start(self) -> None:
        if len(self._under_way) < 4:
            name = f"courier{self._chance.random()}"
            self._under_way.append(stepwise(self._scene, courier(self._scene, name, self._reader)))

    def split(self) -> None:
        number = self._scene.may_split(self._most)
        if number and len(self._under_way) < 4:
            self._under_way.append(stepwise(self._scene, self._splitter.split(Q, number)))

    def step(self) -> None:
        if self._under_way:
            one = self._chance.choice(self._under_way)
            if next(one, one) is one:
                self._under_way.remove(one)

    def kill(self) -> None:
        if self._under_way:
            self._under_way.pop(self._chance.randrange(len(self._under_way))).close()

    def run(self) -> None:
        actions = [self.push, self.start, self.kill, self.split, self._scene.clock.pass_patience]
        for _ in range(200):
            self._chance.choice([*actions, *[self.step] * 6])()

    def end(self) -> None:
        """Let everything come to an end, with nobody else about."""
        for left in self._under_way:
            left.close()
        while self._scene.client.hexists(f"{self._scene.prefix}:{{0}}:splits", Q):
            self._scene.run(self._splitter.split(Q, self._scene.may_split(self._most)))
        self._scene.clock.pass_patience()
        self._scene.run(courier(self._scene, "last", self._reader))


@pytest.mark.parametrize("doubled", [0, 1, 2])
@pytest.mark.parametrize("partitions", [0, 1, 4])
@pytest.mark.parametrize("seed", range(15))
def test_every_value_is_stored_once_whoever_is_killed(
    shared_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    partitions: int,
    doubled: int,
    seed: int,
) -> None:
    monkeypatch.setattr(inbox, "LOT_VALUES", 3)
    scene = Scene(shared_server.url, shared_server.client(), partitions)
    random.seed(seed)
    chaos = Chaos(scene, seed, max(1, partitions) << doubled if doubled else 0)
    chaos.run()
    chaos.end()
    drained = scene.drain()
    whole = [index for index, value in enumerate(chaos.pushed) if value.endswith("}")]
    assert Counter(value["number"] for _, value in drained) == Counter(whole)
    broken = Counter(value for value in chaos.pushed if not value.endswith("}"))
    assert Counter(body.decode() for body, _ in scene.dead()) == broken
    if not seed % 2:
        lanes: dict[str, list[int]] = {}
        for shard, value in drained:
            lanes.setdefault(shard, []).append(value["number"])
        assert all(numbers == sorted(numbers) for numbers in lanes.values())
    assert scene.keys() <= {"meta"}
    scene.close()


@pytest.mark.parametrize("partitions", [0, 2])
def test_what_was_pushed_to_both_inboxes_is_stored_once_whoever_is_killed(
    redis_server: RedisServer, partitions: int
) -> None:
    scene = Scene(redis_server.url, redis_server.client(), partitions)
    reader = Reader(Q, [scene.yard.task(save, queue=Q, batch=Batch(1000), shard="n")])
    pushed, steps = 0, 0
    while True:  # each round, couriers of both inboxes are killed a step later
        for key in (f"{scene.prefix}:inbox:{Q}", Q):
            scene.client.lpush(key, *(json.dumps({"n": pushed + number}) for number in range(5)))
            pushed += 5
        under_way = [
            stepwise(scene, courier(scene, f"c{steps}{bare}", reader, bare=bare))
            for bare in (False, True)
        ]
        ended = [sum(1 for _ in zip(range(steps), one, strict=False)) for one in under_way]
        scene.clock.pass_patience()
        if max(ended) < steps:
            break
        steps += 1
    for bare in (False, True):
        scene.run(courier(scene, "last", reader, bare=bare))
    assert steps > 3
    assert sorted(value["n"] for _, value in scene.drain()) == list(range(pushed))
    assert scene.client.llen(Q) == 0
    scene.close()


def test_the_first_plan_of_a_lot_holds(shared_server: RedisServer) -> None:
    scene = Scene(shared_server.url, shared_server.client(), 4)
    task = scene.yard.task(save, queue=Q, batch=Batch(1000))
    scene.push(b"1", b"2")
    lot = scene.collect()
    assert lot is not None
    for shards in (("a", "b"), ("c", "d")):
        items = [_shard(task.options(shard=shard).put_of(1)) for shard in shards]
        scene.run(scene.broker.inboxes.store(lot, items))
    assert sorted(shard for shard, _ in scene.drain()) == ["a", "b"]
    assert scene.collect(done=lot.number) is None
    assert scene.run(scene.broker.inboxes.store(lot, items)) == []  # long done
    assert scene.drain() == []
    scene.close()


def _shard(put: Put) -> Put:
    return put


# A queue that is split while a lot is on its way


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 6, 7, 1000])
def test_what_moved_meanwhile_goes_to_the_new_containers(
    shared_server: RedisServer, steps: int
) -> None:
    scene = Scene(shared_server.url, shared_server.client(), 2)
    reader = Reader(Q, [scene.yard.task(save, queue=Q, batch=Batch(1000), shard="n")])
    scene.push(*(json.dumps({"n": number}) for number in range(40)), "[")
    lot = scene.collect()
    assert lot is not None
    items = list(map(reader.read, lot.values))
    # Begun by somebody else, and left after some steps.
    other = RedisBroker(parse_url(scene.url), clock=scene.clock)
    splitting = stepwise(scene, other.split(Q))
    for _ in range(steps):
        next(splitting, None)
    for _ in range(2):
        scene.run(scene.broker.inboxes.store(lot, items))
    while not scene.run(other.split(Q, 4)).done:
        pass
    assert sorted(value["n"] for _, value in scene.drain()) == list(range(40))
    assert [body for body, _ in scene.dead()] == [b"["]
    assert scene.collect(done=lot.number) is None
    scene.close()


# A cluster


def test_inboxes_in_a_cluster(redis_cluster: RedisCluster) -> None:
    with redis_cluster.client() as client:
        scene = Scene(redis_cluster.url, client, 4)
        reader = Reader(Q, [scene.yard.task(save, queue=Q, batch=Batch(1000), shard="n")])
        scene.push(*(json.dumps({"n": number}) for number in range(700)))
        scene.run(courier(scene, "me", reader))
        assert sorted(value["n"] for _, value in scene.drain()) == list(range(700))
        scene.close()
