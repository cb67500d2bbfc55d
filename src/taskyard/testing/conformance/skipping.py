"""Skips the tests that ask a broker for what it is declared not to do.

What a test needs is seen when it asks for it, so no test says so, and none can forget it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import pytest

from taskyard.brokers.base import Broker, Group, Operation, Put, Settlement, Step, Stopped, Want
from taskyard.brokers.lane import GroupPolicy
from taskyard.testing.conformance.subject import Capability

__all__ = ["skipping"]

_OF_NAMES = {
    "driver": Capability.THREADS,
    "async_driver": Capability.EVENT_LOOPS,
    "set_gate": Capability.GATES,
    "park": Capability.GATES,
    "set_rate": Capability.RATES,
    "set_bounds": Capability.BOUNDS,
    "cancel": Capability.CANCELLING,
    "cancel_key": Capability.CANCELLING,
    "pulse": Capability.CANCELLING,
    "schedules": Capability.SCHEDULES,
    "workers": Capability.WORKERS,
    "explain": Capability.EXPLANATIONS,
    "waiting": Capability.LOOKING,
    "peek": Capability.LOOKING,
    "withdraw": Capability.LOOKING,
}


def skipping(broker: Broker, missing: Collection[Capability]) -> Broker:
    """The broker, or if something is missing, one that skips tests which ask for that."""
    return cast("Broker", _Skipping(broker, missing)) if missing else broker


def _asked_of_policy(policy: GroupPolicy) -> Iterator[Capability]:
    if policy.rate is not None or policy.shard_rate is not None:
        yield Capability.RATES
    if policy.minimum or policy.lead:
        yield Capability.DEADLINES


def _asked_of_put(put: Put) -> Iterator[Capability]:
    if put.unique is not None:
        yield Capability.UNIQUE_KEYS
    if put.expires:
        yield Capability.DEADLINES


def _asked_of_settlement(settlement: Settlement) -> Iterator[Capability]:
    stopped = any(isinstance(outcome, Stopped) for outcome in settlement.outcomes.values())
    if stopped or settlement.progress:
        yield Capability.CANCELLING


class _Skipping:
    """A broker that is asked only for what it does."""

    def __init__(self, broker: Broker, missing: Collection[Capability]) -> None:
        self._broker = broker
        self._missing = frozenset(missing)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_NAMES:
            self._need([_OF_NAMES[name]])
        return getattr(self._broker, name)

    def declare(
        self, group: Group, policy: GroupPolicy, *, replace: bool = False
    ) -> Operation[None]:
        self._need(_asked_of_policy(policy))
        return self._broker.declare(group, policy, replace=replace)

    def put(self, puts: Sequence[Put], stored: list[Put] | None = None) -> Operation[None]:
        for put in puts:
            self._need(_asked_of_put(put))
        return self._broker.put(puts, stored)

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        for settlement in settlements:
            self._need(_asked_of_settlement(settlement))
        return self._broker.step(settlements, want)

    def _need(self, asked: Collection[Capability] | Iterator[Capability]) -> None:
        for capability in asked:
            if capability in self._missing:
                pytest.skip(f"the broker is declared to be without: {capability}")
