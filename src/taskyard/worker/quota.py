"""How many messages a worker may still take, where it ends after exactly so many."""

from __future__ import annotations

from typing import Protocol

from taskyard.brokers.base import Back, Retried, Settlement

__all__ = ["Quota", "Taker"]


class Taker(Protocol):
    """A pool."""

    def notify(self) -> None:
        """Look again whether something can be claimed."""
        ...


class Quota:
    """Messages that the pools of a worker take from one number together.

    What is asked for counts as taken until the answer says how much of it came.

    Arguments:
        limit: messages that may end here; None: any number.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._taken = 0
        self._ended = 0
        self._refused: set[Taker] = set()

    def left_for(self, pool: Taker) -> int | None:
        """Messages that a pool may take; it is notified when that becomes more than 0.

        Returns:
            How many; None: any number.
        """
        if self._limit is None:
            return None
        left = self._limit - self._taken
        if left <= 0:
            self._refused.add(pool)
        return left

    @property
    def ended(self) -> int:
        """Messages that have ended here; 0 without a limit."""
        return self._ended

    @property
    def is_used_up(self) -> bool:
        """Whether so many messages have ended as may."""
        return self._limit is not None and self._ended >= self._limit

    def take(self, messages: int) -> None:
        """Note that so many messages are asked for."""
        if self._limit is not None:
            self._taken += messages

    def give_back(self, messages: int) -> None:
        """Note that so many did not come, or did not end here."""
        if self._limit is None or not messages:
            return
        self._taken -= messages
        refused, self._refused = self._refused, set()
        for pool in refused:
            pool.notify()

    def settle(self, messages: int, settlement: Settlement) -> None:
        """Note what became of so many messages that were taken.

        Those that are tried again or given back do not count: they may be taken again.
        """
        if self._limit is None:
            return
        back = sum(isinstance(one, Retried | Back) for one in settlement.outcomes.values())
        self._ended += messages - back
        self.give_back(back)

    def lose(self, messages: int) -> None:
        """Note that so many were lost with their lease. They were run here, so they count."""
        if self._limit is not None:
            self._ended += messages
