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
    Stopped,
)
from taskyard.brokers.common import NO_ATTEMPT, PROMOTED, STEP_BYTES, lost_failure
from taskyard.brokers.lane import cap_after_loss, is_given_up
from taskyard.brokers.sqlite.claims import HeldClaim, find_claim, keep_claim, remove_claim
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import BODY, DELIVERY, Lane, Lanes, delivery, delivery_row
from taskyard.brokers.sqlite.letters import bury
from taskyard.brokers.sqlite.notes import noted, stop
from taskyard.brokers.sqlite.rates import give_back
from taskyard.brokers.sqlite.records import (
    finish_records,
    note_progress,
    postpone_record,
    relocate_records,
)
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.brokers.sqlite.unique import release_ended
from taskyard.brokers.unique import is_released_at_entry
from taskyard.message import State, read_id

__all__ = ["Settler", "promote", "store_due"]

Messages = list[tuple[int, Delivery]]

_ENDED = (type(None), Discard)
"""Outcomes with which a message ends here and now."""


def store_due(
    tx: Transaction, group: GroupRow, shard: str, rows: Iterable[tuple[int, int, Delivery]]
) -> None:
    """Store messages that wait for their time: (microsecond, priority, message)."""
    stored = [
        (at, group.id, shard, priority, *delivery_row(message)) for at, priority, message in rows
    ]
    tx.executemany(
        f"INSERT INTO taskyard_due (at, grp, shard, priority, {DELIVERY})"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
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
        moved: list[tuple[int, str, int]] = []
        for _, group_id, shard, priority, *columns in rows:
            group = tx.group_by_id(group_id)
            message = delivery(columns)
            if tx.has_notes and noted(tx, [message]):
                stop(tx, group, [(shard, message)])
                tx.gauge(group, "delayed", -1)
                continue
            fresh = columns[1] == 0  # it never was in its lane: it enters it now
            old, message.sequence = message.sequence, tx.sequences(1)
            moved.append((message.sequence, read_id(message.body), old))
            message.since = message.sequence if fresh else message.since
            if is_released_at_entry(message.mark):
                release_ended(tx, group, [(shard, message)])
                message.mark = ""
            (lane,) = lanes.get(group, [shard])
            lanes.insert(lane, [(priority, message)])
            lanes.relocate(lane)
            tx.gauge(group, "delayed", -1)
            tx.gauge(group, "waiting", 1)
        relocate_records(tx, moved)
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
        size += len(row[BODY])
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
            group, messages, lane_ids, keyed = removed
            for part in keyed:
                ended = [(part.shard, message) for _, message in part.messages]
                release_ended(self._tx, group, ended)
            self._tx.gauge(group, "running", -messages)
            self._tx.count(group, "done", messages)
            for lane in self._held_lanes(group, lane_ids).values():
                self._release(lane)
        if settlement.progress:
            note_progress(self._tx, settlement.progress)
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
            messages = self._without_told(held, part)
            for _, message in messages:
                message.losses += 1
                message.deliveries += 1
                message.cap = cap
            if messages and is_given_up(
                group.policy,
                claimed=held.messages,
                singled_out=alone,
                losses=messages[0][1].losses,
            ):
                self._bury_lost(group, part.shard, *messages[0])
            else:
                self._give_back(group, part.shard, messages)
            self._release(lanes.get(part.shard))

    def _without_told(self, held: HeldClaim, part: ClaimedLane) -> Messages:
        """What a lost claim holds of a lane, once the messages that were cancelled have ended."""
        if not held.told:
            return part.messages
        told = [message for _, message in part.messages if message.sequence in held.told]
        stop(self._tx, held.group, [(part.shard, message) for message in told])
        return [entry for entry in part.messages if entry[1] not in told]

    def _bury_lost(self, group: GroupRow, shard: str, priority: int, message: Delivery) -> None:
        dead = Dead(lost_failure(message.losses))
        bury(self._tx, group, shard, [(priority, message, dead)], self._dead_limit)

    # One claim with exceptions

    def _apply(self, held: HeldClaim, settlement: Settlement) -> None:
        kept: list[ClaimedLane] = []
        lanes, taken = self._held_lanes(held.group, held.lane_ids), held.messages
        for part in held.lanes:
            running = [entry for entry in part.messages if entry[1].sequence in settlement.keep]
            ended = [entry for entry in part.messages if entry[1].sequence not in settlement.keep]
            self._end(held, part.shard, ended, settlement)
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
        """Give tokens back; returns of how many messages. `taken`: those that did not come back."""
        outcomes = [settlement.outcomes.get(message.sequence) for _, message in part.messages]
        count = sum(isinstance(one, Back | Stopped) and not one.started for one in outcomes)
        if count:
            give_back(
                self._tx,
                self._lanes,
                held.group,
                part.shard,
                claimed=(held.since, held.token),
                taken=taken,
                of_lane=len(part.messages),
                count=count,
            )
        return count

    def _end(self, held: HeldClaim, shard: str, messages: Messages, settlement: Settlement) -> None:
        group = held.group
        stopped: list[tuple[str, Delivery]] = []
        back: Messages = []
        parked = False
        retried: list[tuple[int, Delivery, int]] = []
        buried: list[tuple[int, Delivery, Dead]] = []
        discarded: list[str] = []
        for priority, message in messages:
            outcome = settlement.outcomes.get(message.sequence)
            if message.sequence in held.told and isinstance(outcome, (Back, Retried)):
                stopped.append((shard, message))
            elif isinstance(outcome, Back):
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
            elif isinstance(outcome, Stopped):
                stopped.append((shard, message))
        ended: list[Outcome | object] = [*back, *retried, *buried, *discarded, *stopped]
        self._tx.count(group, "done", len(messages) - len(ended))
        release_ended(
            self._tx,
            group,
            [
                (shard, message)
                for _, message in messages
                if message.mark and isinstance(settlement.outcomes.get(message.sequence), _ENDED)
            ],
        )
        self._retry(group, shard, retried, settlement.retry_ids)
        self._give_back(group, shard, back, park=parked)
        stop(self._tx, group, stopped)
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
