"""Rate limits, in whatever containers their queues are."""

from __future__ import annotations

import msgspec

from taskyard.brokers.base import Group, Operation
from taskyard.brokers.rate import Limited, Rate
from taskyard.brokers.redis.gates import ROUNDS
from taskyard.brokers.redis.lanes import resettle
from taskyard.brokers.redis.placement import Placements, call
from taskyard.brokers.redis.replies import group_key, pack_rate
from taskyard.brokers.redis.split import Splits, still_splitting

__all__ = ["RateLimits"]

_pack = msgspec.msgpack.Encoder().encode


class RateLimits:
    """Changes limits.

    Those of queues and tasks are divided by the number of containers; a shard is in one of them.

    Arguments:
        placements: where queues are.
        splits: lets containers know of splits.
    """

    def __init__(self, placements: Placements, splits: Splits) -> None:
        self._placements = placements
        self._splits = splits

    def set_rate(self, limited: Limited, rate: Rate | None, *, declared: bool) -> Operation[None]:
        """See `Broker.set_rate`. If it fails halfway, some containers have the new limit."""
        placement = yield from self._splits.current(limited.queue)
        for _ in range(ROUNDS):
            # So that a container that joins the queue does not take over the old one later.
            yield from self._splits.prepare(limited.queue)
            parts = len(placement.containers)
            for container in placement.containers:
                yield from _set_rate(container, limited, rate, declared, parts)
            looked, placement = placement, (yield from self._splits.current(limited.queue))
            if looked == placement:
                return
        raise still_splitting(limited.queue)


def _set_rate(
    container: int, limited: Limited, rate: Rate | None, declared: bool, parts: int
) -> Operation[None]:
    group = Group(limited.queue, limited.name)
    key = group_key(group) if limited.name else ""
    packed = _pack((limited.queue, key, limited.shards, pack_rate(rate), declared, parts))
    after = yield call("limit", container, packed, 0)
    while after:
        after = yield call("limit", container, packed, after)
    if limited.shards:
        yield from resettle(container, group)
