"""The yard of the demonstration: a task that stores lines of files, and the worker for it."""

import os
import sqlite3
import sys
import threading
from functools import cache
from typing import NamedTuple

from taskyard import Batch, Yard

yard = Yard(os.environ.get("DEMO_BROKER", "sqlite:///yard.db"))


class Line(NamedTuple):
    file: str
    number: int
    text: bytes


@yard.task(queue="lines", shard="file", ordered=True, batch=Batch(size=500, within=0.5))
def store(lines: list[Line]) -> None:
    """Store some lines of one file.

    They may come again after a crash, so lines that are there already are left alone.
    """
    with database(threading.get_ident()) as db:  # one transaction
        new = db.executemany("INSERT OR IGNORE INTO lines VALUES (?, ?, ?)", lines).rowcount
        db.execute(
            "INSERT INTO workers VALUES (?, ?) ON CONFLICT DO UPDATE SET lines = lines + ?",
            (os.getpid(), new, new),
        )


@cache
def database(thread: int) -> sqlite3.Connection:
    db = sqlite3.connect(os.environ["DEMO_STORE"], timeout=60, isolation_level="IMMEDIATE")
    db.execute("PRAGMA journal_mode=WAL")
    return db


if __name__ == "__main__":
    yard.run_worker(processes=int(sys.argv[1]), concurrency=int(os.environ.get("CONC", "1")))
