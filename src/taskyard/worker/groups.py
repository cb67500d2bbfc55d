"""What programs declare of groups and queues, as workers store it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import msgspec

from taskyard.brokers.base import Broker, Group, Operation
from taskyard.brokers.bounds import Bounds
from taskyard.brokers.lane import GroupPolicy
from taskyard.brokers.rate import Limited
from taskyard.policy import RateLimit
from taskyard.task import Task, stored_rate

__all__ = ["QueueTerms", "declarations", "policy_of"]

Declaration: TypeAlias = Callable[[], Operation[None]]
"""Begins to store something; may be called again if that failed."""


class QueueTerms(msgspec.Struct, frozen=True):
    """What a program declares of queues, by name.

    Attributes:
        rates: their rate limits.
        bounds: how much they hold.
    """

    rates: Mapping[str, RateLimit | None] = {}
    bounds: Mapping[str, Bounds] = {}


def policy_of(tasks: Collection[Task[..., Any]]) -> GroupPolicy:
    """The policy of a group.

    Arguments:
        tasks: its tasks, one at least; those of a common order need the same policy.
    """
    policies = [task.group_policy for task in tasks]
    members = tuple(sorted(name for policy in policies for name in policy.members))
    return msgspec.structs.replace(policies[-1], members=members)


def declarations(
    broker: Broker, groups: Mapping[Group, Mapping[str, Task[..., Any]]], terms: QueueTerms
) -> Iterator[Declaration]:
    """Say what is to be stored before groups are worked on.

    Arguments:
        broker: where.
        groups: their tasks.
        terms: what the program declares of queues; those of other groups are left alone.
    """
    for group, tasks in groups.items():
        yield partial(broker.declare, group, policy_of(tasks.values()), replace=True)
    for queue in sorted({group.queue for group in groups}):
        if queue in terms.rates:
            rate = stored_rate(terms.rates[queue])
            yield partial(broker.set_rate, Limited(queue), rate, declared=True)
        if queue in terms.bounds:
            yield partial(broker.set_bounds, queue, terms.bounds[queue], declared=True)
