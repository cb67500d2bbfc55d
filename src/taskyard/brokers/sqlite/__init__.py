"""The embedded, durable broker: one SQLite file, any number of processes, no server."""

from taskyard.brokers.sqlite.broker import SQLiteBroker

__all__ = ["SQLiteBroker"]
