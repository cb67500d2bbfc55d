"""The brokers that the worker is tried on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.worker.support import BROKERS, Clock

from taskyard import Yard
from taskyard.brokers.base import Broker


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Broker:
    return BROKERS[request.param](tmp_path, clock)


@pytest.fixture
def yard(broker: Broker) -> Iterator[Yard]:
    """An empty one."""
    yard = Yard(broker)
    yield yard
    asyncio.run(yard.aclose())  # handlers may have used it on the worker's loop
