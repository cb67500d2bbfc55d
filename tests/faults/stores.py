"""Where the messages of a scene wait, and how to look into it behind the broker's back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path
from typing import Any, Protocol

import msgspec
from tests.servers.server import RedisServer

from taskyard.brokers.base import Counts
from taskyard.brokers.redis.calls import container_key

__all__ = ["RedisStore", "SQLiteStore", "Store", "gate_holders"]


class Store(Protocol):
    """A place for messages."""

    def fields(self) -> dict[str, Any]:
        """What `Config` says of it."""
        ...

    def owners(self) -> list[str]:
        """Who holds claims."""
        ...

    def deadlines(self) -> dict[int, int]:
        """When the leases of claims end, by token; microseconds of the broker's clock."""
        ...

    def is_kept_by(self, pid: int) -> bool:
        """Whether nobody else could write if that process were stopped now."""
        ...

    def check(self, counts: Counts) -> None:
        """Check that it is sound, and agrees with itself and with counts."""
        ...


def gate_holders(database: Path) -> set[int]:
    """The processes whose turn it is to write: one at most."""
    gate = os.stat(f"{database}-gate").st_ino
    locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    return {
        int(fields[4])
        for fields in map(str.split, locks)
        if fields[1] == "FLOCK" and fields[5].endswith(f":{gate}")
    }


class SQLiteStore:
    """A file.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def fields(self) -> dict[str, Any]:
        return {"database": str(self.path)}

    def query(self, statement: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(statement).fetchall()

    def owners(self) -> list[str]:
        return [owner for (owner,) in self.query("SELECT owner FROM taskyard_claim")]

    def deadlines(self) -> dict[int, int]:
        return dict(self.query("SELECT token, deadline FROM taskyard_claim"))

    def is_kept_by(self, pid: int) -> bool:
        return pid in gate_holders(self.path)

    def check(self, counts: Counts) -> None:
        assert self.query("PRAGMA integrity_check") == [("ok",)]
        # `waiting` may be less than the truth, but not 0.
        disagreeing = self.query(
            "SELECT lane.shard, lane.waiting, count(sequence) AS messages"
            " FROM taskyard_lane AS lane LEFT JOIN taskyard_message ON lane = lane.id"
            " GROUP BY lane.id HAVING waiting > messages OR (waiting = 0) != (messages = 0)"
        )
        assert disagreeing == []
        tables = ("message", "due", "dead")
        rows = [self.query(f"SELECT count(*) FROM taskyard_{name}")[0][0] for name in tables]
        claimed, claims = self.query("SELECT total(messages), count(*) FROM taskyard_claim")[0]
        assert rows == [counts.waiting, counts.delayed, counts.dead]
        assert claimed == counts.running
        assert claims or not self.query("SELECT 1 FROM taskyard_lane WHERE held > 0")


class RedisStore:
    """Keys of one prefix on a server.

    Attributes:
        server: the server.
        prefix: what all keys begin with.
        address: where processes connect; to the server itself, unless a proxy is put between.
        options: more for the URL.

    Arguments:
        server: the server.
        options: more for the URL.
    """

    def __init__(self, server: RedisServer, **options: object) -> None:
        self.server = server
        self.prefix = f"faults-{uuid.uuid4().hex}"
        self.address = f"{server.host}:{server.port}"
        self.options = options
        self._client = server.client()

    def url(self, address: str = "") -> str:
        """Where the messages are.

        Arguments:
            address: of a proxy in between.
        """
        options = {"prefix": self.prefix, **self.options}
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"redis://{address or self.address}/0?{query}"

    def fields(self) -> dict[str, Any]:
        return {"url": self.url()}

    def key(self, *names: object) -> str:
        """A key of the broker's."""
        return ":".join([container_key(self.prefix, "0"), *map(str, names)])

    def keys(self, *names: object) -> list[str]:
        """The broker's keys that begin so."""
        pattern = self.key(*names, "*")
        return sorted(key.decode() for key in self._client.scan_iter(pattern, count=1000))

    def _claims(self) -> list[int]:
        return [int(token) for token in self._client.zrange(self.key("claims"), 0, -1)]

    def owners(self) -> list[str]:
        heads = [self._client.lindex(self.key("c", token), 0) for token in self._claims()]
        return [msgspec.msgpack.decode(head)[1] for head in heads if head is not None]

    def deadlines(self) -> dict[int, int]:
        found = self._client.zrange(self.key("claims"), 0, -1, withscores=True)
        return {int(token): int(deadline) for token, deadline in found}

    def is_kept_by(self, pid: int) -> bool:
        return False

    def check(self, counts: Counts) -> None:
        ask, claims = self._client, self._claims()
        assert self.keys("c") == sorted(self.key("c", token) for token in claims)
        running = sum(ask.llen(key) - 1 for key in self.keys("c"))
        waiting = sum(map(ask.llen, self.keys("l"))) + sum(map(ask.zcard, self.keys("b")))
        dead = sum(map(ask.zcard, self.keys("d")))
        assert dead == ask.hlen(self.key("letters"))
        found = (waiting, ask.zcard(self.key("due")), running, dead)
        expected = (counts.waiting, counts.delayed, counts.running, counts.dead)
        assert found == expected, f"{found} are stored, {expected} counted: {self.keys()}"
        for gid in ask.hkeys(self.key("names")):
            self._check_lanes(gid.decode(), idle=not claims)

    def _check_lanes(self, gid: str, *, idle: bool) -> None:
        ask = self._client
        shards = {
            key.removeprefix(self.key(kind, gid, "")).partition(":")[2].encode()
            for kind in ("l", "b")
            for key in self.keys(kind, gid)
        }
        states = ask.hgetall(self.key("s", gid))
        held = {shard for shard, state in states.items() if msgspec.msgpack.decode(state)[1]}
        assert not (idle and held), f"held by nobody: {held}"
        later = {member[4:] for member in ask.zrange(self.key("later"), 0, -1)}
        placed = set(ask.zrange(self.key("r", gid), 0, -1)) | later
        placed |= ask.smembers(self.key("p", gid))
        # Where claims of a lane are limited, one that has as many is nowhere.
        assert shards - held <= placed, f"nobody will look there: {shards - held - placed}"
        assert placed <= shards, f"nothing is there: {placed - shards}"
