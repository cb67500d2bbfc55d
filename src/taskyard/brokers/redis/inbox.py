"""Inboxes in Redis: plain lists that anybody may push to, emptied into the queues lot by lot.

An inbox and its queue are in different hash slots, so no step moves a value at once. A lot is put
aside in the inbox's slot under a number (`collect`); the queue's containers remember the last
number that they stored (`put`); the lot is dropped when they all have it (`collect` again). Each
step may be repeated by anybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from taskyard.brokers.base import Dead, Operation, Put
from taskyard.brokers.inboxes import Lot, Misfit
from taskyard.brokers.lane import draining_text
from taskyard.brokers.redis.calls import Argument, Call
from taskyard.brokers.redis.options import RedisOptions
from taskyard.brokers.redis.placement import FIRST_EPOCH, Placement, Placements, call
from taskyard.brokers.redis.replies import STORED, draining_queue, full_refusal, group_key
from taskyard.brokers.redis.scripts import load_script
from taskyard.brokers.redis.split import TRY_AGAIN, UNSURE, Splits, still_splitting
from taskyard.brokers.redis.watch import InboxWatch
from taskyard.errors import QueueDraining
from taskyard.message import Failure, Reason

__all__ = ["PutCall", "RedisInboxes"]

_pack = msgspec.msgpack.Encoder().encode
_unpack_shards = msgspec.msgpack.Decoder(list[str]).decode

LOT_VALUES = 500
LOT_BYTES = 1 << 20
"""A lot is full with so many values, or with the one that makes it reach so many bytes."""

ROUNDS = 20
"""How often a lot follows its queue, that is being split; usually once is enough."""


class PutCall(Protocol):
    """Makes the call of `put` for one container."""

    def __call__(
        self,
        container: int,
        puts: Sequence[Put],
        lot: Sequence[Argument] = (),
        letters: Sequence[Argument] = (),
        *,
        epochs: Mapping[str, int] | None = None,
        unsure: bool = False,
    ) -> Call: ...


class RedisInboxes:
    """See `Inboxes`.

    Arguments:
        options: where the server is, and what keys begin with.
        clock: microseconds since 1970, for tests; None: the server's.
        placements: in which containers queues are.
        splits: lets containers know of splits.
        put: makes the calls that store.
        dead_limit: dead letters that a group keeps in a container.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Callable[[], int] | None,
        placements: Placements,
        splits: Splits,
        put: PutCall,
        dead_limit: int,
    ) -> None:
        self._options = options
        self._clock = clock
        self._placements = placements
        self._splits = splits
        self._put = put
        self._dead_limit = dead_limit

    def name(self, queue: str, *, bare: bool = False) -> str:
        """See `Inboxes.name`."""
        own = f"{self._options.prefix}:"
        # The name is a hash tag too, and those end at the first brace.
        if "}" in queue:
            return ""
        if not bare:
            return f"{own}inbox:{queue}"
        # With an opening one, the list itself may be in another slot.
        return "" if "{" in queue or queue.startswith(own) else queue

    def watch(self, queue: str, courier: str, *, bare: bool = False) -> InboxWatch:
        """See `Inboxes.watch`."""
        name = self.name(queue, bare=bare)

        def collecting() -> Call | None:
            placement = self._placements.known(queue)
            return placement and self._collecting(name, courier, 0, placement)

        def read(reply: Any) -> Lot | None:
            return _lot(queue, reply, bare=bare)

        return InboxWatch(self._options, self._clock, name, collecting, read)

    def collect(
        self, queue: str, courier: str, done: int = 0, *, bare: bool = False
    ) -> Operation[Lot | None]:
        """See `Inboxes.collect`."""
        placement = yield from self._splits.since(queue, FIRST_EPOCH)
        name = self.name(queue, bare=bare)
        return _lot(queue, (yield self._collecting(name, courier, done, placement)), bare=bare)

    def _collecting(self, name: str, courier: str, done: int, placement: Placement) -> Call:
        args = (done, placement.epoch, courier, LOT_VALUES, LOT_BYTES)
        return Call(load_script("collect"), name, args)

    # Storing a lot

    def store(self, lot: Lot, items: Sequence[Put | Misfit]) -> Operation[list[Misfit]]:
        """See `Inboxes.store`."""
        made = _without_twins(items)
        rest: Sequence[int] = range(len(made))
        planned, unsure, epoch = False, True, lot.epoch
        for _ in range(ROUNDS):
            placement = (yield from self._splits.since(lot.queue, epoch)).as_of(epoch)
            if len(placement.containers) > 1 and not planned:
                if not (yield from self._plan(lot, made)):
                    return []  # somebody else has stored it all
                planned = True
            answers = yield from self._store_parts(placement, lot, made, rest, unsure=unsure)
            rest = [index for answer, part in answers.items() if answer != STORED for index in part]
            if not rest:
                return [item for item in made if isinstance(item, Misfit)]
            if UNSURE in answers:
                yield from self._splits.current(lot.queue)
                unsure = False
            elif TRY_AGAIN in answers:
                yield from self._splits.prepare(lot.queue)
            else:
                epoch += 1
        raise still_splitting(lot.queue)

    def _plan(self, lot: Lot, made: list[Put | Misfit]) -> Operation[bool]:
        """Let all who move this lot agree on the shards of its values, and so on containers."""
        shards = _pack([item.shard for item in made])
        name = self.name(lot.queue, bare=lot.bare)
        reply = yield Call(load_script("plan"), name, (lot.number, shards))
        if reply is None:
            return False
        if reply != shards:
            for index, shard in enumerate(_unpack_shards(reply)):
                made[index] = msgspec.structs.replace(made[index], shard=shard)
        return True

    def _store_parts(
        self,
        placement: Placement,
        lot: Lot,
        made: list[Put | Misfit],
        rest: Iterable[int],
        *,
        unsure: bool,
    ) -> Operation[dict[int, list[int]]]:
        """Put what is left into its containers; returns to what they answered what."""
        parts: dict[int, list[int]] = defaultdict(list)
        for index in rest:
            parts[placement.of(made[index].shard)].append(index)
        while True:
            replies = yield [
                self._part(container, placement.epoch, lot, made, indices, unsure=unsure)
                for container, indices in parts.items()
            ]
            if any(draining_queue(reply) is not None for reply in replies):
                raise QueueDraining(draining_text(lot.queue, "the lot stays beside the inbox"))
            kept = "the lot stays beside the inbox"
            for full in filter(None, (full_refusal(reply, kept) for reply in replies)):
                raise full
            taken = {reply.decode() for reply in replies if isinstance(reply, bytes)}
            if not taken:
                break
            yield from self._refuse_taken(parts, made, taken)
        answers: dict[int, list[int]] = defaultdict(list)
        for indices, reply in zip(parts.values(), replies, strict=True):
            answers[reply] += indices
        return answers

    def _part(
        self,
        container: int,
        epoch: int,
        lot: Lot,
        made: Sequence[Put | Misfit],
        indices: Sequence[int],
        *,
        unsure: bool,
    ) -> Call:
        puts: list[Put] = []
        letters: list[Argument] = []
        for index in indices:
            item = made[index]
            if isinstance(item, Put):
                puts.append(item)
            else:
                puts.append(Put(item.group, [], item.shard))  # lets the container check the epoch
                failure = _pack(item.dead.failure)
                letters += (group_key(item.group), item.shard, item.dead.task, failure)
                letters.append(lot.values[index])
        # A container may have had its part before it was split, or refused that and had less of it
        # since: the epoch tells which.
        head = (_source(lot, epoch), lot.number, len(letters) // 5, self._dead_limit)
        epochs = {lot.queue: epoch}
        return self._put(container, _joined(puts), head, letters, epochs=epochs, unsure=unsure)

    def _refuse_taken(
        self, parts: dict[int, list[int]], made: list[Put | Misfit], taken: set[str]
    ) -> Operation[None]:
        """Make dead letters of those whose id has a record: all at once, there may be many."""
        for container, indices in parts.items():
            ids = [id_ for index in indices for id_ in _ids(made[index])]
            if ids:
                records = yield call("records", container, "", *ids)
                taken.update(id_ for id_, found in zip(ids, records, strict=True) if found)
        for indices in parts.values():
            for index in indices:
                item = made[index]
                if isinstance(item, Put) and not taken.isdisjoint(_ids(item)):
                    made[index] = _taken(item)


def _source(lot: Lot, epoch: int) -> str:
    """As what a lot is stored; each inbox has numbers of its own."""
    return f"{'bare' + chr(0) if lot.bare else ''}{lot.queue}@{epoch}"


def _lot(queue: str, reply: Any, *, bare: bool) -> Lot | None:
    if reply is None:
        return None
    number, epoch, *values = reply
    return Lot(queue, number, epoch, values, bare)


def _ids(item: Put | Misfit) -> Sequence[str]:
    return item.ids or () if isinstance(item, Put) else ()


def _taken(item: Put) -> Misfit:
    text = f"the id {_ids(item)[0]!r} has a record already: leave the id out, or choose another"
    dead = Dead(Failure(Reason.UNREADABLE, "DuplicateId", text), task=item.member)
    return Misfit(item.group, dead, item.shard)


def _without_twins(items: Sequence[Put | Misfit]) -> list[Put | Misfit]:
    """Of several with the same id, the first one stays."""
    seen: set[str] = set()
    made: list[Put | Misfit] = []
    for item in items:
        ids = _ids(item)
        made.append(item if seen.isdisjoint(ids) or not isinstance(item, Put) else _taken(item))
        seen.update(ids)
    return made


def _joined(puts: Sequence[Put]) -> list[Put]:
    """Messages that go the same way as one put each; within a lane the order stays."""
    joined: dict[Hashable, Put] = {}
    for item in puts:
        way = item.way
        known = joined.get(way)
        if known is None:
            joined[way] = msgspec.structs.replace(
                item, bodies=[*item.bodies], ids=None if item.ids is None else [*item.ids]
            )
            continue
        known.bodies += item.bodies
        if item.ids is not None:
            known.ids = [*(known.ids or ()), *item.ids]
    return list(joined.values())
