"""Why a message is not running: one pure decision from what a broker found, and its words.

When several things keep a message from running, the one is told that has to go away first.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from taskyard.brokers.base import DeadLetter, DeadQuery, Operation
from taskyard.brokers.cancelling import NOTED
from taskyard.brokers.facts import COUNTED, SEARCHED, Facts, Head, Holder, Where
from taskyard.brokers.lane import Gate, flush
from taskyard.brokers.rate import Scope, token_at
from taskyard.brokers.workers import WorkerInfo, Workers, WorkerState, knows, look
from taskyard.message import Failure, Reason, State

__all__ = ["Explanation", "Why", "explain", "explained"]

PAGE = 100
"""Dead letters that are fetched at a time."""


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
    """It is on its way to another partition of its queue."""
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
        searched: of an unknown id: whether all messages that wait were looked at.
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


class _Broker(Protocol):
    @property
    def workers(self) -> Workers: ...

    def explain(self, id_: str, *, search: int = SEARCHED) -> Operation[Facts]: ...

    def dead(self, query: DeadQuery) -> Operation[list[DeadLetter]]: ...


def explain(broker: _Broker, id_: str) -> Generator[Any, Any, Explanation]:
    """An operation that says why a message is not running.

    Arguments:
        broker: where it is.
        id_: its id.
    """
    facts = yield from broker.explain(id_)
    if facts.group is None:
        letter, all_read = yield from _find_letter(broker, id_)
        if letter is not None:
            return _of_letter(id_, letter)
        return explained(id_, facts, [], all_letters=all_read)
    return explained(id_, facts, (yield from look(broker.workers)))


def _find_letter(broker: _Broker, id_: str) -> Generator[Any, Any, tuple[DeadLetter | None, bool]]:
    """Look for a dead letter of an id, and say whether all were looked at."""
    after = 0
    for _ in range(SEARCHED // PAGE):
        letters = yield from broker.dead(DeadQuery(after=after, limit=PAGE))
        for letter in letters:
            if letter.id == id_:
                return letter, True
        if len(letters) < PAGE:
            return None, True
        after = letters[-1].number
    return None, False


def _of_letter(id_: str, letter: DeadLetter) -> Explanation:
    return Explanation(
        id_,
        Why.EXPIRED if letter.failure.reason == Reason.EXPIRED else Why.DEAD,
        letter.group.queue,
        letter.task,
        letter.shard,
        letter.priority,
        since=_time(letter.at),
        attempts=letter.attempts,
        failure=letter.failure,
        letter=letter.number,
    )


# The decision

_Found = tuple[Why, dict[str, Any]] | None


def explained(
    id_: str, facts: Facts, workers: Sequence[WorkerInfo], *, all_letters: bool = True
) -> Explanation:
    """Say why a message is not running.

    Arguments:
        id_: its id.
        facts: what the broker found.
        workers: all of the broker's, silent ones too.
        all_letters: of what was not found: whether all dead letters were looked at.
    """
    if facts.group is None:
        if facts.note:
            return Explanation(id_, Why.CANCELLED, since=_time(facts.note))
        return Explanation(id_, Why.UNKNOWN, searched=facts.searched and all_letters)
    knowing = [one for one in workers if _knows(one, facts)]
    checks: list[Callable[[], _Found]] = [
        lambda: _ended(facts),
        lambda: _running(facts),
        lambda: _noted(facts),
        lambda: _displaced(facts),
        lambda: _due(facts),
        lambda: _closed(facts),
        lambda: _blocked(facts, id_),
        lambda: _busy(facts),
        lambda: _limited(facts),
        lambda: _filling(facts),
        lambda: _unserved(facts, knowing),
        lambda: _behind(facts),
    ]
    why, more = next(found for check in checks if (found := check()) is not None)
    return Explanation(
        id_,
        why,
        facts.group.queue,
        facts.group.name,
        facts.shard,
        facts.priority,
        workers=len(knowing),
        attempts=facts.attempts,
        losses=facts.losses,
        **more,
    )


def _knows(worker: WorkerInfo, facts: Facts) -> bool:
    if facts.group is None:
        return False
    tasks = facts.policy.members or (facts.group.name,)
    return all(knows([worker], facts.group.queue, task) for task in tasks)


def _ended(facts: Facts) -> _Found:
    if facts.state is None or not facts.state.final:
        return None
    why = _ENDS[facts.state]
    if why is Why.DEAD and facts.failure and facts.failure.reason == Reason.EXPIRED:
        why = Why.EXPIRED
    return why, {"since": _time(facts.ended), "failure": facts.failure}


_ENDS = {
    State.DONE: Why.DONE,
    State.DEAD: Why.DEAD,
    State.DISCARDED: Why.DISCARDED,
    State.CANCELLED: Why.CANCELLED,
}


def _running(facts: Facts) -> _Found:
    if facts.holder is None:
        return None
    return Why.RUNNING, _of_holder(facts.holder) | {"stopping": facts.holder.told}


def _of_holder(holder: Holder) -> dict[str, Any]:
    return {
        "worker": holder.worker,
        "since": _time(holder.since),
        "seen": _time(holder.seen),
        "messages": holder.messages,
        "until": _time(holder.ends),
    }


def _noted(facts: Facts) -> _Found:
    if facts.note == 0 or facts.now >= facts.note + NOTED:
        return None
    return Why.CANCELLED, {"since": _time(facts.note)}


def _displaced(facts: Facts) -> _Found:
    if facts.where is Where.AWAY:
        return Why.MOVING, {}
    return (Why.UNKNOWN, {}) if facts.where is Where.NOWHERE else None


def _due(facts: Facts) -> _Found:
    if facts.where is not Where.OUTSIDE or facts.due <= facts.now:
        return None
    return Why.RETRYING if facts.attempts else Why.DELAYED, {"until": _time(facts.due)}


def _closed(facts: Facts) -> _Found:
    if facts.gate is Gate.PAUSED:
        return Why.PAUSED, {}
    return (Why.PARKED, {}) if facts.lane.parked else None


def _blocked(facts: Facts, id_: str) -> _Found:
    if facts.lane.blocked <= facts.now:
        return None
    until = _time(facts.lane.blocked)
    # A message of a more urgent priority may stand in front of the one that failed.
    heads = sorted(facts.heads, key=lambda head: head.attempts == 0)
    head = heads[0] if heads else Head(id_, facts.attempts)
    if head.id == id_:
        return Why.RETRYING, {"until": until}
    return Why.BLOCKED, {"until": until, "head": head.id}


def _busy(facts: Facts) -> _Found:
    limit = facts.policy.concurrency
    if not limit or facts.lane.held < limit:
        return None
    if not facts.held_by:
        return Why.BUSY, {}
    first = min(facts.held_by, key=lambda holder: holder.since)
    return Why.BUSY, _of_holder(first)


def _limited(facts: Facts) -> _Found:
    times = [(token_at(one.tat, one.rate, facts.now), one.scope) for one in facts.buckets]
    if (limit := facts.policy.shard_limit) is not None:
        times.append((token_at(facts.lane.tat, limit, facts.now), Scope.SHARD))
    until, scope = max(times, default=(0, Scope.QUEUE))
    return (Why.LIMITED, {"until": _time(until), "limit": scope}) if until > facts.now else None


def _filling(facts: Facts) -> _Found:
    lane, policy, now = facts.lane, facts.policy, facts.now
    if not policy.within or not lane.waiting or facts.gate is Gate.DRAINING:
        return None
    if flush(lane, policy, now) is not None:
        return None
    return Why.FILLING, {"until": _time(min(lane.oldest, now) + policy.within)}


def _unserved(facts: Facts, knowing: Sequence[WorkerInfo]) -> _Found:
    if not knowing:
        return Why.NO_WORKER, {}
    serving = [
        one
        for one in knowing
        if one.state == WorkerState.RUNNING
        and (facts.group is None or facts.group.queue not in one.paused)
    ]
    return None if serving else (Why.WORKERS_PAUSED, {})


def _behind(facts: Facts) -> _Found:
    ahead = sum(number for _, number in facts.ahead)
    priorities = [priority for priority, number in facts.ahead if number]
    if ahead or facts.shards_ahead:
        return Why.BEHIND, {
            "ahead": min(ahead, COUNTED),
            "ahead_priorities": (min(priorities), max(priorities)) if priorities else None,
            "shards_ahead": min(facts.shards_ahead, COUNTED),
            "more": max(ahead, facts.shards_ahead) > COUNTED,
        }
    return (Why.SUSPECT if facts.cap == 1 else Why.NEXT), {}


def _time(micros: int) -> datetime | None:
    return datetime.fromtimestamp(micros / 1e6, UTC) if micros else None


# The words


def _at(moment: datetime | None) -> str:
    return "an unknown time" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _shard(one: Explanation) -> str:
    return f"the shard {one.shard!r} of {one.queue}/{one.task}" if one.shard else _task(one)


def _task(one: Explanation) -> str:
    return f"{one.queue}/{one.task}"


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
    others = f" with {one.messages - 1} others" if one.messages > 1 else ""
    return (
        f"it is running{others} in worker {one.worker}{told}, since {_at(one.since)} (last"
        f" heartbeat {_at(one.seen)}, its lease ends at {_at(one.until)})"
    )


def _busy_text(one: Explanation) -> str:
    by = "" if one.worker is None else f" with worker {one.worker} since {_at(one.since)}"
    return f"{_shard(one)} is busy{by}"


def _limited_text(one: Explanation) -> str:
    limited = {
        None: "its task",
        Scope.QUEUE: f"the queue {one.queue}",
        Scope.TASK: _task(one),
        Scope.SHARD: _shard(one),
    }
    return f"the rate limit of {limited[one.limit]} is used up until {_at(one.until)}"


def _no_worker(one: Explanation) -> str:
    return f"no worker that is alive knows {_task(one)}"


def _behind_text(one: Explanation) -> str:
    more = "more than " if one.more else ""
    parts: list[str] = []
    if one.ahead and one.ahead_priorities:
        low, high = one.ahead_priorities
        priorities = f"priority {low}" if low == high else f"priorities {low} to {high}"
        capped = more if one.ahead == COUNTED else ""
        parts.append(f"{capped}{one.ahead} messages of {priorities} in {_shard(one)}")
    if one.shards_ahead:
        capped = more if one.shards_ahead == COUNTED else ""
        parts.append(f"{capped}{one.shards_ahead} other shards whose turn comes first")
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
        f" without a record is only found among the first {SEARCHED:,} that wait, and there are"
        f" more"
    )


_TEXTS: dict[Why, Callable[[Explanation], str]] = {
    Why.DONE: lambda one: f"it was done at {_at(one.since)}",
    Why.CANCELLED: _cancelled,
    Why.DISCARDED: lambda one: f"it was discarded at {_at(one.since)}",
    Why.EXPIRED: _failed,
    Why.DEAD: _failed,
    Why.RUNNING: _runs,
    Why.MOVING: lambda one: f"it is on its way to another partition of the queue {one.queue}",
    Why.DELAYED: lambda one: f"it is due at {_at(one.until)}",
    Why.RETRYING: lambda one: (
        f"it failed {one.attempts} times, and is tried again at {_at(one.until)}"
    ),
    Why.PAUSED: lambda one: f"the queue {one.queue} is paused",
    Why.PARKED: lambda one: f"{_shard(one)} is parked",
    Why.BLOCKED: lambda one: (
        f"{_shard(one)} is blocked by its head {one.head}, which is tried again at {_at(one.until)}"
    ),
    Why.BUSY: _busy_text,
    Why.LIMITED: _limited_text,
    Why.FILLING: lambda one: f"its batch is still filling, until {_at(one.until)}",
    Why.NO_WORKER: _no_worker,
    Why.WORKERS_PAUSED: lambda one: (
        f"all workers that know {_task(one)} ({one.workers}) are paused or stopping"
    ),
    Why.BEHIND: _behind_text,
    Why.SUSPECT: lambda one: (
        f"its worker was lost {one.losses} times, so it waits for one that runs nothing else"
    ),
    Why.NEXT: lambda one: (
        f"it is the next of {_shard(one)}, and waits for one of {one.workers} workers to get free"
    ),
    Why.UNKNOWN: _unknown,
}
