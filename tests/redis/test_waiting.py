"""Workers that wait while the server they wait at is replaced, or gives its slot away.

They are blocked at an inbox, or sleep until the doorbell rings; nothing else wakes them here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from redis.crc import key_slot
from tests.redis.test_inbox_worker import Q, Site, site_on
from tests.servers.binaries import Binary
from tests.servers.cluster import RedisCluster, Sentinels
from tests.servers.server import RedisServer, wait_until
from tests.worker.support import working

from taskyard import Yard
from taskyard.brokers.redis import watch
from taskyard.worker import pool

# A cluster begins and fails over, on a machine that has other work.
pytestmark = pytest.mark.timeout(180)

TIMEOUT = 1
"""Seconds after which a call is given up; a watch has five more."""


@pytest.fixture
def sentinels(redis_binary: Binary) -> Iterator[Sentinels]:
    """A master with a replica, for one test, which may kill it."""
    with Sentinels(binary=redis_binary) as made:
        yield made


@pytest.fixture
def cluster(redis_binary: Binary) -> Iterator[RedisCluster]:
    """A cluster for one test, which may kill its nodes."""
    with RedisCluster(binary=redis_binary) as made:
        yield made


# How a master is replaced


def killed(group: Sentinels) -> RedisServer:
    old = group.master()
    old.kill()
    return group.wait_failover(old)


def hung(group: Sentinels) -> RedisServer:
    old = group.master()
    old.stop_process()
    return group.wait_failover(old)


def replaced(group: Sentinels) -> RedisServer:
    old = group.master()
    group.sentinels[0].client().execute_command("SENTINEL", "FAILOVER", group.name)
    new = group.wait_failover(old)
    old.client().replicaof(new.host, new.port)  # the sentinels would take ten seconds
    return new


Replace = Callable[[Sentinels], RedisServer]
REPLACEMENTS = [killed, hung, replaced]


# At an inbox


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch ends by itself after hours only."""
    monkeypatch.setattr(watch, "BLOCK", 10_000.0)


@pytest.mark.parametrize("options", ["", pytest.param("wait_replicas=1&", marks=pytest.mark.long)])
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_a_watch_goes_on_at_the_next_master(
    sentinels: Sentinels, replace: Replace, options: str
) -> None:
    with site_on(f"{sentinels.url}?{options}timeout={TIMEOUT}", None) as site:
        site.serve(Q)
        with working(site.yard):
            site.waiting(sentinels.master())
            new = replace(sentinels)
            if options:
                await_replica(sentinels, new)
            site.client = new.client()
            site.waiting(new)
            for number in range(3):
                site.push(number)
                assert site.next() == number
                site.waiting(new)


def await_replica(group: Sentinels, master: RedisServer) -> None:
    """Let the old master follow the new one: what is stored has to be on a replica."""
    [old] = [server for server in group.servers if server is not master]
    if not old.running:
        old.restart()
    old.cont()
    old.client().replicaof(master.host, master.port)
    wait_until(lambda: master.client().info("replication")["connected_slaves"], "it follows")


@pytest.mark.parametrize("replace", [killed, replaced])
def test_a_watch_notices_by_itself_that_its_master_is_none(
    sentinels: Sentinels, replace: Replace, patient: None
) -> None:
    test_a_watch_goes_on_at_the_next_master(sentinels, replace, "")


def test_what_was_pushed_while_nobody_served_it_is_found(sentinels: Sentinels) -> None:
    with site_on(f"{sentinels.url}?timeout={TIMEOUT}", None) as site:
        site.serve(Q)
        with working(site.yard):
            site.waiting(sentinels.master())
            new = killed(sentinels)
            site.client = new.client()
            site.push(*range(10))  # whether somebody is back or not
            assert sorted(site.next() for _ in range(10)) == [*range(10)]


@pytest.mark.parametrize("options", ["", "?wait_replicas=1"])
def test_a_watch_follows_its_slot(redis_cluster: RedisCluster, patient: None, options: str) -> None:
    with (
        redis_cluster.client() as client,
        site_on(f"{redis_cluster.url}{options}", client) as site,
    ):
        site.serve(Q)
        slot = key_slot(site.key().encode())
        with working(site.yard):
            for number, master in enumerate(redis_cluster.masters() * 2):
                site.waiting(redis_cluster.master_of(slot))
                redis_cluster.move_slot(slot, master)
                site.waiting(master)
                site.push(number)
                assert site.next() == number


@pytest.mark.parametrize("options", ["", "?wait_replicas=1"])
def test_what_is_pushed_while_a_slot_moves_is_taken_once(
    redis_cluster: RedisCluster, options: str
) -> None:
    with (
        redis_cluster.client() as client,
        site_on(f"{redis_cluster.url}{options}", client) as site,
    ):
        site.serve(Q)
        slot, pushed = key_slot(site.key().encode()), 0

        def push(_: str) -> None:
            nonlocal pushed
            site.push(pushed)
            pushed += 1

        with working(site.yard):
            for master in redis_cluster.masters() * 2:
                site.waiting(redis_cluster.master_of(slot))
                redis_cluster.move_slot(slot, master, between=push)
                site.waiting(master)
            found = [site.next() for _ in range(pushed)]
            assert sorted(found) == [*range(pushed)]
            site.waiting(redis_cluster.master_of(slot))
        assert site.seen.empty()


def test_a_watch_follows_a_failover_that_somebody_ordered(
    cluster: RedisCluster, patient: None
) -> None:
    with cluster.client() as client, site_on(cluster.url, client) as site:
        site.serve(Q)
        slot = key_slot(site.key().encode())
        with working(site.yard):
            for number in range(2):
                old = cluster.master_of(slot)
                site.waiting(old)
                [replica] = cluster.replicas_of(old)
                # (The graceful kind may fail, and would have to be ordered again.)
                replica.client().execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
                site.waiting(cluster.wait_failover(slot, old))
                site.push(number)
                assert site.next() == number
                cluster.wait_ok()


# For the doorbell


@pytest.fixture
def sleepy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker wakes by itself after hours only."""
    monkeypatch.setattr(pool, "LONGEST_SLEEP", 10_000.0)


def asleep(site: Site, server: RedisServer) -> None:
    """Wait until a worker is known to sleep."""
    client = server.client()

    def sleeps() -> bool:
        keys = list(client.scan_iter(f"{site.prefix}:*:sleepers"))
        return any(client.hlen(key) for key in keys) and any(
            client.scan_iter(f"{site.prefix}:*:i:*")
        )

    wait_until(sleeps, "a worker sleeps")


@pytest.mark.parametrize("replace", [killed, replaced])
def test_a_sleeper_is_woken_by_the_next_master(
    sentinels: Sentinels, replace: Replace, sleepy: None
) -> None:
    with site_on(f"{sentinels.url}?timeout={TIMEOUT}", None) as site:
        task = site.serve(Q)
        with working(site.yard, inboxes=False):
            asleep(site, sentinels.master())
            new = replace(sentinels)
            with Yard(site.url) as other:
                remote = other.task(lambda item: None, name=task.name, queue=Q)
                for number in range(3):
                    asleep(site, new)
                    remote.enqueue(number)
                    assert site.next() == number


def test_a_sleeper_is_woken_wherever_its_slot_is(redis_cluster: RedisCluster, sleepy: None) -> None:
    with site_on(redis_cluster.url, None) as site:
        task = site.serve(Q)
        slot = key_slot(b"1")  # the container of the first queue
        with working(site.yard, inboxes=False):
            for number, master in enumerate(redis_cluster.masters() * 2):
                asleep(site, redis_cluster.master_of(slot))
                redis_cluster.move_slot(slot, master)
                task.enqueue(number)
                assert site.next() == number
