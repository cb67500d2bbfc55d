"""Looking at what waits in shards, in whatever containers they are, and taking it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskyard.brokers.base import Delivery, Group, Operation
from taskyard.brokers.looking import Waiting
from taskyard.brokers.redis.lanes import LANES, shards_of
from taskyard.brokers.redis.placement import Placement, call
from taskyard.brokers.redis.replies import group_key, read_delivery
from taskyard.brokers.redis.split import Splits

__all__ = ["peek", "waiting", "withdraw"]


def waiting(splits: Splits, group: Group, shard: str | None) -> Operation[list[Waiting]]:
    """See `Broker.waiting`."""
    placement = yield from splits.current(group.queue)
    numbers: dict[tuple[str, int], int] = {}
    for container, key in (yield from _lanes(splits, placement, group, shard)):
        found = yield call("waiting", container, group_key(group), key, "")
        for priority, number in zip(found[::2], found[1::2], strict=True):
            numbers[key, priority] = numbers.get((key, priority), 0) + number
    return [Waiting(*place, number) for place, number in sorted(numbers.items())]


def _lanes(
    splits: Splits, placement: Placement, group: Group, shard: str | None
) -> Operation[list[tuple[int, str]]]:
    """The containers of lanes, with the lanes."""
    if shard is not None:
        containers = yield from _containers(splits, placement, group, shard)
        return [(container, shard) for container in containers]
    lanes: list[tuple[int, str]] = []
    for container in placement.containers:
        shards = yield from shards_of(container, group)
        lanes += [(container, key.decode()) for key in shards]
    return lanes


def _containers(
    splits: Splits, placement: Placement, group: Group, shard: str
) -> Operation[list[int]]:
    containers: list[int] = []
    for found in splits.find(group.queue, placement, shard):
        containers += [(yield from found)]
    return containers


def peek(
    splits: Splits, group: Group, shard: str, priority: int, first: int, limit: int
) -> Operation[list[Delivery]]:
    """See `Broker.peek`."""
    placement = yield from splits.current(group.queue)
    messages: list[Delivery] = []
    for container in (yield from _containers(splits, placement, group, shard)):
        left = limit - len(messages)
        if left <= 0:
            break
        numbers = yield call("waiting", container, group_key(group), shard, "")
        here: int = dict(zip(numbers[::2], numbers[1::2], strict=True)).get(priority, 0)
        if first < here:
            entries: Sequence[Any] = yield call(
                "waiting", container, group_key(group), shard, priority, first, left
            )
            messages += map(read_delivery, entries)
        first = max(0, first - here)
    return messages


def withdraw(
    splits: Splits, group: Group, shard: str, priority: int, sequences: Sequence[int]
) -> Operation[list[int]]:
    """See `Broker.withdraw`."""
    placement = yield from splits.current(group.queue)
    removed: list[int] = []
    for container in (yield from _containers(splits, placement, group, shard)):
        for first in range(0, len(sequences), LANES):
            part = sequences[first : first + LANES]
            removed += yield call("withdraw", container, group_key(group), shard, priority, *part)
    return removed
