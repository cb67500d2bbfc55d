"""The brokers that are held to the suite, each by both of its drivers."""

from __future__ import annotations

import contextlib
import functools
import itertools
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.harness import AsyncRunner, Clock, Harness, Make, Runner, SyncRunner
from tests.servers.fixtures import required
from tests.servers.server import RedisServer

from taskyard.brokers.base import Broker
from taskyard.brokers.memory import MemoryBroker

RUNNERS: dict[str, Callable[[Broker], Runner]] = {"sync": SyncRunner, "async": AsyncRunner}


def memory(path: Path, clock: Clock, **options: Any) -> Broker:
    return MemoryBroker(clock=clock, **options)


def sqlite(path: Path, clock: Clock, **options: Any) -> Broker:
    from taskyard.brokers.sqlite import SQLiteBroker

    # The suite cuts no power; waiting for the disk would only make it slow.
    return SQLiteBroker(path / "yard.db", clock=clock, synchronous="off", **options)


def redis(url: str, path: Path, clock: Clock, **options: Any) -> Broker:
    from taskyard.brokers.redis import RedisBroker, parse_url

    # A prefix of its own makes an empty broker of a server that others use too.
    prefix = f"conformance-{uuid.uuid4().hex}"
    return RedisBroker(parse_url(f"{url}?prefix={prefix}"), clock=clock, **options)


EMBEDDED: dict[str, Callable[..., Broker]] = {"memory": memory, "sqlite": sqlite}
SERVERS = ("redis", "redis-6.2", "valkey", "cluster")
ONLY_LONG = {("cluster", "async"), *itertools.product(("redis-6.2", "valkey"), RUNNERS)}
"""Only among the long tests: they differ little from the others, and there are too many."""


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Says the URL of a server of the session, by the name of a broker."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def url(broker: str) -> str:
            if broker == "redis":
                return str(request.getfixturevalue("shared_server").url)
            if broker == "cluster":
                return str(request.getfixturevalue("shared_cluster").url)
            return stack.enter_context(RedisServer(binary=required(broker))).url

        yield url


@pytest.fixture
def make_broker(server_url: Callable[[str], str]) -> Callable[[str], Callable[..., Broker]]:
    """Gives, by the name of a broker, what makes an empty one of a folder, a clock and options."""

    def maker(broker: str) -> Callable[..., Broker]:
        return partial(redis, server_url(broker)) if broker in SERVERS else EMBEDDED[broker]

    return maker


@pytest.fixture(
    params=[
        pytest.param(pair, marks=[pytest.mark.long] if pair in ONLY_LONG else [], id="-".join(pair))
        for pair in itertools.product((*EMBEDDED, *SERVERS), RUNNERS)
    ]
)
def make(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_broker: Callable[[str], Callable[..., Broker]],
) -> Iterator[Make]:
    """Makes a harness of an empty broker with the given arguments."""
    broker, runner = request.param
    made: list[Harness] = []

    def make(**options: Any) -> Harness:
        clock = Clock()
        folder = tmp_path / str(len(made))
        folder.mkdir()
        subject = make_broker(broker)(folder, clock, **options)
        made.append(Harness(subject, RUNNERS[runner](subject), clock))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


@pytest.fixture
def harness(make: Make) -> Harness:
    """An empty broker."""
    return make()
