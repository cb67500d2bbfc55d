"""Finding what keeps a message from running, in one consistent view."""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import Connection
from typing import Any, NamedTuple

import msgspec

from taskyard.brokers.base import ClaimedLane, Delivery, Group
from taskyard.brokers.cancelling import NOTED, is_noted
from taskyard.brokers.facts import COUNTED, Bucket, Facts, Head, Holder, Where
from taskyard.brokers.lane import Gate, GroupPolicy, LaneState, Place
from taskyard.brokers.rate import QueueRate, Rate, Scope
from taskyard.brokers.sqlite.claims import lane_heads
from taskyard.brokers.sqlite.lanes import DELIVERY, delivery
from taskyard.message import Failure, State, read_id

__all__ = ["explain"]

_parts = msgspec.msgpack.Decoder(list[ClaimedLane])
_failure = msgspec.msgpack.Decoder(Failure)
_LAST = 1 << 62
"""A sequence behind all others."""


class _Record(NamedTuple):
    """What there is to find a message by."""

    group: int
    state: State
    due: int
    ttl: int
    expires: int
    failure: bytes | None
    shard: str
    priority: int
    sequence: int


class _Found(NamedTuple):
    """A message, and where it is; `due`: when it enters its lane."""

    group: int
    shard: str
    priority: int
    message: Delivery
    due: int = 0
    holder: Holder | None = None


class _GroupFacts(NamedTuple):
    """A group with what its queue lets through."""

    group: Group
    policy: GroupPolicy
    gate: Gate
    rate: QueueRate


class _LaneFacts(NamedTuple):
    """A lane as far as it is stored; `id`: 0: it is not."""

    state: LaneState
    id: int = 0
    place: int = Place.NOWHERE
    turn: int = 0


def explain(reader: Connection, now: int, id_: str, *, search: int) -> Facts:
    """Find what keeps a message from running."""
    record = _record(reader, now, id_)
    if record is None:
        return _without_record(reader, now, id_, search)
    group = _group(reader, record.group).group
    if record.state.final:
        return Facts(
            now,
            group,
            record.state,
            record.expires - record.ttl,
            None if record.failure is None else _failure.decode(record.failure),
            record.shard,
            record.priority,
        )
    found = _recorded(reader, id_, record)
    if found is None:
        return Facts(now, group, record.state, shard=record.shard, priority=record.priority)
    return _facts(reader, now, id_, found, record.state)


def _record(reader: Connection, now: int, id_: str) -> _Record | None:
    row = reader.execute(
        "SELECT grp, state, due, ttl, expires, failure, shard, priority, sequence"
        " FROM taskyard_record WHERE id = ? AND (expires = 0 OR expires > ?)",
        (id_, now),
    ).fetchone()
    return None if row is None else _Record(row[0], State(row[1]), *row[2:])


# Where it is


def _recorded(reader: Connection, id_: str, record: _Record) -> _Found | None:
    where = (record.group, record.shard, record.priority)
    row = reader.execute(
        f"SELECT {DELIVERY} FROM taskyard_message WHERE lane ="
        " (SELECT id FROM taskyard_lane WHERE grp = ? AND shard = ?)"
        " AND priority = ? AND sequence = ?",
        (*where, record.sequence),
    ).fetchone()
    if row is not None:
        return _Found(*where, delivery(row))
    row = reader.execute(
        f"SELECT {DELIVERY} FROM taskyard_due WHERE at = ? AND sequence = ?",
        (record.due, record.sequence),
    ).fetchone()
    if row is not None:
        return _Found(*where, delivery(row), record.due)
    held = _held(reader, id_)
    same = (found for found in held if record.sequence in (0, found.message.sequence))
    return next(same, None)


def _held(reader: Connection, id_: str) -> Iterator[_Found]:
    """The messages of an id in open claims, as when one is cancelled."""
    rows = reader.execute(
        "SELECT grp, owner, token, deadline, lease, messages, told, parts FROM taskyard_claim"
        " WHERE instr(parts, CAST(? AS BLOB)) ORDER BY token",
        (id_,),
    ).fetchall()
    for group, *claim, known, parts in rows:
        told = [] if known is None else msgspec.json.decode(known, type=list[int])
        for part in _parts.decode(parts):
            for priority, message in part.messages:
                if read_id(message.body) == id_:
                    holder = Holder.of(*claim, told=message.sequence in told)
                    yield _Found(group, part.shard, priority, message, 0, holder)


def _without_record(reader: Connection, now: int, id_: str, search: int) -> Facts:
    found = next(_held(reader, id_), None) or _searched(reader, id_, search)
    if found is not None:
        return _facts(reader, now, id_, found, None)
    numbers = reader.execute(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM taskyard_message LIMIT ?)),"
        " (SELECT count(*) FROM (SELECT 1 FROM taskyard_due LIMIT ?))",
        (search + 1, search + 1),
    ).fetchone()
    note = _note(reader, id_)
    return Facts(now, note=note if note + NOTED > now else 0, searched=max(numbers) <= search)


def _searched(reader: Connection, id_: str, search: int) -> _Found | None:
    """Look through the first messages that wait. A body contains its id, others maybe by chance."""
    lanes = reader.execute(
        f"SELECT grp, shard, own, {DELIVERY} FROM"
        f" (SELECT lane, priority AS own, {DELIVERY} FROM taskyard_message LIMIT ?)"
        " JOIN taskyard_lane ON taskyard_lane.id = lane WHERE instr(body, CAST(? AS BLOB))",
        (search, id_),
    )
    for group, shard, priority, *row in lanes:
        if read_id((message := delivery(row)).body) == id_:
            return _Found(group, shard, priority, message)
    outside = reader.execute(
        f"SELECT grp, shard, priority, at, {DELIVERY} FROM"
        " (SELECT * FROM taskyard_due LIMIT ?) WHERE instr(body, CAST(? AS BLOB))",
        (search, id_),
    )
    for group, shard, priority, at, *row in outside:
        if read_id((message := delivery(row)).body) == id_:
            return _Found(group, shard, priority, message, at)
    return None


# What there is around it


def _facts(reader: Connection, now: int, id_: str, found: _Found, state: State | None) -> Facts:
    group, message = _group(reader, found.group), found.message
    lane = _lane(reader, found.group, found.shard)
    note = _note(reader, id_)
    where = Where.OUTSIDE if found.due else Where.LANE
    return Facts(
        now,
        group.group,
        state,
        shard=found.shard,
        priority=found.priority,
        where=where if found.holder is None else Where.CLAIM,
        due=found.due,
        attempts=message.attempts,
        losses=message.losses,
        cap=message.cap,
        holder=found.holder,
        note=note if is_noted(note, message.sequence, now) else 0,
        gate=group.gate,
        policy=group.policy,
        lane=lane.state,
        buckets=tuple(_buckets(reader, found.group, group)),
        heads=tuple(_heads(reader, lane)),
        held_by=tuple(_holders(reader, found.group, lane)) if group.policy.concurrency else (),
        ahead=_ahead(reader, lane, found),
        shards_ahead=_shards_ahead(reader, found.group, lane),
    )


def _group(reader: Connection, id_: int) -> _GroupFacts:
    queue, name, policy, gate, rate = reader.execute(
        "SELECT queue, name, policy, gate, rate FROM taskyard_group"
        " LEFT JOIN taskyard_gate USING (queue) LEFT JOIN taskyard_queue_rate USING (queue)"
        " WHERE id = ?",
        (id_,),
    ).fetchone()
    return _GroupFacts(
        Group(queue, name),
        msgspec.json.decode(policy, type=GroupPolicy),
        Gate(gate or Gate.OPEN),
        msgspec.json.decode(rate or b"{}", type=QueueRate),
    )


def _lane(reader: Connection, group: int, shard: str) -> _LaneFacts:
    row: tuple[Any, ...] | None = reader.execute(
        "SELECT waiting, bytes, oldest, priority, mixed, held, blocked, parked, tat, deadline,"
        " id, place, turn FROM taskyard_lane WHERE grp = ? AND shard = ?",
        (group, shard),
    ).fetchone()
    if row is None:
        return _LaneFacts(LaneState())
    return _LaneFacts(LaneState(*row[:10]), *row[10:])


def _buckets(reader: Connection, id_: int, group: _GroupFacts) -> Iterator[Bucket]:
    limits: list[tuple[Scope, str, Rate | None]] = [
        (Scope.TASK, f"g:{id_}", group.policy.limit),
        (Scope.QUEUE, f"q:{group.group.queue}", group.rate.limit),
    ]
    for scope, bucket, limit in limits:
        if limit is not None:
            row = reader.execute(
                "SELECT tat FROM taskyard_bucket WHERE name = ?", (bucket,)
            ).fetchone()
            yield Bucket(scope, limit, 0 if row is None else row[0])


def _heads(reader: Connection, lane: _LaneFacts) -> Iterator[Head]:
    for place in lane_heads(reader, lane.id):
        body, attempts = reader.execute(
            "SELECT body, attempts FROM taskyard_message"
            " WHERE lane = ? AND priority = ? AND sequence = ?",
            (lane.id, *place),
        ).fetchone()
        yield Head(read_id(body), attempts)


def _holders(reader: Connection, group: int, lane: _LaneFacts) -> Iterator[Holder]:
    rows = reader.execute(
        "SELECT lanes, owner, token, deadline, lease, messages FROM taskyard_claim"
        " WHERE grp = ? AND lanes IS NOT NULL ORDER BY token",
        (group,),
    )
    for lanes, *claim in rows:
        if lane.id in msgspec.json.decode(lanes, type=list[int]):
            yield Holder.of(*claim)


def _ahead(reader: Connection, lane: _LaneFacts, found: _Found) -> tuple[tuple[int, int], ...]:
    # What is not in its lane yet joins its tail.
    sequence = _LAST if found.due else found.message.sequence
    rows = reader.execute(
        "SELECT priority, count(*) FROM (SELECT priority FROM taskyard_message WHERE lane = ?"
        " AND (priority, sequence) < (?, ?) LIMIT ?) GROUP BY priority ORDER BY priority",
        (lane.id, found.priority, sequence, COUNTED + 1),
    )
    return tuple(rows)


def _shards_ahead(reader: Connection, group: int, lane: _LaneFacts) -> int:
    if lane.place != Place.READY:
        return 0
    [number] = reader.execute(
        "SELECT count(*) FROM (SELECT 1 FROM taskyard_lane WHERE grp = ? AND place = 1"
        " AND (priority, turn) < (?, ?) LIMIT ?)",
        (group, lane.state.priority, lane.turn, COUNTED + 1),
    ).fetchone()
    return int(number)


def _note(reader: Connection, id_: str) -> int:
    row = reader.execute("SELECT note FROM taskyard_note WHERE id = ?", (id_,)).fetchone()
    return 0 if row is None else int(row[0])
