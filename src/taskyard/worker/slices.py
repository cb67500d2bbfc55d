"""How many messages a slot claims at once: what fits a short slice of time."""

from __future__ import annotations

from taskyard.brokers.base import Group

__all__ = ["SliceSizes"]

MOST = 1000
GROWTH = 8
WEIGHT = 0.3


class SliceSizes:
    """Learns how long the messages of each group take.

    A group starts with one call at a time. Fast ones soon get hundreds, slow ones stay at one, so
    that nobody has to choose a prefetch count.

    Arguments:
        slice_: seconds of work that a claim should hold.
    """

    def __init__(self, slice_: float) -> None:
        self._slice = slice_
        self._sizes: dict[Group, int] = {}
        self._seconds: dict[Group, float] = {}

    def size(self, group: Group, batch: int) -> int:
        """Messages of one claim.

        Arguments:
            group: whose.
            batch: messages of one call.

        Returns:
            Whole calls, at least one, and at most as many as come nearest to a thousand messages.
        """
        calls = max(1, self._sizes.get(group, 1) // batch)
        return min(max(1, round(MOST / batch)), calls) * batch

    def observe(self, group: Group, messages: int, seconds: float) -> None:
        """Learn from a claim.

        Arguments:
            group: whose.
            messages: how many of its messages were run.
            seconds: how long that took.
        """
        if messages <= 0:
            return
        each = max(seconds / messages, 1e-7)
        known = self._seconds.get(group, 0.0)
        # A slow call counts at once, fast ones by and by: a claim that is too large holds
        # messages that another worker could run.
        average = each if each > known else known + WEIGHT * (each - known)
        self._seconds[group] = average
        before = self._sizes.get(group, 1)
        fitting = max(1, int(self._slice / average))
        self._sizes[group] = min(fitting, max(before, messages) * GROWTH, MOST * 10)
