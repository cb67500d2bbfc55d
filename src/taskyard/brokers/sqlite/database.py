"""A connection to the file: opening, migrations, transactions, and what errors mean."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import NoReturn, TypeVar

from taskyard.brokers.sqlite.gate import Gate
from taskyard.brokers.sqlite.groups import Groups
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.wakeup import Doorbells
from taskyard.errors import (
    BrokerError,
    BrokerInaccessible,
    BrokerUnavailable,
    CorruptDatabase,
    ForeignDatabase,
    SchemaTooNew,
)

__all__ = ["Database", "Settings"]

T = TypeVar("T")

_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PASSING = {
    sqlite3.SQLITE_BUSY: "another program keeps it locked",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk cannot be read or written",
}
_INACCESSIBLE = {
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; does the folder exist, and may you write there?",
    sqlite3.SQLITE_PERM: "access is not permitted",
}


class Settings:
    """How a file is opened.

    Arguments:
        path: the file.
        synchronous: "full" (a task accepted survives a power cut), "normal", "extra" or "off".
        busy: seconds to wait for other processes at most.
        clock: microseconds since 1970.
    """

    def __init__(self, path: Path, synchronous: str, busy: float, clock: Callable[[], int]) -> None:
        self.path = path
        self.synchronous = synchronous
        self.busy = busy
        self.clock = clock

    def beside(self, suffix: str) -> Path:
        """A path beside the file."""
        return self.path.with_name(self.path.name + suffix)


class Database:
    """One open connection. Not safe for several threads at once, nor across a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gate = Gate(settings.beside("-gate"), settings.busy)
        self.bells = Doorbells(settings.beside("-wake"))
        self._groups = Groups()
        try:
            with self._explained():
                self._connection = self._open()
        except BaseException:
            self._gate.close()
            raise

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._settings.path,
            timeout=self._settings.busy,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.execute(f"PRAGMA synchronous = {self._settings.synchronous}")
            connection.execute("PRAGMA cache_size = -16000")
            # Puts that scatter over shards change the same pages again and again: with a longer
            # log, fewer of them are copied into the file (measured: 17 % more puts).
            connection.execute("PRAGMA wal_autocheckpoint = 2000")
            try:
                self._gate.enter()
                _migrate(connection, self._settings.path)
            finally:
                self._gate.leave()
        except BaseException:
            connection.close()
            raise
        return connection

    def write(self, step: Callable[[Transaction], T]) -> T:
        """Run a step in one transaction; whatever it raises, nothing of it is stored then."""
        connection = self._connection
        with self._explained():
            try:
                self._gate.enter()
                try:
                    # IMMEDIATE: a transaction that reads first and writes later fails at once when
                    # another one committed in between, without waiting for any timeout.
                    # Inside the try: a signal that came meanwhile raises its error behind it.
                    connection.execute("BEGIN IMMEDIATE")
                    transaction = Transaction(
                        connection, self._settings.clock(), self._groups, self.bells
                    )
                    reply = step(transaction)
                    transaction.finish()
                    connection.execute("COMMIT")
                    transaction.committed()
                except BaseException:
                    self._groups.forget()
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            finally:
                self._gate.leave()
        return reply

    def read(self, step: Callable[[sqlite3.Connection], T]) -> T:
        """Run a step that only reads, on one consistent view."""
        connection = self._connection
        with self._explained():
            try:
                connection.execute("BEGIN")
                return step(connection)
            finally:
                if connection.in_transaction:
                    connection.execute("COMMIT")

    def version(self) -> int:
        """A number that changes when another connection has written."""
        with self._explained():
            row = self._connection.execute("PRAGMA data_version").fetchone()
        return int(row[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self.bells.close()
        self._gate.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            _explain(error, self._settings)


def _explain(error: sqlite3.Error, settings: Settings) -> NoReturn:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _CORRUPT:
        raise CorruptDatabase(
            f"{settings.path} is damaged or no SQLite database ({error}). Nothing was changed; "
            f"restore a backup, or salvage it with the sqlite3 program's .recover"
        ) from error
    if code in _PASSING:
        waited = f" for {settings.busy:g} s" if "locked" in _PASSING[code] else ""
        raise BrokerUnavailable(
            f"{settings.path}: {_PASSING[code]}{waited} ({error}). Nothing was stored"
        ) from error
    if code in _INACCESSIBLE:
        raise BrokerInaccessible(
            f"{settings.path}: {_INACCESSIBLE[code]} ({error}). Nothing was stored"
        ) from error
    raise BrokerError(f"{settings.path}: {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    tables = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    }
    version = 0
    if "taskyard_meta" in tables:
        version = connection.execute("SELECT schema FROM taskyard_meta").fetchone()[0]
    elif tables:
        raise ForeignDatabase(
            f"{path} holds tables of another application ({', '.join(sorted(tables)[:3])}). "
            f"Nothing was changed; give taskyard a file of its own"
        )
    scripts = _migrations()
    newest = max(scripts)
    if version > newest:
        raise SchemaTooNew(
            f"{path} was written by a newer taskyard (schema {version}; this one knows up to "
            f"{newest}). Nothing was changed; upgrade taskyard"
        )
    if version == newest:
        return
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise BrokerError(
            f"{path}: this file system cannot hold a write-ahead log (journal mode {mode!r}); "
            f"use a local disk"
        )
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in sorted(number for number in scripts if number > version):
            for statement in _statements(scripts[number]):
                connection.execute(statement)
            connection.execute("UPDATE taskyard_meta SET schema = ?", (number,))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _migrations() -> dict[int, str]:
    """The scripts by the schema that they lead to, which their names begin with."""
    folder = resources.files("taskyard.brokers.sqlite").joinpath("migrations")
    return {
        int(entry.name.partition("_")[0]): entry.read_text(encoding="utf-8")
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    }


def _statements(script: str) -> Iterator[str]:
    # executescript() would commit the transaction that makes a migration all or nothing.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
