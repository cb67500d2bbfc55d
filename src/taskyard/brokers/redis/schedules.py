"""Schedules in Redis: all of them at home, whatever containers their messages go to.

A schedule and the lanes of its messages may be in different hash slots, so no step changes both. A
change with messages is first written down at home under a number (`change`); the container stores
the messages, once for that number (`put`, as a lot); then the schedule is changed (`changed`). Each
step may be repeated by anybody: whoever finds a change that has begun ends it before anything else.
So its messages are stored if, and only if, it is made.

What a container answers to a number is final. It stored it, or refused it for good, for an id that
has a record or since the queue was draining: it keeps either in mind. Or shards of the queue moved
away, which it will say for ever to callers of that epoch; so all who carry a change out ask the
same containers, epoch by epoch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import Operation, Put
from taskyard.brokers.common import CHUNK
from taskyard.brokers.lane import draining_text
from taskyard.brokers.redis.inbox import PutCall
from taskyard.brokers.redis.placement import HOME, Placements, call
from taskyard.brokers.redis.replies import draining_queue, full_refusal
from taskyard.brokers.redis.split import MOVED, TRY_AGAIN, UNSURE, Splits, still_splitting
from taskyard.brokers.schedules import DueSchedules, Schedule
from taskyard.errors import (
    BrokerUnavailable,
    DuplicateId,
    EnqueueError,
    QueueDraining,
    TaskyardError,
)

__all__ = ["RedisSchedules"]

log = logging.getLogger("taskyard.redis")

_pack = msgspec.msgpack.Encoder().encode
_read_put = msgspec.msgpack.Decoder(Put).decode

_CHANGED, _BEGUN, _UNDER_WAY = 1, 2, 3
"""What home answers to a change."""

ROUNDS = 20
"""How often a change follows others, and messages their queue; usually once is enough."""


class RedisSchedules:
    """See `Schedules`.

    Arguments:
        placements: in which containers queues are.
        splits: lets containers know of splits.
        put: makes the calls that store.
        afar: whether listeners may be on other nodes than those that wake them.
    """

    def __init__(self, placements: Placements, splits: Splits, put: PutCall, *, afar: bool) -> None:
        self._placements = placements
        self._splits = splits
        self._put = put
        self._afar = afar
        self._asleep: set[str] = set()

    def find(
        self, names: Sequence[str] | None = None, *, after: str = "", limit: int = 100
    ) -> Operation[list[Schedule]]:
        """See `Schedules.find`."""
        if names is not None:
            chosen = sorted({name for name in names if name > after})
            return (yield from self._named(chosen, limit))
        found: list[Schedule] = []
        while len(found) < limit:
            asked = min(CHUNK, limit - len(found))
            page = _schedules((yield call("schedules", HOME, after, asked)))
            found += page
            if len(page) < asked:
                break
            after = page[-1].name
        return found

    def _named(self, names: Sequence[str], limit: int) -> Operation[list[Schedule]]:
        found: list[Schedule] = []
        for chunk in _chunks(names):
            found += _schedules((yield call("schedules", HOME, "", 0, *chunk)))
            if len(found) >= limit:
                break
        return found[:limit]

    def due(self, limit: int, listener: str | None = None) -> Operation[DueSchedules]:
        """See `Schedules.due`. What others have left is finished first."""
        asked = call("agenda", HOME, limit, listener or "", int(self._afar))
        if listener is not None:
            self._asleep.add(listener)
        now, next_at, left, removed, found = yield asked
        for change in left:
            yield from self._try_to_finish(*change)
        for name, number, *containers in removed:
            yield from self._forget(name.decode(), number, containers)
        if left:  # some of these may be due now
            now, next_at, _, _, found = yield asked
        return DueSchedules(_schedules(found), now, next_at)

    def forget(self, listener: str) -> list[int]:
        """The containers where a listener that ends is registered."""
        if listener not in self._asleep:
            return []
        self._asleep.discard(listener)
        return [HOME]

    # Changing

    def change(
        self, old: Schedule, new: Schedule | None, put: Put | None = None
    ) -> Operation[bool]:
        """See `Schedules.change`."""
        epoch = 0 if put is None else (yield from self._epoch(put.group.queue))
        wanted = None if new is None else (new.pending, new.last, new.paused)
        asked = call(
            "change",
            HOME,
            _pack((old.name, old.revision, wanted or False, epoch)),
            b"" if new is None else new.rule,
            b"" if put is None else _pack(put),
        )
        for _ in range(ROUNDS):
            code, *change = yield asked
            if code == _UNDER_WAY:
                number, since, packed = change
                yield from self._finish(old.name, number, since, _read_put(packed))
            elif code == _BEGUN and put is not None:
                [number] = change
                made, refusal = yield from self._finish(old.name, number, epoch, put)
                if refusal is not None:
                    raise refusal
                if made:  # else others were faster: it is not as it was, or they were refused
                    return True
            else:
                return bool(code == _CHANGED)
        raise BrokerUnavailable(
            f"the schedule {old.name!r} is changed by others all the time; try again in a while"
        )

    def _epoch(self, queue: str) -> Operation[int]:
        return (yield from self._placements.load([queue]))[queue].epoch

    def _finish(
        self, name: str, number: int, epoch: int, put: Put
    ) -> Operation[tuple[bool, EnqueueError | None]]:
        """Carry out a change that has begun.

        Returns:
            Whether it is made, as far as that is known still; and why not, if it never will be.
        """
        container, answer = yield from self._store(name, number, epoch, put)
        refusal = _refusal(name, put, answer)
        what = "stored" if refusal is None else "refused"
        made = yield call("changed", HOME, name, number, what, container)
        return bool(made), refusal

    def _store(self, name: str, number: int, epoch: int, put: Put) -> Operation[tuple[int, object]]:
        """Let messages be stored, once; returns which container answered what."""
        queue, lot = put.group.queue, (_source(name), number, 0, 0, True)
        unsure = True
        for _ in range(ROUNDS):
            placement = (yield from self._splits.since(queue, epoch)).as_of(epoch)
            container = placement.of(put.shard)
            answer = yield self._put(container, [put], lot, epochs={queue: epoch}, unsure=unsure)
            if answer == UNSURE:
                yield from self._splits.current(queue)
                unsure = False
            elif answer == TRY_AGAIN:
                yield from self._splits.prepare(queue)
            elif answer == MOVED:
                epoch += 1
            else:
                return container, answer
        raise still_splitting(queue)

    # What others have left

    def _try_to_finish(
        self, name: bytes, number: int, epoch: int, packed: bytes
    ) -> Operation[None]:
        try:
            yield from self._finish(name.decode(), number, epoch, _read_put(packed))
        except TaskyardError as error:  # other schedules do not wait for its queue
            log.warning("the schedule %r was left half changed: %s", name.decode(), error)

    def _forget(self, name: str, number: int, containers: Sequence[int]) -> Operation[None]:
        try:
            for container in containers:
                yield call("forget", container, _source(name), number)
            yield call("changed", HOME, name, number, "forgotten", "")
        except TaskyardError as error:
            log.warning("a trace of the schedule %r, that was removed, stays: %s", name, error)


def _source(name: str) -> str:
    """As what a schedule puts: no queue, which an inbox puts as, has such a name."""
    return f"schedule\0{name}"


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[first : first + CHUNK] for first in range(0, len(names), CHUNK))


def _schedules(replies: Sequence[Any]) -> list[Schedule]:
    return [
        Schedule(name.decode(), rule, pending, last, bool(paused), revision)
        for name, rule, pending, last, paused, revision in replies
    ]


def _refusal(name: str, put: Put, answer: object) -> EnqueueError | None:
    """Why a container did not store the messages of a schedule; None: it did."""
    fate = f"nothing was stored, and the schedule {name!r} is as it was"
    if (queue := draining_queue(answer)) is not None:
        return QueueDraining(draining_text(queue, fate))
    if (full := full_refusal(answer, fate)) is not None:
        return full
    if isinstance(answer, bytes):
        return DuplicateId(
            f"{put.group}: the id {answer.decode()!r} has a record already; {fate}. Leave the id"
            f" out, or choose another"
        )
    return None
