"""Bounded queues in SQLite: what has no room is refused, or makes itself room."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from taskyard.brokers.base import Dead, Delivery, Group, Put
from taskyard.brokers.bounds import (
    Bounds,
    Overflow,
    dropped_failure,
    excess,
    full_error,
    to_drop,
    too_large_error,
)
from taskyard.brokers.common import enters_now, room_needed
from taskyard.brokers.sqlite.claims import FIRST, lane_heads
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import DELIVERY, Lane, Lanes, delivery
from taskyard.brokers.sqlite.letters import bury
from taskyard.brokers.sqlite.notes import noted, stop
from taskyard.brokers.sqlite.transaction import Transaction

__all__ = ["count_exactly", "make_room", "set_bounds"]

Drops = dict[int, tuple[Lane, int]]
"""By the ids of lanes, how many of their oldest messages they are to lose."""


def set_bounds(tx: Transaction, queue: str, bounds: Bounds | None, *, declared: bool) -> None:
    """See `Broker.set_bounds`."""
    before = tx.queue_bounds(queue)
    after = before.changed(bounds, declared=declared)
    if after == before:
        return
    tx.store_bounds(queue, after)
    if after.effective.shard and not before.effective.shard:
        for group in tx.groups_of(queue):
            count_exactly(tx, group)


def count_exactly(tx: Transaction, group: GroupRow) -> None:
    """Count what waits in lanes that did not know it exactly (see `Lane.counts_exactly`)."""
    tx.execute(
        "UPDATE taskyard_lane SET (waiting, bytes) = (SELECT count(*),"
        " ifnull(sum(length(body)), 0) FROM taskyard_message"
        " WHERE lane = taskyard_lane.id) WHERE grp = ?",
        (group.id,),
    )


def make_room(tx: Transaction, lanes: Lanes, puts: Sequence[Put], dead_limit: int) -> None:
    """Let messages make room for puts where that is how their queue is bounded.

    Arguments:
        tx: the transaction.
        lanes: its lanes; the caller saves them.
        puts: what is to be put.
        dead_limit: dead letters that a group keeps.

    Raises:
        QueueFull: there is no room for them.
    """
    if not tx.any_bounds():
        return
    puts = [put for put in puts if room_needed(put)]
    for queue in dict.fromkeys(put.group.queue for put in puts):
        bounds = tx.queue_bounds(queue).effective
        if bounds:
            own = [put for put in puts if put.group.queue == queue]
            for lane, number in _plan(tx, lanes, queue, bounds, own).values():
                _drop(tx, lanes, lane, number, dead_limit)


# What must go


def _plan(tx: Transaction, lanes: Lanes, queue: str, bounds: Bounds, puts: Sequence[Put]) -> Drops:
    drops = _plan_lanes(tx, lanes, queue, bounds, puts) if bounds.shard else {}
    if not bounds.length:
        return drops
    brought = sum(map(room_needed, puts))
    groups = tx.groups_of(queue)
    length = _length(tx, groups)
    over = excess(length - sum(number for _, number in drops.values()), brought, bounds.length)
    if over is None:
        raise too_large_error(bounds, queue, None, brought, bounds.length)
    if over <= 0:
        return drops
    if bounds.overflow is Overflow.DROP:
        left = to_drop(over, brought)
        for lane in _candidates(tx, lanes, groups, puts, left):
            planned = drops[lane.id][1] if lane.id in drops else 0
            taken = _waiting(tx, lane, planned + left) - planned
            if taken:
                drops[lane.id] = lane, planned + taken
                left -= taken
            if not left:
                return drops
    raise full_error(bounds, queue, None, length, bounds.length)


def _plan_lanes(
    tx: Transaction, lanes: Lanes, queue: str, bounds: Bounds, puts: Sequence[Put]
) -> Drops:
    brought: dict[Group, dict[str, int]] = {}
    for put in puts:
        if enters_now(put, tx.now):
            shards = brought.setdefault(put.group, {})
            shards[put.shard] = shards.get(put.shard, 0) + len(put.bodies)
    drops: Drops = {}
    for group, shards in brought.items():
        for lane in lanes.get(tx.group(group), list(shards)):
            number = shards[lane.shard]
            over = excess(lane.waiting, number, bounds.shard)
            if over is None:
                raise too_large_error(bounds, queue, lane.shard, number, bounds.shard)
            if over <= 0:
                continue
            if bounds.overflow is not Overflow.DROP:
                raise full_error(bounds, queue, lane.shard, lane.waiting, bounds.shard)
            drops[lane.id] = lane, to_drop(over, number)
    return drops


def _candidates(
    tx: Transaction,
    lanes: Lanes,
    groups: Sequence[GroupRow],
    puts: Iterable[Put],
    number: int,
) -> Iterator[Lane]:
    """Lanes that may lose messages, first those that get some, then those whose turn is next."""
    own: dict[int, Lane] = {}
    for put in puts:
        row = tx.known_group(put.group)
        lane = None if row is None else lanes.find(row, put.shard)
        if lane is not None:
            own[lane.id] = lane
    yield from own.values()
    most = number + len(own)
    ready = [lane for group in groups for lane in lanes.ready(group, FIRST, most)]
    ready.sort(key=lambda lane: (lane.priority, lane.turn))
    yield from (lane for lane in ready if lane.id not in own)
    filling = [lane for group in groups for lane in lanes.waiting_to_fill(group, most)]
    filling.sort(key=lambda lane: (lane.at, lane.group.id, lane.shard))
    yield from (lane for lane in filling if lane.id not in own)


def _length(tx: Transaction, groups: Sequence[GroupRow]) -> int:
    row = tx.execute(
        "SELECT ifnull(sum(counter.value), 0) FROM json_each(?) AS bounded"
        " CROSS JOIN taskyard_counter AS counter ON grp = bounded.value"
        " AND name IN ('now:waiting', 'now:delayed')",
        (msgspec.json.encode([group.id for group in groups]),),
    ).fetchone()
    return int(row[0])


def _waiting(tx: Transaction, lane: Lane, most: int) -> int:
    """How many messages a lane has, `most` at most."""
    row = tx.execute(
        "SELECT count(*) FROM (SELECT 1 FROM taskyard_message WHERE lane = ? LIMIT ?)",
        (lane.id, most),
    ).fetchone()
    return int(row[0])


# Dropping


def _drop(tx: Transaction, lanes: Lanes, lane: Lane, number: int, dead_limit: int) -> None:
    messages = _oldest(tx, lane, number)
    tx.executemany(
        "DELETE FROM taskyard_message WHERE lane = ? AND priority = ? AND sequence = ?",
        [(lane.id, priority, message.sequence) for priority, message in messages],
    )
    size = sum(len(message.body) for _, message in messages)
    lane.shorten(len(messages), size, lane_heads(tx, lane.id))
    lanes.relocate(lane)
    tx.gauge(lane.group, "waiting", -len(messages))
    cancelled = noted(tx, (message for _, message in messages)) if tx.has_notes else set()
    stopped = [(lane.shard, one) for _, one in messages if one.sequence in cancelled]
    stop(tx, lane.group, stopped)
    dead = Dead(dropped_failure())
    buried = [(*entry, dead) for entry in messages if entry[1].sequence not in cancelled]
    tx.count(lane.group, "dropped", len(buried))
    bury(tx, lane.group, lane.shard, buried, dead_limit)


def _oldest(tx: Transaction, lane: Lane, number: int) -> list[tuple[int, Delivery]]:
    """The oldest messages of a lane, whatever their priority."""
    rows: list[tuple[int, Delivery]] = []
    for priority, _ in lane_heads(tx, lane.id):
        found = tx.execute(
            f"SELECT {DELIVERY} FROM taskyard_message WHERE lane = ? AND priority = ?"
            " ORDER BY sequence LIMIT ?",
            (lane.id, priority, number),
        )
        rows += [(priority, delivery(row)) for row in found]
    return sorted(rows, key=lambda item: item[1].sequence)[:number]
