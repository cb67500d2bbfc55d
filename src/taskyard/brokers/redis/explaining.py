"""Finding what keeps a message from running, in whatever container it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import Operation
from taskyard.brokers.common import lost_failure
from taskyard.brokers.facts import SEARCHED_BYTES, Bucket, Facts, Head, Holder, Where
from taskyard.brokers.lane import Gate, GroupPolicy, LaneState
from taskyard.brokers.rate import Limits, Scope, share
from taskyard.brokers.redis.placement import Placements, call
from taskyard.brokers.redis.replies import read_group, read_limits
from taskyard.message import Failure, State

__all__ = ["explain"]

_failure = msgspec.msgpack.Decoder(Failure)


def explain(placements: Placements, id_: str, search: int) -> Operation[Facts]:
    """See `Broker.explain`.

    It is looked for where messages are known to go, then everywhere; a split may move it from one
    look to the other.
    """
    facts = yield from _look(placements.containers(), id_, 0)
    if _is_found(facts):
        return facts
    everywhere = yield from placements.everywhere()
    for _ in range(2 if len(everywhere) > 1 else 1):
        facts = yield from _look(everywhere, id_, search)
        if _is_found(facts):
            break
    return facts


def _look(containers: Iterable[int], id_: str, search: int) -> Operation[Facts]:
    replies = yield [
        call("explain", container, id_, search, SEARCHED_BYTES) for container in containers
    ]
    return _joined([_read(reply) for reply in replies])


def _is_found(facts: Facts) -> bool:
    if facts.group is None:
        return False
    return (facts.state is not None and facts.state.final) or facts.where is not Where.NOWHERE


def _joined(parts: Sequence[Facts]) -> Facts:
    """What was found in several containers: what is there, else what is on its way, else a note."""
    best = max(
        parts,
        key=lambda part: (
            _is_found(part) and part.where is not Where.AWAY,
            part.group is not None,
            part.note,
        ),
    )
    return msgspec.structs.replace(best, searched=all(part.searched for part in parts))


def _read(reply: Sequence[Any]) -> Facts:
    now, note, searched, *found = reply
    if not found:
        return Facts(now, note=note, searched=bool(searched))
    key, state, ended, failure, died, shard, priority, where, due, *around = found
    facts = Facts(
        now,
        read_group(key),
        State(state.decode()) if state else None,
        ended,
        _read_failure(failure, died),
        shard.decode(),
        priority,
        Where(where.decode()),
        due,
        note=note,
    )
    return _with_surroundings(facts, around) if around else facts


def _read_failure(packed: bytes, losses: int) -> Failure | None:
    if losses:
        return lost_failure(losses)
    return _failure.decode(packed) if packed else None


def _with_surroundings(facts: Facts, around: Sequence[Any]) -> Facts:
    attempts, losses, cap, members, policy, gate, rates, parts, tats, *rest = around
    lane, heads, ahead, shards_ahead, holder, holders = rest
    limits = read_limits(rates)
    size, within, bytes_, concurrency, minimum, lead = policy
    return msgspec.structs.replace(
        facts,
        attempts=attempts,
        losses=losses,
        cap=cap,
        holder=Holder.of(holder[0].decode(), *holder[1:5], told=bool(holder[5]))
        if holder
        else None,
        gate=Gate(gate.decode()),
        policy=GroupPolicy(
            size,
            within,
            bytes_,
            concurrency,
            members=tuple(member.decode() for member in members),
            shard_rate=limits.shard,
            minimum=minimum,
            lead=lead,
        ),
        lane=_read_lane(lane),
        buckets=tuple(_buckets(limits, parts, tats)),
        heads=tuple(
            Head(id_.decode(errors="replace"), failed)
            for id_, failed in zip(heads[::2], heads[1::2], strict=True)
        ),
        held_by=tuple(Holder.of(owner.decode(), *claim) for owner, *claim in holders),
        ahead=tuple(zip(ahead[::2], ahead[1::2], strict=True)),
        shards_ahead=shards_ahead,
    )


def _read_lane(lane: Sequence[int]) -> LaneState:
    waiting, bytes_, oldest, held, blocked, parked, tat, deadline = lane
    return LaneState(
        waiting,
        max(0, bytes_),
        oldest,
        held=held,
        blocked=blocked,
        parked=bool(parked),
        tat=tat,
        deadline=deadline,
    )


def _buckets(limits: Limits, parts: int, tats: Sequence[int]) -> Iterator[Bucket]:
    """The limits of a container, which has its part of what holds for all."""
    for scope, rate, tat in zip(
        (Scope.TASK, Scope.QUEUE), (limits.task, limits.queue), tats, strict=True
    ):
        if rate is not None:
            yield Bucket(scope, share(rate, parts), tat)
