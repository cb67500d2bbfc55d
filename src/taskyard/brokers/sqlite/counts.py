"""The numbers of queues and tasks."""

from __future__ import annotations

from sqlite3 import Connection

import msgspec

from taskyard.brokers.base import SHOWN_SHARDS, TOTALS, Counts, Group
from taskyard.brokers.bounds import QueueBounds
from taskyard.brokers.lane import Gate, GroupPolicy, limits
from taskyard.brokers.rate import QueueRate

__all__ = ["counts"]


def counts(connection: Connection) -> list[Counts]:
    """See `Broker.counts`."""
    counted: dict[int, Counts] = {}
    for id_, queue, name, policy, gate, rate, bounds in connection.execute(
        "SELECT id, queue, name, policy, gate, rate, bounds FROM taskyard_group"
        " LEFT JOIN taskyard_gate USING (queue) LEFT JOIN taskyard_queue_rate USING (queue)"
        " LEFT JOIN taskyard_bound USING (queue)"
    ):
        counted[id_] = Counts(
            Group(queue, name),
            totals=dict.fromkeys(TOTALS, 0),
            gate=Gate(gate or Gate.OPEN),
            limits=limits(
                msgspec.json.decode(policy, type=GroupPolicy),
                msgspec.json.decode(rate or b"{}", type=QueueRate),
            ),
            bounds=msgspec.json.decode(bounds or b"{}", type=QueueBounds).effective,
        )
    for id_, name, value in connection.execute(
        "SELECT grp, name, value FROM taskyard_counter WHERE grp > 0"
    ):
        if name.startswith("now:"):
            setattr(counted[id_], name.removeprefix("now:"), value)
        else:
            counted[id_].totals[name] = value
    rows = connection.execute(
        "SELECT grp, sum(waiting > 0), sum(parked),"
        " min(CASE WHEN waiting > 0 THEN oldest END) FROM taskyard_lane GROUP BY grp"
    )
    for id_, lanes, parked, oldest in rows:
        row = counted[id_]
        row.lanes, row.parked, row.oldest = lanes, parked, oldest or 0
    for id_, shard in connection.execute(
        "SELECT grp, shard FROM taskyard_lane WHERE parked ORDER BY grp, shard"
    ):
        if len(counted[id_].parked_shards) < SHOWN_SHARDS:
            counted[id_].parked_shards.append(shard)
    return sorted(counted.values(), key=lambda item: item.group)
