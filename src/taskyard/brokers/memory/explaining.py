"""The step of the memory broker that finds what keeps a message from running."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from taskyard.brokers.base import Delivery
from taskyard.brokers.cancelling import NOTED, is_noted
from taskyard.brokers.facts import Bucket, Facts, Head, Holder, Where
from taskyard.brokers.lane import LaneState, Place
from taskyard.brokers.memory.groups import GroupState, OpenClaim
from taskyard.brokers.memory.records import Kept
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.rate import Scope
from taskyard.message import read_id

__all__ = ["explain"]


class _Found(NamedTuple):
    """A message, and where it is; `due`: when it enters its lane."""

    group: GroupState
    shard: str
    priority: int
    message: Delivery
    due: int = 0
    claim: OpenClaim | None = None


def explain(state: MemoryState, id_: str, search: int) -> Facts:
    """Find what keeps a message from running."""
    record = state.records.get(id_, state.now)
    if record is None:
        return _without_record(state, id_, search)
    if record.state.final:
        return Facts(
            state.now,
            record.group,
            record.state,
            record.expires - record.ttl,
            record.failure,
            record.shard,
            record.priority,
        )
    found = _recorded(state, state.group(record.group), record)
    if found is None:
        return Facts(
            state.now, record.group, record.state, shard=record.shard, priority=record.priority
        )
    return _facts(state, id_, found, record)


def _recorded(state: MemoryState, group: GroupState, record: Kept) -> _Found | None:
    sequence = record.sequence
    delayed = state.delayed(sequence)
    if delayed is not None:
        return _Found(group, delayed.shard, delayed.priority, delayed.message, delayed.at)
    lane = group.lanes.get(record.shard)
    message = None if lane is None else lane.find(record.priority, sequence)
    if message is not None:
        return _Found(group, record.shard, record.priority, message)
    held = (found for found in _held(group.claims.values()) if found.message.sequence == sequence)
    return next(held, None)


def _held(claims: Iterable[OpenClaim]) -> Iterator[_Found]:
    for claim in claims:
        for part in claim.parts:
            for priority, message in part.messages:
                yield _Found(claim.group, part.shard, priority, message, 0, claim)


def _without_record(state: MemoryState, id_: str, search: int) -> Facts:
    looked_at, complete = 0, True
    for found in itertools.chain(_held(state.claims.values()), _waiting(state)):
        if found.claim is None:
            if looked_at >= search:
                complete = False
                break
            looked_at += 1
        if read_id(found.message.body) == id_:
            return _facts(state, id_, found, None)
    note = state.notes.get(id_, 0)
    return Facts(state.now, note=note if note + NOTED > state.now else 0, searched=complete)


def _waiting(state: MemoryState) -> Iterator[_Found]:
    for group in state.groups.values():
        for lane in group.lanes.values():
            for priority, message in lane.messages():
                yield _Found(group, lane.shard, priority, message)
    for one in state.all_delayed():
        yield _Found(one.group, one.shard, one.priority, one.message, one.at)


def _facts(state: MemoryState, id_: str, found: _Found, record: Kept | None) -> Facts:
    group, message, lane = found.group, found.message, found.group.lanes.get(found.shard)
    sequence = message.sequence
    note = state.notes.get(id_, 0)
    where = Where.OUTSIDE if found.due else Where.LANE
    claims = [one for one in group.claims.values() if _has_lane(one, found.shard)]
    limited = group.policy.concurrency > 0
    return Facts(
        state.now,
        group.key,
        None if record is None else record.state,
        shard=found.shard,
        priority=found.priority,
        where=where if found.claim is None else Where.CLAIM,
        due=found.due,
        attempts=message.attempts,
        losses=message.losses,
        cap=message.cap,
        holder=None
        if found.claim is None
        else _holder(found.claim, told=sequence in found.claim.told),
        note=note if is_noted(note, sequence, state.now) else 0,
        gate=group.gate,
        policy=group.policy,
        # A copy: others go on changing the lane.
        lane=LaneState() if lane is None else msgspec.structs.replace(lane.state),
        buckets=_buckets(group),
        heads=tuple(
            Head(read_id(head.body), head.attempts)
            for head in (() if lane is None else lane.heads())
        ),
        held_by=tuple(_holder(one) for one in claims) if limited else (),
        # What is not in its lane yet joins its tail.
        ahead=()
        if lane is None
        else tuple(lane.before(found.priority, _LAST if found.due else sequence)),
        shards_ahead=0
        if lane is None or lane.place is not Place.READY
        else group.ready.before(lane),
    )


_LAST = 1 << 62
"""A sequence behind all others."""


def _has_lane(claim: OpenClaim, shard: str) -> bool:
    return any(part.shard == shard for part in claim.parts)


def _holder(claim: OpenClaim, *, told: bool = False) -> Holder:
    return Holder.of(
        claim.owner,
        claim.token,
        claim.deadline,
        claim.lease,
        len(claim),
        told=told,
    )


def _buckets(group: GroupState) -> tuple[Bucket, ...]:
    found: list[Bucket] = []
    if (limit := group.policy.limit) is not None:
        found.append(Bucket(Scope.TASK, limit, group.tat))
    if (limit := group.queue.rate.limit) is not None:
        found.append(Bucket(Scope.QUEUE, limit, group.queue.tat))
    return tuple(found)
