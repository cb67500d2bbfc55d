"""Running suspects alone.

A message that was lost and singled out may kill its process again. If anything ran beside it, that
would be lost with it, and would seem to kill processes too. So a worker that hears of a suspect
first lets everything end, then claims it, and claims nothing else until it has ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from taskyard.brokers.base import Step, Want

__all__ = ["Asker", "Isolation"]


class Asker(Protocol):
    """A pool."""

    def notify(self) -> None:
        """Look again whether something can be claimed."""
        ...


class Isolation:
    """What the pools of a worker must know of each other.

    Arguments:
        held: how many claims all pools hold.
    """

    def __init__(self, held: Callable[[], int]) -> None:
        self._held = held
        self._asking = 0
        self._asking_alone = False
        self._met: set[Asker] = set()
        self._suspect: int | None = None
        self._refused: set[Asker] = set()

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs, and nobody is about to get something to run."""
        return self._asking == 0 and self._held() == 0

    def may_claim(self, pool: Asker) -> bool:
        """Whether a pool may ask for claims now; if not, it is notified when that may change.

        While some pools have met suspects, only those ask, and only when the worker is idle: the
        others would keep it busy for ever.
        """
        if self._suspect is not None or self._asking_alone:
            allowed = False
        else:
            allowed = not self._met or (pool in self._met and self.is_idle)
        if allowed:
            self._refused.discard(pool)
        else:
            self._refused.add(pool)
        return allowed

    def asks(self, want: Want) -> None:
        """Note that a pool asks for claims."""
        self._asking += 1
        self._asking_alone = want.alone

    def is_answered(self, pool: Asker, want: Want, step: Step | None) -> None:
        """Note the answer; None: there was none."""
        self._asking -= 1
        if want.alone:
            self._asking_alone = False
        if step is not None:
            self._learn(pool, want, step)
        self._look_again()

    def _learn(self, pool: Asker, want: Want, step: Step) -> None:
        if step.suspects:
            self._met.add(pool)
        elif want.alone:
            self._met.discard(pool)
        for claim in step.claims:
            if claim.suspect:
                self._suspect = claim.token

    def has_ended(self, token: int) -> None:
        """Note that a claim has left its slot."""
        if token == self._suspect:
            self._suspect = None
        self._look_again()

    def _look_again(self) -> None:
        blocked = self._suspect is not None or (bool(self._met) and not self.is_idle)
        if not blocked:
            # Nobody else: pools that tell each other to look go on doing so for ever.
            refused, self._refused = self._refused, set()
            for pool in refused:
                pool.notify()
