"""Dead letters, over all containers."""

from __future__ import annotations

from typing import Any

import msgspec

from taskyard.brokers.base import DeadLetter, DeadQuery, Operation
from taskyard.brokers.common import CHUNK
from taskyard.brokers.redis.placement import HOME, LETTERS, Placements, call
from taskyard.brokers.redis.replies import read_letter

__all__ = ["Letters"]

_pack = msgspec.msgpack.Encoder().encode

_NONE = _pack((False, False, (), 0, False, 0, True))
"""Asks for none, only how far their numbers go."""


class Letters:
    """Finds dead letters, and takes them away.

    Arguments:
        placements: where queues are.
    """

    def __init__(self, placements: Placements) -> None:
        self._placements = placements

    def find(self, query: DeadQuery) -> Operation[list[DeadLetter]]:
        """List them, sorted within a container."""
        found: list[DeadLetter] = []
        container, highest = HOME, HOME
        while container <= highest and len(found) < query.limit:
            look = _Look(container, query, query.limit - len(found), bare=False)
            for letter in (yield from look.through()):
                number = LETTERS.outside(container, letter[0])
                found.append(read_letter(letter, number))
            highest = max(highest, look.containers)
            container += 1
        return found

    def redrive(self, what: str, query: DeadQuery) -> Operation[int]:
        """Take dead letters away; say how many there were.

        Arguments:
            what: `retry` puts them back at the tail of their lanes, `discard` drops them.
            query: which ones.
        """
        total = 0
        # What dies again meanwhile gets a higher number than these, wherever it is.
        for container, bound in (yield from self._highest()).items():
            look = _Look(container, query, query.limit - total, bare=True, bound=bound)
            numbers = yield from look.through() if bound else ()
            while numbers:
                changed, looked = yield call("redrive", container, what, *numbers[:CHUNK])
                total += changed
                numbers = numbers[looked:]
        return total

    def _highest(self) -> Operation[dict[int, int]]:
        """The highest number that dead letters have had so far, by container."""
        bounds: dict[int, int] = {}
        containers = {HOME, *self._placements.containers()}
        while containers:
            asked = sorted(containers)
            replies = yield [call("dead", container, _NONE) for container in asked]
            for container, (_, highest, others, *_) in zip(asked, replies, strict=True):
                bounds[container] = highest
                containers.update(range(1, others + 1))
            containers -= bounds.keys()
        return dict(sorted(bounds.items()))


class _Look:
    """A search for dead letters in one container.

    Arguments:
        container: its number.
        query: which ones.
        limit: how many at most.
        bare: whether the numbers that they have there are enough.
        bound: only up to this number there; None: up to the highest that the first call finds.

    Attributes:
        containers: how many others there are, if this is home.
    """

    def __init__(
        self,
        container: int,
        query: DeadQuery,
        limit: int,
        *,
        bare: bool,
        bound: int | None = None,
    ) -> None:
        self.containers = 0
        self._container = container
        self._after = LETTERS.within(container, query.after)
        wanted = None if query.upto is None else LETTERS.within(container, query.upto)
        bounds = [number for number in (wanted, bound) if number is not None]
        self._upto = min(bounds, default=None)
        self._numbers: list[int] | None = None
        if query.numbers is not None:
            inside = map(LETTERS.inside, query.numbers)
            self._numbers = [number for where, number in inside if where == container]
        self._filter = (query.queue or False, query.task or False)
        self._limit = limit
        self._bare = bare

    def through(self) -> Operation[list[Any]]:
        """Call by call, all that are meant."""
        found: list[Any] = []
        after, upto = self._after, self._upto
        while len(found) < self._limit:
            wish = (
                *self._filter,
                False if self._numbers is None else self._numbers,
                after,
                False if upto is None else upto,
                self._limit - len(found),
                self._bare,
            )
            after, upto, self.containers, *letters = yield call(
                "dead", self._container, _pack(wish)
            )
            found += letters
            if after == 0:
                break
        return found
