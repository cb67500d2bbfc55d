"""The calls that are at hand, to be given to processes."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic

from taskyard.dispatch.engine import Chunk, Source
from taskyard.dispatch.processes.member import Lot

__all__ = ["Stock"]

SLOW = 0.005
"""Seconds that an iterator may take for what it is asked for at once."""


class Stock:
    """Calls at hand.

    A thread of its own, the *feeder*, asks the source for them, as the caller's iterator may take
    its time. It adds to the end, under the lock; all else is the engine's loop's.

    Arguments:
        wake: wakes the loop.

    Attributes:
        hungry: whether the loop could do with more than there is.
        dry: whether the source has no more.
        error: what the source raised.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.hungry = True
        self.dry = False
        self.error: BaseException | None = None
        self._wake = wake
        self._lots: deque[Lot] = deque()
        self._wanted = 0
        self._changes = 0  # how often the source may have changed its mind
        self._closed = False
        self._supplying = threading.Condition()

    def __bool__(self) -> bool:
        return bool(self._lots)

    def start(self, source: Source) -> None:
        """Begin to ask a source."""
        source.on_change(self._note_change)
        threading.Thread(
            target=self._feed, args=(source,), name="taskyard-feeder", daemon=True
        ).start()

    def close(self) -> None:
        """Ask no more."""
        self._closed = True
        self._note_change()

    # The loop's

    def want(self, rooms: int, reserve: int) -> None:
        """See to it that there is something at hand when calls end.

        Arguments:
            rooms: how many calls could be given out now.
            reserve: how many are to be there beside them.
        """
        with self._supplying:
            stock = self._count()
            self.hungry = rooms > stock
            before = self._wanted
            if rooms > stock or stock < reserve // 2:
                self._wanted = rooms + reserve - stock
            if self._wanted and not before:
                self._supplying.notify_all()

    def count(self) -> int:
        """How many calls are at hand."""
        with self._supplying:
            return self._count()

    def take(self, most: int) -> Lot:
        """The first calls, so many of them at most. There are some."""
        lot, rest = self._lots.popleft().cut(most)
        if rest is not None:
            self._lots.appendleft(rest)
        return lot

    def put_back(self, lots: Iterable[Lot]) -> None:
        """Put calls in front of the others."""
        self._lots.extendleft(reversed(list(lots)))

    def first_instant(self) -> float | None:
        """When the first call is due; None: as soon as it can be, or there is none."""
        with contextlib.suppress(IndexError):
            planned = self._lots[0].planned
            return None if planned is None else planned[0]
        return None

    def _count(self) -> int:
        return sum(len(lot.items) for lot in self._lots)

    # The feeder's

    def _note_change(self) -> None:
        with self._supplying:
            self._changes += 1
            self._supplying.notify_all()

    def _feed(self, source: Source) -> None:
        limit = 1_000_000
        try:
            while not self._closed:
                with self._supplying:
                    if not self._wanted:
                        self._supplying.wait(0.5)
                    wanted, changes = min(self._wanted, limit), self._changes
                if not wanted or self._closed:
                    continue
                began = monotonic()
                chunk = source.poll(wanted)
                if chunk is None:
                    break
                if chunk is False:
                    with self._supplying:
                        if changes == self._changes:
                            self._supplying.wait(0.05)
                    continue
                # An iterator that takes its time is not asked for much at once.
                elapsed, number = monotonic() - began, len(chunk.ids)
                limit = max(1, int(number * SLOW / elapsed)) if elapsed > SLOW else limit * 2 + 1
                self._add(chunk)
        except BaseException as error:  # noqa: BLE001 - the loop tells of it
            self.error = error
        self.dry = True
        self._wake()

    def _add(self, chunk: Chunk) -> None:
        with self._supplying:
            self._wanted = max(0, self._wanted - len(chunk.ids))
            self._lots.append(Lot(chunk.ids, chunk.items, chunk.planned))
            hungry = self.hungry
        if hungry:
            self._wake()
