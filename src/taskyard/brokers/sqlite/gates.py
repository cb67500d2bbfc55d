"""What is done by hand: opening and closing queues, parking and releasing shards."""

from __future__ import annotations

from taskyard.brokers.base import Group
from taskyard.brokers.lane import Gate
from taskyard.brokers.sqlite.lanes import Lanes
from taskyard.brokers.sqlite.transaction import Transaction

__all__ = ["park", "release", "set_gate"]


def set_gate(tx: Transaction, queue: str, gate: Gate) -> Gate:
    """See `Broker.set_gate`."""
    before = tx.gate(queue)
    if gate is not before:
        tx.store_gate(queue, gate)
    return before


def park(tx: Transaction, group: Group, shard: str) -> bool:
    """See `Broker.park`."""
    lanes = Lanes(tx)
    [lane] = lanes.get(tx.group(group), [shard])
    if lane.parked:
        return False
    lane.parked = True
    lanes.relocate(lane)
    lanes.save()
    return True


def release(tx: Transaction, group: Group, shard: str) -> bool:
    """See `Broker.release`."""
    row = tx.known_group(group)
    if row is None:
        return False
    lanes = Lanes(tx)
    lane = lanes.find(row, shard)
    if lane is None or not lane.parked:
        return False
    lane.parked = False
    lanes.relocate(lane)
    lanes.save()
    return True
