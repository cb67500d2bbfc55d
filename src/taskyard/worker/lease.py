"""How long a worker may believe that a claim is its own."""

from __future__ import annotations

import time

__all__ = ["Lease"]


class Lease:
    """The lease of a claim, as this process knows it.

    Arguments:
        seconds: its length.
        asked: when the broker was asked for it, by this process's monotonic clock. Counted from the
            answer, a process that was stopped in between would believe in a claim that is gone.

    Attributes:
        deadline: when it ends, by this process's monotonic clock.
        lost: whether the broker said that it is gone.
    """

    __slots__ = ("deadline", "lost")

    def __init__(self, seconds: float, asked: float) -> None:
        self.deadline = asked + seconds
        self.lost = False

    def is_over(self) -> bool:
        """Whether somebody else may have the claim: it is lost, or was not renewed in time.

        A process that was stopped and continued sees this at once.
        """
        return self.lost or time.monotonic() > self.deadline
