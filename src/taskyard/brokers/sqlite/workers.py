"""The workers of the SQLite broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from sqlite3 import Connection

from taskyard.brokers.base import Operation
from taskyard.brokers.common import CHUNK
from taskyard.brokers.sqlite.drivers import Read, Write
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.workers import KEPT, LONGEST_MAIL, ControlMessage, Present, WorkerEntry

__all__ = ["SQLiteWorkers"]


class SQLiteWorkers:
    """See `Workers`.

    Arguments:
        clock: microseconds since 1970.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock

    def attend(
        self, worker: str, report: bytes, listener: str, heard: int
    ) -> Operation[list[ControlMessage]]:
        """See `Workers.attend`."""
        mail: list[ControlMessage] = yield Write(
            partial(_attend, worker=worker, report=report, listener=listener, heard=heard)
        )
        return mail

    def mail(self, worker: str, heard: int) -> Operation[list[ControlMessage]]:
        """See `Workers.mail`."""
        mail: list[ControlMessage] = yield Read(partial(_mail, worker=worker, heard=heard))
        return mail

    def retire(self, workers: Sequence[str]) -> Operation[None]:
        """See `Workers.retire`."""
        yield Write(partial(_remove, workers=workers))

    def find(self) -> Operation[Present]:
        """See `Workers.find`."""
        present: Present = yield Read(self._find)
        return present

    def _find(self, connection: Connection) -> Present:
        now = self._clock()
        rows = connection.execute(
            "SELECT id, seen, report FROM taskyard_worker WHERE seen >= ?", (now - KEPT,)
        )
        return Present(now, [WorkerEntry(*row) for row in rows])

    def tell(self, workers: Sequence[str], command: str, queue: str) -> Operation[list[str]]:
        """See `Workers.tell`."""
        told: list[str] = []
        for start in range(0, len(workers), CHUNK):
            chunk = workers[start : start + CHUNK]
            told += yield Write(partial(_tell, workers=chunk, command=command, queue=queue))
        return told


def _attend(
    tx: Transaction, worker: str, report: bytes, listener: str, heard: int
) -> list[ControlMessage]:
    expired = tx.execute(
        "SELECT id FROM taskyard_worker WHERE seen < ? AND id <> ? LIMIT ?",
        (tx.now - KEPT, worker, CHUNK),
    ).fetchall()
    _remove(tx, [id_ for (id_,) in expired])
    tx.execute(
        "INSERT INTO taskyard_worker (id, seen, listener, report) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET"
        " seen = excluded.seen, listener = excluded.listener, report = excluded.report",
        (worker, tx.now, listener, report),
    )
    if heard:
        tx.execute("DELETE FROM taskyard_mail WHERE worker = ? AND number <= ?", (worker, heard))
    return _mail(tx, worker, heard)


def _mail(where: Connection | Transaction, worker: str, heard: int) -> list[ControlMessage]:
    rows = where.execute(
        "SELECT number, command, queue FROM taskyard_mail WHERE worker = ? AND number > ?"
        " ORDER BY number",
        (worker, heard),
    )
    return [ControlMessage(*row) for row in rows]


def _remove(tx: Transaction, workers: Sequence[str]) -> None:
    rows = [(worker,) for worker in workers]
    tx.executemany("DELETE FROM taskyard_worker WHERE id = ?", rows)
    tx.executemany("DELETE FROM taskyard_mail WHERE worker = ?", rows)


def _tell(tx: Transaction, workers: Sequence[str], command: str, queue: str) -> list[str]:
    told = []
    for worker in workers:
        row = tx.execute(
            "SELECT listener FROM taskyard_worker WHERE id = ? AND seen >= ?",
            (worker, tx.now - KEPT),
        ).fetchone()
        if row is not None:
            _post(tx, worker, command, queue)
            tx.wake(row[0])
            told.append(worker)
    return told


def _post(tx: Transaction, worker: str, command: str, queue: str) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO taskyard_mail (worker, command, queue, number) VALUES (?, ?, ?, ?)",
        (worker, command, queue, tx.sequences(1)),
    )
    tx.execute(
        "DELETE FROM taskyard_mail WHERE worker = ?1 AND number <= (SELECT number"
        " FROM taskyard_mail WHERE worker = ?1 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        (worker, LONGEST_MAIL),
    )
