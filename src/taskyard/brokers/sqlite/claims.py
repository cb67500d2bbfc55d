"""Claims: taking messages out of lanes, holding them, and taking claims back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from sqlite3 import Connection
from typing import Any, NamedTuple

import msgspec

from taskyard.brokers import lane as rules
from taskyard.brokers.base import Claim, ClaimedLane, Delivery, GroupWant, Want
from taskyard.brokers.lane import Flush, Gate, Place
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import BODY, DELIVERY, Lane, Lanes, delivery
from taskyard.brokers.sqlite.notes import drop_noted
from taskyard.brokers.sqlite.rates import (
    Limiter,
    is_limited,
    refund_lane,
    spend_of_lane,
    tokens_of_lane,
)
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import release_started

__all__ = [
    "FIRST",
    "Claimer",
    "HeldClaim",
    "RemovedClaim",
    "find_claim",
    "keep_claim",
    "lane_heads",
    "remove_claim",
    "servable",
]

Message = tuple[int, Delivery]
Row = tuple[Any, ...]

FIRST = (-(1 << 40), 0)
"""Before every priority and turn."""
FIRST_FILLING = (0, "")
"""Before every time and shard."""
MOST_PASSED_OVER = 2048
"""Lanes with another history that a claim looks at; a crash may leave many of them."""

_parts = msgspec.msgpack.Decoder(list[ClaimedLane])


class HeldClaim(msgspec.Struct):
    """A stored claim.

    Attributes:
        token: its token.
        group: the group of its messages.
        lease: microseconds for which it was leased.
        deadline: when the lease ends.
        messages: how many it holds.
        lane_ids: the lanes that it holds, where their number of claims is limited.
        lanes: what it holds.
        since: when it was made, where a rate was limited then; else 0.
        told: the sequences of messages that were cancelled since.
    """

    token: int
    group: GroupRow
    lease: int
    deadline: int
    messages: int
    lane_ids: list[int]
    lanes: list[ClaimedLane]
    since: int
    told: list[int]


class RemovedClaim(NamedTuple):
    """What a claim held.

    Attributes:
        group: the group of its messages.
        messages: how many they are.
        lane_ids: the lanes that it held, where their number of claims is limited.
        keyed: what it held, if some of its messages hold unique keys.
    """

    group: GroupRow
    messages: int
    lane_ids: list[int]
    keyed: Sequence[ClaimedLane]


# Taking


def servable(tx: Transaction, wants: Sequence[GroupWant]) -> list[tuple[GroupRow, GroupWant]]:
    """The groups that this worker may serve: it knows all the tasks that share their order."""
    groups = []
    for want in wants:
        row = tx.known_group(want.group)
        if row is None or tx.gate(row.group.queue) is Gate.PAUSED:
            continue
        if want.members.issuperset(row.policy.members):
            groups.append((row, want))
    return groups


class Claimer:
    """Makes the claims of one step.

    Arguments:
        tx: the transaction.
        lanes: its lanes, saved.
        groups: what may be served.
        want: the worker's wishes.

    Attributes:
        suspects: whether a suspect was passed over, because it must run alone.
    """

    def __init__(
        self,
        tx: Transaction,
        lanes: Lanes,
        groups: Sequence[tuple[GroupRow, GroupWant]],
        want: Want,
    ) -> None:
        self.suspects = False
        self._tx = tx
        self._lanes = lanes
        self._groups = {row.id: (row, wish.messages) for row, wish in groups}
        self._want = want
        self._limiter = Limiter(tx, [row for row, _ in groups])

    def next_at(self) -> int:
        """When a group that was passed over gets a token; 0: there is none."""
        return self._limiter.next_at(self._has_something)

    def _has_something(self, group: GroupRow) -> bool:
        if self._lanes.ready(group, FIRST, 1):
            return True
        return self._drains(group) and bool(self._lanes.filling(group, FIRST_FILLING, 1))

    def _drains(self, group: GroupRow) -> bool:
        return self._want.drain or self._tx.gate(group.group.queue) is Gate.DRAINING

    def claims(self) -> list[Claim]:
        """Claim, group after group as it is their turn, until the worker's slots are full."""
        claims: list[Claim] = []
        while len(claims) < self._want.claims and sum(map(len, claims)) < self._want.messages:
            made = self._next(alone=self._want.alone and not claims)
            if made is None:
                break
            claims.append(made)
            if made.suspect:
                break
        return claims

    def _next(self, *, alone: bool) -> Claim | None:
        for spent in self._limiter.without_tokens():
            self._groups.pop(spent, None)
        while (group_id := self._next_group()) is not None:
            group, most = self._groups[group_id]
            room = self._limiter.room(group_id, most)
            taker = _Taker(self._tx, self._lanes, group, room, self._want.bytes, alone=alone)
            self._take_ready(taker)
            made = self._store(taker)
            if made is not None:
                return made
            if taker.was_cancelled:
                continue
            del self._groups[group_id]  # it has only suspects, and they are not for now
        return self._drain()

    def _next_group(self) -> int | None:
        first = self._tx.execute(
            "SELECT lane.grp FROM json_each(?) AS served JOIN taskyard_lane AS lane ON lane.id ="
            " (SELECT id FROM taskyard_lane WHERE grp = served.value AND place = 1"
            " ORDER BY priority, turn LIMIT 1) ORDER BY lane.priority, lane.turn LIMIT 1",
            (msgspec.json.encode(list(self._groups)),),
        ).fetchone()
        return None if first is None else int(first[0])

    def _take_ready(self, taker: _Taker) -> None:
        behind, count = FIRST, 1
        while taker.room > 0 and taker.passed_over < MOST_PASSED_OVER:
            ready = self._lanes.ready(taker.group, behind, count)
            if not ready:
                return
            behind = (ready[-1].priority, ready[-1].turn)
            taker.take(ready)
            count = min(count * 4, taker.room, 512)

    def _take_filling(self, taker: _Taker) -> None:
        behind = FIRST_FILLING
        while taker.room > 0 and taker.passed_over < MOST_PASSED_OVER:
            filling = self._lanes.filling(taker.group, behind, taker.room)
            if not filling:
                return
            behind = (filling[-1].at, filling[-1].shard)
            taker.take(filling)

    def _drain(self) -> Claim | None:
        for group, most in self._groups.values():
            if not (group.policy.within and self._drains(group)):
                continue
            while True:
                room = self._limiter.room(group.id, most)
                taker = _Taker(self._tx, self._lanes, group, room, self._want.bytes, alone=False)
                self._take_filling(taker)
                made = self._store(taker)
                if made is not None:
                    return made
                if not taker.was_cancelled:
                    break
        return None

    def _store(self, taker: _Taker) -> Claim | None:
        self.suspects = self.suspects or taker.suspects
        self._lanes.save()
        if not taker.parts:
            return None
        tx, group, want = self._tx, taker.group, self._want
        if tx.has_notes:
            taker.drop_noted()
            self._lanes.save()
        if taker.was_cancelled:
            return None
        token = tx.sequences(1)
        messages = sum(len(part.messages) for part in taker.parts)
        deadline = tx.now + want.lease
        self._limiter.spend(group.id, messages)
        tx.execute(
            "INSERT INTO taskyard_claim"
            " (token, grp, owner, deadline, lease, messages, lanes, parts, since, keyed)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                token,
                group.id,
                want.owner,
                deadline,
                want.lease,
                messages,
                msgspec.json.encode(taker.lane_ids) if taker.lane_ids else None,
                msgspec.msgpack.encode(taker.parts),
                tx.now if is_limited(tx, group) else 0,
                release_started(tx, group, taker.parts),
            ),
        )
        tx.gauge(group, "waiting", -messages)
        tx.gauge(group, "running", messages)
        again = [1 for part in taker.parts for _, message in part.messages if message.deliveries]
        tx.count(group, "redelivered", len(again))
        return Claim(token, group.group, taker.parts, deadline)


class _Taker:
    """Takes messages from lanes into one claim, until its room is used up."""

    def __init__(
        self,
        tx: Transaction,
        lanes: Lanes,
        group: GroupRow,
        room: int,
        size: int,
        *,
        alone: bool,
    ) -> None:
        self.group = group
        self.room = room
        self.suspects = False
        self.passed_over = 0
        self.was_cancelled = False
        self.parts: list[ClaimedLane] = []
        self.lane_ids: list[int] = []
        self._tx = tx
        self._lanes = lanes
        self._bytes = size
        self._alone = alone
        self._history: tuple[int, int] | None = None

    def take(self, ready: Sequence[Lane]) -> None:
        """Take what fits from lanes, in their order."""
        emptied: list[int] = []
        ranges: list[tuple[int, int, int]] = []
        rest = deque(ready)
        while rest and self.room > 0:
            fetched = self._fetch(rest)
            while rest and self.room > 0:
                rows = fetched.of_next(rest[0], self._is_enough)
                if rows is None:
                    break
                lane = rest.popleft()
                self._take_from(lane, rows, emptied, ranges, more=fetched.has_more(lane))
        self._delete(emptied, ranges)

    def drop_noted(self) -> None:
        """Leave out what was cancelled by a note; maybe nothing is left."""
        taken = {part.shard: len(part.messages) for part in self.parts}
        self.parts, emptied = drop_noted(self._tx, self.group, self.parts)
        self.was_cancelled = not self.parts
        left = {part.shard: len(part.messages) for part in self.parts}
        for shard, count in taken.items():
            dropped = count - left.get(shard, 0)
            refund_lane(self._tx, self._lanes, self.group, shard, count, dropped)
        if emptied and self.group.policy.concurrency:
            for lane in self._lanes.get(self.group, emptied):
                lane.held -= 1
                self.lane_ids.remove(lane.id)
                self._lanes.relocate(lane)

    def _fetch(self, lanes: Iterable[Lane]) -> _Fetched:
        # One statement for all lanes: that is what makes ten thousand shards with a message each
        # cheap. CROSS JOIN keeps the order of the lanes, and the primary key that of the messages.
        limit = self.room + 1
        cursor = self._tx.execute(
            f"SELECT message.lane, message.priority, {DELIVERY} FROM json_each(?) AS wanted"
            " CROSS JOIN taskyard_message AS message ON message.lane = wanted.value LIMIT ?",
            (msgspec.json.encode([lane.id for lane in lanes]), limit),
        )
        rows: list[Row] = []
        size = 0
        for row in cursor:
            rows.append(row)
            size += len(row[BODY])
            if size > self._bytes and self._is_enough(rows):
                cursor.close()
                return _Fetched(rows, complete=False)
        return _Fetched(rows, complete=len(rows) < limit)

    def _is_enough(self, rows: Sequence[Row]) -> bool:
        """Whether the last of these rows does not fit any more, if all others are taken."""
        if len(rows) > self.room:
            return True
        # The first message of a claim always fits.
        least = 0 if self.parts else 1
        return len(rows) > least and sum([len(row[BODY]) for row in rows]) > self._bytes

    def _take_from(
        self,
        lane: Lane,
        rows: Sequence[Row],
        emptied: list[int],
        ranges: list[tuple[int, int, int]],
        *,
        more: bool,
    ) -> None:
        reason, wanted = None, self.room
        if self.group.policy.within:
            # A clock that was set back can undo the age of a batch that is ready already.
            otherwise = Flush.AGE if lane.place == Place.READY else Flush.DRAIN
            reason = rules.flush(lane, self.group.policy, self._tx.now) or otherwise
            wanted = rules.take(lane, self.group.policy, self.room, reason, begun=bool(self.parts))
            if wanted == 0:
                self.room = 0
        tokens = tokens_of_lane(lane, self._tx.now, wanted)
        if tokens_of_lane(lane, self._tx.now, 1) == 0:
            self._lanes.relocate(lane)  # a clock was set back since it was ready
        messages, size = self._fitting(rows, tokens)
        if not messages:
            self.passed_over += 1
            return
        spend_of_lane(lane, self._tx.now, len(messages))
        self.parts.append(ClaimedLane(lane.shard, reason, messages))
        self.room -= len(messages)
        self._bytes -= size
        if self.group.policy.concurrency:
            lane.held += 1
            self.lane_ids.append(lane.id)
        if reason is not None:
            self._tx.count(self.group, f"flush_{reason}", 1)
        if len(messages) == len(rows) and not more:
            emptied.append(lane.id)
            lane.waiting = lane.bytes = lane.blocked = 0
            lane.mixed = False
        else:
            ranges.extend(_ranges(lane.id, messages))
            following = rows[len(messages)] if len(messages) < len(rows) else None
            self._shorten(lane, len(messages), size, following, ranges)
        self._lanes.relocate(lane, served=True)

    def _fitting(self, rows: Sequence[Row], wanted: int) -> tuple[list[Message], int]:
        """The first rows that may be in this claim, and their bytes."""
        messages: list[Message] = []
        size = 0
        for row in rows:
            if len(messages) >= wanted:
                break
            message = delivery(row[2:])
            if self._history is None:
                if message.cap == 1 and not self._alone:
                    self.suspects = True
                    break
                self._history = (message.losses, message.cap)
                if message.cap:
                    self.room = min(self.room, message.cap)
                    wanted = min(wanted, message.cap)
            if (message.losses, message.cap) != self._history:
                break
            if size + len(message.body) > self._bytes and (messages or self.parts):
                self.room = len(messages)  # full: what was taken here is still to be booked
                break
            size += len(message.body)
            messages.append((row[1], message))
        return messages, size

    def _shorten(
        self,
        lane: Lane,
        count: int,
        size: int,
        following: Row | None,
        ranges: list[tuple[int, int, int]],
    ) -> None:
        lane.waiting = max(1, lane.waiting - count)
        lane.bytes = max(0, lane.bytes - size)
        if following is not None and not lane.mixed:
            lane.priority, lane.oldest = following[1], following[2]
            return
        self._tx.executemany(_DELETE_RANGE, ranges)
        ranges.clear()
        heads = lane_heads(self._tx, lane.id)
        lane.priority = heads[0][0]
        lane.oldest = min(sequence for _, sequence in heads)
        lane.mixed = len(heads) > 1

    def _delete(self, emptied: Sequence[int], ranges: Sequence[tuple[int, int, int]]) -> None:
        if emptied:
            self._tx.execute(
                "DELETE FROM taskyard_message WHERE lane IN (SELECT value FROM json_each(?))",
                (msgspec.json.encode(emptied),),
            )
        if ranges:
            self._tx.executemany(_DELETE_RANGE, ranges)


_DELETE_RANGE = "DELETE FROM taskyard_message WHERE lane = ? AND priority = ? AND sequence <= ?"


def _ranges(lane_id: int, messages: Sequence[Message]) -> list[tuple[int, int, int]]:
    last = {priority: message.sequence for priority, message in messages}
    return [(lane_id, priority, sequence) for priority, sequence in last.items()]


class _Fetched:
    """The first messages of some lanes, one lane after the other.

    Arguments:
        rows: lane, priority, and the columns of `DELIVERY`.
        complete: whether these are all messages of these lanes.
    """

    def __init__(self, rows: Sequence[Row], *, complete: bool) -> None:
        self._by_lane: dict[int, list[Row]] = {}
        for row in rows:
            self._by_lane.setdefault(row[0], []).append(row)
        self._cut = None if complete or not rows else rows[-1][0]
        self._passed_cut = False

    def of_next(
        self, lane: Lane, is_enough: Callable[[Sequence[Row]], bool]
    ) -> Sequence[Row] | None:
        """The first messages of a lane; None if it has more, and those here are not enough.

        Lanes must be asked for in their order.
        """
        if self._passed_cut:
            return None
        rows = self._by_lane.get(lane.id, [])
        if lane.id == self._cut:
            self._passed_cut = True
            return rows if is_enough(rows) else None
        return rows

    def has_more(self, lane: Lane) -> bool:
        """Whether the lane may have messages that were not fetched."""
        return lane.id == self._cut


def lane_heads(where: Connection | Transaction, lane_id: int) -> list[tuple[int, int]]:
    """The first sequence of each priority in a lane, without reading what is behind it."""
    heads: list[tuple[int, int]] = []
    priority = FIRST[0]
    while True:
        row = where.execute(
            "SELECT priority, sequence FROM taskyard_message WHERE lane = ? AND priority > ?"
            " ORDER BY priority, sequence LIMIT 1",
            (lane_id, priority),
        ).fetchone()
        if row is None:
            return heads
        heads.append(row)
        priority = row[0]


# Holding


def remove_claim(tx: Transaction, token: int) -> RemovedClaim | None:
    """Remove a claim; its messages are read only if they hold keys. None: it is lost."""
    row = tx.execute(
        "DELETE FROM taskyard_claim WHERE token = ? RETURNING grp, messages, lanes,"
        " CASE WHEN keyed THEN parts END",
        (token,),
    ).fetchone()
    if row is None:
        return None
    keyed = () if row[3] is None else _parts.decode(row[3])
    return RemovedClaim(tx.group_by_id(row[0]), row[1], _ids(row[2]), keyed)


def find_claim(tx: Transaction, token: int) -> HeldClaim | None:
    """Read a claim with its messages; None: it is lost."""
    row = tx.execute(
        "SELECT grp, lease, deadline, messages, lanes, parts, since, told FROM taskyard_claim"
        " WHERE token = ?",
        (token,),
    ).fetchone()
    if row is None:
        return None
    group, lease, deadline, messages, ids, parts, since, told = row
    return HeldClaim(
        token,
        tx.group_by_id(group),
        lease,
        deadline,
        messages,
        _ids(ids),
        _parts.decode(parts),
        since,
        _ids(told),
    )


def keep_claim(tx: Transaction, held: HeldClaim) -> None:
    """Store a claim that holds less than before."""
    tx.execute(
        "UPDATE taskyard_claim SET messages = ?, lanes = ?, parts = ? WHERE token = ?",
        (
            held.messages,
            msgspec.json.encode(held.lane_ids) if held.lane_ids else None,
            msgspec.msgpack.encode(held.lanes),
            held.token,
        ),
    )


def _ids(stored: bytes | None) -> list[int]:
    return [] if stored is None else msgspec.json.decode(stored, type=list[int])
