"""Records of messages under their ids."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import ClaimedLane, Group, Put, Record
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.errors import DuplicateId
from taskyard.message import Failure, State, read_id

__all__ = [
    "find_records",
    "finish_records",
    "forget_expired",
    "forget_old_records",
    "note_progress",
    "open_records",
    "postpone_record",
    "relocate_records",
    "reopen_record",
    "watch_records",
]

_failure = msgspec.msgpack.Decoder(Failure)
_parts = msgspec.msgpack.Decoder(list[ClaimedLane])


def open_records(tx: Transaction, group: GroupRow, put: Put, due: int, first: int) -> None:
    """Begin to remember messages, of which the first has the sequence `first`.

    Raises:
        DuplicateId: one of the ids is remembered already.
    """
    state = State.DELAYED if due > tx.now else State.WAITING
    try:
        tx.executemany(
            "INSERT INTO taskyard_record (id, grp, state, due, ttl, shard, priority, sequence)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (id_, group.id, state, due, put.record_ttl, put.shard, put.priority, sequence)
                for sequence, id_ in enumerate(put.ids or (), first)
            ],
        )
    except sqlite3.IntegrityError as error:
        raise DuplicateId(
            f"{group.group.queue}/{group.group.name}: one of the ids of this call has a record "
            f"already; nothing of the call was stored. Leave id= out, or choose another"
        ) from error


def forget_old_records(tx: Transaction, limit: int) -> int:
    """Remove records whose time is over; answers how many there were."""
    return tx.execute(
        "DELETE FROM taskyard_record WHERE id IN (SELECT id FROM taskyard_record"
        " WHERE expires > 0 AND expires <= ? LIMIT ?)",
        (tx.now, limit),
    ).rowcount


def forget_expired(tx: Transaction, ids: Sequence[str]) -> int:
    """Remove those of these records that have expired; say how many."""
    return tx.execute(
        "DELETE FROM taskyard_record WHERE id IN (SELECT value FROM json_each(?))"
        " AND expires BETWEEN 1 AND ?",
        (msgspec.json.encode(list(ids)), tx.now),
    ).rowcount


def finish_records(
    tx: Transaction, ended: Sequence[tuple[str, State, bytes | None, bytes | None]]
) -> None:
    """Note how messages ended: (id, state, result, failure); unknown ids are passed over."""
    tx.executemany(
        "UPDATE taskyard_record SET state = ?, result = ?, failure = ?, expires = ? + ttl"
        " WHERE id = ?",
        [(state, result, failure, tx.now, id_) for id_, state, result, failure in ended],
    )
    if tx.any_record_listener():
        for id_, *_ in ended:
            tx.wake_all(f"r:{id_}")


def postpone_record(tx: Transaction, id_: str, due: int) -> None:
    """Note that a message is to be tried again."""
    tx.execute(
        "UPDATE taskyard_record SET state = ?, due = ? WHERE id = ?", (State.RETRYING, due, id_)
    )


def reopen_record(tx: Transaction, id_: str, sequence: int) -> None:
    """Note that a dead message waits again, under a new number."""
    tx.execute(
        "UPDATE taskyard_record SET state = ?, due = 0, expires = 0, result = NULL,"
        " failure = NULL, progress = NULL, told_at = 0, sequence = ?"
        " WHERE id = ? AND expires > ?",  # one that has expired is none
        (State.WAITING, sequence, id_, tx.now),
    )


def relocate_records(tx: Transaction, moved: Sequence[tuple[int, str, int]]) -> None:
    """Note new sequences of messages: (new, id, old); unknown ids are passed over."""
    tx.executemany("UPDATE taskyard_record SET sequence = ? WHERE id = ? AND sequence = ?", moved)


def note_progress(tx: Transaction, told: Sequence[tuple[str, bytes]]) -> None:
    """Note what handlers told: (id, what); unknown ids are passed over."""
    tx.executemany(
        "UPDATE taskyard_record SET progress = ?, told_at = ? WHERE id = ?",
        [(data, tx.now, id_) for id_, data in told],
    )


def find_records(
    where: sqlite3.Connection | Transaction, now: int, ids: Sequence[str]
) -> list[Record | None]:
    """Look up records; None: there is none (any more)."""
    rows = where.execute(
        "SELECT record.id, grp, queue, name, state, due, result, failure, progress, told_at"
        " FROM json_each(?) AS wanted"
        " CROSS JOIN taskyard_record AS record ON record.id = wanted.value"
        " JOIN taskyard_group ON taskyard_group.id = grp WHERE expires = 0 OR expires > ?",
        (msgspec.json.encode(list(ids)), now),
    ).fetchall()
    found = {row[0]: _record(where, now, row) for row in rows}
    return [found.get(id_) for id_ in ids]


def watch_records(tx: Transaction, ids: Sequence[str], listener: str) -> list[Record | None]:
    """Look up records, and register a listener for those that are not final."""
    records = find_records(tx, tx.now, ids)
    unfinished = {record.id for record in records if record and not record.state.final}
    if unfinished:
        tx.listen(listener, [f"r:{id_}" for id_ in unfinished], 0)
    else:
        tx.unlisten(listener)
    return records


def _record(where: sqlite3.Connection | Transaction, now: int, row: Sequence[Any]) -> Record:
    id_, group_id, queue, name, stored, due, result, failure, *told = row
    state = State(stored)
    if not state.final:
        if _is_running(where, group_id, id_):
            state = State.RUNNING
        elif due <= now:
            state = State.WAITING
    reason = None if failure is None else _failure.decode(failure)
    return Record(id_, Group(queue, name), state, result, reason, *told)


def _is_running(where: sqlite3.Connection | Transaction, group_id: int, id_: str) -> bool:
    # Open claims are few, as many as there are busy slots; noting the claim in every record
    # would cost a write per message instead. A body contains its id as it is, maybe by chance.
    rows = where.execute(
        "SELECT parts FROM taskyard_claim WHERE grp = ? AND instr(parts, CAST(? AS BLOB))",
        (group_id, id_),
    )
    return any(
        read_id(message.body) == id_
        for (stored,) in rows
        for part in _parts.decode(stored)
        for _, message in part.messages
    )
