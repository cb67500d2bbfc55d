"""The brokers that the worker is tried on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.worker.support import BROKERS, Another, Clock

from taskyard import Yard
from taskyard.brokers.base import Broker


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Broker:
    return BROKERS[request.param](tmp_path, clock)


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
