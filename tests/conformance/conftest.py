"""The brokers that are held to the suite, each by both of its drivers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.harness import AsyncRunner, Clock, Harness, Make, Runner, SyncRunner

from taskyard.brokers.base import Broker
from taskyard.brokers.memory import MemoryBroker

RUNNERS: dict[str, Callable[[Broker], Runner]] = {"sync": SyncRunner, "async": AsyncRunner}


def memory(path: Path, clock: Clock, **options: Any) -> Broker:
    return MemoryBroker(clock=clock, **options)


def sqlite(path: Path, clock: Clock, **options: Any) -> Broker:
    from taskyard.brokers.sqlite import SQLiteBroker

    # The suite cuts no power; waiting for the disk would only make it slow.
    return SQLiteBroker(path / "yard.db", clock=clock, synchronous="off", **options)


BROKERS: dict[str, Callable[..., Broker]] = {"memory": memory, "sqlite": sqlite}


@pytest.fixture(
    params=[(broker, runner) for broker in BROKERS for runner in RUNNERS],
    ids="-".join,
)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes a harness of an empty broker with the given arguments."""
    broker, runner = request.param
    made: list[Harness] = []

    def make(**options: Any) -> Harness:
        clock = Clock()
        folder = tmp_path / str(len(made))
        folder.mkdir()
        subject = BROKERS[broker](folder, clock, **options)
        made.append(Harness(subject, RUNNERS[runner](subject), clock))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


@pytest.fixture
def harness(make: Make) -> Harness:
    """An empty broker."""
    return make()
