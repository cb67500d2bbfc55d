"""Notes of cancelled ids that have no records, and the end of what they mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from taskyard.brokers.base import ClaimedLane, Delivery
from taskyard.brokers.cancelling import NOTED, is_noted
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.records import finish_records
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import release_ended
from taskyard.message import State, read_id

__all__ = ["drop_noted", "forget_notes", "noted", "stop", "store_note"]


def store_note(tx: Transaction, id_: str) -> None:
    """Note an id: of all messages that were put before."""
    tx.execute("INSERT OR REPLACE INTO taskyard_note (id, note) VALUES (?, ?)", (id_, tx.note()))


def forget_notes(tx: Transaction) -> None:
    """Forget the notes that are too old."""
    tx.execute("DELETE FROM taskyard_note WHERE note <= ?", (tx.now - NOTED,))


def noted(tx: Transaction, messages: Iterable[Delivery]) -> set[int]:
    """The sequences of those of the messages that are cancelled by notes."""
    ids = {
        message.sequence: read_id(message.body)
        for message in messages
        if message.sequence < tx.last_note
    }
    if not ids:
        return set()
    notes: dict[str, int] = dict(
        tx.execute(
            "SELECT id, note FROM taskyard_note WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(list(ids.values())),),
        )
    )
    return {
        sequence
        for sequence, id_ in ids.items()
        if id_ in notes and is_noted(notes[id_], sequence, tx.now)
    }


def drop_noted(
    tx: Transaction, group: GroupRow, taken: Iterable[ClaimedLane]
) -> tuple[list[ClaimedLane], list[str]]:
    """End those of the messages that were taken whose ids are noted.

    Returns:
        What is left, and the shards of which nothing is.
    """
    left: list[ClaimedLane] = []
    emptied: list[str] = []
    for lane in taken:
        dropped = noted(tx, (message for _, message in lane.messages))
        ended = [(lane.shard, one) for _, one in lane.messages if one.sequence in dropped]
        stop(tx, group, ended)
        tx.gauge(group, "waiting", -len(dropped))
        kept = [entry for entry in lane.messages if entry[1].sequence not in dropped]
        if kept:
            left.append(ClaimedLane(lane.shard, lane.flush, kept))
        else:
            emptied.append(lane.shard)
    return left, emptied


def stop(tx: Transaction, group: GroupRow, stopped: Sequence[tuple[str, Delivery]]) -> None:
    """End messages, of shards, as cancelled; records of later ones are not touched."""
    if not stopped:
        return
    release_ended(tx, group, stopped)
    messages = {message.sequence: read_id(message.body) for _, message in stopped}
    tx.count(group, "cancelled", len(messages))
    sequences: dict[str, int] = dict(
        tx.execute(
            "SELECT id, sequence FROM taskyard_record"
            " WHERE id IN (SELECT value FROM json_each(?)) AND expires = 0",
            (msgspec.json.encode(list(messages.values())),),
        )
    )
    ended = [
        (id_, State.CANCELLED, None, None)
        for sequence, id_ in messages.items()
        if sequences.get(id_) in (0, sequence)
    ]
    if ended:
        finish_records(tx, ended)
