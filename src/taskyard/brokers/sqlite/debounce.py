"""Debounced messages in SQLite."""

from __future__ import annotations

from taskyard.brokers.base import Delivery, Put
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.records import finish_records
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import holders
from taskyard.brokers.unique import Finding, Holder, Keys, Mode, debounced_due, find, mark_of
from taskyard.message import State, read_id

__all__ = ["debounced"]


def debounced(tx: Transaction, group: GroupRow, put: Put, keys: Keys) -> tuple[int, int, Delivery]:
    """Put a message off, in place of the one that was put off before under its key.

    Returns:
        What `store_due` takes: when it is due, its priority, and the message.
    """
    [key], [body] = keys.keys, put.bodies
    before, first = holders(tx, group, put.shard, [key]).get(key), tx.now
    if before is not None and find(before, Mode.DEBOUNCE, tx.now) is Finding.REPLACES:
        first = before.first
        _discard(tx, group, before)
    due = debounced_due(first, tx.now, keys.span, keys.longest)
    sequence = tx.sequences(1)
    tx.execute(
        "INSERT OR REPLACE INTO taskyard_unique"
        " (grp, shard, key, id, mode, first, sequence, due) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (group.id, put.shard, key, read_id(body), keys.mode.value, first, sequence, due),
    )
    mark = mark_of(keys.mode, key)
    return due, put.priority, Delivery(sequence, 0, 0, 0, 0, 0, body, mark, put.expires)


def _discard(tx: Transaction, group: GroupRow, before: Holder) -> None:
    tx.execute(
        "DELETE FROM taskyard_due WHERE at = ? AND sequence = ?", (before.due, before.sequence)
    )
    tx.gauge(group, "delayed", -1)
    tx.count(group, "discarded", 1)
    finish_records(tx, [(before.id, State.DISCARDED, None, None)])
