"""The measuring rod: the same bytes in the same batches through `sqlite3`, without a queue."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec

from bench.payload import Item, batches

_PREFIX = "0123456789a"


class Stored(msgspec.Struct, array_like=True, gc=False):
    """A message as taskyard stores it."""

    id: str
    payload: tuple[Item]
    task: str = ""


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -16000")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY, body BLOB NOT NULL)"
    )
    return connection


def _put(connection: sqlite3.Connection, count: int, size: int) -> float:
    encode = msgspec.msgpack.Encoder().encode
    made = 0
    began = perf_counter()
    for part in batches(count, size):
        rows = [(encode(Stored(f"{_PREFIX}{made + i:05x}", (row,))),) for i, row in enumerate(part)]
        made += len(rows)
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO row (body) VALUES (?)", rows)
        connection.execute("COMMIT")
    return perf_counter() - began


def put(path: str, count: int, size: int) -> dict[str, Any]:
    """Insert rows, so many per transaction."""
    connection = connect(Path(path))
    _put(connection, 1, 1)
    seconds = _put(connection, count, size)
    length = connection.execute("SELECT length(body) FROM row LIMIT 1").fetchone()[0]
    connection.close()
    return {"rate": count / seconds, "bytes": length}


def drain(path: str, count: int, size: int) -> dict[str, Any]:
    """Take rows out, so many per transaction: read the lowest, decode and delete them."""
    connection = connect(Path(path))
    _put(connection, count, 100)
    connection.close()
    decode = msgspec.msgpack.Decoder(Stored).decode
    done = 0
    began = perf_counter()
    connection = connect(Path(path))
    while True:
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute(
            "SELECT id, body FROM row ORDER BY id LIMIT ?", (size,)
        ).fetchall()
        if not rows:
            connection.execute("COMMIT")
            break
        items = [decode(body).payload[0] for _, body in rows]
        connection.execute("DELETE FROM row WHERE id <= ?", (rows[-1][0],))
        connection.execute("COMMIT")
        done += len(items)
    connection.close()
    seconds = perf_counter() - began
    assert done == count
    return {"rate": count / seconds}
