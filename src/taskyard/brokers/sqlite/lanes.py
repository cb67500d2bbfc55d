"""Lanes and the messages in them, as one transaction sees them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from taskyard.brokers import lane as rules
from taskyard.brokers.base import Delivery
from taskyard.brokers.common import FORGOTTEN
from taskyard.brokers.lane import LaneState, Place
from taskyard.brokers.rate import clamped, latest_with_token
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.transaction import Transaction

__all__ = ["BODY", "DELIVERY", "Lane", "Lanes", "delivery", "delivery_row"]

DELIVERY = "sequence, since, deliveries, attempts, losses, cap, body, mark, expires"
BODY = -3
"""Where the body is in a row that ends with these columns."""

_STATE = (
    "waiting, bytes, oldest, mixed, held, blocked, parked, tat, deadline, priority, place, turn, at"
)
_COLUMNS = f"id, shard, {_STATE}"
_INDEXED = 9
"""From here on, the columns of `_STATE` are in indexes."""
_COUNTS = 3
"""Up to here, the columns of `_STATE` are counts (see `Lane.counts_exactly`)."""


class Lane(LaneState):
    """A stored lane."""

    id: int = 0
    group: GroupRow = None  # type: ignore[assignment]  # always given; Structs want a default
    shard: str = ""
    place: int = Place.NOWHERE
    turn: int = 0
    at: int = 0
    stored: tuple[int, ...] | None = None
    """Its row as it was read or written (see `_row`); None: it has none yet."""

    @property
    def counts_exactly(self) -> bool:
        """Whether `waiting` and `bytes` are exact, as `oldest` is everywhere.

        They are where batches wait to fill, or shards are bounded. Elsewhere `waiting` may be less
        than the truth, but not 0: a put to a lane that has messages then need not touch the lane's
        row, which halves what it writes.
        """
        return self.group.policy.within > 0 or self.group.bounds.shard > 0

    def add(self, priority: int, oldest: int, count: int, size: int, expires: int = 0) -> None:
        """Count messages in.

        Arguments:
            priority: theirs.
            oldest: the lowest of their sequences.
            count: how many they are.
            size: their bytes.
            expires: microseconds that they may wait; 0: any time.
        """
        if self.waiting == 0:
            self.oldest, self.priority, self.mixed = oldest, priority, False
        else:
            self.oldest = min(self.oldest, oldest)
            self.mixed = self.mixed or priority != self.priority
            self.priority = min(self.priority, priority)
        self.waiting += count
        self.bytes += size
        if expires:
            self.note_deadline(rules.deadline_of(self.group.policy, oldest, expires))

    def shorten(self, count: int, size: int, heads: Sequence[tuple[int, int]]) -> None:
        """Count messages out.

        Arguments:
            count: how many.
            size: their bytes.
            heads: what is left: the first sequence of each priority.
        """
        if not heads:
            self.waiting = self.bytes = self.blocked = 0
            self.mixed = False
            return
        self.waiting = max(1, self.waiting - count)
        self.bytes = max(0, self.bytes - size)
        self.priority = heads[0][0]
        self.oldest = min(sequence for _, sequence in heads)
        self.mixed = len(heads) > 1


def delivery(row: Sequence[Any]) -> Delivery:
    """A message from the columns of `DELIVERY`."""
    made = Delivery(*row)
    made.since = made.since or made.sequence
    return made


def delivery_row(message: Delivery) -> tuple[object, ...]:
    """The columns of `DELIVERY` for a message."""
    return (
        message.sequence,
        message.since,
        message.deliveries,
        message.attempts,
        message.losses,
        message.cap,
        message.body,
        message.mark,
        message.expires,
    )


class Lanes:
    """The lanes that a transaction touches: each is read once, and written once when it asks.

    Arguments:
        tx: the transaction.
    """

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self._by_key: dict[tuple[int, str], Lane] = {}
        self._dirty: dict[int, Lane] = {}

    # Reading

    def get(self, group: GroupRow, shards: Sequence[str]) -> list[Lane]:
        """The lanes of shards, made where they are missing."""
        unknown = [shard for shard in shards if (group.id, shard) not in self._by_key]
        if len(unknown) == 1:
            self._read(group, "shard = ?", unknown[0])
        elif unknown:
            self._read(
                group, "shard IN (SELECT value FROM json_each(?))", msgspec.json.encode(unknown)
            )
        for shard in unknown:
            if (group.id, shard) not in self._by_key:
                self._by_key[group.id, shard] = Lane(
                    id=self._tx.lane_id(), group=group, shard=shard
                )
        return [self._by_key[group.id, shard] for shard in shards]

    def find(self, group: GroupRow, shard: str) -> Lane | None:
        """The lane of a shard if it is there."""
        self._read(group, "shard = ?", shard)
        return self._by_key.get((group.id, shard))

    def by_ids(self, group: GroupRow, ids: Sequence[int]) -> list[Lane]:
        """Stored lanes by id, in this order."""
        # By id alone: with the group beside it, the planner would walk all lanes of the group.
        rows = self._tx.execute(
            f"SELECT {_COLUMNS} FROM taskyard_lane WHERE id IN (SELECT value FROM json_each(?))",
            (msgspec.json.encode(ids),),
        ).fetchall()
        by_id = {row[0]: row for row in rows}
        return [self._known(group, by_id[id_]) for id_ in ids if id_ in by_id]

    def ready(self, group: GroupRow, behind: tuple[int, int], limit: int) -> list[Lane]:
        """Ready lanes in the order in which they are served, behind a priority and turn."""
        return self._read(
            group,
            "place = 1 AND (priority, turn) > (?, ?) ORDER BY priority, turn LIMIT ?",
            *behind,
            limit,
        )

    def filling(self, group: GroupRow, behind: tuple[int, str], limit: int) -> list[Lane]:
        """Lanes whose batches wait to fill, behind a time and shard."""
        now, rate = self._tx.now, group.policy.shard_limit
        condition = "place = 2 AND blocked <= ? AND (at, shard) > (?, ?)"
        order = "ORDER BY at, shard LIMIT ?"
        if rate is None:
            return self._read(group, f"{condition} {order}", now, *behind, limit)
        return self._read(
            group,
            f"{condition} AND tat <= ? {order}",
            now,
            *behind,
            latest_with_token(rate, now),
            limit,
        )

    def waiting_to_fill(self, group: GroupRow, limit: int) -> list[Lane]:
        """Lanes whose batch waited to fill when they were looked at last.

        So it is the same with a clock that was set back: what else holds a lane up, a retry or a
        token, ends when it is to be looked at again.
        """
        condition, rate = "place = 2 AND blocked < at", group.policy.shard_limit
        order = "ORDER BY at, shard LIMIT ?"
        if rate is None:
            return self._read(group, f"{condition} {order}", limit)
        ahead = latest_with_token(rate, 0)
        return self._read(group, f"{condition} AND tat < at + ? {order}", ahead, limit)

    def due(self, limit: int) -> list[Lane]:
        """Lanes of any group whose time has come."""
        return self._until_now("place = 2 AND at <= ? ORDER BY at, grp, shard LIMIT ?", limit)

    def _until_now(self, condition: str, limit: int) -> list[Lane]:
        rows = self._tx.execute(
            f"SELECT grp, {_COLUMNS} FROM taskyard_lane WHERE {condition}", (self._tx.now, limit)
        ).fetchall()
        return [self._known(self._tx.group_by_id(row[0]), row[1:]) for row in rows]

    def _read(self, group: GroupRow, condition: str, *values: object) -> list[Lane]:
        rows = self._tx.execute(
            f"SELECT {_COLUMNS} FROM taskyard_lane WHERE grp = ? AND {condition}",
            (group.id, *values),
        ).fetchall()
        return [self._known(group, row) for row in rows]

    def _known(self, group: GroupRow, row: Sequence[Any]) -> Lane:
        lane = self._by_key.get((group.id, row[1]))
        if lane is None:
            lane = _lane(group, row)
            self._by_key[group.id, lane.shard] = lane
        return lane

    # Changing

    def append_all(self, entries: Sequence[tuple[Lane, int, Sequence[bytes]]]) -> int:
        """Put new messages at the tails of lanes: (lane, priority, bodies).

        Returns:
            The sequence of the first; that of every other is one more than that before it.
        """
        begin = first = self._tx.sequences(sum(len(bodies) for _, _, bodies in entries))
        rows: list[Iterable[tuple[int, int, int, bytes]]] = []
        for lane, priority, bodies in entries:
            count = len(bodies)
            lane.add(priority, first, count, sum(map(len, bodies)))
            rows.append(
                zip(
                    itertools.repeat(lane.id),
                    itertools.repeat(priority),
                    range(first, first + count),
                    bodies,
                )
            )
            first += count
        self._tx.executemany(
            "INSERT INTO taskyard_message (lane, priority, sequence, body) VALUES (?, ?, ?, ?)",
            itertools.chain.from_iterable(rows),
        )
        return begin

    def append_marked(
        self,
        lane: Lane,
        priority: int,
        bodies: Sequence[bytes],
        marks: Iterable[str],
        expires: int = 0,
    ) -> int:
        """Put new messages that take something along at the tail of a lane.

        Arguments:
            lane: the lane.
            priority: theirs.
            bodies: one or more.
            marks: the unique key of each; "": none.
            expires: microseconds that they may wait there; 0: what their task says.

        Returns:
            The sequence of the first.
        """
        first, count = self._tx.sequences(len(bodies)), len(bodies)
        lane.add(priority, first, count, sum(map(len, bodies)), expires)
        self._tx.executemany(
            "INSERT INTO taskyard_message (lane, priority, sequence, body, mark, expires)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            zip(
                itertools.repeat(lane.id),
                itertools.repeat(priority),
                range(first, first + count),
                bodies,
                marks,
                itertools.repeat(expires),
            ),
        )
        return first

    def insert(self, lane: Lane, messages: Iterable[tuple[int, Delivery]]) -> None:
        """Put messages that have a sequence, and maybe a history, into their places."""
        rows = []
        for priority, message in messages:
            lane.add(priority, message.sequence, 1, len(message.body), message.expires)
            rows.append((lane.id, priority, *delivery_row(message)))
        self._tx.executemany(
            f"INSERT INTO taskyard_message (lane, priority, {DELIVERY})"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def relocate(self, lane: Lane, *, served: bool = False) -> None:
        """Decide where the lane is now.

        Arguments:
            lane: it has been changed.
            served: it was claimed from, so it goes behind the others if it stays ready.
        """
        # A clock that was set back must not make a batch wait for longer than `within`.
        if lane.group.policy.within:
            lane.oldest = min(lane.oldest, self._tx.now)
        if lane.tat:
            lane.tat = clamped(lane.tat, lane.group.policy.shard_limit, self._tx.now)
        if lane.waiting == 0:
            lane.deadline = 0
        now_at, at = rules.place(lane, lane.group.policy, self._tx.now)
        if now_at is Place.READY:
            if served or lane.place != Place.READY:
                lane.turn = self._tx.turn()
            self._tx.has_ready(lane.group)
        elif now_at is Place.LATER:
            self._tx.has_later(lane.group, at)
        lane.place, lane.at = now_at, at
        self._dirty[lane.id] = lane

    def relocate_all(self, group: GroupRow) -> None:
        """Decide where every lane of a group is: for a deploy, not for daily work."""
        shards = [
            shard
            for (shard,) in self._tx.execute(
                "SELECT shard FROM taskyard_lane WHERE grp = ? ORDER BY shard", (group.id,)
            )
        ]
        for lane in self.get(group, shards):
            self.relocate(lane)
        self.save()

    def forget_faded(self, limit: int) -> None:
        """Forget empty lanes whose limit is as good as unused."""
        faded = self._until_now("place = 3 AND at <= ? ORDER BY at LIMIT ?", limit)
        for lane in faded:
            self.relocate(lane)
        if faded:
            self.save()

    def save(self) -> None:
        """Write what was changed, so that queries see it."""
        fading = 0
        gone: list[tuple[int]] = []
        new: list[tuple[Any, ...]] = []
        moved: list[tuple[int, ...]] = []
        kept: list[tuple[int, ...]] = []
        for lane in self._dirty.values():
            row = _row(lane)
            fading += lane.place == Place.FADING
            if _is_empty(lane):
                if lane.stored:
                    gone.append((lane.id,))
                del self._by_key[lane.group.id, lane.shard]
            elif lane.stored is None:
                new.append((lane.id, lane.group.id, lane.shard, *row))
            elif row[_INDEXED:] != lane.stored[_INDEXED:]:
                moved.append((*row, lane.id))
            elif _is_worth_writing(lane, row):
                kept.append((*row[:_INDEXED], lane.id))
            lane.stored = row
        self._dirty.clear()
        for statement, rows in ((_MOVE, moved), (_UPDATE, kept), (_INSERT, new), (_DELETE, gone)):
            if rows:
                self._tx.executemany(statement, rows)
        if fading:  # more are forgotten than come, so none pile up
            self.forget_faded(FORGOTTEN * fading)


def _assignments(columns: Sequence[str]) -> str:
    return ", ".join(f"{column} = ?" for column in columns)


# An UPDATE writes every index of which it names a column, whether the value changes or not.
_MOVE = f"UPDATE taskyard_lane SET {_assignments(_STATE.split(', '))} WHERE id = ?"
_UPDATE = f"UPDATE taskyard_lane SET {_assignments(_STATE.split(', ')[:_INDEXED])} WHERE id = ?"
_INSERT = (
    f"INSERT INTO taskyard_lane (id, grp, shard, {_STATE})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_DELETE = "DELETE FROM taskyard_lane WHERE id = ?"


def _is_empty(lane: Lane) -> bool:
    # The lane of a task that does not shard stays: it would come and go with every message.
    used = lane.waiting or lane.held or lane.parked or lane.tat
    return not used and lane.shard != ""


def _is_worth_writing(lane: Lane, row: tuple[int, ...]) -> bool:
    if lane.stored is None or row == lane.stored:
        return False
    waiting, _, oldest = lane.stored[:_COUNTS]
    # `oldest` rises by a claim, which moves the lane anyway, or as the first one is removed.
    if lane.counts_exactly or bool(lane.waiting) != bool(waiting) or lane.oldest != oldest:
        return True
    return row[_COUNTS:] != lane.stored[_COUNTS:]


def _row(lane: Lane) -> tuple[int, ...]:
    return (
        lane.waiting,
        lane.bytes,
        lane.oldest,
        lane.mixed,
        lane.held,
        lane.blocked,
        lane.parked,
        lane.tat,
        lane.deadline,
        lane.priority,
        lane.place,
        lane.turn,
        lane.at,
    )


def _lane(group: GroupRow, row: Sequence[Any]) -> Lane:
    id_, shard, *state = row
    waiting, bytes_, oldest, mixed, held, blocked, parked, tat, deadline, *indexed = state
    priority, place_, turn, at = indexed
    return Lane(
        waiting,
        bytes_,
        oldest,
        priority,
        bool(mixed),
        held,
        blocked,
        bool(parked),
        tat,
        deadline,
        id_,
        group,
        shard,
        place_,
        turn,
        at,
        tuple(state),
    )
