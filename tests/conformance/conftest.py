"""The brokers that are held to the suite, each by both of its drivers."""

from __future__ import annotations

import contextlib
import functools
import itertools
import uuid
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.servers.fixtures import required
from tests.servers.server import RedisServer
from tests.variants import some_in_short

from taskyard.brokers.base import Broker
from taskyard.brokers.memory import MemoryBroker
from taskyard.testing.conformance import Subject
from taskyard.testing.conformance.fixtures import harness, make
from taskyard.testing.conformance.harness import AsyncRunner, Clock, MakeRunner, SyncRunner

__all__ = ["harness", "make"]  # also for the modules beside the suite

RUNNERS: dict[str, MakeRunner] = {"sync": SyncRunner, "async": AsyncRunner}


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
PAIRS = list(map("-".join, itertools.product((*EMBEDDED, *SERVERS), RUNNERS)))
OFTEN = (*EMBEDDED, "redis")
"""Always tried, as is the cluster; the others differ little from these, and are for the long test.
"""


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
def maker(
    server_url: Callable[[str], str], request: pytest.FixtureRequest
) -> Callable[[str], Callable[..., Broker]]:
    """Gives, by the name of a broker, what makes an empty one of a folder, a clock and options."""

    def maker(broker: str) -> Callable[..., Broker]:
        if broker not in SERVERS:
            return EMBEDDED[broker]
        request.getfixturevalue("redis_binary")  # with it, listeners wait for their subscription
        return partial(redis, server_url(broker))

    return maker


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try each behaviour on each broker, but by one driver, unless there is time for all."""
    if "pair" in metafunc.fixturenames:
        runner = runner_of(metafunc.function.__name__)
        often = {"cluster-sync", *(f"{broker}-{runner}" for broker in OFTEN)}
        metafunc.parametrize("pair", some_in_short(PAIRS, often), indirect=True)


def runner_of(test: str) -> str:
    """The runner by which a test is always tried; each of them gets about half of the tests."""
    return [*RUNNERS][zlib.crc32(test.encode()) % len(RUNNERS)]


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Which broker, and by which of its drivers."""
    broker, _, runner = request.param.rpartition("-")
    return broker, runner


@pytest.fixture
def runner(pair: tuple[str, str]) -> MakeRunner:
    """Makes what runs the broker's operations; stands for that of the suite."""
    return RUNNERS[pair[1]]


@pytest.fixture
def subject(
    pair: tuple[str, str],
    maker: Callable[[str], Callable[..., Broker]],
    request: pytest.FixtureRequest,
) -> Subject:
    """What the suite asks for."""
    made = itertools.count()

    def folder() -> Path:
        path: Path = request.getfixturevalue("tmp_path") / str(next(made))
        path.mkdir()
        return path

    def make(clock: Clock, **options: Any) -> Broker:
        # Most of these thousands of tests need none, and one takes as long as such a test.
        path = folder() if pair[0] == "sqlite" else Path()
        return maker(pair[0])(path, clock, **options)

    return Subject(make)
