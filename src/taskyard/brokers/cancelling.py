"""What cancelling a message means: pure decisions, the same for every broker.

A message that has a record is found by it: where it waits it is taken away, where it runs the claim
that holds it remembers so. One without a record cannot be found; its id is noted instead, and
looked for in what is claimed or becomes due while there are notes. A note is a number from the
counter of sequences: it means the messages that were put before it, never a later one of the id.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from taskyard.brokers.unique import Mode

__all__ = [
    "NOTED",
    "Cancellation",
    "Cancelled",
    "blocked_after",
    "frees_key",
    "is_noted",
    "joined",
]

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
    """There is no record of it, or nobody holds the key; nothing was changed."""


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


def frees_key(mode: Mode, outcome: Cancelled) -> bool:
    """Whether a cancellation by a unique key frees it, though no message gives it back now.

    What is removed releases its key by itself, and what runs does so at its end. But what is noted
    would only do so when its turn comes, and a window is released by no message.

    Arguments:
        mode: for how long the key is held.
        outcome: what became of the message that holds it.
    """
    if mode is Mode.WINDOW:
        return outcome in (Cancelled.REMOVED, Cancelled.TOLD, Cancelled.NOTED)
    return outcome is Cancelled.NOTED


def blocked_after(blocked: int, due: int) -> int:
    """Until when a lane is held up once a message was taken out of it.

    Arguments:
        blocked: until when it was held up.
        due: when the message was to be tried again; 0: it was not backing off.
    """
    return 0 if blocked == due else blocked
