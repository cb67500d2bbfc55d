"""Groups and open claims as the memory broker keeps them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from taskyard.brokers.base import (
    SHOWN_SHARDS,
    TOTALS,
    ClaimedLane,
    Counts,
    Delivery,
    Group,
    GroupWant,
)
from taskyard.brokers.lane import Gate, GroupPolicy, limits
from taskyard.brokers.memory.agenda import Agenda
from taskyard.brokers.memory.lanes import Lane
from taskyard.brokers.rate import QueueRate, token_at
from taskyard.message import read_envelope

__all__ = ["GroupState", "OpenClaim", "Part", "QueueState"]


class Part(msgspec.Struct, frozen=True):
    """What an open claim holds of one lane.

    The lane is named, not held: one without messages is forgotten while its claim is open.
    """

    shard: str
    messages: list[tuple[int, Delivery]]


class OpenClaim:
    """A claim whose lease was not lost.

    Attributes:
        token: its token.
        group: the group of its messages.
        owner: who claimed it.
        lease: for how long it was leased, microseconds.
        deadline: when the lease ends.
        opened: when it was claimed, where a rate was limited then; else 0.
        parts: what it holds.
        told: the sequences of messages that were cancelled since.
    """

    __slots__ = (
        *("_ids", "deadline", "group", "lease", "opened", "owner", "parts", "token"),
        "told",
    )

    def __init__(
        self,
        token: int,
        group: GroupState,
        owner: str,
        lease: int,
        deadline: int,
        lanes: list[ClaimedLane],
    ) -> None:
        self.token = token
        self.group = group
        self.owner = owner
        self.lease = lease
        self.deadline = deadline
        self.opened = deadline - lease if group.is_limited else 0
        # Copies: the claimer may do with its lists what it likes.
        self.parts = [Part(lane.shard, list(lane.messages)) for lane in lanes]
        self.told: set[int] = set()
        self._ids: frozenset[str] | None = None

    def __len__(self) -> int:
        return sum([len(part.messages) for part in self.parts])

    def reduce(self, parts: list[Part]) -> None:
        """Hold less than before."""
        self.parts = parts
        self._ids = None

    def ids(self) -> frozenset[str]:
        """The ids of its messages, read when first asked for."""
        if self._ids is None:
            self._ids = frozenset(self._read_ids())
        return self._ids

    def _read_ids(self) -> Iterator[str]:
        for part in self.parts:
            for _, message in part.messages:
                envelope = read_envelope(message.body)
                if envelope is not None:
                    yield envelope.id


class QueueState:
    """A queue's rate limits, and its bucket of tokens (see rate.py)."""

    __slots__ = ("rate", "tat")

    def __init__(self) -> None:
        self.rate = QueueRate()
        self.tat = 0

    @property
    def limit_set_at(self) -> int:
        """See `QueueRate.set_at`."""
        return self.rate.set_at


class GroupState:
    """A group: its policy, lanes and open claims.

    Attributes:
        key: its key.
        number: rises with every group made.
        policy: what was declared, or the default.
        declared: whether it was.
        lanes: those that are not idle, by shard.
        ready: the lanes that may be claimed, by priority and turn.
        filling: the lanes that wait for their batch to fill, by the end of their patience.
        claims: the open ones, by token.
        delayed: how many messages are in the due set.
        totals: what was counted since the beginning.
        gate: what its queue lets through.
        queue: the limits of its queue.
        tat: its bucket of tokens, where its rate is limited.
        waiting: how many messages are in its lanes; they keep count.
    """

    __slots__ = (
        "claims",
        "declared",
        "delayed",
        "filling",
        "gate",
        "key",
        "lanes",
        "number",
        "policy",
        "queue",
        "ready",
        "tat",
        "totals",
        "waiting",
    )

    def __init__(self, key: Group, number: int, gate: Gate, queue: QueueState) -> None:
        self.key = key
        self.gate = gate
        self.queue = queue
        self.tat = 0
        self.number = number
        self.policy = GroupPolicy()
        self.declared = False
        self.lanes: dict[str, Lane] = {}
        self.ready: Agenda[Lane] = Agenda()
        self.filling: Agenda[Lane] = Agenda()
        self.claims: dict[int, OpenClaim] = {}
        self.delayed = self.waiting = 0
        self.totals = dict.fromkeys(TOTALS, 0)

    def known_to(self, want: GroupWant) -> bool:
        """Whether a worker knows all the tasks that share this order."""
        return want.members.issuperset(self.policy.members)

    def has_claimable(self) -> bool:
        """Whether a worker would get something now, as far as that shows."""
        if self.gate is Gate.PAUSED:
            return False
        draining = self.gate is Gate.DRAINING and self.filling.first() is not None
        return draining or self.ready.first() is not None

    @property
    def limit_set_at(self) -> int:
        """See `GroupPolicy.limit_set_at`."""
        return self.policy.limit_set_at

    @property
    def is_limited(self) -> bool:
        """Whether a limit of it, of its queue or of its lanes holds."""
        policy = self.policy
        found = policy.limit or policy.shard_limit or self.queue.rate.limit
        return found is not None

    def token_at(self, now: int) -> int:
        """When its limits and those of its queue let a message pass: `now`, or later."""
        at = now
        if (limit := self.policy.limit) is not None:
            at = token_at(self.tat, limit, now)
        if (limit := self.queue.rate.limit) is not None:
            at = max(at, token_at(self.queue.tat, limit, now))
        return at

    def runs(self, id_: str) -> bool:
        """Whether an open claim holds the message of this id."""
        return any(id_ in claim.ids() for claim in self.claims.values())

    def present(self) -> int:
        """How many messages are here, dead letters aside."""
        return self.waiting + self.delayed + self._running()

    def count(self, dead: int) -> Counts:
        """The group's numbers; `dead` is how many dead letters it has."""
        counts = Counts(self.key, delayed=self.delayed, running=self._running(), dead=dead)
        for lane in self.lanes.values():
            if lane.state.waiting:
                counts.lanes += 1
                counts.waiting += lane.state.waiting
                oldest = lane.state.oldest
                counts.oldest = min(counts.oldest, oldest) if counts.oldest else oldest
            if lane.state.parked:
                counts.parked += 1
                counts.parked_shards.append(lane.shard)
        counts.parked_shards = sorted(counts.parked_shards)[:SHOWN_SHARDS]
        counts.totals = dict(self.totals)
        counts.gate = self.gate
        counts.limits = limits(self.policy, self.queue.rate)
        return counts

    def _running(self) -> int:
        return sum([len(claim) for claim in self.claims.values()])
