"""Declaring groups: what of a policy changes, and what that means for lanes that are there."""

from __future__ import annotations

from taskyard.brokers.base import Group
from taskyard.brokers.lane import GroupPolicy, conflict_text, merged
from taskyard.brokers.sqlite.bounds import count_exactly
from taskyard.brokers.sqlite.claims import find_claim, keep_claim
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import Lanes
from taskyard.brokers.sqlite.transaction import Transaction
from taskyard.errors import PolicyConflict

__all__ = ["declare"]


def declare(tx: Transaction, group: Group, policy: GroupPolicy, replace: bool) -> None:
    """See `Broker.declare`."""
    stored = tx.known_group(group)
    if stored is None:
        tx.store_group(group, policy, declared=True)
        return
    present = _present(tx, stored)
    if stored.declared and stored.policy.concurrency != policy.concurrency and present:
        raise PolicyConflict(conflict_text(group, stored.policy, policy, present))
    wanted = merged(stored.policy, policy, keep=stored.declared and not replace, present=present)
    if stored.declared and wanted == stored.policy:
        return
    row = tx.store_group(group, wanted, declared=True)
    if wanted.within and not stored.policy.within:
        count_exactly(tx, row)
    lanes = Lanes(tx)
    if wanted.concurrency and not stored.declared:
        _hold_lanes(tx, lanes, row)
    lanes.relocate_all(row)


def _present(tx: Transaction, group: GroupRow) -> int:
    return sum(
        value
        for (value,) in tx.execute(
            "SELECT value FROM taskyard_counter WHERE grp = ?"
            " AND name IN ('now:waiting', 'now:delayed', 'now:running')",
            (group.id,),
        )
    )


def _hold_lanes(tx: Transaction, lanes: Lanes, group: GroupRow) -> None:
    # Claims are counted by lane only where they are limited; from here on they are.
    tokens = tx.execute(
        "SELECT token FROM taskyard_claim WHERE grp = ? ORDER BY token", (group.id,)
    ).fetchall()
    for (token,) in tokens:
        claim = find_claim(tx, token)
        if claim is not None:
            held = lanes.get(group, [part.shard for part in claim.lanes])
            for lane in held:
                lane.held += 1
                lanes.relocate(lane)
            claim.lane_ids = [lane.id for lane in held]
            keep_claim(tx, claim)
    lanes.save()
