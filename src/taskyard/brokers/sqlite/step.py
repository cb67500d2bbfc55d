"""A worker's round: it settles, takes back what others lost, claims more, or falls asleep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from taskyard.brokers.base import GroupWant, Settlement, Step, Want
from taskyard.brokers.common import REAPED, earliest
from taskyard.brokers.sqlite.claims import Claimer, servable
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import Lanes
from taskyard.brokers.sqlite.settle import Settler, promote
from taskyard.brokers.sqlite.transaction import NEVER, Transaction

__all__ = ["extend", "reap", "step"]


def step(
    tx: Transaction,
    settlements: Sequence[Settlement],
    want: Want | None,
    *,
    dead_limit: int,
    probe: Callable[[str], None],
) -> Step:
    """Settle claims, and claim more; see `Broker.step`.

    Arguments:
        tx: the transaction.
        settlements: what became of claims.
        want: what to claim; None: nothing.
        dead_limit: dead letters that a group keeps.
        probe: told of the points that are reached, for tests.
    """
    lanes = Lanes(tx)
    settler = Settler(tx, lanes, dead_limit)
    if settlements:
        probe("settling")
    lost = [item.token for item in settlements if not settler.settle(item)]
    if settlements:
        probe("settled")
    if want is None:
        lanes.save()
        return Step(lost, [], tx.now, _next_at(tx))
    _take_back_expired(tx, settler)
    lanes.save()
    promote(tx, lanes)
    served = servable(tx, want.groups)
    claimer = Claimer(tx, lanes, served, want)
    claims = claimer.claims() if served else []
    next_at = earliest(_next_at(tx), claimer.next_at())
    if claims:
        probe("claimed")
        _leave_the_rest_to_others(tx, served, next_at, want.listener)
    elif want.listener is not None:
        _sleep(tx, want, want.listener, next_at)
    return Step(lost, claims, tx.now, next_at, claimer.suspects)


def reap(tx: Transaction, owners: Sequence[str], *, dead_limit: int) -> int:
    """Take back claims whose lease is over, or whose owner is gone; see `Broker.reap`."""
    # A clock that was set back must not turn a lease into a long one.
    tx.execute(
        "UPDATE taskyard_claim SET deadline = ? + lease WHERE deadline > ? + lease",
        (tx.now, tx.now),
    )
    lanes = Lanes(tx)
    settler = Settler(tx, lanes, dead_limit)
    taken = _take_back_expired(tx, settler)
    if taken < REAPED and owners:
        tokens = tx.execute(
            "SELECT token FROM taskyard_claim WHERE owner IN"
            " (SELECT value FROM json_each(?)) ORDER BY token LIMIT ?",
            (msgspec.json.encode(list(owners)), REAPED - taken),
        ).fetchall()
        for (token,) in tokens:
            settler.take_back(token)
        taken += len(tokens)
    lanes.save()
    return taken


def extend(tx: Transaction, tokens: Sequence[int], lease: int) -> list[int]:
    """See `Broker.extend`."""
    extended = {
        token
        for (token,) in tx.execute(
            "UPDATE taskyard_claim SET deadline = ?, lease = ?"
            " WHERE token IN (SELECT value FROM json_each(?)) RETURNING token",
            (tx.now + lease, lease, msgspec.json.encode(list(tokens))),
        )
    }
    return [token for token in tokens if token not in extended]


def _take_back_expired(tx: Transaction, settler: Settler) -> int:
    tokens = tx.execute(
        "SELECT token FROM taskyard_claim WHERE deadline < ? ORDER BY deadline, token LIMIT ?",
        (tx.now, REAPED),
    ).fetchall()
    for (token,) in tokens:
        settler.take_back(token)
    return len(tokens)


def _next_at(tx: Transaction) -> int:
    times = tx.execute(
        "SELECT (SELECT min(at) FROM taskyard_due),"
        " (SELECT min(at) FROM taskyard_lane WHERE place = 2)"
    ).fetchone()
    return min((at for at in times if at is not None), default=0)


def _leave_the_rest_to_others(
    tx: Transaction,
    served: Sequence[tuple[GroupRow, GroupWant]],
    next_at: int,
    listener: str | None,
) -> None:
    if listener is not None:
        tx.unlisten(listener)
    for group, _ in served:
        tx.has_ready(group)
        if next_at:
            tx.has_later(group, next_at)  # whoever was to wake then may be busy now


def _sleep(tx: Transaction, want: Want, listener: str, next_at: int) -> None:
    # A group that nobody has put to is made here, or its first message would wake nobody.
    rows = [(tx.group(item.group), item) for item in want.groups]
    topics = [f"g:{row.id}" for row, item in rows if item.members.issuperset(row.policy.members)]
    # 0 would mean "no wake-up of its own".
    tx.listen(listener, topics, next_at or NEVER)
