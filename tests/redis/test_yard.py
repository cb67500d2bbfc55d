"""Yards on a Redis: clients that are handed in, a server of one's own, partitions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from tests.servers.binaries import Binary
from tests.servers.cluster import RedisCluster
from tests.servers.server import RedisServer, free_port

from taskyard import Yard
from taskyard.brokers.base import GroupWant, Want
from taskyard.errors import BrokerError, BrokerInaccessible, PartitionConflict, PolicyError
from taskyard.task import Task


def add(a: int, b: int) -> int:
    return a + b


def sum_on(yard: Yard) -> int:
    """What a task answers that is put into this yard, and run there."""
    result = yard.task(name="add")(add).enqueue(1, 2)
    yard.run_worker(burst=True)
    return result.get(timeout=10)


Client = Callable[..., Any]


@pytest.mark.parametrize("kind", [redis.Redis, redis.asyncio.Redis])
@pytest.mark.parametrize("decode", [False, True])
def test_a_client_is_as_good_as_a_url(
    redis_server: RedisServer, kind: Client, decode: bool
) -> None:
    client = kind(host=redis_server.host, port=redis_server.port, decode_responses=decode)
    with Yard(client) as yard:
        assert sum_on(yard) == 3
    assert redis_server.client().exists("taskyard:{0}:meta")


def test_a_client_of_a_cluster(redis_cluster: RedisCluster) -> None:
    with Yard(redis_cluster.client()) as yard:
        assert sum_on(yard) == 3


def test_another_object_is_no_broker() -> None:
    with pytest.raises(BrokerError, match=r"a URL .* or a client of redis-py, not 3"):
        Yard(3)


# A server of one's own


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_binary: Binary) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(redis_binary.path.parent), prepend=":")
    return tmp_path


def test_a_server_of_ones_own(folder: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    with Yard(url, start_server=True) as yard:
        assert sum_on(yard) == 3
        with Yard(url, start_server=True) as other:  # as a worker process would make it
            assert [counts.totals["done"] for counts in other.counts()] == [1]
    assert (folder / "taskyard-redis").is_dir()


@pytest.mark.usefixtures("folder")
def test_a_port_that_is_taken(redis_server: RedisServer) -> None:
    with pytest.raises(BrokerError, match=r"a Redis .* runs there already"):
        Yard(f"redis://127.0.0.1:{redis_server.port}", start_server=True)


@pytest.mark.parametrize(
    "url",
    ["sqlite:///x.db", "redis://192.0.2.1", "redis+cluster://127.0.0.1", "rediss://localhost"],
)
def test_a_server_that_cannot_be_started_here(url: str) -> None:
    with pytest.raises(BrokerError, match=r"start_server=True starts a .*on this machine"):
        Yard(url, start_server=True)


@pytest.mark.usefixtures("folder")
def test_a_worker_process_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKYARD_SUPERVISED", "1")
    with pytest.raises(BrokerError, match="a worker process, which is replaced at times"):
        Yard(f"redis://127.0.0.1:{free_port()}", start_server=True)


# Partitions


def test_a_queue_over_several_partitions(redis_server: RedisServer) -> None:
    with Yard(redis_server.url) as yard:
        yard.queue("spread", partitions=8)
        seen: list[int] = []

        @yard.task(name="note", queue="spread", shard="number")
        def note(number: int) -> int:
            seen.append(number)
            return -number

        results = note.enqueue_many(range(200))
        yard.run_worker(burst=True)
        assert sorted(seen) == list(range(200))
        assert [result.get(timeout=10) for result in results] == [-number for number in range(200)]
        assert yard.counts()[0].totals["done"] == 200
        used = {key.partition(b"}")[0] for key in redis_server.client().keys("*:meta")}
        assert len(used) == 9  # and home


def test_a_queue_keeps_the_partitions_that_it_has(redis_server: RedisServer) -> None:
    with Yard(redis_server.url) as yard:
        yard.task(name="add", queue="small")(add).enqueue(1, 2)
    with Yard(redis_server.url) as yard:
        yard.queue("small", partitions=4)
        with pytest.raises(PartitionConflict, match="`taskyard split small`"):
            yard.task(name="add", queue="small")(add).enqueue(1, 2)


@pytest.mark.parametrize("partitions", [0, -1, 1025, 2.0, True, "2"])
def test_a_number_of_partitions_that_cannot_be(partitions: Any) -> None:
    with pytest.raises(PolicyError, match="partitions must be from 1 to 1,024"):
        Yard("memory://").queue("q", partitions=partitions)


def test_other_brokers_keep_all_in_one_place() -> None:
    with Yard("memory://") as yard:
        yard.queue("default", partitions=8)
        assert sum_on(yard) == 3


# Keys that somebody else wrote, or removed


@pytest.mark.parametrize("name", ["meta", "groups", "places", "later", "due", "claims", "letters"])
def test_a_foreign_key_is_refused_and_left_alone(redis_server: RedisServer, name: str) -> None:
    client = redis_server.client()
    client.rpush(f"taskyard:{{0}}:{name}", "theirs")
    with Yard(redis_server.url) as yard, pytest.raises(BrokerInaccessible) as caught:
        yard.task(name="add")(add).enqueue(1, 2)
    assert f"the key taskyard:{{0}}:{name} is another application's" in str(caught.value)
    assert client.keys() == [f"taskyard:{{0}}:{name}".encode()]


@pytest.mark.parametrize("kind", ["g", "s", "r", "f", "p", "i", "d"])
def test_a_group_takes_no_number_whose_keys_are_foreign(
    redis_server: RedisServer, kind: str
) -> None:
    client = redis_server.client()
    for number in (1, 2):
        client.set(f"taskyard:{{0}}:{kind}:{number}", "theirs")
    with Yard(redis_server.url) as yard:
        assert sum_on(yard) == 3
    assert client.hkeys("taskyard:{0}:names") == [b"3"]
    for number in (1, 2):
        assert client.get(f"taskyard:{{0}}:{kind}:{number}") == b"theirs"


def test_a_claim_that_somebody_removed_holds_up_nobody(redis_server: RedisServer) -> None:
    client = redis_server.client()
    with Yard(redis_server.url) as yard:
        task = yard.task(name="add")(add)
        task.enqueue(1, 2)
        group = GroupWant(task.group, 1)
        step = yard.driver.run(yard.broker.step([], Want([group], "gone", lease=1)))
        client.delete(f"taskyard:{{0}}:c:{step.claims[0].token}")
        result = task.enqueue(3, 4)
        yard.driver.run(yard.broker.reap(["gone"]))
        yard.run_worker(burst=True)
        assert result.get(timeout=10) == 7


def test_a_server_that_is_emptied_may_place_queues_anew(redis_server: RedisServer) -> None:
    def declare(yard: Yard) -> Task[[int], None]:
        yard.queue("two", partitions=2)
        return yard.task(name="note", queue="two", shard="number")(lambda number: None)

    with Yard(redis_server.url) as old, Yard(redis_server.url) as new:
        want = Want([GroupWant(declare(old).group, 1)], "worker", lease=30_000_000)
        assert old.driver.run(old.broker.step([], want)).claims == []  # it knows where it was
        redis_server.client().flushall()
        new.queue("another", partitions=2)
        new.task(name="other", queue="another")(add).enqueue(1, 2)
        declare(new).enqueue(1)
        assert old.driver.run(old.broker.step([], want)).claims == []
        old.driver.run(old.broker.tidy())
        assert len(old.driver.run(old.broker.step([], want)).claims) == 1


def test_a_partition_that_fails_costs_no_claims_of_others(redis_server: RedisServer) -> None:
    client = redis_server.client()
    with Yard(redis_server.url) as yard:
        yard.queue("two", partitions=2)
        task = yard.task(name="note", queue="two", shard="number")(lambda number: None)
        task.enqueue_many(range(20))
        client.set("taskyard:{2}:claims", "theirs")
        want = Want([GroupWant(task.group, 1)], "worker", lease=30_000_000, claims=100)
        claims = []
        for _ in range(2):  # they are looked at in turn
            with contextlib.suppress(BrokerError):
                claims += yard.driver.run(yard.broker.step([], want)).claims
        stored = client.zcard("taskyard:{1}:claims")
        assert 0 < stored == len(claims)
