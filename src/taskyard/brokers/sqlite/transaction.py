"""One write transaction: the broker's numbers, and what must be told to others at its end."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from taskyard.brokers.base import Group
from taskyard.brokers.bounds import QueueBounds
from taskyard.brokers.cancelling import NOTED
from taskyard.brokers.lane import Gate, GroupPolicy
from taskyard.brokers.rate import QueueRate, Rate, clamped, token_at
from taskyard.brokers.sqlite.groups import GroupRow, Groups
from taskyard.brokers.sqlite.wakeup import Doorbells

__all__ = ["NEVER", "SCHEDULES_TOPIC", "Transaction", "store_tat", "tat_of"]

NEVER = 1 << 62
"""When a sleeper wakes by itself that waits for nothing yet: a time that does not come."""

_BROKER = 0
"""Stands where the id of a group does, for what is the broker's own; no group has it."""

SCHEDULES_TOPIC = f"g:{_BROKER}"
"""What those sleep for who wait for the next instant of a schedule."""


class Transaction:
    """Given to every step that writes.

    Attributes:
        execute: runs a statement.
        executemany: runs a statement for many rows.
        now: the broker's time, microseconds; one instant for the entire transaction.
    """

    __slots__ = (
        "_bells",
        "_counts",
        "_earliest",
        "_groups",
        "_lane",
        "_note",
        "_policies",
        "_ready",
        "_sequence",
        "_stored",
        "_turn",
        "_woken",
        "execute",
        "executemany",
        "now",
    )

    def __init__(
        self, connection: sqlite3.Connection, now: int, groups: Groups, bells: Doorbells
    ) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.now = now
        self._groups = groups
        self._bells = bells
        self._counts: dict[tuple[int, str], int] = {}
        self._ready: set[int] = set()
        self._earliest: dict[int, int] = {}
        self._woken: list[str] = []
        self._stored: dict[str, int] = dict(
            self.execute("SELECT name, value FROM taskyard_counter WHERE grp = 0")
        )
        self._sequence = self._stored["sequence"]
        self._turn = self._stored["turn"]
        self._lane = self._stored["lane"]
        self._policies = self._stored["policies"]
        self._note = self._stored["note"]
        groups.refresh(connection, self._policies)

    # Numbers

    def sequences(self, count: int) -> int:
        """Reserve rising sequence numbers; returns the first."""
        first = max(self._sequence + 1, self.now)
        self._sequence = first + count - 1
        return first

    def turn(self) -> int:
        """The next turn: behind every lane that has one."""
        self._turn += 1
        return self._turn

    def note(self) -> int:
        """A number for a note: above the sequences of all messages that were put."""
        self._note = self.sequences(1)
        return self._note

    @property
    def last_note(self) -> int:
        """The number of the last note: it means no messages from there on."""
        return self._note

    @property
    def has_notes(self) -> bool:
        """Whether cancelled ids are to be looked for."""
        return self._note > 0 and self.now < self._note + NOTED

    def lane_id(self) -> int:
        """An id that no lane ever had."""
        self._lane += 1
        return self._lane

    def gauge(self, group: GroupRow, name: str, amount: int) -> None:
        """Change how many messages of a group are waiting, delayed, running or dead."""
        self.count(group, f"now:{name}", amount)

    def count(self, group: GroupRow, name: str, amount: int) -> None:
        """Add to a counter of a group."""
        key = (group.id, name)
        self._counts[key] = self._counts.get(key, 0) + amount

    # Groups

    def group(self, key: Group) -> GroupRow:
        """The row of a group; an unknown one is added, undeclared."""
        row = self._groups.find(key)
        if row is None:
            row = self.store_group(key, GroupPolicy(), declared=False)
        return row

    def known_group(self, key: Group) -> GroupRow | None:
        """The row of a group, None if it is not there."""
        return self._groups.find(key)

    def group_by_id(self, id_: int) -> GroupRow:
        """The group with this id."""
        return self._groups.by_id(id_)

    def store_group(self, key: Group, policy: GroupPolicy, *, declared: bool) -> GroupRow:
        """Add or replace a group's row."""
        stored = self._groups.find(key)
        policy = policy.limited_since(stored.policy if stored else GroupPolicy(), self._sequence)
        id_ = self.execute(
            "INSERT INTO taskyard_group (queue, name, declared, policy) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (queue, name) DO UPDATE SET"
            " declared = excluded.declared, policy = excluded.policy RETURNING id",
            (key.queue, key.name, declared, msgspec.json.encode(policy)),
        ).fetchone()[0]
        row = GroupRow(id_, key, policy, declared, self.queue_bounds(key.queue).effective)
        self._policies += 1
        self._groups.remember(row)
        self._groups.changed(self._policies)
        return row

    def gate(self, queue: str) -> Gate:
        """What a queue lets through."""
        return self._groups.gate(queue)

    def store_gate(self, queue: str, gate: Gate) -> None:
        """Say what a queue lets through, and leave what it lets through now to others."""
        if gate is Gate.OPEN:
            self.execute("DELETE FROM taskyard_gate WHERE queue = ?", (queue,))
        else:
            self.execute(
                "INSERT INTO taskyard_gate (queue, gate) VALUES (?, ?)"
                " ON CONFLICT (queue) DO UPDATE SET gate = excluded.gate",
                (queue, gate.value),
            )
        self._policies += 1
        self._groups.remember_gate(queue, gate)
        self._groups.changed(self._policies)
        self._ready.update(row.id for row in self._groups.of_queue(queue))

    # Limits

    @property
    def last_sequence(self) -> int:
        """The last one that was given out."""
        return self._sequence

    def set_at(self, group: GroupRow) -> dict[str, int]:
        """By the names of the buckets of a group: see `GroupPolicy.limit_set_at`."""
        queue = group.group.queue
        return {
            f"g:{group.id}": group.policy.limit_set_at,
            f"q:{queue}": self.queue_rate(queue).set_at,
        }

    def buckets(self, group: GroupRow) -> list[tuple[str, Rate]]:
        """The limits of a group and of its queue, with the names of their buckets."""
        named = (
            (f"g:{group.id}", group.policy.limit),
            (f"q:{group.group.queue}", self.queue_rate(group.group.queue).limit),
        )
        return [(name, limit) for name, limit in named if limit is not None]

    def token_at(self, group: GroupRow) -> int:
        """When its limits and those of its queue let a message pass: now, or later."""
        times = [
            token_at(tat_of(self, name), limit, self.now) for name, limit in self.buckets(group)
        ]
        return max(times, default=self.now)

    def queue_rate(self, queue: str) -> QueueRate:
        """The limits of a queue."""
        return self._groups.rate(queue)

    def store_queue_rate(self, queue: str, rate: QueueRate) -> None:
        """Set the limits of a queue, and leave what they let through now to others."""
        self.execute(
            "INSERT INTO taskyard_queue_rate (queue, rate) VALUES (?, ?)"
            " ON CONFLICT (queue) DO UPDATE SET rate = excluded.rate",
            (queue, msgspec.json.encode(rate)),
        )
        self._policies += 1
        self._groups.remember_rate(queue, rate)
        self._groups.changed(self._policies)
        store_tat(self, f"q:{queue}", clamped(tat_of(self, f"q:{queue}"), rate.limit, self.now))
        self._ready.update(row.id for row in self._groups.of_queue(queue))

    def limit_changed(self, group: GroupRow) -> None:
        """Leave what the new limit of a group lets through now to others."""
        name = f"g:{group.id}"
        store_tat(self, name, clamped(tat_of(self, name), group.policy.limit, self.now))
        self._ready.add(group.id)

    def groups_of(self, queue: str) -> list[GroupRow]:
        """The groups of a queue."""
        return self._groups.of_queue(queue)

    def any_bounds(self) -> bool:
        """Whether anything was said of how much queues hold."""
        return self._groups.any_bounds()

    def queue_bounds(self, queue: str) -> QueueBounds:
        """How much a queue holds."""
        return self._groups.bounds(queue)

    def store_bounds(self, queue: str, bounds: QueueBounds) -> None:
        """Say how much a queue holds."""
        self.execute(
            "INSERT INTO taskyard_bound (queue, bounds) VALUES (?, ?)"
            " ON CONFLICT (queue) DO UPDATE SET bounds = excluded.bounds",
            (queue, msgspec.json.encode(bounds)),
        )
        self._policies += 1
        self._groups.remember_bounds(queue, bounds)
        self._groups.changed(self._policies)

    # Telling others

    def has_ready(self, group: GroupRow) -> None:
        """Note that a lane of the group can be claimed: a sleeper is woken at the end."""
        self._ready.add(group.id)

    def has_later(self, group: GroupRow, at: int) -> None:
        """Note that something of the group becomes eligible at a time."""
        self._comes_at(group.id, at)

    def has_pending(self, at: int) -> None:
        """Note that a schedule is due at a time."""
        self._comes_at(_BROKER, at)

    def _comes_at(self, group_id: int, at: int) -> None:
        known = self._earliest.get(group_id)
        if known is None or at < known:
            self._earliest[group_id] = at

    def listen(self, name: str, topics: Iterable[str], until: int) -> None:
        """Register a sleeper, without a write if it is registered like that already."""
        wanted = {(topic, name, until) for topic in topics}
        stored = set(
            self.execute("SELECT topic, name, until FROM taskyard_listener WHERE name = ?", (name,))
        )
        if not wanted <= stored:
            self.executemany(
                "INSERT OR REPLACE INTO taskyard_listener (topic, name, until, since)"
                " VALUES (?, ?, ?, ?)",
                [(*entry, self.now) for entry in sorted(wanted - stored)],
            )

    def unlisten(self, name: str) -> None:
        """Forget a sleeper, because it is awake."""
        self.execute("DELETE FROM taskyard_listener WHERE name = ?", (name,))

    def leave(self, name: str) -> None:
        """Forget a sleeper that will not come back: what it was to be woken for, others do."""
        left = self.execute(
            "DELETE FROM taskyard_listener WHERE name = ? RETURNING topic, until", (name,)
        ).fetchall()
        for topic, until in left:
            kind, _, which = topic.partition(":")
            if kind == "g":
                self._ready.add(int(which))
                self._comes_at(int(which), until)

    def forget_dead_listeners(self, limit: int) -> None:
        """Remove what killed sleepers left behind: names here, sockets in the folder."""
        names = self.execute("SELECT DISTINCT name FROM taskyard_listener ORDER BY name").fetchall()
        dead = [name for (name,) in names if self._bells.is_dead(name)]
        for name in dead[:limit]:
            self.leave(name)
        self._bells.sweep(limit)

    def wake_all(self, topic: str) -> None:
        """Wake everybody who waits for a topic."""
        names = self.execute(
            "SELECT name FROM taskyard_listener WHERE topic = ?", (topic,)
        ).fetchall()
        for (name,) in names:
            self._ring(name)

    def wake(self, name: str) -> None:
        """Wake somebody after the commit: who will only read, and so would not queue behind it."""
        self._woken.append(name)

    def any_listener(self) -> bool:
        """Whether anybody sleeps at all."""
        return self.execute("SELECT 1 FROM taskyard_listener LIMIT 1").fetchone() is not None

    def any_record_listener(self) -> bool:
        """Whether anybody waits for a record: an idle worker, who is often there, does not."""
        return (
            self.execute(
                "SELECT 1 FROM taskyard_listener WHERE topic >= 'r:' AND topic < 'r;' LIMIT 1"
            ).fetchone()
            is not None
        )

    def _ring(self, name: str) -> bool:
        # Before the commit, so that waking up overlaps it: the sleeper's own transaction queues
        # behind this one. If this one is rolled back, it was woken for nothing.
        self.unlisten(name)
        return self._bells.ring(name)

    def _wake_one(self, group_id: int, sleeping_past: int) -> None:
        topic = f"g:{group_id}"
        while True:
            row = self.execute(
                "SELECT name FROM taskyard_listener WHERE topic = ?"
                " AND (until = 0 OR until > ?) ORDER BY since LIMIT 1",
                (topic, sleeping_past),
            ).fetchone()
            if row is None or self._ring(row[0]):
                return

    def _wake_for_time(self, group_id: int, at: int) -> None:
        # Who should have woken before now is awake, or was killed in its sleep.
        enough = self.execute(
            "SELECT 1 FROM taskyard_listener WHERE topic = ? AND until BETWEEN ? AND ? LIMIT 1",
            (f"g:{group_id}", self.now, at),
        ).fetchone()
        if enough is None:
            self._wake_one(group_id, at)

    # The end

    def finish(self) -> None:
        """Write the numbers and wake whom this concerns; the commit follows."""
        changes = [(*key, amount) for key, amount in self._counts.items() if amount]
        changes += self._risen()
        if changes:
            self.executemany(
                "INSERT INTO taskyard_counter (grp, name, value) VALUES (?, ?, ?)"
                " ON CONFLICT (grp, name) DO UPDATE SET value = value + excluded.value",
                changes,
            )
        if (self._ready or self._earliest) and self.any_listener():
            for group_id in sorted(self._ready):
                if not self._has_claimable(group_id):
                    continue
                if (at := self.token_at(self._groups.by_id(group_id))) > self.now:
                    self._comes_at(group_id, at)
                else:
                    self._wake_one(group_id, 0)
            for group_id, at in sorted(self._earliest.items()):
                self._wake_for_time(group_id, at)

    def committed(self) -> None:
        """Wake those who look for what is committed."""
        for name in self._woken:
            self._bells.ring(name)

    def _has_claimable(self, group_id: int) -> bool:
        if group_id == _BROKER:
            return False
        gate = self._groups.gate(self._groups.by_id(group_id).group.queue)
        if gate is Gate.PAUSED:
            return False
        places = "place IN (1, 2)" if gate is Gate.DRAINING else "place = 1"
        found = self.execute(
            f"SELECT 1 FROM taskyard_lane WHERE grp = ? AND {places} LIMIT 1", (group_id,)
        ).fetchone()
        return found is not None

    def _risen(self) -> list[tuple[int, str, int]]:
        """By how much the broker's own numbers have risen."""
        numbers = (
            ("sequence", self._sequence),
            ("turn", self._turn),
            ("lane", self._lane),
            ("policies", self._policies),
            ("note", self._note),
        )
        stored = self._stored
        return [(0, name, value - stored[name]) for name, value in numbers if value != stored[name]]


def tat_of(tx: Transaction, bucket: str) -> int:
    """The stored tat of a bucket; 0: it is full."""
    row = tx.execute("SELECT tat FROM taskyard_bucket WHERE name = ?", (bucket,)).fetchone()
    return 0 if row is None else int(row[0])


def store_tat(tx: Transaction, bucket: str, tat: int) -> None:
    """Store the tat of a bucket."""
    if tat == 0:
        tx.execute("DELETE FROM taskyard_bucket WHERE name = ?", (bucket,))
        return
    tx.execute(
        "INSERT INTO taskyard_bucket (name, tat) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET tat = excluded.tat",
        (bucket, tat),
    )
