"""How much queues hold, in whatever containers they are."""

from __future__ import annotations

from taskyard.brokers.base import Operation
from taskyard.brokers.bounds import Bounds
from taskyard.brokers.redis.gates import ROUNDS
from taskyard.brokers.redis.placement import Placements, call
from taskyard.brokers.redis.replies import pack_bounds
from taskyard.brokers.redis.split import Splits, still_splitting

__all__ = ["BoundedQueues"]

_DECLARED, _CHOSEN = 1, 2


class BoundedQueues:
    """Bounds queues. The limit of a queue is divided by its containers; a shard is in one of them.

    Arguments:
        placements: where queues are.
        splits: lets containers know of splits.
        dead_limit: dead letters that a group keeps in a container.
    """

    def __init__(self, placements: Placements, splits: Splits, dead_limit: int) -> None:
        self._placements = placements
        self._splits = splits
        self._dead_limit = dead_limit

    def set_bounds(self, queue: str, bounds: Bounds | None, *, declared: bool) -> Operation[None]:
        """See `Broker.set_bounds`. If it fails halfway, some containers have the new bounds."""
        which = _DECLARED if declared else _CHOSEN
        placement = yield from self._splits.current(queue)
        for _ in range(ROUNDS):
            # So that a container that joins the queue does not take over the old ones later.
            yield from self._splits.prepare(queue)
            packed = pack_bounds(bounds, len(placement.containers), self._dead_limit)
            for container in placement.containers:
                after = yield call("bound", container, queue, which, packed, 0)
                while after:
                    after = yield call("bound", container, queue, which, packed, after)
            looked, placement = placement, (yield from self._splits.current(queue))
            if looked == placement:
                return
        raise still_splitting(queue)
