"""Dead letters: made, listed, put back, removed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import Dead, DeadLetter, DeadQuery, Delivery, Group
from taskyard.brokers.common import STEP_BYTES, Changed, changed_letters
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import Lanes
from taskyard.brokers.sqlite.records import finish_records, reopen_record
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import release_ended, taken_again
from taskyard.message import Failure, State, read_envelope

__all__ = [
    "bury",
    "dead_letters",
    "discard_dead",
    "forget_old_letters",
    "newest_dead",
    "retry_dead",
]

_failure = msgspec.msgpack.Decoder(Failure)


def bury(
    tx: Transaction,
    group: GroupRow,
    shard: str,
    messages: Sequence[tuple[int, Delivery, Dead]],
    limit: int,
) -> None:
    """Make dead letters, note them in their records, and drop the oldest beyond the limit.

    The unique keys that the messages hold are free.
    """
    release_ended(tx, group, [(shard, message) for _, message, _ in messages])
    letters, ended = [], []
    for priority, message, dead in messages:
        failure = msgspec.msgpack.encode(dead.failure)
        id_, task = dead.id, dead.task
        if not id_ and (envelope := read_envelope(message.body)) is not None:
            id_, task = envelope.id, envelope.task
        letters.append(
            (
                group.id,
                task or group.group.name,
                shard,
                priority,
                id_,
                failure,
                message.deliveries,
                message.attempts,
                message.since,
                tx.now,
                message.body,
                message.mark,
            )
        )
        ended.append((id_, State.DEAD, None, failure))
    tx.executemany(
        "INSERT INTO taskyard_dead (grp, task, shard, priority, id, failure, deliveries,"
        " attempts, since, at, body, mark) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        letters,
    )
    tx.gauge(group, "dead", len(letters))
    tx.count(group, "dead", len(letters))
    finish_records(tx, ended)
    _drop_oldest(tx, group, limit)


def _drop_oldest(tx: Transaction, group: GroupRow, limit: int) -> None:
    cutoff = tx.execute(
        "SELECT number FROM taskyard_dead WHERE grp = ? ORDER BY number DESC LIMIT 1 OFFSET ?",
        (group.id, limit),
    ).fetchone()
    if cutoff is None:
        return
    dropped = tx.execute(
        "DELETE FROM taskyard_dead WHERE grp = ? AND number <= ?", (group.id, cutoff[0])
    ).rowcount
    tx.gauge(group, "dead", -dropped)
    tx.count(group, "dead_dropped", dropped)


_LETTER = (
    "number, grp, task, shard, priority, id, failure, deliveries, attempts, since, at, body, mark"
)


def _where(query: DeadQuery) -> tuple[str, list[object]]:
    conditions = ["number > ?"]
    values: list[object] = [query.after]
    if query.queue is not None:
        conditions.append("grp IN (SELECT id FROM taskyard_group WHERE queue = ?)")
        values.append(query.queue)
    if query.upto is not None:
        conditions.append("number <= ?")
        values.append(query.upto)
    if query.task is not None:
        conditions.append("task = ?")
        values.append(query.task)
    if query.numbers is not None:
        conditions.append("number IN (SELECT value FROM json_each(?))")
        values.append(msgspec.json.encode(list(query.numbers)))
    values.append(query.limit)
    return f"{' AND '.join(conditions)} ORDER BY number LIMIT ?", values


def dead_letters(connection: sqlite3.Connection, query: DeadQuery) -> list[DeadLetter]:
    """List dead letters, oldest first."""
    condition, values = _where(query)
    groups = {
        row[0]: row[1:] for row in connection.execute("SELECT id, queue, name FROM taskyard_group")
    }
    rows = connection.execute(f"SELECT {_LETTER} FROM taskyard_dead WHERE {condition}", values)
    return [_letter(groups, row) for row in rows]


def newest_dead(connection: sqlite3.Connection) -> int:
    """The highest number of a dead letter; 0: there is none."""
    row = connection.execute("SELECT max(number) FROM taskyard_dead").fetchone()
    return row[0] or 0


def retry_dead(tx: Transaction, query: DeadQuery) -> Changed:
    """Put the first of these dead letters back; see `Broker.retry_dead`."""
    found = _find(tx, query)
    retried = [item for item in found if taken_again(tx, *item)]
    _remove(tx, retried)
    lanes = Lanes(tx)
    for group, letter in retried:
        (lane,) = lanes.get(group, [letter.shard])
        sequence = lanes.append_marked(lane, letter.priority, [letter.body], [letter.mark])
        lanes.relocate(lane)
        tx.gauge(group, "waiting", 1)
        if letter.id:
            reopen_record(tx, letter.id, sequence)
    lanes.save()
    return changed_letters(len(retried), [letter.number for _, letter in found])


def discard_dead(tx: Transaction, query: DeadQuery) -> Changed:
    """Remove the first of these dead letters; see `Broker.discard_dead`."""
    removed = _find(tx, query)
    _remove(tx, removed)
    for group, _ in removed:
        tx.count(group, "discarded", 1)
    finish_records(
        tx,
        [
            (letter.id, State.DISCARDED, None, msgspec.msgpack.encode(letter.failure))
            for _, letter in removed
            if letter.id
        ],
    )
    return changed_letters(len(removed), [letter.number for _, letter in removed])


def forget_old_letters(tx: Transaction, age: int, limit: int) -> int:
    """Remove dead letters of this age, microseconds; answers how many there were."""
    letters = tx.execute(
        "DELETE FROM taskyard_dead WHERE number IN (SELECT number FROM taskyard_dead"
        " WHERE at < ? ORDER BY at LIMIT ?) RETURNING grp",
        (tx.now - age, limit),
    ).fetchall()
    for (group_id,) in letters:
        group = tx.group_by_id(group_id)
        tx.gauge(group, "dead", -1)
        tx.count(group, "dead_dropped", 1)
    return len(letters)


def _find(tx: Transaction, query: DeadQuery) -> list[tuple[GroupRow, DeadLetter]]:
    """The first of these dead letters, as many as a step may touch."""
    rows = tx.execute(
        f"SELECT {_LETTER} FROM taskyard_dead WHERE number IN (SELECT value FROM json_each(?))"
        " ORDER BY number",
        (msgspec.json.encode(_numbers(tx, query)),),
    ).fetchall()
    found = [(tx.group_by_id(row[1]), row) for row in rows]
    return [(group, _letter({group.id: _key(group)}, row)) for group, row in found]


def _remove(tx: Transaction, letters: Sequence[tuple[GroupRow, DeadLetter]]) -> None:
    tx.execute(
        "DELETE FROM taskyard_dead WHERE number IN (SELECT value FROM json_each(?))",
        (msgspec.json.encode([letter.number for _, letter in letters]),),
    )
    for group, _ in letters:
        tx.gauge(group, "dead", -1)


def _numbers(tx: Transaction, query: DeadQuery) -> list[int]:
    condition, values = _where(query)
    cursor = tx.execute(f"SELECT number, length(body) FROM taskyard_dead WHERE {condition}", values)
    numbers: list[int] = []
    total = 0
    for number, size in cursor:
        numbers.append(number)
        total += size
        if total >= STEP_BYTES:
            break
    cursor.close()
    return numbers


def _key(group: GroupRow) -> tuple[str, str]:
    return group.group.queue, group.group.name


def _letter(groups: dict[int, tuple[str, str]], row: Sequence[Any]) -> DeadLetter:
    number, grp, task, shard, priority, id_, failure, *rest = row
    key = Group(*groups[grp])
    return DeadLetter(number, key, task, shard, priority, id_, _failure.decode(failure), *rest)
