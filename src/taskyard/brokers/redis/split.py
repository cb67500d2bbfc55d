"""Doubling the containers of a queue while it is in use.

Each container gives the lanes of every second partition to a new one. No step is atomic over two
containers; each may be repeated, by anybody and late, so a split that was abandoned is carried on
by whoever comes along, and several may drive it at once. docs/decisions/0006-partitions.md says
why this loses and repeats nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from taskyard.brokers.base import Operation
from taskyard.brokers.redis.placement import FIRST_EPOCH, HOME, Placement, Placements, call
from taskyard.errors import BrokerUnavailable, NotFound, PartitionConflict

__all__ = ["MOVED", "TRY_AGAIN", "UNSURE", "SplitProgress", "Splits", "still_splitting"]

MOVED, TRY_AGAIN, UNSURE = 2, 3, 5
"""What a container answers to a put, unless it refuses it for an id or a queue that drains."""

_NO_KEYS = b"\x90"
"""An empty list, packed."""

PAGE = 500
"""How much one call looks at."""
THINGS = 200
BYTES = 1 << 20
"""What is on its way at once: so many messages, or a message more than so many bytes."""
TRANSFERS = 20
"""How often a container sends something before others are looked at."""

_ON_ITS_WAY, _NOT_NOW = 1, 2


class SplitProgress(NamedTuple):
    """How far a split is.

    Attributes:
        partitions: how many there will be.
        moved: messages and dead letters that moved now.
        held: open claims, or 1 for whatever else, that must end before the rest can move.
        done: whether the split is over.
    """

    partitions: int
    moved: int
    held: int
    done: bool


class _Pair(NamedTuple):
    """Two containers, and what leaves one for the other."""

    queue: str
    epoch: int
    partitions: int
    place: int
    source: int
    target: int


class Splits:
    """Splits queues.

    Arguments:
        placements: where queues are.
        dead_limit: dead letters that a group keeps in a container.
    """

    def __init__(self, placements: Placements, dead_limit: int) -> None:
        self._placements = placements
        self._dead_limit = dead_limit

    def prepare(self, queue: str) -> Operation[None]:
        """Let all containers know of the last split, as far as that was not done yet."""
        placements = yield from self._placements.load([queue])
        for pair in _pairs(queue, placements[queue]):
            yield from self._prepare(pair)

    def advance(self, queue: str, partitions: int = 0) -> Operation[SplitProgress]:
        """Begin a split, or carry it on as far as it goes now.

        Arguments:
            queue: its name.
            partitions: how many there are to be; 0: twice as many, unless a split is under way.

        Raises:
            NotFound: there is no such queue.
            PartitionConflict: the number is neither one that it has or had, nor twice as many.
        """
        epoch, *rest = yield call("double", HOME, queue, partitions)
        if not epoch:
            raise NotFound(f"there is no queue {queue!r}; `taskyard queues` lists them")
        under_way, *containers = rest
        self._placements.forget(queue)
        if partitions > len(containers) or (partitions and len(containers) % partitions):
            raise PartitionConflict(
                f"the queue {queue!r} has {len(containers)} partitions: it can be split into"
                f" {2 * len(containers)}, not into {partitions}"
            )
        if not under_way or 0 < partitions < len(containers):
            return SplitProgress(len(containers), 0, 0, True)
        moved, held = 0, 0
        for pair in _pairs(queue, Placement(epoch, tuple(containers))):
            sent, left = yield from self._advance(pair)
            moved += sent
            held += left
        if not held:
            yield call("doubled", HOME, queue, epoch)
        return SplitProgress(len(containers), moved, held, not held)

    def resume(self) -> Operation[int]:
        """Carry on splits that somebody began; say how much moved."""
        moved = 0
        for queue in (yield call("splits", HOME)):
            # With the number that it is to have: it must not begin another one.
            placement = yield from self.current(queue.decode())
            progress = yield from self.advance(queue.decode(), len(placement.containers))
            moved += progress.moved
        return moved

    def current(self, queue: str) -> Operation[Placement]:
        """The placement of a queue as it is now."""
        return (yield from self._placements.load([queue], anew=True))[queue]

    def since(self, queue: str, epoch: int) -> Operation[Placement]:
        """The placement of a queue as it is since an epoch or later."""
        placement = (yield from self._placements.load([queue]))[queue]
        if placement.epoch < epoch:
            placement = yield from self.current(queue)
        if placement.epoch < epoch:
            raise still_splitting(queue)
        return placement

    def find(self, queue: str, placement: Placement, shard: str) -> Iterator[Operation[int]]:
        """Go through the containers where a shard may be, in an order that misses nothing.

        Arguments:
            queue: of the shard.
            placement: of the queue.
            shard: the key of the lane.

        Returns:
            Operations, for one after the other, that each give a container to look at.
        """
        for pair in _pairs(queue, placement):
            if pair.source == placement.before(shard):
                yield _here(pair.source)
                yield self._arrived(pair)
                return
        yield _here(placement.of(shard))

    def _arrived(self, pair: _Pair) -> Operation[int]:
        """Let what is on its way arrive; give where."""
        yield from self._prepare(pair)
        yield from self._transfer(pair, 0)
        return pair.target

    # One pair

    def _prepare(self, pair: _Pair) -> Operation[tuple[bool, bool]]:
        """Returns whether something leaves, and whether it is known what."""
        floor, leaving, sifted, policies = yield call(
            "part", pair.source, pair.queue, pair.epoch, pair.partitions, pair.place
        )
        yield from self._bring_keys(pair)
        yield call(
            "accept",
            pair.target,
            pair.queue,
            pair.epoch,
            pair.partitions,
            pair.place + pair.partitions // 2,
            floor,
            policies,
        )
        return bool(leaving), bool(sifted)

    def _bring_keys(self, pair: _Pair) -> Operation[None]:
        """Let the new container hold the unique keys of its shards, before it takes puts.

        Whoever ends in the old one releases its key there, and the new one is told of it later.
        """
        cursor, packed = b"0", _NO_KEYS
        while (yield call("hold", pair.target, pair.queue, pair.epoch, packed)) and cursor:
            cursor, packed = yield call("held", pair.source, pair.queue, cursor, PAGE)

    def _advance(self, pair: _Pair) -> Operation[tuple[int, int]]:
        """Returns how much moved, and how much has to wait for something."""
        leaving, sifted = yield from self._prepare(pair)
        if leaving and not sifted:
            yield from self._sift(pair)
        moved = 0
        for _ in range(TRANSFERS):
            sent, held = yield from self._transfer(pair, THINGS)
            moved += sent
            if not sent:
                break
        else:
            held = 1
        if held:
            yield from self._open_gone(pair)
        else:
            yield from self._open_rest(pair)
        return moved, held

    def _sift(self, pair: _Pair) -> Operation[None]:
        cursor = b""
        while True:
            cursor = yield call("sift", pair.source, pair.queue, pair.epoch, cursor, PAGE)
            if not cursor:
                return

    def _transfer(self, pair: _Pair, things: int) -> Operation[tuple[int, int]]:
        """Returns how much it moved; if nothing, how much has to wait."""
        state, *rest = yield call("export", pair.source, pair.queue, pair.epoch, things, BYTES)
        if state != _ON_ITS_WAY:
            return 0, max(1, rest[0]) if state == _NOT_NOW else 0
        number, count, packed = rest
        yield call("import", pair.target, pair.queue, self._dead_limit, packed)
        yield call("cleared", pair.source, pair.queue, number)
        return count, 0

    def _open_gone(self, pair: _Pair) -> Operation[None]:
        """Open lanes of which nothing is left in the other container."""
        cursor = b""
        while True:
            cursor, key, *shards = yield call("closed", pair.target, pair.queue, cursor, PAGE)
            if shards:
                gone = yield call("gone", pair.source, pair.queue, pair.epoch, key, *shards)
                if gone:
                    yield call("open", pair.target, pair.queue, pair.epoch, key, *gone)
            if not cursor:
                return

    def _open_rest(self, pair: _Pair) -> Operation[None]:
        while (yield call("open", pair.target, pair.queue, pair.epoch, "")):
            pass


def still_splitting(queue: str) -> BrokerUnavailable:
    """The error of who followed a queue that is being split, and did not catch up with it."""
    return BrokerUnavailable(f"the queue {queue!r} is being split; try again in a while")


def _here(container: int) -> Operation[int]:
    yield from ()
    return container


def _pairs(queue: str, placement: Placement) -> Iterator[_Pair]:
    if placement.epoch == FIRST_EPOCH:
        return
    numbers = placement.containers
    half = len(numbers) // 2
    for index in range(half):
        yield _Pair(
            queue, placement.epoch, len(numbers), index, numbers[index], numbers[half + index]
        )
