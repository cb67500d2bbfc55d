"""What a rate limit allows: pure functions, the same for every broker.

A bucket of tokens is one number, its *tat* (theoretical arrival time): the microsecond at which it
is full again. Each message that is handed out puts it off by an interval; it never is further away
than the time in which the whole bucket fills. 0 stands for any time that is over.
"""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

__all__ = [
    "UNLIMITED",
    "Limited",
    "Limits",
    "QueueRate",
    "Rate",
    "Scope",
    "clamped",
    "handed_out",
    "latest_with_token",
    "refund",
    "share",
    "spend",
    "token_at",
    "tokens",
    "what_holds",
]


class Rate(msgspec.Struct, frozen=True):
    """How many messages may be handed out, as a broker keeps it.

    Attributes:
        count: so many messages…
        per: …in so many microseconds, on average. At most one message per microsecond.
        burst: how many at once, after a pause.
    """

    count: float
    per: int
    burst: int

    @property
    def interval(self) -> float:
        """Microseconds in which a token comes."""
        return self.per / self.count

    @property
    def filling(self) -> int:
        """Microseconds in which an empty bucket fills."""
        return math.ceil(self.burst * self.interval)


UNLIMITED = Rate(0, 0, 0)
"""Stored where a limit was lifted by hand: none holds, whatever is declared."""


class Scope(StrEnum):
    """What a limit is about."""

    QUEUE = "queue"
    """All messages of a queue together."""
    TASK = "task"
    """All messages of a task, or of the tasks of a common order."""
    SHARD = "shard"
    """The messages of each shard of a task."""


class Limited(msgspec.Struct, frozen=True):
    """What has a limit.

    Attributes:
        queue: its queue.
        name: the group in the queue; "" for the queue itself.
        shards: whether the limit is that of each shard of the group.
    """

    queue: str
    name: str = ""
    shards: bool = False

    @property
    def scope(self) -> Scope:
        """What the limit is about."""
        if not self.name:
            return Scope.QUEUE
        return Scope.SHARD if self.shards else Scope.TASK


class QueueRate(msgspec.Struct, frozen=True):
    """The limits of a queue.

    Attributes:
        declared: by programs.
        changed: at run time; it wins. `UNLIMITED`: it was lifted.
        set_at: the last sequence that was given out before the one that holds became what it is.
    """

    declared: Rate | None = None
    changed: Rate | None = None
    set_at: int = 0

    @property
    def limit(self) -> Rate | None:
        """The one that holds."""
        return what_holds(self.declared, self.changed)

    def with_rate(self, rate: Rate | None, last: int, *, declared: bool) -> QueueRate:
        """The limits after one of them was set; `last`: the last sequence that was given out."""
        rates = (rate, self.changed) if declared else (self.declared, rate)
        return QueueRate(*rates, self.set_at if what_holds(*rates) == self.limit else last)


class Limits(msgspec.Struct, frozen=True):
    """The limits that hold for a group.

    Attributes:
        queue: that of all messages of its queue.
        task: that of all its messages.
        shard: that of the messages of each of its shards.
        changed: which of them were set at run time.
    """

    queue: Rate | None = None
    task: Rate | None = None
    shard: Rate | None = None
    changed: frozenset[Scope] = frozenset()


def what_holds(declared: Rate | None, changed: Rate | None) -> Rate | None:
    """Say which limit holds: what was changed at run time wins over what is declared."""
    chosen = declared if changed is None else changed
    return None if chosen is None or not chosen.count else chosen


def share(rate: Rate, parts: int) -> Rate:
    """The limit of one of several partitions: its part of the rate and of the burst, 1 at least."""
    if parts == 1:
        return rate
    return Rate(rate.count, rate.per * parts, max(1, rate.burst // parts))


def clamped(tat: int, rate: Rate | None, now: int) -> int:
    """What is to be remembered of a bucket.

    Arguments:
        tat: its tat.
        rate: its limit; None: it has none any more.
        now: the broker's time, microseconds.

    Returns:
        0 when it is full; else a tat that is not too far away, as that of a clock which was set
        back since, or of a limit that was lowered.
    """
    if rate is None or tat <= now:
        return 0
    return min(tat, now + rate.filling)


def tokens(tat: int, rate: Rate, now: int) -> int:
    """Say how many messages may be handed out now."""
    interval = rate.interval
    left = now + rate.filling - max(now, clamped(tat, rate, now))
    count = math.floor(left / interval)
    # The division is rounded, the tat is whole.
    if math.ceil((count + 1) * interval) <= left:
        return count + 1
    return count - 1 if math.ceil(count * interval) > left else count


def token_at(tat: int, rate: Rate, now: int) -> int:
    """Say when there is a token: `now`, or the microsecond of the next one."""
    full = max(now, clamped(tat, rate, now))
    return max(now, full - rate.filling + math.ceil(rate.interval))


def latest_with_token(rate: Rate, now: int) -> int:
    """The last tat of a bucket that has a token now."""
    return now + rate.filling - math.ceil(rate.interval)


def spend(tat: int, rate: Rate, now: int, count: int) -> int:
    """The tat after so many messages were handed out."""
    return max(now, clamped(tat, rate, now)) + math.ceil(count * rate.interval)


def handed_out(since: int, token: int, set_at: int) -> int:
    """Say when a claim took tokens of a bucket, as its limit is now.

    Arguments:
        since: when the claim was made, microseconds; 0: nothing was limited then.
        token: the claim's token: a sequence, so it tells, whatever the clock did, which of two
            things was first.
        set_at: the last sequence that was given out before the limit became what it is.

    Returns:
        `since`; 0 when the claim was made before. It took no tokens then, or such of another
        limit, and the change has levelled what it took: what comes back would be handed out twice.
    """
    return since if token > set_at else 0


def refund(tat: int, rate: Rate, now: int, since: int, taken: int, count: int) -> int:
    """The tat after messages came back that were not started.

    Arguments:
        tat: the bucket's tat.
        rate: its limit.
        now: the broker's time, microseconds.
        since: when they were handed out; 0: the bucket's tokens were not taken for them (see
            `handed_out`), so none comes back.
        taken: how many were handed out then, together, without those that came back before (and
            maybe without those that are done, which errs on the safe side).
        count: how many of them come back.

    Returns:
        An earlier tat. Had they never been handed out, the bucket might have been full for as long
        as those that stay out do not account for, and what a full bucket gets is lost. So what is
        started never exceeds the limit.
    """
    if since == 0:
        return tat
    lost = max(0, now - since - math.floor((taken - count) * rate.interval))
    back = max(0, math.floor(count * rate.interval) - lost)
    return max(0, clamped(tat, rate, now) - back) if back else tat
