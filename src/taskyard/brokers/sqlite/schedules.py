"""The schedules of the SQLite broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from sqlite3 import Connection

import msgspec

from taskyard.brokers.base import Operation, Put
from taskyard.brokers.schedules import DueSchedules, Schedule
from taskyard.brokers.sqlite.drivers import Read, Write
from taskyard.brokers.sqlite.records import forget_expired
from taskyard.brokers.sqlite.transaction import NEVER, SCHEDULES_TOPIC, Transaction

__all__ = ["SQLiteSchedules"]

_COLUMNS = "name, rule, pending, last, paused, revision"
_PENDING = "pending > 0 AND paused = 0"
"""As the partial index says it, or it would not be used."""


class SQLiteSchedules:
    """See `Schedules`.

    Arguments:
        clock: microseconds since 1970.
        put: stores messages in a transaction.
    """

    def __init__(
        self, clock: Callable[[], int], put: Callable[[Transaction, Sequence[Put]], None]
    ) -> None:
        self._clock = clock
        self._put = put

    def find(
        self, names: Sequence[str] | None = None, *, after: str = "", limit: int = 100
    ) -> Operation[list[Schedule]]:
        """See `Schedules.find`."""
        found: list[Schedule] = yield Read(partial(_find, names=names, after=after, limit=limit))
        return found

    def change(
        self, old: Schedule, new: Schedule | None, put: Put | None = None
    ) -> Operation[bool]:
        """See `Schedules.change`."""
        changed: bool = yield Write(partial(self._change, old=old, new=new, put=put))
        return changed

    def due(self, limit: int, listener: str | None = None) -> Operation[DueSchedules]:
        """See `Schedules.due`."""
        if listener is None:
            seen: DueSchedules = yield Read(partial(self._look, limit=limit))
            return seen
        # Who looks in vain, and sleeps already until the right time, needs no turn at writing.
        found: DueSchedules | None = yield Read(
            partial(self._look_quietly, limit=limit, listener=listener)
        )
        if found is None:
            found = yield Write(partial(_look_or_sleep, limit=limit, listener=listener))
        return found

    def _change(
        self, tx: Transaction, old: Schedule, new: Schedule | None, put: Put | None
    ) -> bool:
        if _revision(tx, old.name) != old.revision:
            return False
        if put is not None:
            if put.ids:
                forget_expired(tx, put.ids)  # they may not be tidied away yet
            self._put(tx, [put])
        if new is None:
            tx.execute("DELETE FROM taskyard_schedule WHERE name = ?", (old.name,))
        else:
            _store(tx, new, old.revision + 1)
        return True

    def _look(self, connection: Connection, limit: int) -> DueSchedules:
        return _due(connection, self._clock(), limit)

    def _look_quietly(
        self, connection: Connection, limit: int, listener: str
    ) -> DueSchedules | None:
        """What is due; None: the listener is not registered as it has to be then."""
        found = self._look(connection, limit)
        stored = connection.execute(
            "SELECT topic, until FROM taskyard_listener WHERE name = ?", (listener,)
        ).fetchall()
        right = not stored if found.schedules else (SCHEDULES_TOPIC, _until(found)) in stored
        return found if right else None


def _find(
    connection: Connection, names: Sequence[str] | None, after: str, limit: int
) -> list[Schedule]:
    condition = "name > ?"
    values: list[object] = [after]
    if names is not None:
        condition += " AND name IN (SELECT value FROM json_each(?))"
        values.append(msgspec.json.encode(list(names)))
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM taskyard_schedule WHERE {condition} ORDER BY name LIMIT ?",
        (*values, limit),
    )
    return [_schedule(*row) for row in rows]


def _due(where: Connection | Transaction, now: int, limit: int) -> DueSchedules:
    rows = where.execute(
        f"SELECT {_COLUMNS} FROM taskyard_schedule WHERE {_PENDING} AND pending <= ?"
        " ORDER BY pending, name LIMIT ?",
        (now, limit),
    )
    found = [_schedule(*row) for row in rows]
    return DueSchedules(found, now, 0 if found else _first_pending(where))


def _first_pending(where: Connection | Transaction) -> int:
    first: int | None = where.execute(
        f"SELECT min(pending) FROM taskyard_schedule WHERE {_PENDING}"
    ).fetchone()[0]
    return first or 0


def _until(found: DueSchedules) -> int:
    return found.next_at or NEVER


def _look_or_sleep(tx: Transaction, limit: int, listener: str) -> DueSchedules:
    found = _due(tx, tx.now, limit)
    if found.schedules:
        tx.unlisten(listener)
    else:
        tx.listen(listener, [SCHEDULES_TOPIC], _until(found))
    return found


def _revision(tx: Transaction, name: str) -> int:
    row = tx.execute("SELECT revision FROM taskyard_schedule WHERE name = ?", (name,)).fetchone()
    return 0 if row is None else int(row[0])


def _store(tx: Transaction, new: Schedule, revision: int) -> None:
    tx.execute(
        f"INSERT OR REPLACE INTO taskyard_schedule ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (new.name, new.rule, new.pending, new.last, new.paused, revision),
    )
    if new.pending and not new.paused:
        tx.has_pending(new.pending)


def _schedule(
    name: str, rule: bytes, pending: int, last: int, paused: int, revision: int
) -> Schedule:
    return Schedule(name, rule, pending, last, bool(paused), revision)
