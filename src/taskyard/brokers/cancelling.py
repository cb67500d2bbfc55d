"""What cancelling a message means: pure decisions, the same for every broker.

A message that has a record is found by it: where it waits it is taken away, where it runs the claim
that holds it remembers so. One without a record cannot be found; its id is noted instead, and
looked for in what is claimed or becomes due while there are notes. A note is a number from the
counter of sequences: it means the messages that were put before it, never a later one of the id.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

__all__ = ["NOTED", "Cancellation", "Cancelled", "blocked_after", "is_noted", "joined"]

NOTED = 7 * 86_400 * 1_000_000
"""Microseconds after which a note of a cancelled id is forgotten."""


class Cancelled(StrEnum):
    """What a cancellation came to."""

    REMOVED = "removed"
    """It waited, and does no more: it is never run."""
    TOLD = "told"
    """It runs: its worker is told, and it is not run again, whatever becomes of the worker."""
    NOTED = "noted"
    """It has no record to find it by: if it waits, it is removed when its turn comes."""
    ENDED = "ended"
    """It had ended before; nothing was changed."""
    UNKNOWN = "unknown"
    """There is no record of it; nothing was changed."""


class Cancellation(msgspec.Struct, frozen=True):
    """What a cancellation came to.

    Attributes:
        outcome: what happened.
        worker: who runs it, if it was told.
    """

    outcome: Cancelled
    worker: str = ""


def joined(parts: list[Cancellation]) -> Cancellation:
    """What a cancellation came to that was tried in several places."""
    return min(parts, key=lambda part: _WEIGHTS.index(part.outcome))


_WEIGHTS = list(Cancelled)


def is_noted(note: int, sequence: int, now: int) -> bool:
    """Whether a note of an id means a message of that id.

    Arguments:
        note: the number of the note.
        sequence: the message's, as it was put; one that was delayed gets another when it is due.
        now: the broker's time, microseconds.
    """
    return sequence < note and now < note + NOTED


def blocked_after(blocked: int, due: int) -> int:
    """Until when a lane is held up once a message was taken out of it.

    Arguments:
        blocked: until when it was held up.
        due: when the message was to be tried again; 0: it was not backing off.
    """
    return 0 if blocked == due else blocked
