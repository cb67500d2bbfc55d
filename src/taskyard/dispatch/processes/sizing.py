"""How many calls a worker process is to hold; pure."""

from __future__ import annotations

__all__ = ["Pace", "held", "shares"]

AHEAD = 0.04
"""Seconds of work that a process holds ahead, so that it does not wait for the parent."""
AHEAD_PLANNED = 0.0005
"""The same, of planned calls: as a call that turns out slow makes those behind it late."""
SLOW = 0.05
"""Seconds of a call from which on nothing is held ahead: what is gained is below a hundredth."""
MOST = 10_000
"""Calls that a process holds, at most."""
MOST_BYTES = 4_000_000
"""Bytes of items that a process holds, about, unless a single one is larger."""
GROWTH = 8
"""By how much the number may grow from one hand-over to the next."""
LEAST = 5e-7
"""Seconds that a call takes, at the least, with what is done around it."""


class Pace:
    """What is known of how long calls take, and how large their items are.

    Attributes:
        duration: seconds, a moving mean; None: no call has ended yet.
        size: bytes of an item.
        limit: calls that a process may hold, as far as it has been tried.
    """

    def __init__(self) -> None:
        self.duration: float | None = None
        self.size = 0.0
        self.limit = 1

    def ended(self, number: int, seconds: float) -> None:
        """Take note of calls that have ended.

        Arguments:
            number: how many.
            seconds: how long they took, in all.
        """
        mean = max(LEAST, seconds / number)
        self.duration = mean if self.duration is None else (self.duration + mean) / 2
        self.limit = max(self.limit, min(MOST, number * GROWTH))

    def sent(self, number: int, size: int) -> None:
        """Take note of items that were sent: how many, and their bytes."""
        self.size = (self.size + size / number) / 2


def held(pace: Pace, threads: int, *, planned: bool) -> int:
    """How many calls a process is to hold, with those that it is in.

    With slow calls, one for each thread: another one could only wait. With many threads a few more,
    as they do not end all at once.

    Arguments:
        pace: how long calls take.
        threads: how many threads it has.
        planned: whether calls have an instant.
    """
    if pace.duration is None:
        return threads
    ahead = AHEAD_PLANNED if planned else AHEAD
    number = threads + int(threads * ahead / pace.duration)
    if not planned:
        number += max(threads // 8, pace.duration < SLOW)
    number = min(number, MOST, pace.limit * threads)
    if pace.size > 0:
        number = min(number, int(MOST_BYTES / pace.size))
    return max(threads, number)


def shares(open_: list[int], wants: list[int], available: int) -> list[int]:
    """Share calls out, so that all processes hold about the same.

    Arguments:
        open_: how many each holds.
        wants: how many each is to hold.
        available: how many there are.

    Returns:
        How many each is given.
    """
    given = [0] * len(open_)
    if not open_:
        return given
    fair = -(-(sum(open_) + available) // len(open_))
    for at in sorted(range(len(open_)), key=open_.__getitem__):
        given[at] = max(0, min(available, wants[at] - open_[at], max(1, fair - open_[at])))
        available -= given[at]
    return given
