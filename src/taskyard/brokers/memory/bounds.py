"""Bounded queues in memory: what has no room is refused, or makes itself room."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

from taskyard.brokers.base import Group, Put
from taskyard.brokers.bounds import (
    NO_BOUNDS,
    Bounds,
    Overflow,
    QueueBounds,
    dropped_failure,
    excess,
    full_error,
    to_drop,
    too_large_error,
)
from taskyard.brokers.common import enters_now, room_needed
from taskyard.brokers.memory.groups import GroupState
from taskyard.brokers.memory.lanes import Lane
from taskyard.brokers.memory.state import MemoryState
from taskyard.message import read_envelope

__all__ = ["Drops", "bounds_of", "drop", "plan_room", "set_bounds"]

Drops = dict[Lane, int]
"""How many of their oldest messages lanes are to lose."""


def set_bounds(state: MemoryState, queue: str, bounds: Bounds | None, *, declared: bool) -> None:
    """Say how much a queue holds."""
    stored = state.bounds.get(queue, QueueBounds())
    state.bounds[queue] = stored.changed(bounds, declared=declared)


def bounds_of(state: MemoryState, queue: str) -> Bounds:
    """How much a queue holds."""
    stored = state.bounds.get(queue)
    return NO_BOUNDS if stored is None else stored.effective


def plan_room(state: MemoryState, puts: Sequence[Put]) -> Drops:
    """Say what must be dropped for puts; nothing is changed yet.

    Raises:
        QueueFull: there is no room for them.
    """
    drops: Drops = {}
    puts = [put for put in puts if room_needed(put)] if state.bounds else []
    for queue in dict.fromkeys(put.group.queue for put in puts):
        bounds = bounds_of(state, queue)
        if bounds:
            own = [put for put in puts if put.group.queue == queue]
            drops |= _plan_queue(state, queue, bounds, own)
    return drops


def _plan_queue(state: MemoryState, queue: str, bounds: Bounds, puts: Sequence[Put]) -> Drops:
    drops = _plan_lanes(state, queue, bounds, puts) if bounds.shard else {}
    if not bounds.length:
        return drops
    brought = sum(map(room_needed, puts))
    groups = [group for group in state.groups.values() if group.key.queue == queue]
    length = sum(group.waiting + group.delayed for group in groups)
    over = excess(length - sum(drops.values()), brought, bounds.length)
    if over is None:
        raise too_large_error(bounds, queue, None, brought, bounds.length)
    if over <= 0:
        return drops
    if bounds.overflow is Overflow.DROP:
        left = to_drop(over, brought)
        for lane in _candidates(state, groups, puts):
            taken = min(left, lane.state.waiting - drops.get(lane, 0))
            if taken:
                drops[lane] = drops.get(lane, 0) + taken
                left -= taken
            if not left:
                return drops
    raise full_error(bounds, queue, None, length, bounds.length)


def _plan_lanes(state: MemoryState, queue: str, bounds: Bounds, puts: Sequence[Put]) -> Drops:
    brought: dict[tuple[Group, str], int] = {}
    for put in puts:
        if enters_now(put, state.now):
            key = put.group, put.shard
            brought[key] = brought.get(key, 0) + len(put.bodies)
    drops: Drops = {}
    for (group, shard), number in brought.items():
        lane = _lane(state, group, shard)
        there = 0 if lane is None else lane.state.waiting
        over = excess(there, number, bounds.shard)
        if over is None:
            raise too_large_error(bounds, queue, shard, number, bounds.shard)
        if over <= 0 or lane is None:
            continue
        if bounds.overflow is not Overflow.DROP:
            raise full_error(bounds, queue, shard, there, bounds.shard)
        drops[lane] = to_drop(over, number)
    return drops


def _lane(state: MemoryState, key: Group, shard: str) -> Lane | None:
    group = state.groups.get(key)
    return None if group is None else group.lanes.get(shard)


def _candidates(
    state: MemoryState, groups: Iterable[GroupState], puts: Iterable[Put]
) -> Iterator[Lane]:
    """Lanes that may lose messages, first those that get some, then those whose turn is next."""
    own = dict.fromkeys(_lane(state, put.group, put.shard) for put in puts)
    own.pop(None, None)
    yield from (lane for lane in own if lane is not None)
    for agendas in ([group.ready for group in groups], [group.filling for group in groups]):
        merged = heapq.merge(*(agenda.in_order() for agenda in agendas), key=lambda item: item[0])
        yield from (lane for _, lane in merged if lane not in own)


def drop(state: MemoryState, drops: Drops) -> None:
    """Let lanes lose their oldest messages: they end as dead letters, or cancelled by a note."""
    for lane, number in drops.items():
        for priority, message in lane.take_oldest(number):
            envelope = read_envelope(message.body)
            id_, task = ("", "") if envelope is None else (envelope.id, envelope.task)
            if state.is_noted(id_, message.sequence):
                state.stop(lane.group, lane.shard, message)
                continue
            state.bury(lane.group, lane.shard, priority, message, dropped_failure(), id_, task)
            lane.group.totals["dropped"] += 1
        state.settle_down(lane)
