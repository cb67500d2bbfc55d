"""Rate limits as the memory broker keeps them."""

from __future__ import annotations

from taskyard.brokers.base import Back, Group, Settlement, Stopped
from taskyard.brokers.memory.groups import GroupState, OpenClaim, Part, QueueState
from taskyard.brokers.memory.lanes import Lane
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.rate import Limited, Rate, clamped, handed_out, refund, spend, tokens

__all__ = [
    "Limiter",
    "refund_lane",
    "refund_part",
    "set_rate",
    "spend_of_lane",
    "tokens_of_lane",
]

Bucket = GroupState | QueueState


def _buckets(group: GroupState) -> list[tuple[Bucket, Rate]]:
    found: list[tuple[Bucket, Rate]] = []
    if (limit := group.policy.limit) is not None:
        found.append((group, limit))
    if (limit := group.queue.rate.limit) is not None:
        found.append((group.queue, limit))
    return found


def _clamp(buckets: list[tuple[Bucket, Rate]], now: int) -> None:
    # A clock that was set back must not put off the next token at every look.
    for bucket, limit in buckets:
        bucket.tat = clamped(bucket.tat, limit, now) or bucket.tat


class Limiter:
    """Looks after the limits of the groups that one step serves.

    Arguments:
        groups: what may be served.
        now: the broker's time, microseconds.
    """

    def __init__(self, groups: dict[GroupState, int], now: int) -> None:
        self._now = now
        self._buckets = {group: found for group in groups if (found := _buckets(group))}
        for buckets in self._buckets.values():
            _clamp(buckets, now)

    def room(self, group: GroupState, most: int) -> int:
        """How many messages may be claimed now, `most` at most."""
        for bucket, limit in self._buckets.get(group, ()):
            most = min(most, tokens(bucket.tat, limit, self._now))
        return most

    def without_tokens(self) -> list[GroupState]:
        """The groups that may claim nothing now."""
        return [group for group in self._buckets if self.room(group, 1) == 0]

    def spend(self, group: GroupState, count: int) -> None:
        """Note that messages were claimed."""
        for bucket, limit in self._buckets.get(group, ()):
            bucket.tat = spend(bucket.tat, limit, self._now, count)

    def next_at(self, *, drain: bool) -> int:
        """When a group gets a token that has something, but has none now; 0: there is no such.

        Arguments:
            drain: whether batches count that wait to fill.
        """
        times = [
            group.token_at(self._now)
            for group in self.without_tokens()
            if group.has_claimable() or (drain and group.filling.first() is not None)
        ]
        return min(times, default=0)


def tokens_of_lane(lane: Lane, now: int, most: int) -> int:
    """How many of a lane's messages may be claimed now, `most` at most."""
    limit = lane.group.policy.shard_limit
    return most if limit is None else min(most, tokens(lane.state.tat, limit, now))


def spend_of_lane(lane: Lane, now: int, count: int) -> None:
    """Note that messages of a lane were claimed."""
    limit = lane.group.policy.shard_limit
    if limit is not None:
        lane.state.tat = spend(lane.state.tat, limit, now, count)


def refund_part(
    state: MemoryState, claim: OpenClaim, part: Part, settlement: Settlement, taken: int
) -> int:
    """Give back the tokens of messages that came back and were not started.

    Arguments:
        state: the broker's.
        claim: whose messages they are.
        part: those of one lane.
        settlement: what became of them.
        taken: how many messages of the claim did not come back yet.

    Returns:
        How many were given back.
    """
    group = claim.group
    buckets, limit = _buckets(group), group.policy.shard_limit
    if not (buckets or limit):
        return 0
    outcomes = [settlement.outcomes.get(message.sequence) for _, message in part.messages]
    count = sum([isinstance(one, Back | Stopped) and not one.started for one in outcomes])
    if count == 0:
        return 0
    for bucket, rate in buckets:
        since = handed_out(claim.opened, claim.token, bucket.limit_set_at)
        bucket.tat = refund(bucket.tat, rate, state.now, since, taken, count)
    if limit is not None:
        lane = state.lane(group, part.shard)
        since = handed_out(claim.opened, claim.token, group.policy.shard_limit_set_at)
        lane.state.tat = refund(lane.state.tat, limit, state.now, since, len(part.messages), count)
        lane.changed = True
    return count


def refund_lane(state: MemoryState, group: GroupState, shard: str, taken: int, count: int) -> None:
    """Give back tokens of a lane, just taken, of messages that are not handed out after all."""
    limit = group.policy.shard_limit
    if count and limit is not None:
        lane = state.lane(group, shard)
        lane.state.tat = refund(lane.state.tat, limit, state.now, state.now, taken, count)
        state.settle_down(lane)


def set_rate(state: MemoryState, limited: Limited, rate: Rate | None, *, declared: bool) -> None:
    """See `Broker.set_rate`."""
    if not limited.name:
        queue = state.queue(limited.queue)
        queue.rate = queue.rate.with_rate(rate, state.last_sequence, declared=declared)
        queue.tat = clamped(queue.tat, queue.rate.limit, state.now)
        state.pass_on([key for key in state.groups if key.queue == limited.queue])
        return
    group = state.group(Group(limited.queue, limited.name))
    policy = group.policy.with_change(rate, shards=limited.shards)
    group.policy = policy.limited_since(group.policy, state.last_sequence)
    group.tat = clamped(group.tat, group.policy.limit, state.now)
    if limited.shards:
        for _, lane in sorted(group.lanes.items()):
            state.settle_down(lane)
    state.pass_on([group.key])
