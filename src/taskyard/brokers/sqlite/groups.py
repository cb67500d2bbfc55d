"""The groups of a database, remembered between transactions."""

from __future__ import annotations

import sqlite3

import msgspec

from taskyard.brokers.base import Group
from taskyard.brokers.bounds import NO_BOUNDS, Bounds, QueueBounds
from taskyard.brokers.lane import Gate, GroupPolicy
from taskyard.brokers.rate import QueueRate

__all__ = ["GroupRow", "Groups"]


NO_RATE = QueueRate()
NOT_BOUND = QueueBounds()


class GroupRow(msgspec.Struct, frozen=True):
    """A stored group."""

    id: int
    group: Group
    policy: GroupPolicy
    declared: bool
    bounds: Bounds = NO_BOUNDS


class Groups:
    """A cache of groups, and of gates and limits of queues.

    It is reloaded when the database says that something of it changed.
    """

    def __init__(self) -> None:
        self._version = -1
        self._by_id: dict[int, GroupRow] = {}
        self._by_key: dict[Group, GroupRow] = {}
        self._gates: dict[str, Gate] = {}
        self._rates: dict[str, QueueRate] = {}
        self._bounds: dict[str, QueueBounds] = {}

    def refresh(self, connection: sqlite3.Connection, version: int) -> None:
        """Reload unless `version` is what is remembered."""
        if version == self._version:
            return
        self._by_id.clear()
        self._by_key.clear()
        self._bounds = {
            queue: msgspec.json.decode(bounds, type=QueueBounds)
            for queue, bounds in connection.execute("SELECT queue, bounds FROM taskyard_bound")
        }
        for id_, queue, name, declared, policy in connection.execute(
            "SELECT id, queue, name, declared, policy FROM taskyard_group"
        ):
            self.remember(
                GroupRow(
                    id_,
                    Group(queue, name),
                    msgspec.json.decode(policy, type=GroupPolicy),
                    bool(declared),
                    self.bounds(queue).effective,
                )
            )
        self._gates = {
            queue: Gate(gate)
            for queue, gate in connection.execute("SELECT queue, gate FROM taskyard_gate")
        }
        self._rates = {
            queue: msgspec.json.decode(rate, type=QueueRate)
            for queue, rate in connection.execute("SELECT queue, rate FROM taskyard_queue_rate")
        }
        self._version = version

    def forget(self) -> None:
        """Reload next time: what was remembered may have been rolled back."""
        self._version = -1

    def remember(self, row: GroupRow) -> None:
        """Add or replace a group."""
        self._by_id[row.id] = row
        self._by_key[row.group] = row

    def changed(self, version: int) -> None:
        """Note that this connection itself brought the database to `version`."""
        self._version = version

    def gate(self, queue: str) -> Gate:
        """What a queue lets through."""
        return self._gates.get(queue, Gate.OPEN)

    def remember_gate(self, queue: str, gate: Gate) -> None:
        """Note what a queue lets through from now on."""
        self._gates[queue] = gate

    def rate(self, queue: str) -> QueueRate:
        """The limits of a queue."""
        return self._rates.get(queue, NO_RATE)

    def remember_rate(self, queue: str, rate: QueueRate) -> None:
        """Note the limits of a queue from now on."""
        self._rates[queue] = rate

    def any_bounds(self) -> bool:
        """Whether anything was said of how much queues hold."""
        return bool(self._bounds)

    def bounds(self, queue: str) -> QueueBounds:
        """How much a queue holds."""
        return self._bounds.get(queue, NOT_BOUND)

    def remember_bounds(self, queue: str, bounds: QueueBounds) -> None:
        """Note how much a queue holds from now on."""
        self._bounds[queue] = bounds
        for row in self.of_queue(queue):
            self.remember(msgspec.structs.replace(row, bounds=bounds.effective))

    def of_queue(self, queue: str) -> list[GroupRow]:
        """The groups of a queue."""
        return [row for row in self._by_id.values() if row.group.queue == queue]

    def find(self, group: Group) -> GroupRow | None:
        """The row of a group, None when it is unknown."""
        return self._by_key.get(group)

    def by_id(self, id_: int) -> GroupRow:
        """The row with this id."""
        return self._by_id[id_]
