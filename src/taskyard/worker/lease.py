"""How long a worker may believe that a claim is its own."""

from __future__ import annotations

import time

__all__ = ["Lease"]


class Lease:
    """The lease of a claim, as this process knows it.

    Arguments:
        seconds: its length.

    Attributes:
        deadline: when it ends, by this process's monotonic clock.
        lost: whether the broker said that it is gone.
    """

    __slots__ = ("deadline", "lost")

    def __init__(self, seconds: float) -> None:
        # Counted from the answer, so the true end is a little earlier.
        self.deadline = time.monotonic() + seconds
        self.lost = False

    def is_over(self) -> bool:
        """Whether somebody else may have the claim: it is lost, or was not renewed in time.

        A process that was stopped and continued sees this at once.
        """
        return self.lost or time.monotonic() > self.deadline
