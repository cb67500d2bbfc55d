"""What becomes of claims: settled, taken back, promoted again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from taskyard.brokers.base import (
    Back,
    ClaimedLane,
    Dead,
    Delivery,
    Discard,
    Outcome,
    Retried,
    Settlement,
)
from taskyard.brokers.common import NO_ATTEMPT, PROMOTED, STEP_BYTES, lost_failure
from taskyard.brokers.lane import cap_after_loss, is_given_up
from taskyard.brokers.sqlite.claims import HeldClaim, find_claim, keep_claim, remove_claim
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import DELIVERY, Lane, Lanes, delivery, delivery_row
from taskyard.brokers.sqlite.rates import give_back
from taskyard.brokers.sqlite.records import bury, finish_records, postpone_record
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.message import State

__all__ = ["Settler", "promote", "store_due"]

Messages = list[tuple[int, Delivery]]


def store_due(
    tx: Transaction, group: GroupRow, shard: str, rows: Iterable[tuple[int, int, Delivery]]
) -> None:
    """Store messages that wait for their time: (microsecond, priority, message)."""
    stored = [
        (at, group.id, shard, priority, *delivery_row(message)) for at, priority, message in rows
    ]
    tx.executemany(
        f"INSERT INTO taskyard_due (at, grp, shard, priority, {DELIVERY})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        stored,
    )
    tx.gauge(group, "delayed", len(stored))
    for row in stored:
        tx.has_later(group, row[0])  # type: ignore[arg-type]


def promote(tx: Transaction, lanes: Lanes) -> None:
    """Let messages and lanes whose time has come take their places: `PROMOTED` of each at most."""
    rows = _due(tx)
    if rows:
        tx.executemany(
            "DELETE FROM taskyard_due WHERE at = ? AND sequence = ?",
            [(row[0], row[4]) for row in rows],
        )
        for _, group_id, shard, priority, *columns in rows:
            group = tx.group_by_id(group_id)
            message = delivery(columns)
            fresh = columns[1] == 0  # it never was in its lane: it enters it now
            message.sequence = tx.sequences(1)
            message.since = message.sequence if fresh else message.since
            (lane,) = lanes.get(group, [shard])
            lanes.insert(lane, [(priority, message)])
            lanes.relocate(lane)
            tx.gauge(group, "delayed", -1)
            tx.gauge(group, "waiting", 1)
        lanes.save()
    due = lanes.due(PROMOTED)
    for lane in due:
        lanes.relocate(lane)
    if due:
        lanes.save()


def _due(tx: Transaction) -> list[tuple[Any, ...]]:
    cursor = tx.execute(
        f"SELECT at, grp, shard, priority, {DELIVERY} FROM taskyard_due WHERE at <= ?"
        " ORDER BY at, sequence LIMIT ?",
        (tx.now, PROMOTED),
    )
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += len(row[-1])
        if size >= STEP_BYTES:
            break
    cursor.close()
    return rows


class Settler:
    """Ends claims within one transaction.

    Arguments:
        tx: the transaction.
        lanes: its lanes; saved by `finish`.
        dead_limit: dead letters that a group keeps.
    """

    def __init__(self, tx: Transaction, lanes: Lanes, dead_limit: int) -> None:
        self._tx = tx
        self._lanes = lanes
        self._dead_limit = dead_limit

    def settle(self, settlement: Settlement) -> bool:
        """Apply a settlement; False: its lease was lost, and nothing changed."""
        if settlement.outcomes or settlement.keep:
            held = find_claim(self._tx, settlement.token)
            if held is None:
                return False
            self._apply(held, settlement)
        else:
            removed = remove_claim(self._tx, settlement.token)
            if removed is None:
                return False
            group, messages, lane_ids = removed
            self._tx.gauge(group, "running", -messages)
            self._tx.count(group, "done", messages)
            for lane in self._held_lanes(group, lane_ids).values():
                self._release(lane)
        if settlement.results:
            finish_records(
                self._tx, [(id_, State.DONE, data, None) for id_, data in settlement.results]
            )
        return True

    def take_back(self, token: int) -> None:
        """Give a lost claim's messages back, or bury the one that keeps killing its worker."""
        held = find_claim(self._tx, token)
        if held is None:
            return
        remove_claim(self._tx, token)
        group, tx = held.group, self._tx
        tx.gauge(group, "running", -held.messages)
        tx.count(group, "lost", held.messages)
        cap = cap_after_loss(held.messages)
        alone = held.lanes[0].messages[0][1].cap == 1
        lanes = self._held_lanes(group, held.lane_ids)
        for part in held.lanes:
            for _, message in part.messages:
                message.losses += 1
                message.deliveries += 1
                message.cap = cap
            if is_given_up(
                group.policy,
                claimed=held.messages,
                singled_out=alone,
                losses=part.messages[0][1].losses,
            ):
                self._bury_lost(group, part)
            else:
                self._give_back(group, part.shard, part.messages)
            self._release(lanes.get(part.shard))

    def _bury_lost(self, group: GroupRow, part: ClaimedLane) -> None:
        (priority, message) = part.messages[0]
        dead = Dead(lost_failure(message.losses))
        bury(self._tx, group, part.shard, [(priority, message, dead)], self._dead_limit)

    # One claim with exceptions

    def _apply(self, held: HeldClaim, settlement: Settlement) -> None:
        kept: list[ClaimedLane] = []
        taken = held.messages
        lanes = self._held_lanes(held.group, held.lane_ids)
        for part in held.lanes:
            running = [entry for entry in part.messages if entry[1].sequence in settlement.keep]
            ended = [entry for entry in part.messages if entry[1].sequence not in settlement.keep]
            self._end(held.group, part.shard, ended, settlement)
            taken -= self._refund(held, part, settlement, taken)
            if running:
                kept.append(ClaimedLane(part.shard, part.flush, running))
            else:
                self._release(lanes.pop(part.shard, None))
        remaining = sum(len(part.messages) for part in kept)
        self._tx.gauge(held.group, "running", remaining - held.messages)
        held.messages = remaining
        held.lanes = kept
        held.lane_ids = [lane.id for lane in lanes.values()]
        if held.messages:
            keep_claim(self._tx, held)
        else:
            remove_claim(self._tx, held.token)

    def _refund(
        self, held: HeldClaim, part: ClaimedLane, settlement: Settlement, taken: int
    ) -> int:
        outcomes = [settlement.outcomes.get(message.sequence) for _, message in part.messages]
        count = sum(isinstance(outcome, Back) and not outcome.started for outcome in outcomes)
        if count:
            give_back(
                self._tx,
                self._lanes,
                held.group,
                part.shard,
                since=held.since,
                taken=taken,
                of_lane=len(part.messages),
                count=count,
            )
        return count

    def _end(self, group: GroupRow, shard: str, messages: Messages, settlement: Settlement) -> None:
        back: Messages = []
        parked = False
        retried: list[tuple[int, Delivery, int]] = []
        buried: list[tuple[int, Delivery, Dead]] = []
        discarded: list[str] = []
        for priority, message in messages:
            outcome = settlement.outcomes.get(message.sequence)
            if isinstance(outcome, Back):
                message.deliveries += outcome.started
                parked = parked or outcome.park
                back.append((priority, message))
            elif isinstance(outcome, Retried):
                retried.append((priority, message, self._tx.now + outcome.delay))
            elif isinstance(outcome, Dead):
                message.deliveries += 1
                message.attempts += outcome.failure.reason not in NO_ATTEMPT
                buried.append((priority, message, outcome))
            elif isinstance(outcome, Discard):
                discarded.append(outcome.id)
        ended: list[Outcome | object] = [*back, *retried, *buried, *discarded]
        self._tx.count(group, "done", len(messages) - len(ended))
        self._retry(group, shard, retried, settlement.retry_ids)
        self._give_back(group, shard, back, park=parked)
        if buried:
            bury(self._tx, group, shard, buried, self._dead_limit)
        if discarded:
            self._tx.count(group, "discarded", len(discarded))
            finish_records(
                self._tx, [(id_, State.DISCARDED, None, None) for id_ in discarded if id_]
            )

    def _retry(
        self,
        group: GroupRow,
        shard: str,
        retried: Sequence[tuple[int, Delivery, int]],
        ids: dict[int, str],
    ) -> None:
        if not retried:
            return
        for _, message, due in retried:
            message.attempts += 1
            message.deliveries += 1
            if message.sequence in ids:
                postpone_record(self._tx, ids[message.sequence], due)
        self._tx.count(group, "retried", len(retried))
        if group.policy.concurrency == 1:
            blocked = max(due for _, _, due in retried)
            entries = [(priority, message) for priority, message, _ in retried]
            self._give_back(group, shard, entries, blocked=blocked)
        else:
            store_due(
                self._tx, group, shard, [(due, prio, message) for prio, message, due in retried]
            )

    def _give_back(
        self,
        group: GroupRow,
        shard: str,
        messages: Messages,
        *,
        blocked: int = 0,
        park: bool = False,
    ) -> None:
        if not messages:
            return
        (lane,) = self._lanes.get(group, [shard])
        self._lanes.insert(lane, messages)
        lane.blocked = max(lane.blocked, blocked)
        lane.parked = lane.parked or park
        self._lanes.relocate(lane)
        self._tx.gauge(group, "waiting", len(messages))

    def _release(self, lane: Lane | None) -> None:
        """Count a claim off a lane after what it held there: lanes come back in its order."""
        if lane is not None:
            lane.held = max(0, lane.held - 1)
            self._lanes.relocate(lane)

    def _held_lanes(self, group: GroupRow, lane_ids: Sequence[int]) -> dict[str, Lane]:
        """Those of a claim by shard, in its order."""
        lanes = self._lanes.by_ids(group, lane_ids) if lane_ids else []
        return {lane.shard: lane for lane in lanes}
