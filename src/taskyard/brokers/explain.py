"""Why a message is not running: one pure decision from what a broker found.

When several things keep a message from running, the one is told that has to go away first.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from taskyard.brokers.base import DeadLetter, DeadQuery, Operation
from taskyard.brokers.cancelling import NOTED
from taskyard.brokers.explanation import Explanation, Why
from taskyard.brokers.facts import COUNTED, SEARCHED, Facts, Head, Holder, Where
from taskyard.brokers.lane import Gate, flush, patience_ends
from taskyard.brokers.rate import Scope, token_at
from taskyard.brokers.workers import WorkerInfo, Workers, WorkerState, knows, look
from taskyard.message import Reason, State, is_text

__all__ = ["explain", "explained", "find_letter"]

PAGE = 100
"""Dead letters that are fetched at a time."""


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
    if not id_ or not is_text(id_):  # no message has such an id; what cannot be read has none
        return Explanation(id_, Why.UNKNOWN)
    facts = yield from broker.explain(id_)
    if facts.group is None:
        letter, all_read = yield from find_letter(broker, id_)
        if letter is not None:
            return _of_letter(id_, letter)
        return explained(id_, facts, [], all_letters=all_read)
    return explained(id_, facts, (yield from look(broker.workers)))


def find_letter(
    broker: _Broker, id_: str, queue: str | None = None
) -> Generator[Any, Any, tuple[DeadLetter | None, bool]]:
    """Look for a dead letter of an id, and say whether all were looked at.

    Arguments:
        broker: whose.
        id_: the message's.
        queue: look only among those of this queue.
    """
    after = 0
    for _ in range(SEARCHED // PAGE):
        letters = yield from broker.dead(DeadQuery(queue=queue, after=after, limit=PAGE))
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
    return Why.FILLING, {"until": _time(patience_ends(lane, policy, now))}


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
