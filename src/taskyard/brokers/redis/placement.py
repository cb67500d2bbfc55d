"""In which containers of keys the lanes of a queue are: its partitions.

A container is known by its number, which is also its hash tag. Number 0 is home: it knows the
placement of all queues, and it holds those that have no containers of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, NamedTuple
from zlib import crc32

from taskyard.brokers.base import Operation
from taskyard.brokers.redis.calls import Argument, Call
from taskyard.brokers.redis.scripts import load_script
from taskyard.errors import PartitionConflict

__all__ = [
    "FIRST_EPOCH",
    "HOME",
    "LETTERS",
    "TOKENS",
    "Numbering",
    "Placement",
    "Placements",
    "call",
]

HOME = 0
FIRST_EPOCH = 1
"""That of queues that were never split."""
REVIEW = 30.0
"""Seconds after which producers ask again where their queues are."""


def call(
    name: str,
    container: int,
    *args: Argument,
    retry: float = math.inf,
    timeout: float = math.inf,
) -> Call:
    """A call of the script of a name; `retry` and `timeout`: see `Call`."""
    return Call(load_script(name), str(container), args, retry, timeout)


class Numbering(NamedTuple):
    """Makes numbers of one container unique among all: those of home stay as they are."""

    step: int

    def outside(self, container: int, number: int) -> int:
        """A container's number, as the rest of taskyard knows it."""
        return container * self.step + number

    def inside(self, number: int) -> tuple[int, int]:
        """The container, and the number there."""
        return divmod(number, self.step)

    def within(self, container: int, number: int) -> int:
        """A bound, as far as it concerns a container: 0 if it is below all of its numbers."""
        return min(max(0, number - container * self.step), self.step)


TOKENS = Numbering(1 << 52)
LETTERS = Numbering(1 << 40)


class Placement(NamedTuple):
    """The containers of a queue.

    Attributes:
        epoch: rises when they change.
        containers: their numbers.
    """

    epoch: int
    containers: tuple[int, ...]

    def of(self, shard: str) -> int:
        """The container of a shard."""
        if len(self.containers) == 1:
            return self.containers[0]
        return self.containers[crc32(shard.encode()) % len(self.containers)]

    def before(self, shard: str) -> int | None:
        """The container that a shard left in the last split, None if it was moved by none."""
        if self.epoch == FIRST_EPOCH:
            return None
        half = len(self.containers) // 2
        earlier = self.containers[crc32(shard.encode()) % half]
        return None if earlier == self.of(shard) else earlier

    def as_of(self, epoch: int) -> Placement:
        """What it was: each later epoch has put as many containers behind those before."""
        return Placement(epoch, self.containers[: len(self.containers) >> (self.epoch - epoch)])


class Placements:
    """The placements of queues, as far as somebody asked for them.

    Arguments:
        spread: give each queue a container of its own, so that a cluster's nodes share them.
    """

    def __init__(self, *, spread: bool) -> None:
        self._default = 1 if spread else 0
        self._wanted: dict[str, int] = {}
        self._known: dict[str, Placement] = {}
        self._stale: set[str] = set()
        self._reviewed = monotonic()

    def want(self, queue: str, partitions: int) -> None:
        """Say how many containers a queue is to have."""
        self._wanted[queue] = partitions
        self.forget(queue)

    def known(self, queue: str) -> Placement | None:
        """A placement that was looked up."""
        return self._known.get(queue)

    def fresh(self, queue: str) -> Placement | None:
        """A placement that was looked up, and has not changed since as far as is known."""
        return None if queue in self._stale else self._known.get(queue)

    def containers(self) -> list[int]:
        """The containers of the queues that were looked up."""
        known = {number for queue in self._known.values() for number in queue.containers}
        return sorted(known) or [HOME]

    def forget(self, queue: str) -> None:
        """Look a placement up again when it is needed next: it changed."""
        self._stale.add(queue)  # others may be about to use what is known

    def outdated(self, queues: Iterable[str]) -> bool:
        """Whether one of these is to be looked up again."""
        return not self._stale.isdisjoint(queues)

    def load(self, queues: Iterable[str], *, anew: bool = False) -> Operation[dict[str, Placement]]:
        """Look up what is not known yet; queues that are new are placed.

        Arguments:
            queues: their names.
            anew: look up what is known, too.

        Returns:
            Their placements.

        Raises:
            PartitionConflict: a queue has other containers than was said here.
        """
        wanted = set(queues)
        missing = [
            queue for queue in wanted if anew or queue not in self._known or queue in self._stale
        ]
        if missing:
            yield from self._look_up(sorted(missing))
        return {queue: self._known[queue] for queue in wanted}

    def _look_up(self, missing: Sequence[str]) -> Operation[None]:
        self._stale.difference_update(missing)
        _, *found = yield self._question(missing)
        for queue, (epoch, *containers) in zip(missing, found, strict=True):
            self._check(queue, containers)
            self._known[queue] = Placement(epoch, tuple(containers))

    def renew(self) -> Operation[None]:
        """Look up again what is known: a server that was emptied may have placed it anew.

        Raises:
            PartitionConflict: a queue has other containers than was said here.
        """
        self._reviewed = monotonic()
        yield from self.load(self._known, anew=True)

    def review(self) -> list[Call]:
        """The call that does so, to be made beside others; none if that was done not long ago."""
        if monotonic() - self._reviewed < REVIEW:
            return []
        self._reviewed = monotonic()
        return [self._question(sorted(self._known))]

    def reviewed(self, review: Sequence[Call], outcomes: Sequence[Any]) -> None:
        """Note what `review` brought: what has changed is looked up when it is needed next."""
        for asked, outcome in zip(review, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                for queue, placed in zip(asked.args[::2], outcome[1:], strict=True):
                    known = self._known[str(queue)]
                    if [known.epoch, *known.containers] != placed:
                        self.forget(str(queue))

    def _question(self, queues: Iterable[str]) -> Call:
        args: list[Argument] = []
        for queue in queues:
            args += (queue, self._wanted.get(queue, self._default))
        return call("places", HOME, *args)

    def _check(self, queue: str, containers: Sequence[int]) -> None:
        wanted = self._wanted.get(queue)
        if wanted and wanted > len(containers):
            raise PartitionConflict(
                f"the queue {queue!r} is declared with {wanted} partitions, but it has"
                f" {len(containers)}: declare as many, or double them while work goes on with"
                f" `taskyard split {queue}`"
            )

    def everywhere(self) -> Operation[list[int]]:
        """The numbers of all containers."""
        [highest] = yield call("places", HOME)
        return list(range(highest + 1))
