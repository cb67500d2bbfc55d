"""The steps of the memory broker that are not about claims.

A step is called under the broker's lock. It checks what it must refuse before it changes
anything, and looks only at lanes that it touches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from taskyard.brokers.base import Counts, DeadQuery, Delivery, Group, Put, Record
from taskyard.brokers.common import Changed, changed_letters, parts_of
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
from taskyard.brokers.memory.unique import ShardKeys
from taskyard.brokers.unique import Finding, Holder, Keys, Mode, admit, debounced_due, find, mark_of
from taskyard.errors import DuplicateId, PolicyConflict, QueueDraining
from taskyard.message import State, read_id

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
        group.policy = wanted.limited_since(group.policy, state.last_sequence)
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
    admitted = _admit(state, puts)
    drops = plan_room(state, admitted)
    _refuse_known_ids(state, admitted)
    drop(state, drops)
    touched: dict[Lane, None] = {}
    for item in admitted:
        due = item.due or state.now + item.delay
        group = state.group(item.group)
        if item.member:
            group.policy = with_member(group.policy, item.member)
        group.totals["put"] += len(item.bodies)
        if item.unique is not None and item.unique.mode is Mode.DEBOUNCE:
            _debounce(state, group, item, item.unique)
            continue
        marks = _hold(state, item, item.unique) if item.unique is not None else None
        if due > state.now:
            _put_later(state, group, item, due, marks)
        elif item.bodies:
            lane = state.append(group, item.shard, item.priority, item.bodies, marks, item.expires)
            touched[lane] = None
        _open_records(state, item, due)
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
    sequence = state.last_sequence - len(item.bodies) + 1
    for number, id_ in enumerate(item.ids or (), sequence):
        kept = Kept(item.group, item.record_ttl, first, due)
        kept.shard, kept.priority, kept.sequence = item.shard, item.priority, number
        state.records.open(id_, kept)


def _put_later(
    state: MemoryState, group: GroupState, item: Put, due: int, marks: list[str] | None
) -> None:
    first = state.sequences(len(item.bodies))
    ids = item.ids or itertools.repeat("")
    for index, (body, id_) in enumerate(zip(item.bodies, ids, strict=False)):
        sequence, mark = first + index, "" if marks is None else marks[index]
        message = Delivery(sequence, 0, 0, 0, 0, 0, body, mark, item.expires)
        state.delay(Delayed(due, sequence, group, item.shard, item.priority, message, id_))


# Unique keys


def _admit(state: MemoryState, puts: Sequence[Put]) -> Sequence[Put]:
    """The messages that are stored, and to each caller what became of the others."""
    if all(item.unique is None for item in puts):
        return puts
    seen: dict[tuple[Group, str], ShardKeys] = {}
    made = []
    for item in puts:
        keys = item.unique
        if keys is not None:
            place = (item.group, item.shard)
            held = seen.setdefault(place, dict(state.keys.of(*place)))
            admission = admit(keys, list(map(read_id, item.bodies)), held, state.now)
            keys.standing = admission.standing
            made += parts_of(item, admission.admitted)
        else:
            made.append(item)
    return made


def _hold(state: MemoryState, item: Put, keys: Keys) -> list[str]:
    """Let messages hold their keys; returns what travels with them."""
    until = state.now + keys.span if keys.mode is Mode.WINDOW else 0
    for key, body in zip(keys.keys, item.bodies, strict=True):
        state.keys.hold(item.group, item.shard, key, Holder(keys.mode, read_id(body), until))
    return [mark_of(keys.mode, key) for key in keys.keys]


def _debounce(state: MemoryState, group: GroupState, item: Put, keys: Keys) -> None:
    """Put a message off, in place of the one that was put off before under its key."""
    [key], [body] = keys.keys, item.bodies
    before, first = state.keys.of(item.group, item.shard).get(key), state.now
    if before is not None and find(before, Mode.DEBOUNCE, state.now) is Finding.REPLACES:
        first = before.first
        state.replace(before.sequence)
    due = debounced_due(first, state.now, keys.span, keys.longest)
    sequence = state.sequences(1)
    _open_records(state, item, due)
    mark = mark_of(Mode.DEBOUNCE, key)
    message = Delivery(sequence, 0, 0, 0, 0, 0, body, mark, item.expires)
    holder = Holder(Mode.DEBOUNCE, read_id(body), first=first, sequence=sequence, due=due)
    state.keys.hold(item.group, item.shard, key, holder)
    id_ = item.ids[0] if item.ids else ""
    state.delay(Delayed(due, sequence, group, item.shard, item.priority, message, id_))


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
    return Record(id_, kept.group, now_is, kept.result, kept.failure, kept.progress, kept.told_at)


def counts(state: MemoryState) -> list[Counts]:
    """The numbers of all groups, sorted by group."""
    counted = [group.count(state.letters.of(key)) for key, group in sorted(state.groups.items())]
    for one in counted if state.bounds else ():
        one.bounds = bounds_of(state, one.group.queue)
    return counted


# By hand


def retry_dead(state: MemoryState, query: DeadQuery) -> Changed:
    """Put dead letters back at the tail of their lanes."""
    letters, retried = state.letters.find(query), 0
    for letter in letters:
        id_, mark = read_id(letter.body), letter.mark
        if not state.keys.take_again(letter.group, letter.shard, mark, id_, state.now):
            continue
        retried += 1
        state.letters.remove(letter)
        group = state.group(letter.group)
        state.settle_down(state.append(group, letter.shard, letter.priority, [letter.body], [mark]))
        state.records.reopen(letter.id, state.now, state.last_sequence)
    return changed_letters(retried, [letter.number for letter in letters])


def discard_dead(state: MemoryState, query: DeadQuery) -> Changed:
    """Remove dead letters."""
    letters = state.letters.find(query)
    for letter in letters:
        state.letters.remove(letter)
        state.group(letter.group).totals["discarded"] += 1
        state.end(letter.id, State.DISCARDED, failure=letter.failure)
    return changed_letters(len(letters), [letter.number for letter in letters])


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
    state.forget_notes()
    removed = state.records.tidy(state.now, limit)
    for letter in state.letters.expired(state.now, limit - removed):
        state.letters.remove(letter)
        state.group(letter.group).totals["dead_dropped"] += 1
        removed += 1
    state.forget_faded(limit)
    return removed + state.keys.tidy(state.now, limit)
