"""Unique keys in SQLite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from taskyard.brokers.base import ClaimedLane, DeadLetter, Delivery, Put
from taskyard.brokers.common import parts_of
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.unique import (
    Finding,
    Holder,
    Keys,
    Mode,
    admit,
    find,
    is_released_at_start,
    is_taken_again,
    key_of,
    mark_of,
    mode_of,
)
from taskyard.message import read_id

__all__ = [
    "Released",
    "admitted",
    "forget_windows",
    "free_key",
    "hold_keys",
    "holders",
    "release_ended",
    "release_started",
    "taken_again",
]

Released = Iterable[tuple[str, Delivery]]
"""Shards and messages."""


def admitted(tx: Transaction, puts: Sequence[Put]) -> Sequence[Put]:
    """The messages that are stored; to each caller is answered what became of the others."""
    if all(put.unique is None for put in puts):
        return puts
    seen: dict[tuple[int, str], dict[str, Holder]] = {}
    made = []
    for put in puts:
        keys = put.unique
        if keys is None:
            made.append(put)
            continue
        group = tx.group(put.group)
        held = seen.setdefault((group.id, put.shard), {})
        held.update(holders(tx, group, put.shard, set(keys.keys).difference(held)))
        admission = admit(keys, list(map(read_id, put.bodies)), held, tx.now)
        keys.standing = admission.standing
        made += parts_of(put, admission.admitted)
    return made


def holders(tx: Transaction, group: GroupRow, shard: str, keys: Iterable[str]) -> dict[str, Holder]:
    """Who holds these keys, as far as somebody does."""
    rows = tx.execute(
        "SELECT held.key, mode, held.id, until, first, sequence, due FROM json_each(?) AS wanted"
        " CROSS JOIN taskyard_unique AS held"
        " ON grp = ? AND shard = ? AND held.key = wanted.value",
        (msgspec.json.encode(list(keys)), group.id, shard),
    )
    return {key: Holder(Mode(mode), *rest) for key, mode, *rest in rows}


_HOLD = (
    "INSERT OR REPLACE INTO taskyard_unique (grp, shard, key, id, mode, until) VALUES"
    " (?, ?, ?, ?, ?, ?)"
)


def hold_keys(tx: Transaction, group: GroupRow, put: Put, keys: Keys) -> list[str]:
    """Let messages hold their keys; returns what travels with them."""
    until = tx.now + keys.span if keys.mode is Mode.WINDOW else 0
    mode, ids = keys.mode.value, map(read_id, put.bodies)
    tx.executemany(
        _HOLD,
        [
            (group.id, put.shard, key, id_, mode, until)
            for key, id_ in zip(keys.keys, ids, strict=True)
        ],
    )
    return [mark_of(keys.mode, key) for key in keys.keys]


def release_ended(tx: Transaction, group: GroupRow, ended: Released) -> None:
    """Release the keys that messages hold, as far as it is they who hold them."""
    held = [
        (group.id, shard, key_of(message.mark), read_id(message.body))
        for shard, message in ended
        if message.mark
    ]
    if held:
        tx.executemany(
            "DELETE FROM taskyard_unique WHERE grp = ? AND shard = ? AND key = ? AND id = ?"
            " AND until = 0",
            held,
        )


def release_started(tx: Transaction, group: GroupRow, parts: Sequence[ClaimedLane]) -> bool:
    """Release the keys of messages that were claimed; say whether others are held until an end."""
    marked = [
        (part.shard, message) for part in parts for _, message in part.messages if message.mark
    ]
    started = [item for item in marked if is_released_at_start(item[1].mark)]
    release_ended(tx, group, started)
    return len(started) < len(marked)


def taken_again(tx: Transaction, group: GroupRow, letter: DeadLetter) -> bool:
    """Let a dead letter that is retried have its key again; False: another one holds it."""
    if not is_taken_again(letter.mark):
        return True
    key, mode = key_of(letter.mark), mode_of(letter.mark)
    holder = holders(tx, group, letter.shard, [key]).get(key)
    if find(holder, mode, tx.now) is not Finding.FREE:
        return False
    tx.execute(_HOLD, (group.id, letter.shard, key, read_id(letter.body), mode.value, 0))
    return True


def free_key(tx: Transaction, group: GroupRow, shard: str, key: str) -> None:
    """Let nobody hold a key, whoever does."""
    tx.execute(
        "DELETE FROM taskyard_unique WHERE grp = ? AND shard = ? AND key = ?",
        (group.id, shard, key),
    )


def forget_windows(tx: Transaction, limit: int) -> int:
    """Remove windows that are over, `limit` at most; say how many."""
    return tx.execute(
        "DELETE FROM taskyard_unique WHERE (grp, shard, key) IN (SELECT grp, shard, key"
        " FROM taskyard_unique WHERE until > 0 AND until <= ? ORDER BY until LIMIT ?)",
        (tx.now, limit),
    ).rowcount
