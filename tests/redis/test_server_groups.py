"""The clusters and sentinels of the tests do what tests rely on."""

from __future__ import annotations

import pytest
import redis
from redis.crc import key_slot
from redis.sentinel import Sentinel
from tests.servers.cluster import RedisCluster, Sentinels
from tests.servers.fixtures import required
from tests.variants import some_in_short


def test_a_cluster_serves_every_slot(redis_cluster: RedisCluster) -> None:
    with redis_cluster.client() as client:
        for number in range(100):
            client.set(f"key:{number}", number)
        assert client.get("key:99") == b"99"
    assert len(redis_cluster.masters()) == 3
    assert all(len(redis_cluster.replicas_of(one)) == 1 for one in redis_cluster.masters())


def test_the_shared_cluster_is_empty_again(redis_cluster: RedisCluster) -> None:
    assert [node.client().dbsize() for node in redis_cluster.masters()] == [0, 0, 0]


def test_a_slot_moves_with_its_keys(redis_cluster: RedisCluster) -> None:
    slot = key_slot(b"{moved}")
    source = redis_cluster.master_of(slot)
    target = next(one for one in redis_cluster.masters() if one is not source)
    steps: list[str] = []
    with redis_cluster.client() as client:

        def between(step: str) -> None:
            steps.append(step)
            assert client.get("{moved}1") == b"1"

        for number in range(25):
            client.set(f"{{moved}}{number}", number)
        redis_cluster.move_slot(slot, target, between=between)
        assert redis_cluster.master_of(slot) is target
        assert [client.get(f"{{moved}}{number}") for number in (0, 24)] == [b"0", b"24"]
        assert steps == ["importing", "migrating", "keys", "keys", "keys", "node", "node", "node"]
        redis_cluster.move_slot(slot, source)
        assert client.get("{moved}7") == b"7"


KINDS = ["redis", "redis-6.2", "valkey"]


@pytest.mark.parametrize("kind", some_in_short(KINDS, ["redis-6.2"]))
def test_a_replica_takes_over(kind: str) -> None:
    with RedisCluster(binary=required(kind), password="secret", appendonly=True) as cluster:
        slot = key_slot(b"key")
        old = cluster.master_of(slot)
        [heir] = cluster.replicas_of(old)
        with cluster.client() as client:
            client.set("key", "kept")
        with old.client() as client:
            assert client.wait(1, 10_000) == 1
        cluster.kill(old)
        assert cluster.wait_failover(slot, old) is heir
        with cluster.client() as client:
            assert client.get("key") == b"kept"
        old.restart()
        cluster.wait_ok()
        assert cluster.replicas_of(heir) == [old]


def test_a_sentinel_knows_the_master(redis_sentinel: Sentinels) -> None:
    addresses = [(one.host, one.port) for one in redis_sentinel.sentinels]
    found = Sentinel(addresses).discover_master(redis_sentinel.name)
    assert found == (redis_sentinel.master().host, redis_sentinel.master().port)
    assert redis_sentinel.master().client().dbsize() == 0
    redis_sentinel.master().client().set("left", "behind")
    assert len(redis_sentinel.replicas()) == 1


def test_the_shared_ones_master_is_empty_again(redis_sentinel: Sentinels) -> None:
    assert redis_sentinel.master().client().dbsize() == 0


@pytest.mark.parametrize("kind", some_in_short(KINDS, ["valkey"]))
def test_sentinels_promote_a_replica(kind: str) -> None:
    binary = required(kind)
    with Sentinels(binary=binary, password="secret", sentinel_password="other") as group:
        old = group.master()
        with old.client() as client:
            client.set("key", "kept")
            assert client.wait(1, 10_000) == 1
        old.kill()
        new = group.wait_failover(old)
        assert new is not old
        assert new.client().get("key") == b"kept"
        with pytest.raises(redis.ConnectionError):
            old.client().ping()
