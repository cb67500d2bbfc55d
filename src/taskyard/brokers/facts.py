"""What a broker finds of a message when somebody asks why it does not run.

A broker only finds; `brokers/explain.py` decides what it means. A message with a record is found by
it. One without a record is found in an open claim, or among the first messages that wait.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from taskyard.brokers.base import Group
from taskyard.brokers.lane import Gate, GroupPolicy, LaneState
from taskyard.brokers.rate import Rate, Scope
from taskyard.message import Failure, State

__all__ = ["COUNTED", "SEARCHED", "SEARCHED_BYTES", "Bucket", "Facts", "Head", "Holder", "Where"]

COUNTED = 10_000
"""Messages, and shards, in front of one up to which they are counted; one more means "more"."""
SEARCHED = 10_000
"""Waiting messages that are looked at for one without a record, in each partition."""
SEARCHED_BYTES = 8 << 20
"""Bytes of them after which it is enough, where looking holds up everybody else."""


class Where(StrEnum):
    """Where a message is."""

    LANE = "lane"
    OUTSIDE = "outside"
    """It enters its lane at a time."""
    CLAIM = "claim"
    AWAY = "away"
    """It is on its way to another partition, or others are that come before it in its lane."""
    NOWHERE = "nowhere"


class Holder(msgspec.Struct, frozen=True):
    """An open claim.

    Attributes:
        worker: who holds it.
        since: when it was claimed, microseconds.
        seen: when the worker last renewed its lease.
        ends: when the lease ends.
        messages: how many it holds.
        told: whether the worker is told that the message is cancelled, where it holds it.
    """

    worker: str
    since: int
    seen: int
    ends: int
    messages: int
    told: bool = False

    @classmethod
    def of(
        cls,
        worker: str,
        token: int,
        deadline: int,
        lease: int,
        messages: int,
        *,
        told: bool = False,
    ) -> Holder:
        """Describe a claim; its token is the time at which it was made, unless a clock was set."""
        seen = deadline - lease
        return cls(worker, min(token, seen), seen, deadline, messages, told)


class Head(msgspec.Struct, frozen=True):
    """The first message of a priority in a lane: its id, and how many of its attempts failed."""

    id: str
    attempts: int


class Bucket(msgspec.Struct, frozen=True):
    """A rate limit of a group or queue that holds, and how much of it is used up (see rate.py)."""

    scope: Scope
    rate: Rate
    tat: int


class Facts(msgspec.Struct, frozen=True):
    """What there is of a message.

    Attributes:
        now: the broker's time, microseconds; all times are of this clock.
        group: the owner of its lane; None: nothing was found.
        state: as its record says; None: it has no record.
        ended: when it ended.
        failure: why it is dead, or was before its dead letter was discarded.
        shard: the key of its lane.
        priority: its priority.
        where: where it is, if it has not ended.
        due: when it enters its lane, if it is outside.
        attempts: how many of its attempts failed.
        losses: how many of its deliveries were lost with their worker or lease.
        cap: with how many others it may be claimed at most, after losses; 0: any number.
        holder: the claim that holds it.
        note: the number of a note that cancels its id (see cancelling.py); 0: there is none.
        gate: what its queue lets through.
        policy: that of its group.
        lane: the state of its lane.
        buckets: the rate limits of its group and queue.
        heads: the first messages of its lane, by priority.
        held_by: open claims of its lane, where their number is limited.
        ahead: messages that are claimed before it in its lane: priority, how many.
        shards_ahead: shards of its group that are served before its own, if that is ready.
        searched: whether all that waits was looked at; only asked if nothing was found.
    """

    now: int
    group: Group | None = None
    state: State | None = None
    ended: int = 0
    failure: Failure | None = None
    shard: str = ""
    priority: int = 0
    where: Where = Where.NOWHERE
    due: int = 0
    attempts: int = 0
    losses: int = 0
    cap: int = 0
    holder: Holder | None = None
    note: int = 0
    gate: Gate = Gate.OPEN
    policy: GroupPolicy = GroupPolicy()
    lane: LaneState = msgspec.field(default_factory=LaneState)
    buckets: tuple[Bucket, ...] = ()
    heads: tuple[Head, ...] = ()
    held_by: tuple[Holder, ...] = ()
    ahead: tuple[tuple[int, int], ...] = ()
    shards_ahead: int = 0
    searched: bool = True
