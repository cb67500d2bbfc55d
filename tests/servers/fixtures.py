"""Fixtures with servers. A plugin, so that every test can ask for one; see tests/conftest.py.

A server is started once per session (and process of xdist) and lent to one test at a time, empty.
Tests that kill, freeze or configure one make their own, with the helpers that these stand on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.servers.binaries import Binary, NotInstalled, find
from tests.servers.cluster import RedisCluster, Sentinels
from tests.servers.server import Certificates, RedisServer

from taskyard.brokers.redis import doorbell

__all__ = [
    "redis_binary",
    "redis_cluster",
    "redis_sentinel",
    "redis_server",
    "redis_tls",
    "required",
    "shared_cluster",
    "shared_sentinel",
    "shared_server",
    "shared_tls",
    "tls_certificates",
]


def required(kind: str = "redis", *, tls: bool = False) -> Binary:
    """A server's program. Where there is none the test is skipped, in CI it fails.

    Arguments:
        kind: see `find`.
        tls: whether it must speak TLS.
    """
    try:
        found = find(kind)
        if tls and not found.has_tls:
            raise NotInstalled(f"{found.path} was built without TLS")
        return found
    except NotInstalled as error:
        if os.environ.get("TASKYARD_REQUIRE_SERVERS"):
            pytest.fail(f"{error} (TASKYARD_REQUIRE_SERVERS is set)", pytrace=False)
        pytest.skip(str(error))


SUBSCRIBING = 10.0
"""Seconds for which a new listener waits for its subscription, instead of half a one.

One that did not get it in time is woken once it stands, as it may have missed something; tests
would take that for a message.
"""


@pytest.fixture(scope="session")
def redis_binary() -> Iterator[Binary]:
    """The usual server's program; from here on, listeners are patient: see `SUBSCRIBING`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doorbell, "PATIENCE", SUBSCRIBING)
        yield required()


@pytest.fixture(scope="session")
def shared_server(redis_binary: Binary) -> Iterator[RedisServer]:
    """The session's server; ask for `redis_server` instead, which is empty."""
    with RedisServer(binary=redis_binary, unix=True) as server:
        yield server


@pytest.fixture
def redis_server(shared_server: RedisServer) -> RedisServer:
    """An empty server, with a Unix socket, without persistence; shared, so leave it alone."""
    return _emptied(shared_server)


@pytest.fixture(scope="session")
def tls_certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, and certificates for a server and a client."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def shared_tls(tls_certificates: Certificates) -> Iterator[RedisServer]:
    """The session's server with TLS; ask for `redis_tls` instead, which is empty."""
    with RedisServer(binary=required(tls=True), tls=tls_certificates) as server:
        yield server


@pytest.fixture
def redis_tls(shared_tls: RedisServer) -> RedisServer:
    """An empty server that speaks TLS only, and asks for no certificate; shared."""
    return _emptied(shared_tls)


@pytest.fixture(scope="session")
def shared_cluster(redis_binary: Binary) -> Iterator[RedisCluster]:
    """The session's cluster; ask for `redis_cluster` instead, which is empty."""
    with RedisCluster(binary=redis_binary) as cluster:
        # Nobody is to take over from a master that gets no processor for a moment, or is kept busy
        # with megabytes: whatever its replica has not heard of yet would be lost.
        cluster.set_node_timeout(15_000)
        yield cluster


@pytest.fixture
def redis_cluster(shared_cluster: RedisCluster) -> RedisCluster:
    """An empty cluster of three masters with a replica each; shared, so kill no node of it."""
    for master in shared_cluster.masters():
        _emptied(master)
    return shared_cluster


@pytest.fixture(scope="session")
def shared_sentinel(redis_binary: Binary) -> Iterator[Sentinels]:
    """The session's sentinels; ask for `redis_sentinel` instead, whose master is empty."""
    # Nobody is to take over from a master that gets no processor for a moment.
    with Sentinels(binary=redis_binary, down_after=30_000) as group:
        yield group


@pytest.fixture
def redis_sentinel(shared_sentinel: Sentinels) -> Sentinels:
    """An empty master with a replica and three sentinels; shared, so kill nothing of it."""
    _emptied(shared_sentinel.master())
    return shared_sentinel


def _emptied(server: RedisServer) -> RedisServer:
    with server.client() as client:
        client.flushall()
        client.script_flush()
    return server
