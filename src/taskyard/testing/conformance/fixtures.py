"""The fixtures of the suite, made of the fixture `subject` of whoever holds a broker to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from taskyard.testing.conformance.harness import (
    AsyncRunner,
    Clock,
    Harness,
    Make,
    MakeRunner,
    SyncRunner,
)
from taskyard.testing.conformance.skipping import skipping
from taskyard.testing.conformance.subject import Subject

__all__ = ["harness", "make", "runner"]


@pytest.fixture(params=[SyncRunner, AsyncRunner], ids=["threads", "event-loop"])
def runner(request: pytest.FixtureRequest) -> MakeRunner:
    """Makes what runs a broker's operations."""
    kind: MakeRunner = request.param
    return kind


@pytest.fixture
def make(subject: Subject, runner: MakeRunner) -> Iterator[Make]:
    """Makes a harness of an empty broker with the given options."""
    made: list[Harness] = []

    def make(**options: Any) -> Harness:
        clock = Clock()
        broker = skipping(subject.make(clock=clock, **options), subject.missing)
        made.append(Harness(broker, runner(broker), clock))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


@pytest.fixture
def harness(make: Make) -> Harness:
    """An empty broker."""
    return make()
