"""Several brokers, as different processes have them, that share their keys and clock."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.servers.cluster import RedisCluster
from tests.servers.server import RedisServer

from taskyard.brokers.redis import RedisBroker, parse_url
from taskyard.testing.conformance.harness import TASK, AsyncRunner, Clock, Harness, Make, SyncRunner


@pytest.fixture(params=["redis-sync", "redis-async", "cluster-sync"])
def kind(request: pytest.FixtureRequest) -> str:
    """Where the keys are, and which driver runs the operations."""
    return str(request.param)


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> RedisServer | RedisCluster:
    """Where the keys are; empty."""
    fixture = "redis_cluster" if "cluster" in kind else "redis_server"
    made: RedisServer | RedisCluster = request.getfixturevalue(fixture)
    return made


@pytest.fixture
def make(kind: str, server: RedisServer | RedisCluster) -> Iterator[Make]:
    """Makes a harness with a broker of its own, that wants so many partitions for its queue."""
    prefix, clock = f"shared-{uuid.uuid4().hex[:8]}", Clock()
    made: list[Harness] = []

    def make(partitions: int | None = None, **options: Any) -> Harness:
        broker = RedisBroker(parse_url(f"{server.url}?prefix={prefix}"), clock=clock, **options)
        if partitions is not None:
            broker.set_partitions(TASK.queue, partitions)
        runner = AsyncRunner(broker) if "async" in kind else SyncRunner(broker)
        made.append(Harness(broker, runner, clock))
        return made[-1]

    yield make
    for harness in made:
        harness.close()
