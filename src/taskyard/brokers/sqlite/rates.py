"""Rate limits: the buckets of groups and queues, and how limits are changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from taskyard.brokers.base import Group
from taskyard.brokers.rate import Limited, Rate, clamped, handed_out, refund, spend, tokens
from taskyard.brokers.sqlite.groups import GroupRow
from taskyard.brokers.sqlite.lanes import Lane, Lanes
from taskyard.brokers.sqlite.transaction import Transaction, store_tat, tat_of

__all__ = [
    "Limiter",
    "give_back",
    "is_limited",
    "refund_lane",
    "set_rate",
    "spend_of_lane",
    "tokens_of_lane",
]


class Limiter:
    """Looks after the limits of the groups that one step serves.

    Arguments:
        tx: the transaction.
        groups: what may be served.
    """

    def __init__(self, tx: Transaction, groups: Iterable[GroupRow]) -> None:
        self._tx = tx
        self._groups = {row.id: row for row in groups}
        self._buckets = {
            row.id: found for row in self._groups.values() if (found := tx.buckets(row))
        }
        self._tats: dict[str, int] = {}
        for buckets in self._buckets.values():
            for name, limit in buckets:
                self._load(name, limit)

    def _load(self, name: str, limit: Rate) -> None:
        stored = tat_of(self._tx, name)
        self._tats[name] = clamped(stored, limit, self._tx.now)
        if stored > self._tats[name] > 0:
            # A clock that was set back must not put off the next token at every look.
            store_tat(self._tx, name, self._tats[name])

    def room(self, group_id: int, most: int) -> int:
        """How many messages may be claimed now, `most` at most."""
        for name, limit in self._buckets.get(group_id, ()):
            most = min(most, tokens(self._tats[name], limit, self._tx.now))
        return most

    def without_tokens(self) -> list[int]:
        """The groups that may claim nothing now, by id."""
        return [group_id for group_id in self._buckets if self.room(group_id, 1) == 0]

    def spend(self, group_id: int, count: int) -> None:
        """Note that messages were claimed."""
        for name, limit in self._buckets.get(group_id, ()):
            self._tats[name] = spend(self._tats[name], limit, self._tx.now, count)
            store_tat(self._tx, name, self._tats[name])

    def next_at(self, has_something: Callable[[GroupRow], bool]) -> int:
        """When a group gets a token that has something, but has none now; 0: there is no such."""
        times = [
            self._tx.token_at(self._groups[group_id])
            for group_id in self.without_tokens()
            if has_something(self._groups[group_id])
        ]
        return min(times, default=0)


def is_limited(tx: Transaction, group: GroupRow) -> bool:
    """Whether a limit of the group, of its queue or of its lanes holds."""
    return group.policy.shard_limit is not None or bool(tx.buckets(group))


def tokens_of_lane(lane: Lane, now: int, most: int) -> int:
    """How many of a lane's messages may be claimed now, `most` at most."""
    limit = lane.group.policy.shard_limit
    return most if limit is None else min(most, tokens(lane.tat, limit, now))


def spend_of_lane(lane: Lane, now: int, count: int) -> None:
    """Note that messages of a lane were claimed."""
    limit = lane.group.policy.shard_limit
    if limit is not None:
        lane.tat = spend(lane.tat, limit, now, count)


def give_back(
    tx: Transaction,
    lanes: Lanes,
    group: GroupRow,
    shard: str,
    *,
    claimed: tuple[int, int],
    taken: int,
    of_lane: int,
    count: int,
) -> None:
    """Give back the tokens of messages that came back and were not started.

    Arguments:
        tx: the transaction.
        lanes: its lanes.
        group: whose messages they are.
        shard: of which lane.
        claimed: when they were claimed, and the token of their claim.
        taken: how many messages were claimed together, without those that came back before.
        of_lane: how many of them were of this lane.
        count: how many of these came back.
    """
    set_at = tx.set_at(group)
    for name, limit in tx.buckets(group):
        since = handed_out(*claimed, set_at[name])
        store_tat(tx, name, refund(tat_of(tx, name), limit, tx.now, since, taken, count))
    since = handed_out(*claimed, group.policy.shard_limit_set_at)
    _refund_lane(tx, lanes, group, shard, since=since, taken=of_lane, count=count)


def refund_lane(
    tx: Transaction, lanes: Lanes, group: GroupRow, shard: str, taken: int, count: int
) -> None:
    """Give back tokens of a lane, just taken, of messages that are not handed out after all."""
    if count:
        _refund_lane(tx, lanes, group, shard, since=tx.now, taken=taken, count=count)


def _refund_lane(
    tx: Transaction,
    lanes: Lanes,
    group: GroupRow,
    shard: str,
    *,
    since: int,
    taken: int,
    count: int,
) -> None:
    limit = group.policy.shard_limit
    if limit is not None:
        [lane] = lanes.get(group, [shard])
        lane.tat = refund(lane.tat, limit, tx.now, since, taken, count)
        lanes.relocate(lane)


def set_rate(tx: Transaction, limited: Limited, rate: Rate | None, declared: bool) -> None:
    """See `Broker.set_rate`."""
    if not limited.name:
        before = tx.queue_rate(limited.queue)
        after = before.with_rate(rate, tx.last_sequence, declared=declared)
        tx.store_queue_rate(limited.queue, after)
        return
    stored = tx.group(Group(limited.queue, limited.name))
    policy = stored.policy.with_change(rate, shards=limited.shards)
    row = tx.store_group(stored.group, policy, declared=stored.declared)
    if limited.shards:
        Lanes(tx).relocate_all(row)
    tx.limit_changed(row)
