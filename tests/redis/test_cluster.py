"""Work that goes on while servers fail and slots move: what was acknowledged is there."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import redis
from redis.crc import key_slot
from tests.faults.conftest import folder
from tests.faults.program import Item
from tests.faults.scene import Scene, until
from tests.servers.binaries import Binary
from tests.servers.cluster import RedisCluster, Sentinels
from tests.servers.fixtures import required
from tests.servers.proxy import Proxy
from tests.servers.server import RedisServer, wait_until
from tests.variants import some_in_short

from taskyard.brokers.base import (
    Broker,
    Counts,
    Dead,
    DeadQuery,
    Group,
    GroupWant,
    Operation,
    Put,
    Settlement,
    Want,
)
from taskyard.brokers.inboxes import Lot
from taskyard.brokers.redis import RedisBroker, parse_url, split
from taskyard.brokers.redis.calls import Call
from taskyard.brokers.redis.placement import call
from taskyard.errors import BrokerError, DuplicateId, NotConfirmed
from taskyard.message import Failure
from taskyard.testing.conformance.harness import TASK, Clock, Harness, SyncRunner, body

__all__ = ["folder"]

# A cluster begins, fails over, and thousands of messages are run, on a machine that has other work.
pytestmark = pytest.mark.timeout(180)
DRAINING = 90.0

HOME, QUEUE = key_slot(b"0"), key_slot(b"1")
"""The slots of the container that knows the queues, and of the first queue's own."""

SHARDS = 20
LOT = 10
FAILOVER = "wait_replicas=1&timeout=1&retry=40"


class Servers:
    """The store of a scene, at a URL that stays the same whoever serves it."""

    def __init__(self, url: str, query: str) -> None:
        self._url = f"{url}?prefix=scene-{uuid.uuid4().hex}&{query}"

    def fields(self) -> dict[str, Any]:
        return {"url": self._url}

    def owners(self) -> list[str]:
        return []

    def deadlines(self) -> dict[int, int]:
        return {}

    def is_kept_by(self, pid: int) -> bool:
        return False

    def check(self, counts: Counts) -> None:
        """What is in the servers is looked at by `Scene.check`, through the broker only."""


class Load:
    """Two worker processes, which nobody restarts, and a thread that puts all the time.

    Arguments:
        scene: where they are at work.
        kind: of the task.
        fields: more of the `Config` of all.
    """

    def __init__(self, scene: Scene, kind: str, **fields: Any) -> None:
        self._scene = scene
        self._ordered = kind.startswith("ordered")
        scene.setup(kind=kind, **fields)
        self._workers = [scene.worker(settings={"concurrency": 4}) for _ in range(2)]
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        self._failed_over = False
        self._thread = threading.Thread(target=self._produce)

    def _produce(self) -> None:
        try:
            for first in itertools.count(0, LOT):
                numbers = range(first, first + LOT)
                self._scene.put(Item(f"m{number}", f"s{number % SHARDS}") for number in numbers)
                if self._over.wait(0.01):
                    return
        except BaseException as error:
            self._failures.append(error)

    def progress(self, messages: int = 100) -> None:
        """Wait until so many more are accepted, and as many more have been run."""
        self._until_more(lambda: len(self._scene.accepted), messages, "messages are accepted")
        self._until_more(lambda: len(self._scene.of("end")), messages, "messages are run")

    def _until_more(self, count: Any, more: int, what: str) -> None:
        goal = count() + more
        until(lambda: self._failures or count() >= goal, what)
        assert self._failures == []

    def fall_behind(self, messages: int) -> None:
        """Put many at once."""
        shards = (f"b{number % SHARDS}" for number in range(messages))
        self._scene.put(Item(f"b{number}", shard) for number, shard in enumerate(shards))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def fail_over(self) -> None:
        """A server is about to be killed, and a replica of it takes over.

        What ended just before may run again: a put waits for replicas here, a settlement does not.
        """
        self._failed_over = True
        self._scene.fail_over()

    def finish(self) -> None:
        """Everything that was accepted has run; but for a failover, once, and no lease was lost."""
        assert self._failures == []
        self._scene.drained(DRAINING)
        assert [worker.code for worker in self._workers] == [None, None]
        evidence = self._scene.check(ordered=self._ordered)
        if self._failed_over:
            return
        assert [message for message, runs in evidence.runs.items() if len(runs) > 1] == []
        totals = self._scene.counts.totals
        assert (totals.get("lost", 0), totals.get("redelivered", 0)) == (0, 0)

    def said(self, text: str) -> bool:
        """Whether a worker wrote that."""
        return any(text in worker.output() for worker in self._workers)


@pytest.fixture
def cluster(redis_binary: Binary) -> Iterator[RedisCluster]:
    """One for this test, which may kill its nodes."""
    with RedisCluster(binary=redis_binary) as made:
        yield made


@pytest.fixture
def sentinels(redis_binary: Binary) -> Iterator[Sentinels]:
    """The same, a master that sentinels watch."""
    with Sentinels(binary=redis_binary) as made:
        yield made


@pytest.fixture
def scene(folder: Path) -> Iterator[list[Scene]]:
    """Ends the scene that a test puts there."""
    made: list[Scene] = []
    yield made
    for one in made:
        one.close()


def begin(scene: list[Scene], folder: Path, url: str, kind: str, query: str, **fields: Any) -> Load:
    scene.append(Scene(folder, Servers(url, query)))
    return Load(scene[0], kind, **fields)


# Failing over


UNDER_LOAD = [(QUEUE, "single"), (QUEUE, "ordered_batch"), (HOME, "ordered")]


@pytest.mark.parametrize(("slot", "kind"), some_in_short(UNDER_LOAD, UNDER_LOAD[1:]))
def test_a_node_that_is_killed_under_load(
    scene: list[Scene], folder: Path, cluster: RedisCluster, slot: int, kind: str
) -> None:
    with begin(scene, folder, cluster.url, kind, FAILOVER) as load:
        load.progress()
        old = cluster.master_of(slot)
        load.fail_over()
        cluster.kill(old)
        cluster.wait_failover(slot, old)
        old.restart()  # as a replica: without one, nothing would be confirmed
        load.progress()
    load.finish()


@pytest.mark.parametrize("kind", some_in_short(["single", "ordered_batch"], ["ordered_batch"]))
def test_a_master_that_is_killed_under_load(
    scene: list[Scene], folder: Path, sentinels: Sentinels, kind: str
) -> None:
    with begin(scene, folder, sentinels.url, kind, FAILOVER) as load:
        load.progress()
        old = sentinels.master()
        load.fail_over()
        old.kill()
        new = sentinels.wait_failover(old)
        old.restart()
        old.client().replicaof(new.host, new.port)  # the sentinels would take ten seconds
        load.progress()
    load.finish()


# Where nobody takes over


@pytest.fixture
def lonely(redis_binary: Binary) -> Iterator[RedisCluster]:
    """A cluster without replicas, whose nodes serve what is theirs while another is away."""
    config = {"cluster-require-full-coverage": "no"}
    with RedisCluster(replicas=0, binary=redis_binary, appendonly=True, config=config) as made:
        yield made


def test_a_node_that_is_away_costs_the_others_nothing(
    scene: list[Scene], folder: Path, lonely: RedisCluster
) -> None:
    one = Scene(folder, Servers(lonely.url, "timeout=1&retry=1"))
    scene.append(one)
    one.setup(kind="single")
    broker = one.yard.broker
    broker.set_partitions(one.task.group.queue, 6)
    one.fill(SHARDS, shards=SHARDS)
    doomed = lonely.master_of(QUEUE)
    gone = {
        shard
        for shard in (f"s{number}" for number in range(SHARDS))
        if lonely.master_of(key_slot(_tag(broker, one.task.group, shard))) is doomed
    }
    there = sorted({f"s{number}" for number in range(SHARDS)} - gone)
    assert doomed is not lonely.master_of(HOME)
    assert gone
    assert there
    worker = one.worker(settings={"lease": 600.0, "concurrency": 4})
    one.drained()
    # One is at work for who goes away, and ends while that cannot be told.
    one.put([Item("held", min(gone), "hold")])
    one.began("held")
    lonely.kill(doomed)
    one.release()
    until(lambda: one.of("end", "held"), "it has ended")
    for lot in range(10):
        items = [Item(f"{shard}-{lot}", shard) for shard in there]
        one.put(items)
        until(lambda: all(one.of("end", item.name) for item in items), "the others are served")  # noqa: B023
    doomed.restart()
    lonely.wait_ok()
    one.put([Item(f"{shard}-again", shard) for shard in sorted(gone)])
    one.drained()
    evidence = one.check()
    assert [message for message, runs in evidence.runs.items() if len(runs) > 1] == []
    totals = one.counts.totals
    assert (totals.get("lost", 0), totals.get("redelivered", 0)) == (0, 0)
    told = [line for line in worker.output().splitlines() if "cannot be reached" in line]
    assert len([line for line in told if "{1}" in line]) == 1
    assert "the broker failed" not in worker.output()


def _tag(broker: Broker, group: Group, shard: str) -> bytes:
    return str(broker.partition(Put(group, [], shard))).encode()


# Without a failover of the whole: what a replica does not have


@pytest.fixture
def follower(redis_binary: Binary) -> Iterator[tuple[RedisServer, RedisServer, Proxy]]:
    """A master, its replica, and the proxy through which that follows."""
    with (
        RedisServer(binary=redis_binary) as master,
        RedisServer(binary=redis_binary) as replica,
        Proxy((master.host, master.port)) as proxy,
    ):
        host, _, port = proxy.address.rpartition(":")
        client = replica.client()
        client.replicaof(host, int(port))
        until(lambda: client.info("replication")["master_link_status"] == "up", "it follows")
        yield master, replica, proxy


@pytest.mark.parametrize("waits", [0, 1])
def test_only_what_replicas_have_outlives_the_master(
    follower: tuple[RedisServer, RedisServer, Proxy], waits: int
) -> None:
    master, replica, proxy = follower
    broker = RedisBroker(parse_url(f"{master.url}?wait_replicas={waits}&timeout=2&retry=0"))
    driver = broker.driver()
    driver.run(broker.put([Put(TASK, [body("before")])]))
    ask = replica.client()
    until(lambda: list(ask.scan_iter("*:l:*")), "the replica has it")
    proxy.hold("reply")
    refused = pytest.raises(BrokerError, match="only 0 of 1 replicas have it")
    with refused if waits else contextlib.nullcontext():
        driver.run(broker.put([Put(TASK, [body("after")])]))
    driver.close()
    master.kill()
    proxy.cut()
    ask.replicaof("NO", "ONE")
    heir = RedisBroker(parse_url(replica.url))
    successor = heir.driver()
    [counts] = successor.run(heir.counts())
    successor.close()
    assert counts.waiting == 1


# Moving


@pytest.mark.parametrize("kind", some_in_short(["single", "ordered_batch"], ["ordered_batch"]))
def test_slots_that_move_under_load(
    scene: list[Scene], folder: Path, redis_cluster: RedisCluster, kind: str
) -> None:
    with begin(scene, folder, redis_cluster.url, kind, "retry=40") as load:
        load.progress()
        for slot, master in itertools.product((QUEUE, HOME), redis_cluster.masters()):
            redis_cluster.move_slot(slot, master)
            load.progress()
    load.finish()
    assert not load.said("the broker failed")


def is_waited_for(node: RedisServer) -> bool:
    with node.client() as client:
        return bool(client.info("clients")["blocked_clients"])


async def wait_for_a_push(broker: RedisBroker, cluster: RedisCluster) -> Lot | None:
    """Wait at an inbox that moves meanwhile, then push where it is; returns what comes."""
    name = broker.inboxes.name(TASK.queue)
    slot = key_slot(name.encode())
    old = cluster.master_of(slot)
    watch = broker.inboxes.watch(TASK.queue, "courier")
    try:
        waiting = asyncio.ensure_future(watch.wait())
        await asyncio.to_thread(wait_until, lambda: is_waited_for(old), "it waits")
        [new, *_] = [master for master in cluster.masters() if master is not old]
        await asyncio.to_thread(cluster.move_slot, slot, new)
        assert await waiting is None
        with new.client() as client:
            client.lpush(name, b"1")
        assert await watch.wait() is None  # it does not know yet where the queue is
        driver = broker.async_driver()
        lot = await driver.run(broker.inboxes.collect(TASK.queue, "courier"))
        await driver.close()
        return lot
    finally:
        watch.close()


def test_an_inbox_that_moves_goes_unnoticed_by_who_waits(redis_cluster: RedisCluster) -> None:
    broker = RedisBroker(parse_url(f"{redis_cluster.url}?prefix=inbox-{uuid.uuid4().hex[:8]}"))
    lot = asyncio.run(wait_for_a_push(broker, redis_cluster))
    assert lot is not None
    assert lot.values == [b"1"]


# What differs where each queue has keys of its own


@pytest.fixture
def harness(redis_cluster: RedisCluster) -> Iterator[Harness]:
    clock = Clock()
    broker = RedisBroker(parse_url(redis_cluster.url), clock=clock)
    made = Harness(broker, SyncRunner(broker), clock)
    yield made
    made.close()


def sleep_and_die(harness: Harness) -> None:
    """Leave what a worker leaves that is killed while it sleeps."""
    want: Want = harness.want()
    want.listener = f"nobody-{uuid.uuid4().hex}"
    assert harness.step([], want).claims == []


def test_who_fell_asleep_long_ago_is_woken_in_addition(harness: Harness) -> None:
    for _ in range(3):
        sleep_and_die(harness)
    harness.clock.advance(31)
    sleeper = harness.idle_worker()
    harness.put("a")
    assert sleeper.is_woken()


def test_who_died_asleep_just_now_costs_one_wake_up(harness: Harness) -> None:
    sleep_and_die(harness)
    sleeper = harness.idle_worker()
    harness.put("a", shard="a")
    harness.put("b", shard="b")
    assert sleeper.is_woken()


def test_an_old_sleeper_that_lives_is_woken(harness: Harness) -> None:
    sleeper = harness.idle_worker()
    harness.clock.advance(3600)
    harness.put("a")
    assert sleeper.is_woken()


def test_a_queue_is_a_partition_by_itself_until_it_is_looked_up(harness: Harness) -> None:
    put = Put(TASK, [body("a")])
    before = harness.broker.partition(put)
    assert before == ("unknown", "orders")
    harness.put_all(put)
    assert harness.broker.partition(put) == 1


@pytest.mark.parametrize("id_", ["two\nlines", "a\r\nb", " a ", "a\0b", ""])
def test_a_taken_id_is_named_as_it_is(harness: Harness, id_: str) -> None:
    put = Put(TASK, [body("a")], ids=[id_], record_ttl=60_000_000)
    harness.put_all(put)
    with pytest.raises(DuplicateId) as refused:
        harness.put_all(put)
    assert repr(id_) in str(refused.value)


# What somebody else did, and replicas do not have yet


@pytest.fixture(params=["redis", "valkey"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[RedisBroker, RedisBroker, Proxy]]:
    """Two brokers of a master whose replica can be held up."""
    binary = required(request.param)
    with (
        RedisServer(binary=binary) as master,
        RedisServer(binary=binary) as replica,
        Proxy((master.host, master.port)) as proxy,
    ):
        host, _, port = proxy.address.rpartition(":")
        client = replica.client()
        client.replicaof(host, int(port))
        until(lambda: client.info("replication")["master_link_status"] == "up", "it follows")
        # Nothing is tried again: a second attempt is another matter than a second caller.
        url = f"{master.url}?wait_replicas=1&timeout=2&retry=0"
        yield RedisBroker(parse_url(url)), RedisBroker(parse_url(url)), proxy
        proxy.resume()


def attempt_both(pair: tuple[RedisBroker, RedisBroker, Proxy], make: Any) -> None:
    """Neither who does something nor who finds it done may go on before the replica has it."""
    *brokers, proxy = pair
    drivers = [broker.driver() for broker in brokers]
    for driver in drivers:
        driver.run(brokers[0].counts())  # connected, the server examined
    proxy.hold("reply")
    for broker, driver in zip(brokers, drivers, strict=True):
        with pytest.raises(NotConfirmed):
            driver.run(make(broker))
    proxy.resume()
    drivers[1].run(make(brokers[1]))
    for driver in drivers:
        driver.close()


def test_a_lot_that_another_one_stored_is_confirmed(
    pair: tuple[RedisBroker, RedisBroker, Proxy],
) -> None:
    driver = pair[0].driver()
    for broker in pair[:2]:
        driver.run(broker.put([Put(TASK, [])]))  # both know where the queue is
    lot = Lot(TASK.queue, 1, 1, [b"1"])
    attempt_both(pair, lambda broker: broker.inboxes.store(lot, [Put(TASK, [body("a")])]))
    [counts] = driver.run(pair[0].counts())
    assert counts.waiting == 1
    driver.close()


@pytest.mark.parametrize(
    "script", some_in_short(["part", "accept", "export", "import"], ["accept", "import"])
)
def test_a_step_of_a_split_that_another_one_took_is_confirmed(
    pair: tuple[RedisBroker, RedisBroker, Proxy], script: str
) -> None:
    driver = pair[0].driver()
    driver.run(pair[0].put([Put(TASK, [body("x")], shard) for shard in "abcde"]))
    step = driver.run(until_script(pair[0].split(TASK.queue), script))
    attempt_both(pair, lambda broker: once(step))
    while not driver.run(pair[0].split(TASK.queue, 2)).done:
        pass
    [counts] = driver.run(pair[0].counts())
    assert counts.waiting == 5
    driver.close()


def test_dead_letters_can_be_discarded_where_memory_is_full(
    pair: tuple[RedisBroker, RedisBroker, Proxy],
) -> None:
    broker = pair[0]
    driver = broker.driver()
    driver.run(broker.put([Put(TASK, [body("a")])]))
    want = Want([GroupWant(TASK, 10)], "me", 60_000_000)
    [claim] = driver.run(broker.step([], want)).claims
    [(_, message)] = claim.lanes[0].messages
    dead = Dead(Failure("error", "Error", "it failed"))
    driver.run(broker.step([Settlement(claim.token, {message.sequence: dead})], None))
    host, _, port = broker.url.partition("//")[2].partition("/")[0].rpartition(":")
    with redis.Redis(host, int(port)) as client:
        client.config_set("maxmemory", 1)
    with pytest.raises(BrokerError, match="memory is full"):
        driver.run(broker.put([Put(TASK, [body("a")])]))
    assert driver.run(broker.discard_dead(DeadQuery())) == 1
    driver.close()


def until_script(operation: Operation[Any], script: str) -> Operation[Call]:
    """Carry an operation out until it is about to call a script; returns that call."""
    step = next(operation)
    while step.script.name != script:
        step = operation.send((yield step))
    operation.close()
    return step


def once(step: Call) -> Operation[Any]:
    return (yield step)


# Failing over while a queue is split

PORTION = 20
"""How much moves at once: little, so that it takes a while."""
OLD, NEW = 1, 2
"""The containers of the first queue, once it is split."""


class Splitter:
    """Splits the queue of a scene in small portions, until it is killed at a point of that.

    Arguments:
        scene: whose queue.
    """

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(split, "THINGS", PORTION)
        self._broker = RedisBroker(parse_url(scene.config().url))
        self._queue = scene.task.group.queue
        self._driver = self._broker.driver()

    def close(self) -> None:
        self._driver.close()

    def advance_to(self, script: str, skip: int = 0) -> bool:
        """Split until a script is about to run, for so many times more than once; then die.

        Returns:
            False: others were faster, and it is over.
        """
        while True:
            operation = self._broker.split(self._queue, NEW)
            progress = self._driver.run(_until(operation, script, skip))
            if progress is None or progress.done:
                return progress is None

    def advance(self) -> None:
        """Go on, or begin the next one."""
        self._driver.run(self._broker.split(self._queue))

    def is_over(self) -> bool:
        with contextlib.suppress(BrokerError):
            return self._driver.run(self._broker.split(self._queue, NEW)).done
        return False

    def under_way(self) -> list[bytes]:
        """The splits that home knows of, as nobody carries them on by asking."""
        named: list[bytes] = self._driver.run(once(call("splits", 0)))
        return named

    def partitions(self) -> int:
        _, [_, *containers] = self._driver.run(once(call("places", 0, self._queue, 0)))
        return len(containers)


def _until(operation: Operation[Any], script: str, skip: int) -> Operation[Any]:
    """Carry an operation out until it comes to that point; then it gives None."""
    try:
        step = next(operation)
        while True:
            if step.script.name == script:
                if not skip:
                    return None
                skip -= 1
            step = operation.send((yield step))
    except StopIteration as end:
        return end.value


POINTS = [
    ("import", 2, NEW, "ordered"),  # it is on its way: still in the old one
    ("cleared", 2, OLD, "ordered_batch"),  # it has arrived: in both
    ("accept", 0, OLD, "ordered"),
    ("export", 3, OLD, "single"),
    ("import", 2, OLD, "ordered_batch"),
    ("cleared", 2, NEW, "ordered"),
    ("closed", 0, NEW, "ordered"),
    ("gone", 0, OLD, "ordered"),
    ("doubled", 0, HOME, "ordered"),
]
"""About to call what, how often it was called before, whose node dies, kind of the task."""


@pytest.mark.parametrize(
    ("script", "skip", "half", "kind"),
    some_in_short(POINTS, POINTS[:1]),
)
def test_a_node_that_is_killed_in_the_middle_of_a_split(
    scene: list[Scene],
    folder: Path,
    cluster: RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    skip: int,
    half: int,
    kind: str,
) -> None:
    home, old, _ = (cluster.master_of(key_slot(b"%d" % tag)) for tag in (0, OLD, NEW))
    [third] = [node for node in cluster.masters() if node not in (home, old)]
    cluster.move_slot(key_slot(b"%d" % NEW), third)  # so that the halves fail one by one
    slot = key_slot(b"0") if half == HOME else key_slot(b"%d" % half)
    takes = 0.05 if kind.endswith("batch") else 0.01
    fields = {"portion": PORTION, "takes": takes}
    with begin(scene, folder, cluster.url, kind, FAILOVER, **fields) as load:
        load.progress()
        splitter = Splitter(scene[0], monkeypatch)
        load.fall_behind(1500)
        assert splitter.advance_to(script, skip) or script == "doubled"
        victim = cluster.master_of(slot)
        cluster.kill(victim)
        cluster.wait_failover(slot, victim)
        victim.restart()
        load.progress()
        # Nobody but the workers carries it on.
        until(lambda: not splitter.under_way(), "the split is over")
        load.progress()
    assert splitter.partitions() == 2
    assert splitter.is_over()
    splitter.close()
    load.finish()


# Failing over while what others pushed is taken in

INBOX = -1


class Pushes:
    """Values that a plain client pushes, each on a replica before it counts as pushed.

    Arguments:
        scene: the queue of which gets them.
        cluster: where it is.
    """

    def __init__(self, scene: Scene, cluster: RedisCluster) -> None:
        self.key = f"{parse_url(scene.config().url).prefix}:inbox:{scene.task.group.queue}"
        self.slot = key_slot(self.key.encode())
        self._scene = scene
        self._cluster = cluster

    def push(self, count: int) -> None:
        first = len(self._scene.accepted)
        items = [Item(f"v{n}", f"s{n % SHARDS}") for n in range(first, first + count)]
        values = [
            msgspec.json.encode({"taskyard": {"id": item.name}, "value": item}) for item in items
        ]
        master = self._cluster.master_of(self.slot)
        with master.client(single_connection_client=True) as client:
            client.lpush(self.key, *values)
            assert client.wait(1, 10_000) == 1
        self._scene.note_accepted(items)

    def are_stored(self) -> bool:
        return self._scene.counts.totals.get("put", 0) >= len(self._scene.accepted)


@pytest.mark.parametrize(
    ("point", "where"),
    [
        ("courier put", INBOX),  # the inbox has given a lot, nobody has stored it
        ("courier put answered", QUEUE),
        *(
            pytest.param(point, where, marks=pytest.mark.long)
            for point in ("courier collect", "courier collect answered", "courier put")
            for where in (INBOX, QUEUE, HOME)
            if (point, where) != ("courier put", INBOX)
        ),
        pytest.param("courier put answered", INBOX, marks=pytest.mark.long),
    ],
)
def test_a_node_that_is_killed_while_a_lot_is_on_its_way(
    scene: list[Scene], folder: Path, cluster: RedisCluster, point: str, where: int
) -> None:
    one = Scene(folder, Servers(cluster.url, FAILOVER), kind="ordered")
    scene.append(one)
    pushes = Pushes(one, cluster)
    taken = [cluster.master_of(slot) for slot in (HOME, QUEUE)]
    [third] = [node for node in cluster.masters() if node not in taken]
    cluster.move_slot(pushes.slot, third)
    slot = pushes.slot if where == INBOX else where
    pushes.push(1200)
    workers = [one.worker(probe=point, skip=1, action="ask")]
    one.asked()  # it has a lot, and has moved one
    victim = cluster.master_of(slot)
    cluster.kill(victim)
    cluster.wait_failover(slot, victim)
    victim.restart()
    cluster.wait_ok()
    workers.append(one.worker())
    pushes.push(100)
    one.tell()
    until(pushes.are_stored, "everything is taken in")
    one.drained()
    evidence = one.check(ordered=True)
    assert [message for message, runs in evidence.runs.items() if len(runs) > 1] == []
    assert one.counts.totals["put"] == len(one.accepted)
    assert [worker.code for worker in workers] == [None, None]


def split_to(splitter: Splitter, most: int, over: threading.Event) -> None:
    """Split again and again, whatever fails."""
    while not over.is_set():
        with contextlib.suppress(BrokerError):
            if not splitter.under_way() and splitter.partitions() == most:
                return
            splitter.advance()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["single", "ordered", "ordered_batch"])
def test_splits_while_nodes_are_killed_again_and_again(
    scene: list[Scene],
    folder: Path,
    cluster: RedisCluster,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    chance, over = random.Random(kind), threading.Event()
    fields = {"portion": PORTION, "takes": 0.05 if kind.endswith("batch") else 0.01}
    with begin(scene, folder, cluster.url, kind, FAILOVER, **fields) as load:
        load.progress()
        splitter = Splitter(scene[0], monkeypatch)
        load.fall_behind(2000)
        splitting = threading.Thread(target=split_to, args=(splitter, 8, over))
        splitting.start()
        try:
            for _ in range(8):
                load.progress(chance.randrange(1, 300))
                slot = key_slot(b"%d" % chance.randrange(9))
                victim = cluster.master_of(slot)
                cluster.kill(victim)
                cluster.wait_failover(slot, victim)
                victim.restart()
                cluster.wait_ok()
            until(lambda: not splitting.is_alive(), "it is split", 120)
        finally:
            over.set()
            splitting.join()
        load.progress()
    assert splitter.partitions() == 8
    splitter.close()
    load.finish()
