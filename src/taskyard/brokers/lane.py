"""The rules of lanes: pure functions, the same for every broker.

A lane is in at most one of three places. `place` decides in which; every operation that touches
a lane calls it for that lane and for no other.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec

from taskyard.brokers.rate import Limits, QueueRate, Rate, Scope, token_at, what_holds

__all__ = [
    "Flush",
    "Gate",
    "GroupPolicy",
    "LaneState",
    "Place",
    "cap_after_loss",
    "conflict_text",
    "deadline_of",
    "draining_text",
    "flush",
    "is_given_up",
    "is_held_up",
    "limits",
    "merged",
    "patience_ends",
    "place",
    "take",
    "with_member",
]


class Place(IntEnum):
    """Where a lane is."""

    NOWHERE = 0
    """It waits for an event: it is empty, held by others, or parked."""
    READY = 1
    """It may be claimed now."""
    LATER = 2
    """It becomes eligible at a known time."""
    FADING = 3
    """It is empty, but its rate limit is not to be forgotten before a known time."""


class Gate(StrEnum):
    """What a queue lets through."""

    OPEN = "open"
    """Everything."""
    PAUSED = "paused"
    """Messages in, none out: no worker gets any."""
    DRAINING = "draining"
    """Messages out, none in; batches do not wait to fill."""


class Flush(StrEnum):
    """Why a batch was handed out."""

    SIZE = "size"
    BYTES = "bytes"
    AGE = "age"
    DEADLINE = "deadline"
    DRAIN = "drain"


class GroupPolicy(msgspec.Struct, frozen=True):
    """What a broker must know of a group's policy.

    Attributes:
        size: messages of a full batch; 1 for handlers of single messages.
        within: microseconds that the oldest message waits for its batch to fill; 0: none.
        bytes: payload bytes of a full batch; 0: any.
        concurrency: claims that a shard may have open at once; 0: any.
        max_deliveries: losses after which a message that is alone in a claim is given up.
        members: the tasks of an order group; () for a task that is its own group. A broker
            keeps the union of what was declared while the group has messages, and gives them only
            to workers that know all members.
        rate: the declared limit of all its messages.
        shard_rate: the declared limit of each of its lanes.
        changed_rate: the limit that was set at run time; it wins. `UNLIMITED`: it was lifted.
        changed_shard_rate: the same for each lane.
        limit_set_at: the last sequence that its broker gave out before the limit of all its
            messages became what it is.
        shard_limit_set_at: the same for each lane.
        minimum: messages of a batch that need not wait to fill any more; 0: those of a full one.
        lead: microseconds before a message's own deadline at which its batch waits no more.
    """

    size: int = 1
    within: int = 0
    bytes: int = 0
    concurrency: int = 0
    max_deliveries: int = 3
    members: tuple[str, ...] = ()
    rate: Rate | None = None
    shard_rate: Rate | None = None
    changed_rate: Rate | None = None
    changed_shard_rate: Rate | None = None
    limit_set_at: int = 0
    shard_limit_set_at: int = 0
    minimum: int = 0
    lead: int = 0

    @property
    def enough(self) -> int:
        """The messages with which a batch is ready."""
        return self.minimum or self.size

    @property
    def limit(self) -> Rate | None:
        """The limit of all its messages that holds."""
        return what_holds(self.rate, self.changed_rate)

    @property
    def shard_limit(self) -> Rate | None:
        """The limit of each of its lanes that holds."""
        return what_holds(self.shard_rate, self.changed_shard_rate)

    def with_change(self, rate: Rate | None, *, shards: bool) -> GroupPolicy:
        """The policy after a limit was set at run time; None: what is declared holds again."""
        if shards:
            return msgspec.structs.replace(self, changed_shard_rate=rate)
        return msgspec.structs.replace(self, changed_rate=rate)

    def limited_since(self, before: GroupPolicy, last: int) -> GroupPolicy:
        """The policy with a note of which of its limits are others than before.

        Arguments:
            before: the policy that it replaces.
            last: the last sequence that was given out.
        """
        return msgspec.structs.replace(
            self,
            limit_set_at=before.limit_set_at if self.limit == before.limit else last,
            shard_limit_set_at=(
                before.shard_limit_set_at if self.shard_limit == before.shard_limit else last
            ),
        )


class LaneState(msgspec.Struct):
    """A lane, as far as its place depends on it.

    Attributes:
        waiting: messages in it, without those that are claimed.
        bytes: their bytes.
        oldest: the lowest sequence among them (microseconds).
        priority: the lowest number among them.
        mixed: whether they may be of several priorities.
        held: open claims, counted only where the policy limits them.
        blocked: microseconds until which its head backs off; 0: it does not.
        parked: held until somebody releases it.
        tat: when its rate limit is as good as unused (see rate.py); 0: it is.
        deadline: no message in it must begin before that, microseconds; 0: none has a time. It is
            noted only where batches wait to fill, and stays when messages are taken, until the lane
            is empty: to look too early does no harm.
    """

    waiting: int = 0
    bytes: int = 0
    oldest: int = 0
    priority: int = 0
    mixed: bool = False
    held: int = 0
    blocked: int = 0
    parked: bool = False
    tat: int = 0
    deadline: int = 0

    def note_deadline(self, at: int) -> None:
        """Note when a message must begin; 0: at any time."""
        if at and (self.deadline == 0 or at < self.deadline):
            self.deadline = at


def deadline_of(policy: GroupPolicy, sequence: int, expires: int) -> int:
    """Say when a message in a lane must begin.

    Arguments:
        policy: its group's policy.
        sequence: its own, which says when it entered the lane.
        expires: microseconds that it may wait there; 0: any time.

    Returns:
        The microsecond; 0: at any time, or its lane waits for nothing that this could change.
    """
    return sequence + expires if expires and policy.within else 0


def place(lane: LaneState, policy: GroupPolicy, now: int) -> tuple[Place, int]:
    """Decide where a lane is.

    Arguments:
        lane: its state.
        policy: its group's policy.
        now: the broker's time, microseconds.

    Returns:
        The place, and for `LATER` and `FADING` the microsecond at which it must be looked at
        again.
    """
    if lane.parked or (policy.concurrency and lane.held >= policy.concurrency):
        return Place.NOWHERE, 0
    if lane.waiting == 0:
        return (Place.FADING, lane.tat) if lane.tat > now else (Place.NOWHERE, 0)
    if lane.blocked > now:
        return Place.LATER, lane.blocked
    if lane.tat > now and (at := _token_at(lane, policy, now)) > now:
        return Place.LATER, at
    if policy.within and flush(lane, policy, now) is None:
        return Place.LATER, patience_ends(lane, policy, now)
    return Place.READY, 0


def patience_ends(lane: LaneState, policy: GroupPolicy, now: int) -> int:
    """Say until when a batch that is not ready waits to fill, microseconds."""
    # min(): a clock that was set back must not make the batch wait for longer than `within`.
    by_age = min(lane.oldest, now) + policy.within
    return min(by_age, lane.deadline - policy.lead) if lane.deadline else by_age


def is_held_up(lane: LaneState, policy: GroupPolicy, now: int) -> bool:
    """Say whether a lane waits for more than that its batch fills."""
    return lane.blocked > now or _token_at(lane, policy, now) > now


def _token_at(lane: LaneState, policy: GroupPolicy, now: int) -> int:
    limit = policy.shard_limit
    return now if limit is None else token_at(lane.tat, limit, now)


def flush(lane: LaneState, policy: GroupPolicy, now: int) -> Flush | None:
    """Say why the lane's batch is ready.

    Arguments:
        lane: a lane with messages waiting.
        policy: its group's policy.
        now: the broker's time, microseconds.

    Returns:
        The reason; None when the batch still waits to fill.
    """
    if lane.waiting >= policy.enough:
        return Flush.SIZE
    if policy.bytes and lane.bytes >= policy.bytes:
        return Flush.BYTES
    if min(lane.oldest, now) + policy.within <= now:
        return Flush.AGE
    if lane.deadline and lane.deadline - policy.lead <= now:
        return Flush.DEADLINE
    return None


def take(
    lane: LaneState, policy: GroupPolicy, room: int, reason: Flush, *, begun: bool = False
) -> int:
    """Say how many messages of a ready lane a claim takes.

    Arguments:
        lane: its state.
        policy: its group's policy.
        room: the messages that the claim has room for, 1 or more.
        reason: why the lane is flushed.
        begun: whether the claim holds messages of other lanes already.

    Returns:
        A number of messages. A lane that waits for full batches gives only full ones while its
        rest may still fill; a rest that is enough for a batch goes with them. 0: a full batch does
        not fit any more, so the claim is full. The bytes of a batch are counted where the bodies
        are read.
    """
    count = min(lane.waiting, room)
    if reason is not Flush.SIZE or not policy.within:
        return count
    if begun and room < min(lane.waiting, policy.size):
        return 0
    rest = count % policy.size
    if count > policy.size and (count < lane.waiting or rest < policy.enough):
        count -= rest
    return count


def merged(stored: GroupPolicy, declared: GroupPolicy, *, keep: bool, present: int) -> GroupPolicy:
    """Say what a group's policy is after a declaration.

    Arguments:
        stored: what it was.
        declared: what a program declares.
        keep: whether the stored one stays, but for its members; those of tasks that are no more
            leave it with the last message, whoever declares then.
        present: messages that were put under the stored one, and are still there.
    """
    known = {*declared.members, *(stored.members if present else ())}
    policy = stored if keep else declared
    return msgspec.structs.replace(
        policy,
        members=tuple(sorted(known)),
        changed_rate=stored.changed_rate,
        changed_shard_rate=stored.changed_shard_rate,
        limit_set_at=stored.limit_set_at,
        shard_limit_set_at=stored.shard_limit_set_at,
    )


def limits(policy: GroupPolicy, queue: QueueRate) -> Limits:
    """The limits that hold for a group, and which of them were set at run time."""
    changes = {
        Scope.QUEUE: queue.changed,
        Scope.TASK: policy.changed_rate,
        Scope.SHARD: policy.changed_shard_rate,
    }
    changed = frozenset(scope for scope, rate in changes.items() if rate is not None)
    return Limits(queue.limit, policy.limit, policy.shard_limit, changed)


def with_member(policy: GroupPolicy, task: str) -> GroupPolicy:
    """The policy of an order group that holds messages of a task, whoever declared it last."""
    members = tuple(sorted({*policy.members, task}))
    return msgspec.structs.replace(policy, members=members)


def conflict_text(group: object, stored: GroupPolicy, declared: GroupPolicy, present: int) -> str:
    """Say why a group cannot be declared with another concurrency.

    Arguments:
        group: its key, as text.
        stored: what it was.
        declared: what a program declares.
        present: messages that were put under the stored one, and are still there.
    """
    return (
        f"{group} is declared with {declared.concurrency or 'any number of'} claims per shard,"
        f" but it is stored with {stored.concurrency or 'any number of'}, and {present} messages"
        f" that were put under that are still there. Let workers with the old declaration drain"
        f" it first, or use another name"
    )


def draining_text(queue: str, fate: str = "nothing of the call was stored") -> str:
    """Say why a queue takes no messages, and what became of them."""
    return (
        f"the queue {queue!r} is draining: it takes no messages until `taskyard resume {queue}`;"
        f" {fate}"
    )


def is_given_up(policy: GroupPolicy, *, claimed: int, singled_out: bool, losses: int) -> bool:
    """Say whether a lost message ends as a dead letter.

    Arguments:
        policy: its group's policy.
        claimed: how many messages there were in the lost claim.
        singled_out: whether it ran with nothing beside it in its worker, because of earlier
            losses. Else the loss may be the doing of another claim in the same process.
        losses: how often it was lost, with this time.
    """
    if claimed != 1 or losses < policy.max_deliveries:
        return False
    return singled_out or policy.max_deliveries == 1


def cap_after_loss(claimed: int) -> int:
    """Say how many messages may be claimed together after their claim was lost.

    Arguments:
        claimed: how many there were in the lost claim.

    Returns:
        A quarter of them, at least one: a message that kills its worker stands alone soon.
    """
    return max(1, (claimed + 3) // 4)
