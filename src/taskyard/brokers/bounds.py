"""The rules of bounded queues: pure functions, the same for every broker.

A queue's length is what waits in it and what is delayed, over all its groups; a shard's is what
waits in its lane. What runs and what is dead count for neither. Only puts are refused: what comes
back by itself (retried, given back, lost, promoted, redriven) always enters.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from taskyard.errors import QueueFull
from taskyard.message import Failure, Reason

__all__ = [
    "NO_BOUNDS",
    "Bounds",
    "Overflow",
    "QueueBounds",
    "dropped_failure",
    "excess",
    "full_error",
    "share",
    "to_drop",
    "too_large_error",
]

EXTRA = 100
"""So many more messages than it brings may a put drop: a queue whose limit was lowered shrinks by
and by, and no call does an unbounded amount of work."""


class Overflow(StrEnum):
    """What becomes of a put for which there is no room."""

    RAISE = "raise"
    """It is refused."""
    BLOCK = "block"
    """It is refused, and whoever puts tries again for a while."""
    DROP = "drop"
    """The oldest waiting messages make room for it, and end as dead letters."""


class Bounds(msgspec.Struct, frozen=True):
    """How much a queue holds.

    Attributes:
        length: messages that it holds at most; 0: any number.
        shard: messages that each of its lanes holds at most; 0: any number.
        overflow: what becomes of what is too much.
        timeout: microseconds for which whoever puts waits for room.
    """

    length: int = 0
    shard: int = 0
    overflow: Overflow = Overflow.RAISE
    timeout: int = 0

    def __bool__(self) -> bool:
        return bool(self.length or self.shard)


NO_BOUNDS = Bounds()


class QueueBounds(msgspec.Struct, frozen=True):
    """The bounds of a queue, as they are stored.

    Attributes:
        declared: what a program declared last.
        chosen: what was set at run time; it wins, even if it is `NO_BOUNDS`.
    """

    declared: Bounds | None = None
    chosen: Bounds | None = None

    @property
    def effective(self) -> Bounds:
        """What holds."""
        return (self.declared if self.chosen is None else self.chosen) or NO_BOUNDS

    def changed(self, bounds: Bounds | None, *, declared: bool) -> QueueBounds:
        """Those after one of them was set."""
        if declared:
            return QueueBounds(bounds, self.chosen)
        return QueueBounds(self.declared, bounds)


def share(length: int, partitions: int) -> int:
    """The part of a queue's limit that each of its partitions gets; at least 1."""
    return max(1, length // partitions) if length else 0


def excess(there: int, brought: int, limit: int, *, lot: bool = False) -> int | None:
    """Say how many messages would be too many.

    Arguments:
        there: how many there are.
        brought: how many a put brings.
        limit: how many there may be.
        lot: they come from an inbox, where nobody can divide them: more than the limit enter
            together as soon as there is room for one.

    Returns:
        A number, 0 or less if there is room for all. None: they are more than there may ever be.
    """
    if brought > limit:
        if not lot:
            return None
        brought = 1
    return there + brought - limit


def to_drop(over: int, brought: int) -> int:
    """Say how many messages are dropped for a put that is over the limit."""
    return min(over, brought + EXTRA)


def dropped_failure() -> Failure:
    """Say why a message is dead that made room."""
    return Failure(Reason.DROPPED, message="its queue, or shard, was full, and later ones came")


def _named(queue: str, shard: str | None) -> str:
    return f"the queue {queue!r}" if shard is None else f"the shard {shard!r} of queue {queue!r}"


def _option(shard: str | None) -> str:
    return "--max-length" if shard is None else "--shard-max-length"


def _part(bounds: Bounds, shard: str | None, limit: int) -> str:
    if shard is not None or limit >= bounds.length:
        return ""
    return f" (this partition's part of {bounds.length})"


def full_error(
    bounds: Bounds,
    queue: str,
    shard: str | None,
    length: int,
    limit: int,
    fate: str = "nothing of the call was stored",
) -> QueueFull:
    """Say that there is no room.

    Arguments:
        bounds: of the queue.
        queue: its name.
        shard: the shard that is full; None: the queue is.
        length: how many messages there are.
        limit: how many there may be, in this partition.
        fate: what became of the messages.
    """
    what = "wait" if shard is not None else "wait or are delayed"
    text = f"{_named(queue, shard)} is full: {length} messages {what}, of {limit} at most"
    text += _part(bounds, shard, limit)
    if bounds.overflow is Overflow.DROP:
        text += ", and what is left is delayed or held up, so it cannot be dropped"
    text += (
        f"; {fate}. Put it later, let more workers run, or allow more with"
        f" `taskyard bound {queue} {_option(shard)} …`"
    )
    patience = bounds.timeout / 1e6 if bounds.overflow is Overflow.BLOCK else 0.0
    return QueueFull(
        text,
        queue=queue,
        shard=shard,
        length=length,
        limit=limit,
        overflow=str(bounds.overflow),
        patience=patience,
    )


def too_large_error(
    bounds: Bounds,
    queue: str,
    shard: str | None,
    brought: int,
    limit: int,
    fate: str = "nothing of the call was stored",
) -> QueueFull:
    """Say that a call brings more than there is ever room for; see `full_error`."""
    part = _part(bounds, shard, limit)
    return QueueFull(
        f"{_named(queue, shard)} holds {limit} messages at most{part}, and this call brings"
        f" {brought} at once; {fate}. Put fewer by one call, or allow more with"
        f" `taskyard bound {queue} {_option(shard)} …`",
        queue=queue,
        shard=shard,
        length=brought,
        limit=limit,
        too_large=True,
    )
