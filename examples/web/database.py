"""The application's own database. What it holds is what was really saved."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable

DATABASE = os.environ.get("EVENTS_DATABASE", "events.db")

COMMIT_MS = float(os.environ.get("EVENTS_COMMIT_MS", "0"))
"""Milliseconds that a commit takes longer, to try what a database over a network would do."""

SCHEMA = "CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, event TEXT NOT NULL)"

of_thread = threading.local()


def database() -> sqlite3.Connection:
    """This thread's connection."""
    if not hasattr(of_thread, "db"):
        of_thread.db = sqlite3.connect(DATABASE, timeout=60)
        of_thread.db.execute("PRAGMA journal_mode = WAL")
        of_thread.db.execute("PRAGMA synchronous = FULL")  # a commit waits for the disk
        of_thread.db.execute(SCHEMA)
    db: sqlite3.Connection = of_thread.db
    return db


def insert(rows: Iterable[tuple[str, str]]) -> None:
    """Save (id, event) rows in one transaction. A row that is there already stays as it is."""
    with database() as db:
        db.executemany("INSERT INTO events VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
        time.sleep(COMMIT_MS / 1000)


def count() -> int:
    """How many events are saved."""
    number: int
    (number,) = database().execute("SELECT count(*) FROM events").fetchone()
    return number
