"""The brokers that the worker is tried on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.worker.support import EMBEDDED, Another, Clock, redis

from taskyard import Yard
from taskyard.brokers.base import Broker


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[*EMBEDDED, "redis"])
def broker(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Broker:
    if request.param == "redis":
        return redis(request.getfixturevalue("shared_server").url, clock)
    return EMBEDDED[request.param](tmp_path, clock)


@pytest.fixture
def another(broker: Broker) -> Iterator[Another]:
    """Makes yards of a broker, by default the one that the test is tried on."""
    made: list[Yard] = []

    def another(of: Broker = broker) -> Yard:
        made.append(Yard(of))
        return made[-1]

    yield another
    for yard in made:
        asyncio.run(yard.aclose())  # handlers may have used it on the worker's loop


@pytest.fixture
def yard(another: Another) -> Yard:
    """An empty one."""
    return another()
