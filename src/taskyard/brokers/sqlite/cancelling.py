"""Cancelling messages, and telling who runs them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from taskyard.brokers.base import ClaimedLane, Delivery, Group
from taskyard.brokers.cancelling import Cancellation, Cancelled, blocked_after, frees_key
from taskyard.brokers.sqlite.claims import lane_heads
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import DELIVERY, Lanes, delivery
from taskyard.brokers.sqlite.notes import stop, store_note
from taskyard.brokers.sqlite.records import note_progress
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import free_key, holders
from taskyard.brokers.unique import Finding, Holder, Mode, find
from taskyard.message import State, read_id

__all__ = ["cancel", "cancel_key", "pulse", "told"]

_parts = msgspec.msgpack.Decoder(list[ClaimedLane])


class _Place(msgspec.Struct):
    """Where the message of a record is."""

    group: GroupRow
    state: State
    due: int
    shard: str
    priority: int
    sequence: int


def cancel(tx: Transaction, id_: str, *, note: bool) -> Cancellation:
    """Cancel a message."""
    return _cancel(tx, id_, _recorded(tx, id_), note=note)


def cancel_key(tx: Transaction, key: Group, shard: str, unique: str) -> Cancellation:
    """Cancel the message that holds a unique key of a group."""
    group = tx.known_group(key)
    holder = None if group is None else holders(tx, group, shard, [unique]).get(unique)
    if group is None or holder is None or find(holder, Mode.DONE, tx.now) is Finding.FREE:
        return Cancellation(Cancelled.UNKNOWN)
    done = _cancel_holder(tx, group, shard, holder)
    if frees_key(holder.mode, done.outcome):
        free_key(tx, group, shard, unique)
    return done


def _cancel_holder(tx: Transaction, group: GroupRow, shard: str, holder: Holder) -> Cancellation:
    if holder.mode is Mode.DEBOUNCE:  # it says itself where it is
        removed = _remove_delayed(tx, group, holder.due, holder.sequence)
        if removed is not None:
            stop(tx, group, [(shard, removed)])
            return Cancellation(Cancelled.REMOVED)
    place = _recorded(tx, holder.id)
    if place is not None and (place.group.id, place.shard) != (group.id, shard):
        place = None  # of another message of its id
    return _cancel(tx, holder.id, place, note=True)


def _recorded(tx: Transaction, id_: str) -> _Place | None:
    row = tx.execute(
        "SELECT grp, state, due, shard, priority, sequence FROM taskyard_record"
        " WHERE id = ? AND (expires = 0 OR expires > ?)",
        (id_, tx.now),
    ).fetchone()
    return None if row is None else _Place(tx.group_by_id(row[0]), State(row[1]), *row[2:])


def _cancel(tx: Transaction, id_: str, place: _Place | None, *, note: bool) -> Cancellation:
    if place is not None:
        if place.state.final:
            return Cancellation(Cancelled.ENDED)
        group = place.group
        removed = _remove_waiting(tx, place) or _remove_delayed(
            tx, group, place.due, place.sequence
        )
        if removed is not None:
            stop(tx, group, [(place.shard, removed)])
            return Cancellation(Cancelled.REMOVED)
        worker = _tell(tx, id_, place.sequence)
        if worker is not None:
            return Cancellation(Cancelled.TOLD, worker)
    if not note:
        return Cancellation(Cancelled.UNKNOWN)
    store_note(tx, id_)
    worker = _tell(tx, id_)
    if worker is None:
        return Cancellation(Cancelled.NOTED)
    return Cancellation(Cancelled.TOLD, worker)


def _remove_waiting(tx: Transaction, place: _Place) -> Delivery | None:
    lanes = Lanes(tx)
    lane = lanes.find(place.group, place.shard)
    if lane is None:
        return None
    row = tx.execute(
        "DELETE FROM taskyard_message WHERE lane = ? AND priority = ? AND sequence = ?"
        f" RETURNING {DELIVERY}",
        (lane.id, place.priority, place.sequence),
    ).fetchone()
    if row is None:
        return None
    removed = delivery(row)
    tx.gauge(place.group, "waiting", -1)
    lane.shorten(1, len(removed.body), lane_heads(tx, lane.id))
    if place.state is State.RETRYING:
        lane.blocked = blocked_after(lane.blocked, place.due)
    lanes.relocate(lane)
    lanes.save()
    return removed


def _remove_delayed(tx: Transaction, group: GroupRow, due: int, sequence: int) -> Delivery | None:
    row = tx.execute(
        f"DELETE FROM taskyard_due WHERE at = ? AND sequence = ? RETURNING {DELIVERY}",
        (due, sequence),
    ).fetchone()
    if row is None:
        return None
    tx.gauge(group, "delayed", -1)
    return delivery(row)


def _tell(tx: Transaction, id_: str, sequence: int | None = None) -> str | None:
    """Note in open claims that messages of an id are cancelled; says who runs one."""
    # As when a record is looked up: open claims are few, and a body contains its id.
    rows = tx.execute(
        "SELECT token, owner, told, parts FROM taskyard_claim"
        " WHERE instr(parts, CAST(? AS BLOB)) ORDER BY token",
        (id_,),
    ).fetchall()
    worker: str | None = None
    for token, owner, known, parts in rows:
        found = {
            message.sequence
            for part in _parts.decode(parts)
            for _, message in part.messages
            if sequence in (None, message.sequence) and read_id(message.body) == id_
        }
        if found:
            all_told = sorted(found.union(_read_told(known)))
            tx.execute(
                "UPDATE taskyard_claim SET told = ? WHERE token = ?",
                (msgspec.json.encode(all_told).decode(), token),
            )
            worker = worker or owner
    return worker


def _read_told(stored: str | None) -> list[int]:
    return [] if stored is None else msgspec.json.decode(stored, type=list[int])


def told(where: sqlite3.Connection | Transaction, tokens: Iterable[int]) -> list[tuple[int, int]]:
    """Say which messages of claims were cancelled since: token, sequence."""
    rows = where.execute(
        "SELECT token, told FROM json_each(?) JOIN taskyard_claim ON token = json_each.value"
        " WHERE told IS NOT NULL ORDER BY json_each.key",
        (msgspec.json.encode(list(tokens)),),
    ).fetchall()
    return [(token, sequence) for token, known in rows for sequence in _read_told(known)]


def pulse(
    tx: Transaction, tokens: Sequence[int], progress: Sequence[tuple[int, str, bytes]]
) -> list[tuple[int, int]]:
    """Note how far handlers are whose claims are held, and say what `told` says."""
    held = {
        token
        for (token,) in tx.execute(
            "SELECT token FROM taskyard_claim WHERE token IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode([token for token, *_ in progress]),),
        )
    }
    note_progress(tx, [(id_, data) for token, id_, data in progress if token in held])
    return told(tx, tokens)
