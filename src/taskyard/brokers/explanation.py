"""What is said of a message that is not running: the reason, the facts, and a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from taskyard.brokers.facts import COUNTED, SEARCHED
from taskyard.brokers.rate import Scope
from taskyard.message import Failure

__all__ = ["Explanation", "Why"]


class Why(StrEnum):
    """Why a message is not running, in the order in which they are told."""

    DONE = "done"
    CANCELLED = "cancelled"
    """It was cancelled, or is: what waits is removed when its turn comes."""
    DISCARDED = "discarded"
    EXPIRED = "expired"
    """It is a dead letter, since it waited longer than `expires`."""
    DEAD = "dead"
    """It is a dead letter for another reason."""
    RUNNING = "running"
    """It does run: a worker holds it."""
    MOVING = "moving"
    """It is on its way to another partition of its queue, or what comes before it is."""
    DELAYED = "delayed"
    """It is not due yet."""
    RETRYING = "retrying"
    """It failed, and the time of its next attempt is yet to come."""
    PAUSED = "paused"
    """Its queue is paused."""
    PARKED = "parked"
    """Its shard is parked."""
    BLOCKED = "blocked"
    """The head of its ordered shard failed, and waits for its next attempt."""
    BUSY = "busy"
    """As many claims of its shard run as may run at once."""
    LIMITED = "limited"
    """A rate limit is used up."""
    FILLING = "filling"
    """Its batch still waits to fill."""
    NO_WORKER = "no worker"
    """No worker that is alive knows its task."""
    WORKERS_PAUSED = "workers paused"
    """All workers that know its task were told to pause, or stop."""
    BEHIND = "behind"
    """Others come before it."""
    SUSPECT = "suspect"
    """Its workers were lost with it, so it waits for one that runs nothing else."""
    NEXT = "next"
    """Nothing holds it up but that a worker must get free."""
    UNKNOWN = "unknown"
    """Nothing is known of the id, or not where its message is."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a message is not running. Times are of the broker's clock.

    Attributes:
        id: the id that was asked for.
        reason: why.
        queue: the queue of the message; None: nothing is known of it.
        task: its task, or the `order` that its task belongs to.
        shard: its shard; "": it is in none.
        priority: its priority.
        until: until when this holds up the message, if that is known.
        since: when it ended, or was claimed, or was cancelled; of a busy shard, when the claim that
            it waits for was made.
        worker: who runs it; of a busy shard, who runs what it waits for.
        seen: when that worker last renewed its lease.
        messages: how many messages the claim of that worker holds.
        stopping: whether that worker is told that it is cancelled.
        head: of a blocked shard, the id of the message that waits for its next attempt.
        limit: which rate limit is used up.
        ahead: messages in its shard that come before it, up to 10,000.
        ahead_priorities: the lowest and the highest number among their priorities.
        shards_ahead: other shards that are served before its own, up to 10,000.
        more: whether there are more than that.
        workers: how many workers that are alive know its task.
        attempts: how many of its attempts failed.
        losses: how often its worker was lost while it held the message.
        failure: why it is a dead letter.
        letter: the number of its dead letter, where that had to be looked for.
        searched: of an unknown id: whether all messages that wait, and all dead letters, were
            looked at.
    """

    id: str
    reason: Why
    queue: str | None = None
    task: str | None = None
    shard: str = ""
    priority: int = 0
    until: datetime | None = None
    since: datetime | None = None
    worker: str | None = None
    seen: datetime | None = None
    messages: int = 0
    stopping: bool = False
    head: str | None = None
    limit: Scope | None = None
    ahead: int = 0
    ahead_priorities: tuple[int, int] | None = None
    shards_ahead: int = 0
    more: bool = False
    workers: int = 0
    attempts: int = 0
    losses: int = 0
    failure: Failure | None = None
    letter: int | None = None
    searched: bool = True

    @property
    def text(self) -> str:
        """The same in one sentence."""
        return _TEXTS[self.reason](self)


# The words


def _at(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _shard(one: Explanation) -> str:
    return f"the shard {one.shard!r} of {one.queue}/{one.task}" if one.shard else _task(one)


def _task(one: Explanation) -> str:
    return f"{one.queue}/{one.task}"


def _number(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _failed(one: Explanation) -> str:
    reason = "" if one.failure is None else f": {one.failure.reason}"
    number = "" if one.letter is None else f" {one.letter}"
    return f"it is a dead letter{number} since {_at(one.since)}{reason}"


def _cancelled(one: Explanation) -> str:
    if one.queue is None:
        return (
            f"its id was cancelled at {_at(one.since)}: there is no record of it, and if it still"
            f" waits, it is never run"
        )
    return f"it was cancelled at {_at(one.since)}"


def _runs(one: Explanation) -> str:
    told = ", which is told that it is cancelled" if one.stopping else ""
    others = f" with {_number(one.messages - 1, 'other')}" if one.messages > 1 else ""
    return (
        f"it is running{others} in worker {one.worker}{told}, since {_at(one.since)} (last"
        f" heartbeat {_at(one.seen)}, its lease ends at {_at(one.until)})"
    )


def _busy(one: Explanation) -> str:
    by = "" if one.worker is None else f" with worker {one.worker} since {_at(one.since)}"
    return f"{_shard(one)} is busy{by}"


def _limited(one: Explanation) -> str:
    limited = {
        None: "its task",
        Scope.QUEUE: f"the queue {one.queue}",
        Scope.TASK: _task(one),
        Scope.SHARD: _shard(one),
    }
    return f"the rate limit of {limited[one.limit]} is used up until {_at(one.until)}"


def _behind(one: Explanation) -> str:
    more = "more than " if one.more else ""
    parts: list[str] = []
    if one.ahead and one.ahead_priorities:
        low, high = one.ahead_priorities
        priorities = f"priority {low}" if low == high else f"priorities {low} to {high}"
        capped = more if one.ahead == COUNTED else ""
        parts.append(f"{capped}{_number(one.ahead, 'message')} of {priorities} in {_shard(one)}")
    if one.shards_ahead:
        capped = more if one.shards_ahead == COUNTED else ""
        parts.append(f"{capped}{_number(one.shards_ahead, 'other shard')} whose turn comes first")
    return f"it waits behind {' and '.join(parts)}"


def _unknown(one: Explanation) -> str:
    if one.queue is not None:
        return "it has a record, but is not where that says: it is moving now, or ask again"
    if one.searched:
        return (
            "nothing is known of this id: no message of it waits or runs. It ended, and its task"
            " keeps no results or the time of its record is over; or it was never put here"
        )
    return (
        f"nothing is known of this id: there is no record of it, and it does not run. A message"
        f" without a record is only found among the first {SEARCHED:,} that wait and the first"
        f" {SEARCHED:,} dead letters, and there are more, or some are on their way to another"
        f" partition"
    )


def _blocked(one: Explanation) -> str:
    return (
        f"{_shard(one)} is blocked by its head {one.head}, which is tried again at {_at(one.until)}"
    )


def _next(one: Explanation) -> str:
    workers = _number(one.workers, "worker")
    return f"it is the next of {_shard(one)}, and waits until one of {workers} gets free"


def _suspect(one: Explanation) -> str:
    times = _number(one.losses, "time")
    return f"its worker was lost {times}, so it waits for one that runs nothing else"


def _retrying(one: Explanation) -> str:
    return f"it failed {_number(one.attempts, 'time')}, and is tried again at {_at(one.until)}"


def _workers_paused(one: Explanation) -> str:
    return f"all workers that know {_task(one)} ({one.workers}) are paused or stopping"


_TEXTS: dict[Why, Callable[[Explanation], str]] = {
    Why.DONE: lambda one: f"it was done at {_at(one.since)}",
    Why.CANCELLED: _cancelled,
    Why.DISCARDED: lambda one: f"it was discarded at {_at(one.since)}",
    Why.EXPIRED: _failed,
    Why.DEAD: _failed,
    Why.RUNNING: _runs,
    Why.MOVING: lambda one: f"the queue {one.queue} is being split, and {_shard(one)} moves",
    Why.DELAYED: lambda one: f"it is due at {_at(one.until)}",
    Why.RETRYING: _retrying,
    Why.PAUSED: lambda one: f"the queue {one.queue} is paused",
    Why.PARKED: lambda one: f"{_shard(one)} is parked",
    Why.BLOCKED: _blocked,
    Why.BUSY: _busy,
    Why.LIMITED: _limited,
    Why.FILLING: lambda one: f"its batch is still filling, until {_at(one.until)}",
    Why.NO_WORKER: lambda one: f"no worker that is alive knows {_task(one)}",
    Why.WORKERS_PAUSED: _workers_paused,
    Why.BEHIND: _behind,
    Why.SUSPECT: _suspect,
    Why.NEXT: _next,
    Why.UNKNOWN: _unknown,
}
