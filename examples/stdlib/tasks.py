"""The demonstration's task: file lines of source code away, in batches, in order per file.

DEMO_BROKER=sqlite:///queue.db DEMO_STORE=store.db python tasks.py 2
"""

import os
import sqlite3
import sys
import threading
from functools import cache
from typing import NamedTuple

from taskyard import Batch, Yard

yard = Yard(os.environ["DEMO_BROKER"])


class Line(NamedTuple):
    """A line of a file, with its line ending. One without any text ends the file."""

    file: str
    number: int
    text: bytes


@yard.task(queue="lines", shard="file", ordered=True, batch=Batch(size=500, within=0.5))
def store(lines: list[Line]) -> None:
    """Store lines of one file; those that are there already, because they came again, stay."""
    with database(threading.get_ident()) as db:  # one transaction
        new = db.executemany("INSERT OR IGNORE INTO lines VALUES (?, ?, ?)", lines).rowcount
        db.execute(
            "INSERT INTO workers VALUES (?, ?) ON CONFLICT DO UPDATE SET lines = lines + ?",
            (os.getpid(), new, new),
        )


@cache
def database(thread: int) -> sqlite3.Connection:
    """A connection per thread."""
    return sqlite3.connect(os.environ["DEMO_STORE"], timeout=60, isolation_level="IMMEDIATE")


if __name__ == "__main__":
    yard.run_worker(processes=int(sys.argv[1]), concurrency=2, grace=5)
