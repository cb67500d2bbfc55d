"""From what the scripts answer to what the protocol promises."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import (
    SHOWN_SHARDS,
    TOTALS,
    Claim,
    ClaimedLane,
    Counts,
    DeadLetter,
    Delivery,
    Group,
    Put,
    Record,
)
from taskyard.brokers.bounds import (
    NO_BOUNDS,
    Bounds,
    Overflow,
    full_error,
    too_large_error,
)
from taskyard.brokers.common import lost_failure
from taskyard.brokers.lane import Flush, Gate, GroupPolicy, limits
from taskyard.brokers.rate import Limits, QueueRate, Rate
from taskyard.errors import QueueFull
from taskyard.message import Failure, State, read_envelope

__all__ = [
    "STORED",
    "draining_queue",
    "full_refusal",
    "group_key",
    "is_stored",
    "pack_bounds",
    "pack_rate",
    "read_claim",
    "read_counts",
    "read_delivery",
    "read_group",
    "read_letter",
    "read_limits",
    "read_policy",
    "read_record",
]

_HISTORY, _MARKED, _EXPIRING = 1, 4, 8
"""The flags of entries (see lua/shared/entry.lua)."""
_BARE = 9
_LONG = 33
_head = struct.Struct(">QB")
_history = struct.Struct(">QBQIIII")
_parts = msgspec.msgpack.Decoder(list[list[Any]])
_failure = msgspec.msgpack.Decoder(Failure)
_pack = msgspec.msgpack.Encoder().encode
_policy = msgspec.msgpack.Decoder(list[Any])
_standing = msgspec.msgpack.Decoder(list[list[Any]])

STORED = 1
"""What `put.lua` answers if all is stored."""
_DRAINING, _STANDING, _FULL, _TOO_LARGE = 4, 6, 7, 8


def group_key(group: Group) -> str:
    """A group as the scripts name it."""
    return f"{group.queue}\0{group.name}"


def read_group(key: bytes) -> Group:
    """The group of a name in a reply."""
    return Group(*key.decode().split("\0"))


def read_claim(reply: Sequence[Any], group: Group, token: int) -> Claim:
    """Read a claim: token, group, deadline, its lanes packed, entries.

    Arguments:
        reply: as `step.lua` gives it.
        group: its group.
        token: its token, as the rest of taskyard knows it.
    """
    lanes: list[ClaimedLane] = []
    first = 4
    for part in _parts.decode(reply[3]):
        messages: list[tuple[int, Delivery]] = []
        for index in range(2, len(part), 2):
            priority, last = part[index], first + part[index + 1]
            messages += [(priority, read_delivery(entry)) for entry in reply[first:last]]
            first = last
        lanes.append(ClaimedLane(part[0], Flush(part[1]) if part[1] else None, messages))
    return Claim(token, group, lanes, reply[2])


def read_delivery(entry: bytes) -> Delivery:
    """Read a message as a lane has it."""
    sequence, flags = _head.unpack_from(entry)
    if flags & (_HISTORY | _MARKED | _EXPIRING) == 0:
        return Delivery(sequence, sequence, 0, 0, 0, 0, entry[_BARE:])
    history: tuple[int, int, int, int, int] = (sequence, 0, 0, 0, 0)
    end = _BARE
    if flags & _HISTORY:
        history = _history.unpack_from(entry)[2:]
        end = _LONG
    mark, expires = "", 0
    if flags & _MARKED:
        start, end = end + 2, end + 2 + (entry[end] << 8 | entry[end + 1])
        mark = entry[start:end].decode()
    if flags & _EXPIRING:
        start, end = end, end + 8
        expires = int.from_bytes(entry[start:end], "big")
    return Delivery(sequence, *history, entry[end:], mark, expires)


def draining_queue(answer: object) -> str | None:
    """The queue that refused a put since it is draining, as `put.lua` says; None: it is not why."""
    if not isinstance(answer, list) or answer[0] != _DRAINING:
        return None
    _, queue = answer
    assert isinstance(queue, bytes)  # noqa: S101 - the script's contract
    return queue.decode()


def is_stored(answer: object, puts: Sequence[Put]) -> bool:
    """Whether a put was stored, as `put.lua` says; then puts with unique keys learn what stands.

    Arguments:
        answer: what the script answered.
        puts: what it got.
    """
    if isinstance(answer, list) and answer[0] == _STANDING:
        unique = [put.unique for put in puts if put.unique is not None]
        for keys, told in zip(unique, _standing.decode(answer[1]), strict=True):
            keys.standing = dict(zip(told[::2], told[1::2], strict=True))
        return True
    return answer == STORED


def full_refusal(answer: object, fate: str = "nothing of the call was stored") -> QueueFull | None:
    """Why a put was refused for want of room, as `put.lua` says; None: it was not."""
    if not isinstance(answer, list) or answer[0] not in (_FULL, _TOO_LARGE):
        return None
    code, name, key, of_shard, number, limit, length, overflow, timeout = answer
    queue, shard = name.decode(), key.decode() if of_shard else None
    bounds = Bounds(length, limit if of_shard else 0, Overflow(overflow.decode()), timeout)
    if code == _TOO_LARGE:
        return too_large_error(bounds, queue, shard, number, limit, fate)
    return full_error(bounds, queue, shard, number, limit, fate)


def pack_bounds(bounds: Bounds | None, partitions: int, dead_limit: int) -> bytes:
    """The bounds of a queue as `bound.lua` takes them."""
    if bounds is None:
        return _pack(False)
    values = (bounds.length, bounds.shard, str(bounds.overflow), bounds.timeout)
    return _pack((*values, partitions, dead_limit))


def _read_bounds(packed: bytes | None) -> Bounds:
    if packed is None:
        return NO_BOUNDS
    length, shard, overflow, timeout, *_ = msgspec.msgpack.decode(packed)
    return Bounds(length, shard, Overflow(overflow), timeout)


def read_policy(packed: bytes) -> GroupPolicy:
    """Read a stored policy."""
    _, size, within, bytes_, concurrency, max_deliveries, members, *_ = _policy.decode(packed)
    return GroupPolicy(size, within, bytes_, concurrency, max_deliveries, tuple(members))


def read_record(id_: str, reply: Any) -> Record | None:
    """Read a record, None where there is none."""
    if reply == 0:
        return None
    key, state, result, failure, losses, progress, told_at = reply
    read = lost_failure(losses) if losses else None
    if failure is not None:
        read = _failure.decode(failure)
    return Record(id_, read_group(key), State(state.decode()), result, read, progress, told_at)


def read_letter(reply: Sequence[Any], number: int) -> DeadLetter:
    """Read a dead letter.

    Arguments:
        reply: as `dead.lua` gives it.
        number: its number, as the rest of taskyard knows it.
    """
    _, key, task, shard, priority, id_, failure, losses, deliveries, attempts, since, at = reply[
        :12
    ]
    body, *mark = reply[12:]
    group, told, message_id = read_group(key), task.decode(), id_.decode(errors="replace")
    if losses:
        # The script that buried it reads only so much of a body.
        envelope = read_envelope(body)
        message_id, told = ("", "") if envelope is None else (envelope.id, envelope.task)
    return DeadLetter(
        number,
        group,
        told or group.name,
        shard.decode(),
        priority,
        message_id,
        lost_failure(losses) if losses else _failure.decode(failure),
        deliveries,
        attempts,
        since,
        at,
        body,
        mark[0].decode() if mark else "",
    )


def read_counts(reply: Sequence[Any]) -> Counts | None:
    """Read the numbers of a group; None of one that somebody only asked for."""
    key, declared, dead, parked, shards, numbers, gate, memory, rates, bounds = reply
    counted = {
        name.decode(): int(value) for name, value in zip(numbers[::2], numbers[1::2], strict=True)
    }
    if not (declared or counted or parked):
        return None
    return Counts(
        read_group(key),
        waiting=counted.get("waiting", 0),
        delayed=counted.get("delayed", 0),
        running=counted.get("running", 0),
        dead=dead,
        lanes=counted.get("lanes", 0),
        parked=parked,
        totals={name: counted.get(name, 0) for name in TOTALS},
        parked_shards=sorted(shard.decode() for shard in shards)[:SHOWN_SHARDS],
        memory=memory if counted else 0,
        gate=Gate(gate.decode()),
        limits=read_limits(rates),
        bounds=_read_bounds(bounds),
    )


def pack_rate(rate: Rate | None) -> tuple[float, int, int] | bool:
    """A limit as the scripts take it."""
    return False if rate is None else (rate.count, rate.per, rate.burst)


def read_limits(packed: bytes) -> Limits:
    """The limits of a group, as shared/limits.lua stores them."""
    stored = _policy.decode(packed)
    if not stored:
        return Limits()
    rates = [Rate(*rate) if rate else None for rate in stored[:6]]
    rate, shard_rate, changed_rate, changed_shard_rate, declared, changed = rates
    policy = GroupPolicy(
        rate=rate,
        shard_rate=shard_rate,
        changed_rate=changed_rate,
        changed_shard_rate=changed_shard_rate,
    )
    return limits(policy, QueueRate(declared, changed))
