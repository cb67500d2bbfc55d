"""The steps of the memory broker that look at what waits in shards, and take it out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from taskyard.brokers.base import Delivery, Group
from taskyard.brokers.looking import Waiting
from taskyard.brokers.memory.state import MemoryState

__all__ = ["peek", "waiting", "withdraw"]


def waiting(state: MemoryState, key: Group, shard: str | None) -> list[Waiting]:
    """Count what waits, by lane and priority."""
    group = state.groups.get(key)
    lanes = {} if group is None else group.lanes
    if shard is not None:
        lanes = {shard: lanes[shard]} if shard in lanes else {}
    return [
        Waiting(name, priority, number)
        for name, lane in sorted(lanes.items())
        for priority, number in lane.numbers()
    ]


def peek(
    state: MemoryState, key: Group, shard: str, priority: int, first: int, limit: int
) -> list[Delivery]:
    """Read messages that wait in a lane."""
    group = state.groups.get(key)
    lane = None if group is None else group.lanes.get(shard)
    if lane is None:
        return []
    return list(itertools.islice(lane.of_priority(priority), first, first + limit))


def withdraw(
    state: MemoryState, key: Group, shard: str, priority: int, sequences: Sequence[int]
) -> list[int]:
    """Take messages that wait out of a lane."""
    group, removed = state.groups.get(key), []
    lane = None if group is None else group.lanes.get(shard)
    if group is None or lane is None:
        return []
    for sequence in sequences:
        message = lane.remove(priority, sequence)
        if message is not None:
            removed.append(sequence)
            if message.attempts:
                lane.state.blocked = 0  # the others waited for it
            state.stop(group, shard, message)
    state.settle_down(lane)
    return removed
