"""What brokers have in common beside the rules of lanes: how much a step does, how losses end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from taskyard.brokers.base import DeadQuery, Operation
from taskyard.message import Failure, Reason

__all__ = [
    "CHUNK",
    "FORGOTTEN",
    "NO_ATTEMPT",
    "PROMOTED",
    "REAPED",
    "STEP_BYTES",
    "SUPERVISED",
    "earliest",
    "in_chunks",
    "lost_failure",
]

PROMOTED = 500
"""Messages, and lanes, whose time has come, that one step lets in."""
REAPED = 4
"""Lost claims that one step takes back."""
FORGOTTEN = 2
"""Lanes that nothing is left of, and that are forgotten whenever another one joins them."""
CHUNK = 500
"""Records and dead letters that a step of a longer operation touches."""
STEP_BYTES = 4 << 20
"""Payload bytes after which a step leaves the rest to the next, though it may touch more rows."""

SUPERVISED = "TASKYARD_SUPERVISED"
"""Set in the environment of worker processes that a supervisor replaces at times."""

NO_ATTEMPT = frozenset({Reason.EXPIRED, Reason.UNREADABLE, Reason.WORKER_LOST})
"""Reasons to bury a message whose handler did not fail."""


def earliest(*times: int) -> int:
    """The first of some times, of which 0 is none."""
    return min(filter(None, times), default=0)


def lost_failure(losses: int) -> Failure:
    """Say why a message is dead that was lost too often."""
    text = f"its worker died or lost its lease {losses} times while running it"
    return Failure(Reason.WORKER_LOST, message=text)


def in_chunks(query: DeadQuery, newest: Any, change: Callable[[DeadQuery], Any]) -> Operation[int]:
    """Change dead letters, a bounded number in each step.

    Arguments:
        query: which ones.
        newest: a step that says the highest number of a dead letter, 0: there is none.
        change: makes a step that removes the first of the letters that are meant, and says how
            many those were.
    """
    # Letters that are retried may die again meanwhile, under higher numbers: they are not meant.
    last: int = yield newest
    upto = last if query.upto is None else min(last, query.upto)
    total = 0
    while total < query.limit:
        limit = min(CHUNK, query.limit - total)
        changed: int = yield change(msgspec.structs.replace(query, upto=upto, limit=limit))
        if not changed:
            break
        total += changed
    return total
