"""The steps of the memory broker that cancel messages, and tell who runs them."""

from __future__ import annotations

from collections.abc import Sequence

from taskyard.brokers.base import ClaimedLane, Delivery, Group
from taskyard.brokers.cancelling import Cancellation, Cancelled, blocked_after, frees_key
from taskyard.brokers.memory.groups import GroupState, OpenClaim
from taskyard.brokers.memory.rates import refund_lane
from taskyard.brokers.memory.records import Kept
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.unique import Finding, Holder, Mode, find
from taskyard.message import State, read_id

__all__ = ["cancel", "cancel_key", "drop_noted", "pulse"]


def cancel(state: MemoryState, id_: str, *, note: bool) -> Cancellation:
    """Cancel a message."""
    return _cancel(state, id_, state.records.get(id_, state.now), note=note)


def cancel_key(state: MemoryState, group: Group, shard: str, key: str) -> Cancellation:
    """Cancel the message that holds a unique key."""
    holder = state.keys.of(group, shard).get(key)
    if holder is None or find(holder, Mode.DONE, state.now) is Finding.FREE:
        return Cancellation(Cancelled.UNKNOWN)
    done = _cancel_holder(state, group, shard, holder)
    if frees_key(holder.mode, done.outcome):
        state.keys.free(group, shard, key)
    return done


def _cancel_holder(state: MemoryState, group: Group, shard: str, holder: Holder) -> Cancellation:
    if holder.mode is Mode.DEBOUNCE:  # it says itself where it is
        removed = state.withdraw(holder.sequence)
        if removed is not None:
            state.stop(state.group(group), shard, removed)
            return Cancellation(Cancelled.REMOVED)
    record = state.records.get(holder.id, state.now)
    if record is not None and (record.group, record.shard) != (group, shard):
        record = None  # of another message of its id
    return _cancel(state, holder.id, record, note=True)


def _cancel(state: MemoryState, id_: str, record: Kept | None, *, note: bool) -> Cancellation:
    if record is not None and record.state.final:
        return Cancellation(Cancelled.ENDED)
    if record is not None:
        group, sequence = state.group(record.group), record.sequence
        removed = _remove_waiting(state, group, record) or state.withdraw(sequence)
        if removed is not None:
            state.stop(group, record.shard, removed)
            return Cancellation(Cancelled.REMOVED)
        claim = _holder(group, sequence)
        if claim is not None:
            claim.told.add(sequence)
            return Cancellation(Cancelled.TOLD, claim.owner)
    return _note(state, id_) if note else Cancellation(Cancelled.UNKNOWN)


def _remove_waiting(state: MemoryState, group: GroupState, record: Kept) -> Delivery | None:
    lane = group.lanes.get(record.shard)
    removed = None if lane is None else lane.remove(record.priority, record.sequence)
    if lane is None or removed is None:
        return None
    if record.state is State.RETRYING:
        lane.state.blocked = blocked_after(lane.state.blocked, record.due)
    state.settle_down(lane)
    return removed


def _holder(group: GroupState, sequence: int) -> OpenClaim | None:
    for claim in group.claims.values():
        for part in claim.parts:
            if any(message.sequence == sequence for _, message in part.messages):
                return claim
    return None


def _note(state: MemoryState, id_: str) -> Cancellation:
    """Note an id without a record, and tell who runs messages of it."""
    state.note_cancelled(id_)
    worker = None
    for claim in state.claims.values():
        if id_ in claim.ids():
            claim.told |= {
                message.sequence
                for part in claim.parts
                for _, message in part.messages
                if read_id(message.body) == id_
            }
            worker = worker or claim.owner
    if worker is None:
        return Cancellation(Cancelled.NOTED)
    return Cancellation(Cancelled.TOLD, worker)


def drop_noted(
    state: MemoryState, group: GroupState, taken: Sequence[ClaimedLane]
) -> tuple[list[ClaimedLane], list[str]]:
    """End those of the messages that were taken whose ids are noted.

    Returns:
        What is left, and the shards of which nothing is.
    """
    left: list[ClaimedLane] = []
    emptied: list[str] = []
    for lane in taken:
        shard, number = lane.shard, len(lane.messages)
        kept = [entry for entry in lane.messages if not _is_dropped(state, group, shard, entry[1])]
        refund_lane(state, group, shard, number, number - len(kept))
        if kept:
            left.append(ClaimedLane(lane.shard, lane.flush, kept))
        else:
            emptied.append(lane.shard)
    return left, emptied


def _is_dropped(state: MemoryState, group: GroupState, shard: str, message: Delivery) -> bool:
    if not state.is_noted(read_id(message.body), message.sequence):
        return False
    state.stop(group, shard, message)
    return True


def pulse(
    state: MemoryState, tokens: Sequence[int], progress: Sequence[tuple[int, str, bytes]]
) -> list[tuple[int, int]]:
    """Say which running messages are cancelled, and note how far others are."""
    for token, id_, told in progress:
        if token in state.claims:
            state.records.note_progress(id_, state.now, told)
    held = [state.claims[token] for token in tokens if token in state.claims]
    return [(claim.token, sequence) for claim in held for sequence in sorted(claim.told)]
