"""What is declared of a group, by all of its tasks that a program knows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from taskyard.brokers.lane import GroupPolicy
from taskyard.task import Task

__all__ = ["policy_of"]


def policy_of(tasks: Collection[Task[..., Any]]) -> GroupPolicy:
    """The policy of a group.

    Arguments:
        tasks: its tasks, one at least; those of a common order need the same policy.
    """
    policies = [task.group_policy for task in tasks]
    members = tuple(sorted(name for policy in policies for name in policy.members))
    return msgspec.structs.replace(policies[-1], members=members)
