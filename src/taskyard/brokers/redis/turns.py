"""Whose turn it is, among containers that are asked one after the other."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

__all__ = ["Turns"]

STAY = 0.05
"""Seconds of a turn, for those who come back to settle something.

Most of what they settle is then where they claim, which takes one call. But a container that never
gets empty must not keep all slots for itself.
"""


class Turns:
    """The turns of containers from which the same slots are filled."""

    def __init__(self) -> None:
        self._current: int | None = None
        self._until = 0.0

    def order(self, containers: Sequence[int], settled: Collection[int]) -> list[int]:
        """Say in which order they are to be asked.

        Arguments:
            containers: to claim from, always in the same order.
            settled: where there is something to settle.
        """
        now, first = time.monotonic(), 0
        if self._current in containers:
            first = containers.index(self._current)
        if settled and now < self._until:
            order = [containers[first], *settled]
        else:
            self._until = now + STAY
            order, first = [], first + 1
        return list(dict.fromkeys([*order, *containers[first:], *containers[:first], *settled]))

    def gave(self, container: int) -> None:
        """Note who was the first that had something: it is its turn."""
        self._current = container
