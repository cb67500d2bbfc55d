"""Dead letters, over all containers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from taskyard.brokers.base import DeadLetter, DeadQuery, Operation
from taskyard.brokers.common import CHUNK
from taskyard.brokers.redis.placement import HOME, LETTERS, Placements, call
from taskyard.brokers.redis.replies import read_letter

__all__ = ["Letters"]

_pack = msgspec.msgpack.Encoder().encode

_NONE = _pack((False, False, 0, 0, 1 << 52, 0))
"""Asks for those of no group, only how far their numbers go."""


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
        for container, bound in (yield from self._highest()).items():
            search = _Search(container, query, bound)
            letters = yield from search.letters(query.limit - len(found))
            found += [
                read_letter(letter, LETTERS.outside(container, letter[0])) for letter in letters
            ]
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
            search = _Search(container, query, bound)
            numbers = yield from search.numbers(query.limit - total)
            done = 0
            while done < len(numbers):
                some = numbers[done : done + CHUNK]
                changed, looked = yield call("redrive", container, what, *some)
                total += changed
                done += looked
        return total

    def _highest(self) -> Operation[dict[int, int]]:
        """The highest number that dead letters have had so far, by container."""
        bounds: dict[int, int] = {}
        containers = {HOME, *self._placements.containers()}
        while containers:
            asked = sorted(containers)
            replies = yield [call("dead", container, _NONE) for container in asked]
            for container, (_, _, highest, others) in zip(asked, replies, strict=True):
                bounds[container] = highest
                containers.update(range(1, others + 1))
            containers -= bounds.keys()
        return dict(sorted(bounds.items()))


class _Search:
    """A search for dead letters in one container, by the numbers that they have there.

    Arguments:
        container: its number.
        query: which ones.
        bound: only up to this number.
    """

    def __init__(self, container: int, query: DeadQuery, bound: int) -> None:
        self._container = container
        self._filter = (query.queue or False, query.task or False)
        self._after = LETTERS.within(container, query.after)
        self._upto = bound
        if query.upto is not None:
            self._upto = min(bound, LETTERS.within(container, query.upto))
        self._named: list[int] | None = None
        if query.numbers is not None:
            inside = {LETTERS.inside(number) for number in query.numbers}
            self._named = sorted(
                number
                for where, number in inside
                if where == container and self._after < number <= self._upto
            )

    def letters(self, limit: int) -> Operation[list[Any]]:
        """The oldest that are meant."""
        if self._named is not None:
            return (yield from self._read(self._named, limit))
        found: list[Any] = []
        after, complete = self._after, False
        while len(found) < limit and not complete:
            wanted = limit - len(found)
            numbers = yield from self._lowest(after, wanted)
            found += yield from self._read(numbers, wanted)
            # Some may be gone since; then there are others in their place.
            complete = len(numbers) < wanted
            after = numbers[-1] if numbers else after
        return found

    def numbers(self, limit: int) -> Operation[list[int]]:
        """The numbers of the oldest that are meant, each once."""
        if self._named is None:
            return (yield from self._lowest(self._after, limit))
        return (yield from self._read(self._named, limit, bare=True))

    def _lowest(self, after: int, limit: int) -> Operation[list[int]]:
        """The lowest numbers, of all groups together."""
        found: list[int] = []
        upto, group, passed = self._upto, 0, 0
        while after < upto and limit > 0:
            wish = _pack((*self._filter, after, upto, group, passed))
            group, passed, _, _, *more = yield call("dead", self._container, wish)
            found += more
            if len(found) >= limit:
                found = sorted(found)[:limit]
                upto = found[-1]
            if group == 0:
                break
        return sorted(found)

    def _read(
        self, numbers: Sequence[int], limit: int, *, bare: bool = False
    ) -> Operation[list[Any]]:
        """What there is of these, in their order."""
        found: list[Any] = []
        wish, done = _pack((*self._filter, bare)), 0
        while done < len(numbers) and len(found) < limit:
            some = numbers[done : done + min(CHUNK, limit - len(found))]
            looked, *letters = yield call("letters", self._container, wish, *some)
            found += letters
            done += looked
        return found
