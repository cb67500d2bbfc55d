"""What is done by hand: opening and closing queues, parking and releasing shards."""

from __future__ import annotations

from taskyard.brokers.base import Group, Operation
from taskyard.brokers.lane import Gate
from taskyard.brokers.redis.placement import Placements, call
from taskyard.brokers.redis.replies import group_key
from taskyard.brokers.redis.split import Splits, still_splitting

__all__ = ["Gates"]

ROUNDS = 20
"""How often a queue that is being split is followed; usually once is enough."""

_WAS_PARKED, _ELSEWHERE = 0, 2
"""What a container answers, beside 1: it is parked now."""


class Gates:
    """Opens and closes queues and shards, in whatever containers they are.

    Arguments:
        placements: where queues are.
        splits: lets containers know of splits.
    """

    def __init__(self, placements: Placements, splits: Splits) -> None:
        self._placements = placements
        self._splits = splits

    def set_gate(self, queue: str, gate: Gate) -> Operation[Gate]:
        """See `Broker.set_gate`. If it fails halfway, some containers have the new gate."""
        before: Gate | None = None
        placement = yield from self._splits.current(queue)
        for _ in range(ROUNDS):
            # A container that joins the queue takes over the gate of another one. So that it does
            # not take over the old one later, it joins now.
            yield from self._splits.prepare(queue)
            for container in placement.containers:
                was = yield from _set_gate(container, queue, gate)
                before = before or was
            looked, placement = placement, (yield from self._splits.current(queue))
            if before is not None and looked == placement:
                return before
        raise still_splitting(queue)

    def park(self, group: Group, shard: str) -> Operation[bool]:
        """See `Broker.park`."""
        newly: bool | None = None
        placement = yield from self._splits.current(group.queue)
        for _ in range(ROUNDS):
            answers: list[int] = []
            # Where it was there may still be some of it.
            for found in self._splits.find(group.queue, placement, shard):
                container = yield from found
                answers.append((yield call("park", container, group_key(group), shard)))
            if newly is None and set(answers) != {_ELSEWHERE}:
                newly = _WAS_PARKED not in answers
            looked, placement = placement, (yield from self._splits.current(group.queue))
            if newly is not None and looked == placement:
                return newly
        raise still_splitting(group.queue)

    def release(self, group: Group, shard: str) -> Operation[bool]:
        """See `Broker.release`."""
        key = group_key(group)
        placement = yield from self._splits.current(group.queue)
        while True:
            released = False
            # One without a limit of claims can be parked where it was, and where it is.
            for found in self._splits.find(group.queue, placement, shard):
                container = yield from found
                released |= bool((yield call("release", container, key, shard)))
            looked, placement = placement, (yield from self._splits.current(group.queue))
            if released or looked == placement:  # else it may have moved on
                return released


def _set_gate(container: int, queue: str, gate: Gate) -> Operation[Gate]:
    """Set it for all groups of a container; returns what it was."""
    after, before = yield call("gate", container, queue, gate.value, 0)
    while after:
        after, _ = yield call("gate", container, queue, gate.value, after)
    return Gate(before.decode())
