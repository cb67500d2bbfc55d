"""Bounded queues, as programs declare them; and waiting until there is room."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Literal, TypeAlias, get_args

from taskyard.brokers.base import Put
from taskyard.brokers.bounds import NO_BOUNDS, Bounds, Overflow
from taskyard.errors import PolicyError, QueueFull
from taskyard.policy import seconds

__all__ = [
    "BLOCK_TIMEOUT",
    "OnOverflow",
    "Patience",
    "make_bounds",
    "put_when_there_is_room",
    "put_when_there_is_room_async",
]

OnOverflow: TypeAlias = Literal["raise", "block", "drop"]
"""What becomes of what is too much for a bounded queue."""

BLOCK_TIMEOUT = 30.0
"""Seconds for which is waited for room, if nothing else is said."""

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.1
"""Seconds after which is looked for room again; each pause is twice as long as the one before."""

LARGEST = 10**12


def make_bounds(
    max_length: int | None,
    shard_max_length: int | None,
    overflow: OnOverflow,
    block_timeout: float | timedelta | None,
) -> Bounds:
    """Check the bounds of a queue; see `Yard.queue`.

    Raises:
        PolicyError: they make no sense.
    """
    length = _checked_length("max_length", max_length)
    shard = _checked_length("shard_max_length", shard_max_length)
    if overflow not in get_args(OnOverflow):
        known = ", ".join(map(repr, get_args(OnOverflow)))
        raise PolicyError(f"overflow must be one of {known}, not {overflow!r}")
    if block_timeout is not None and overflow != "block":
        raise PolicyError(
            f"block_timeout is how long overflow='block' waits, but overflow is {overflow!r}: "
            f"leave one of them out"
        )
    if not length and not shard:
        if overflow != "raise":
            raise PolicyError(
                f"overflow={overflow!r} says what happens when a queue is full, but this one is "
                f"not bounded: give max_length= or shard_max_length= too"
            )
        return NO_BOUNDS
    timeout = 0
    if overflow == "block":
        given = BLOCK_TIMEOUT if block_timeout is None else block_timeout
        timeout = max(1, round(seconds("block_timeout", given, open_=True) * 1e6))
    return Bounds(length, shard, Overflow(overflow), timeout)


def _checked_length(name: str, value: object) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= LARGEST:
        raise PolicyError(
            f"{name} must be a number of messages, 1 or more, or None for no limit, not {value!r}"
        )
    return value


# Waiting


class Patience:
    """Says how long to pause before it is tried again to put something into a full queue.

    Nobody tells when there is room: that would be one more thing that each claim has to look for.
    """

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: there was room for some of it."""
        self._begin = time.monotonic()
        self._pause = FIRST_PAUSE

    def next(self, full: QueueFull) -> float:
        """Say for how many seconds.

        Raises:
            QueueFull: this one, if it is not to be waited for, or has been for long enough.
        """
        if not full.patience:
            raise full
        waited = time.monotonic() - self._begin
        if waited >= full.patience:
            raise full.told(f"{full}. It was waited for room for {waited:.1f} s") from full
        pause = random.uniform(0.5, 1) * self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return min(pause, full.patience - waited)


def put_when_there_is_room(
    full: QueueFull, puts: Sequence[Put], put: Callable[[Sequence[Put]], None]
) -> None:
    """Put something again until it is stored.

    Arguments:
        full: why it was refused.
        puts: what was to be put.
        put: puts it.

    Raises:
        QueueFull: there was no room for as long as the bounds of the queue say.
    """
    patience = Patience()
    while True:
        time.sleep(patience.next(full))
        puts = puts if full.left is None else full.left
        try:
            put(puts)
        except QueueFull as error:
            full = error
        else:
            return


async def put_when_there_is_room_async(
    full: QueueFull, puts: Sequence[Put], put: Callable[[Sequence[Put]], Awaitable[None]]
) -> None:
    """Do the same without blocking the event loop."""
    patience = Patience()
    while True:
        await asyncio.sleep(patience.next(full))
        puts = puts if full.left is None else full.left
        try:
            await put(puts)
        except QueueFull as error:
            full = error
        else:
            return
