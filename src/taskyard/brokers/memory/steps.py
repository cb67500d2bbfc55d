"""The steps of the memory broker that are not about claims.

A step is called under the broker's lock. It checks what it must refuse before it changes
anything, and looks only at lanes that it touches.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskyard.brokers.base import Counts, DeadQuery, Delivery, Group, Put, Record
from taskyard.brokers.lane import (
    Gate,
    GroupPolicy,
    conflict_text,
    draining_text,
    merged,
    with_member,
)
from taskyard.brokers.memory.bounds import bounds_of, drop, plan_room
from taskyard.brokers.memory.groups import GroupState
from taskyard.brokers.memory.lanes import Lane
from taskyard.brokers.memory.records import Kept
from taskyard.brokers.memory.state import Delayed, MemoryState
from taskyard.errors import DuplicateId, PolicyConflict, QueueDraining
from taskyard.message import State

__all__ = [
    "counts",
    "declare",
    "discard_dead",
    "look_up",
    "park",
    "put",
    "release",
    "retry_dead",
    "tidy",
]

# Declaring


def declare(state: MemoryState, key: Group, policy: GroupPolicy, *, replace: bool) -> None:
    """Store the policy of a group."""
    group = state.group(key)
    present = group.present()
    if group.declared and group.policy.concurrency != policy.concurrency and present:
        raise PolicyConflict(conflict_text(key, group.policy, policy, present))
    keep = group.declared and not replace
    wanted = merged(group.policy, policy, keep=keep, present=present)
    if not group.declared and wanted.concurrency:
        _hold_lanes(state, group)
    group.declared = True
    if wanted != group.policy:
        group.policy = wanted
        # The one step that looks at every lane of a group: a deploy, not daily work.
        for _, lane in sorted(group.lanes.items()):
            state.settle_down(lane)


def _hold_lanes(state: MemoryState, group: GroupState) -> None:
    # Claims are counted by lane only where they are limited; from here on they are.
    for claim in group.claims.values():
        for part in claim.parts:
            state.lane(group, part.shard).state.held += 1


# Putting


def put(state: MemoryState, puts: Sequence[Put]) -> None:
    """Store messages, all or none."""
    _refuse_draining(state, puts)
    drops = plan_room(state, puts)
    _refuse_known_ids(state, puts)
    drop(state, drops)
    touched: dict[Lane, None] = {}
    for item in puts:
        due = item.due or state.now + item.delay
        group = state.group(item.group)
        if item.member:
            group.policy = with_member(group.policy, item.member)
        group.totals["put"] += len(item.bodies)
        _open_records(state, item, due)
        if due > state.now:
            _put_later(state, group, item, due)
        elif item.bodies:
            touched[state.append(group, item.shard, item.priority, item.bodies)] = None
    for lane in touched:
        state.settle_down(lane)


def _refuse_draining(state: MemoryState, puts: Sequence[Put]) -> None:
    for item in puts if state.gates else ():
        if item.bodies and state.gates.get(item.group.queue) is Gate.DRAINING:
            raise QueueDraining(draining_text(item.group.queue))


def _refuse_known_ids(state: MemoryState, puts: Sequence[Put]) -> None:
    new: set[str] = set()
    for item in puts:
        for id_ in item.ids or ():
            if id_ in new or state.records.get(id_, state.now) is not None:
                raise DuplicateId(
                    f"{item.group.queue}/{item.group.name}: the id {id_!r} has a record already;"
                    f" nothing of the call was stored. Leave the id out, or choose another"
                )
            new.add(id_)


def _open_records(state: MemoryState, item: Put, due: int) -> None:
    first = State.DELAYED if due > state.now else State.WAITING
    for id_ in item.ids or ():
        state.records.open(id_, Kept(item.group, item.record_ttl, first, due))


def _put_later(state: MemoryState, group: GroupState, item: Put, due: int) -> None:
    first = state.sequences(len(item.bodies))
    for sequence, body in enumerate(item.bodies, first):
        message = Delivery(sequence, 0, 0, 0, 0, 0, body)
        state.delay(Delayed(due, sequence, group, item.shard, item.priority, message))


# Looking


def look_up(state: MemoryState, ids: Sequence[str], listener: str | None) -> list[Record | None]:
    """Look up records."""
    found = [_record(state, id_) for id_ in ids]
    if listener is not None:
        for record in found:
            if record is not None and not record.state.final:
                state.listeners.wait_for(listener, record.id)
    return found


def _record(state: MemoryState, id_: str) -> Record | None:
    kept = state.records.get(id_, state.now)
    if kept is None:
        return None
    now_is = kept.state
    if not now_is.final:
        if state.group(kept.group).runs(id_):
            now_is = State.RUNNING
        elif kept.due <= state.now:
            now_is = State.WAITING
    return Record(id_, kept.group, now_is, kept.result, kept.failure)


def counts(state: MemoryState) -> list[Counts]:
    """The numbers of all groups, sorted by group."""
    counted = [group.count(state.letters.of(key)) for key, group in sorted(state.groups.items())]
    for one in counted if state.bounds else ():
        one.bounds = bounds_of(state, one.group.queue)
    return counted


# By hand


def retry_dead(state: MemoryState, query: DeadQuery) -> int:
    """Put dead letters back at the tail of their lanes; say how many."""
    letters = state.letters.find(query)
    for letter in letters:
        state.letters.remove(letter)
        state.records.reopen(letter.id, state.now)
        group = state.group(letter.group)
        state.settle_down(state.append(group, letter.shard, letter.priority, [letter.body]))
    return len(letters)


def discard_dead(state: MemoryState, query: DeadQuery) -> int:
    """Remove dead letters; say how many."""
    letters = state.letters.find(query)
    for letter in letters:
        state.letters.remove(letter)
        state.group(letter.group).totals["discarded"] += 1
        state.end(letter.id, State.DISCARDED)
    return len(letters)


def park(state: MemoryState, key: Group, shard: str) -> bool:
    """Park a lane; say whether it was not parked."""
    lane = state.lane(state.group(key), shard)
    if lane.state.parked:
        return False
    lane.state.parked = True
    state.settle_down(lane)
    return True


def release(state: MemoryState, key: Group, shard: str) -> bool:
    """Release a parked lane; say whether it was parked."""
    group = state.groups.get(key)
    lane = None if group is None else group.lanes.get(shard)
    if lane is None or not lane.state.parked:
        return False
    lane.state.parked = False
    state.settle_down(lane)
    return True


def tidy(state: MemoryState, limit: int) -> int:
    """Remove what expired, `limit` at most; say how many."""
    removed = state.records.tidy(state.now, limit)
    for letter in state.letters.expired(state.now, limit - removed):
        state.letters.remove(letter)
        state.group(letter.group).totals["dead_dropped"] += 1
        removed += 1
    return removed
