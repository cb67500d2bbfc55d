"""Clusters and sentinels: servers that move, fail, and take over from one another."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Self

import pytest
from redis.crc import key_slot
from tests.redis.driving import ADD, KINDS, SAY, Driven, call, driven
from tests.servers.cluster import RedisCluster, Sentinels
from tests.servers.server import RedisServer, wait_until
from tests.variants import some_in_short

from taskyard.brokers.base import Operation
from taskyard.brokers.redis.calls import Call
from taskyard.errors import BrokerInaccessible, BrokerUnavailable

# A cluster begins and fails over, on a machine that has other work.
pytestmark = pytest.mark.timeout(180)

LIST = "taskyard:{t}:list"
SLOT = key_slot(b"t")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


class Load:
    """Threads that add texts all the time.

    Attributes:
        stored: the texts whose addition was acknowledged.
    """

    def __init__(self, one: Driven, threads: int = 3) -> None:
        self.stored: list[bytes] = []
        self._one = one
        self._failures: list[BaseException] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._add, args=[n]) for n in range(threads)]

    def _add(self, name: int) -> None:
        try:
            for count in itertools.count():
                if self._over.is_set():
                    return
                text = b"%d-%d" % (name, count)
                self._one.run(call(ADD, text))
                self.stored.append(text)
        except BaseException as error:
            self._failures.append(error)

    def progress(self) -> None:
        """Wait until some more are stored."""
        until = len(self.stored) + 20
        wait_until(lambda: self._failures or len(self.stored) >= until, "calls")
        assert self._failures == []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert self._failures == []


def listed(server: RedisServer) -> list[bytes]:
    found: Any = server.client().lrange(LIST, 0, -1)
    return list(found)


def refused(one: Driven, text: str) -> None:
    with pytest.raises(BrokerInaccessible, match=text):
        one.run(call(ADD, "x"))


def unreachable(one: Driven) -> None:
    with pytest.raises(BrokerUnavailable, match=r"Redis at 127\.0\.0\.1:1: Connection refused"):
        one.run(call(ADD, "x"))


# Clusters


def test_calls_go_to_the_node_of_their_container(kind: str, redis_cluster: RedisCluster) -> None:
    tags = [str(number) for number in range(30)]

    def several() -> Operation[list[int]]:
        return (yield [Call(ADD, tag, ["x"]) for tag in tags])

    with driven(kind, redis_cluster.url) as one:
        for tag in tags:
            assert one.run(call(ADD, "x", tag=tag)) == 1
        assert one.run(several()) == [2] * len(tags)
    masters = redis_cluster.masters()
    assert all(master.client().dbsize() > 0 for master in masters)


def test_a_slot_that_has_moved_is_no_failure(kind: str, redis_cluster: RedisCluster) -> None:
    with driven(kind, redis_cluster.url, retry=0.0) as one:
        for count in range(1, 4):
            assert one.run(call(ADD, "x")) == count
            here = redis_cluster.master_of(SLOT)
            there = next(node for node in redis_cluster.masters() if node is not here)
            redis_cluster.move_slot(SLOT, there)
        assert len(listed(redis_cluster.master_of(SLOT))) == 3


def test_slots_that_move_under_load_go_unnoticed(kind: str, redis_cluster: RedisCluster) -> None:
    with driven(kind, redis_cluster.url) as one, Load(one) as load:
        for master in redis_cluster.masters() * 2:
            redis_cluster.move_slot(SLOT, master)
            load.progress()
    assert sorted(listed(redis_cluster.master_of(SLOT))) == sorted(load.stored)


def test_a_call_waits_while_its_slot_is_on_two_nodes(
    kind: str, redis_cluster: RedisCluster
) -> None:
    here = redis_cluster.master_of(SLOT)
    there = next(node for node in redis_cluster.masters() if node is not here)
    with driven(kind, redis_cluster.url) as one:
        assert [one.run(call(ADD, "x")) for _ in range(2)] == [1, 2]
        asked: list[Any] = []

        def between(step: str) -> None:
            if step == "keys" and not asked:
                asked.append(one.begin(call(ADD, "x")))
                wait_until(lambda: "errorstat_ASK" in here.client().info("errorstats"), "ASK")
            if asked:
                assert not asked[0].done() or step == "node"

        redis_cluster.move_slot(SLOT, there, between=between)
        assert asked[0].result() == 3
    assert listed(there) == [b"x"] * 3


@pytest.mark.parametrize("kind", some_in_short(KINDS, ["sync"]), indirect=True)
def test_a_node_that_is_killed_under_load(kind: str, redis_binary: object) -> None:
    with (
        RedisCluster() as cluster,
        driven(kind, cluster.url, wait_replicas=1, timeout=1.0, retry=40.0) as one,
    ):
        with Load(one) as load:
            load.progress()
            old = cluster.master_of(SLOT)
            cluster.kill(old)
            new = cluster.wait_failover(SLOT, old)
            old.restart()  # as its replica: without one, nothing would be confirmed
            load.progress()
        found = listed(new)
    # What was acknowledged is there; nothing is there twice.
    assert sorted(found) == sorted(load.stored)


def test_nodes_that_are_down_at_the_start(kind: str, redis_cluster: RedisCluster) -> None:
    node = redis_cluster.nodes[0]
    url = f"redis+cluster://127.0.0.1:1,{node.host}:{node.port}"
    with driven(kind, url, retry=0.0) as one:
        assert one.run(call(ADD, "x")) == 1
    with driven(kind, "redis+cluster://127.0.0.1:1", retry=0.0) as one:
        unreachable(one)


def test_clusters_that_are_none(
    kind: str, redis_server: RedisServer, redis_cluster: RedisCluster
) -> None:
    with driven(kind, f"redis+cluster://{redis_server.host}:{redis_server.port}") as one:
        refused(one, "it is no node of a cluster")
    away = next(node for node in redis_cluster.nodes if node is not redis_cluster.master_of(SLOT))
    with driven(kind, away.url) as one:
        refused(one, r"it is a node of a cluster: write redis\+cluster://")
    node = redis_cluster.nodes[0]
    with driven(kind, f"redis+cluster://nobody:secret@{node.host}:{node.port}") as one:
        refused(one, "the user or password is wrong")


# Sentinels


def test_sentinels_that_are_none(kind: str, redis_server: RedisServer) -> None:
    url = f"redis+sentinel://{redis_server.host}:{redis_server.port}/mymaster"
    with driven(kind, url) as one:
        refused(one, "it is no sentinel")


def test_the_master_that_sentinels_name(kind: str, redis_sentinel: Sentinels) -> None:
    with driven(kind, redis_sentinel.url) as one:
        assert one.run(call(ADD, "x")) == 1
        listener = one.driver.listener()
        assert redis_sentinel.master().client().publish(listener.name, "") == 1
        assert listener.wait(30)
        listener.close()
    assert listed(redis_sentinel.master()) == [b"x"]


@pytest.mark.parametrize("kind", some_in_short(KINDS, ["async"]), indirect=True)
def test_a_master_that_is_killed_under_load(kind: str, redis_binary: object) -> None:
    with (
        Sentinels() as group,
        driven(kind, group.url, wait_replicas=1, timeout=1.0, retry=40.0) as one,
    ):
        with Load(one) as load:
            load.progress()
            old = group.master()
            old.kill()
            new = group.wait_failover(old)
            old.restart()
            old.client().replicaof(new.host, new.port)  # the sentinels would take ten seconds
            load.progress()
        assert sorted(listed(new)) == sorted(load.stored)


@pytest.mark.parametrize("kind", some_in_short(KINDS, ["sync"]), indirect=True)
def test_a_master_that_is_replaced_on_purpose(kind: str, redis_binary: object) -> None:
    with Sentinels() as group, driven(kind, group.url, retry=40.0) as one:
        assert one.run(call(ADD, "x")) == 1
        old = group.master()
        group.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", group.name)
        new = group.wait_failover(old)
        # Until it knows, the old one takes what is lost then; wait_replicas is against that.
        # The sentinels tell it after ten seconds.
        old.client().replicaof(new.host, new.port)
        assert one.run(call(ADD, "y")) == 2
        assert listed(new) == [b"x", b"y"]


def test_sentinels_with_passwords(kind: str, redis_binary: object) -> None:
    with Sentinels(password="p", sentinel_password="s") as group:
        with driven(kind, group.url) as one:
            assert one.run(call(SAY, "1")) == 1
        with driven(kind, group.url.replace("sentinel_password=s", "sentinel_password=x")) as one:
            refused(one, "the user or password is wrong")
        with driven(kind, group.url.replace(":p@", ":x@")) as one:
            refused(one, "the user or password is wrong")


def test_masters_that_nobody_knows(kind: str, redis_sentinel: Sentinels) -> None:
    with driven(kind, redis_sentinel.url.replace("/yard/", "/nobody/")) as one:
        refused(one, "the sentinel at .* knows no master named 'nobody'")
    with driven(kind, "redis+sentinel://127.0.0.1:1/yard", retry=0.0) as one:
        unreachable(one)


def test_a_sentinel_that_is_down(kind: str, redis_sentinel: Sentinels) -> None:
    url = redis_sentinel.url.replace("redis+sentinel://", "redis+sentinel://127.0.0.1:1,")
    with driven(kind, url, retry=0.0) as one:
        assert one.run(call(SAY, "1")) == 1
