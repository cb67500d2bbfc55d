"""Looking at what waits in shards, and taking it out."""

from __future__ import annotations

from collections.abc import Sequence

from taskyard.brokers.base import Delivery, Group
from taskyard.brokers.looking import Waiting
from taskyard.brokers.sqlite.claims import lane_heads
from taskyard.brokers.sqlite.lanes import DELIVERY, Lanes, delivery
from taskyard.brokers.sqlite.notes import stop
from taskyard.brokers.sqlite.transaction import Transaction

__all__ = ["peek", "waiting", "withdraw"]


def waiting(tx: Transaction, key: Group, shard: str | None) -> list[Waiting]:
    """Count what waits, by lane and priority."""
    group = tx.known_group(key)
    if group is None:
        return []
    rows = tx.execute(
        "SELECT l.shard, m.priority, count(*) FROM taskyard_lane l"
        " JOIN taskyard_message m ON m.lane = l.id"
        " WHERE l.grp = ? AND (? IS NULL OR l.shard = ?)"
        " GROUP BY l.shard, m.priority ORDER BY l.shard, m.priority",
        (group.id, shard, shard),
    )
    return [Waiting(*row) for row in rows]


def peek(
    tx: Transaction, key: Group, shard: str, priority: int, first: int, limit: int
) -> list[Delivery]:
    """Read messages that wait in a lane."""
    group = tx.known_group(key)
    lane = None if group is None else Lanes(tx).find(group, shard)
    if lane is None:
        return []
    rows = tx.execute(
        f"SELECT {DELIVERY} FROM taskyard_message WHERE lane = ? AND priority = ?"
        " ORDER BY sequence LIMIT ? OFFSET ?",
        (lane.id, priority, limit, first),
    )
    return [delivery(row) for row in rows]


def withdraw(
    tx: Transaction, key: Group, shard: str, priority: int, sequences: Sequence[int]
) -> list[int]:
    """Take messages that wait out of a lane."""
    group, lanes = tx.known_group(key), Lanes(tx)
    lane = None if group is None else lanes.find(group, shard)
    if group is None or lane is None:
        return []
    removed: list[Delivery] = []
    for sequence in sequences:
        row = tx.execute(
            "DELETE FROM taskyard_message WHERE lane = ? AND priority = ? AND sequence = ?"
            f" RETURNING {DELIVERY}",
            (lane.id, priority, sequence),
        ).fetchone()
        if row is not None:
            removed.append(delivery(row))
    if removed:
        tx.gauge(group, "waiting", -len(removed))
        lane.shorten(len(removed), sum(len(one.body) for one in removed), lane_heads(tx, lane.id))
        if any(one.attempts for one in removed):
            lane.blocked = 0  # the others waited for it
        lanes.relocate(lane)
        lanes.save()
        stop(tx, group, [(shard, one) for one in removed])
    return [one.sequence for one in removed]
