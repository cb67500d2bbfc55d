"""Where the calls of a run come from: items, one after another, and the instants of a plan."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice, takewhile
from typing import Any, Literal, Protocol, runtime_checkable

from taskyard.dispatch.engine import Chunk

__all__ = ["HORIZON", "CallSource", "Pulled", "Supply"]

HORIZON = 0.05
"""Seconds: of planned calls, those that are due within this time are given out together."""
LAG = 0.1
"""Seconds after the runtime in which calls that were due within it may still begin."""

Pulled = tuple[list[Any], bool]
"""Items, and whether there may be more."""


@runtime_checkable
class Supply(Protocol):
    """Items that come when they come: see `feed.Feed`."""

    def open(self, tell: Callable[[], None]) -> None:
        """Begin; from now on `tell` is called, from any thread, when `pull` may have more."""
        ...

    def pull(self, limit: int) -> Pulled:
        """Take what is there, and ask for more if it is nothing."""
        ...

    def close(self) -> None:
        """Nothing more is wanted."""
        ...


class _Iterated:
    """Items of an iterable."""

    def __init__(self, items: Iterable[Any]) -> None:
        try:
            self._items = iter(items)
        except Exception as error:  # noqa: BLE001 - the caller's; it comes with the first question
            self._items = _raising(error)

    def pull(self, limit: int) -> Pulled:
        pulled: list[Any] = []
        try:
            pulled.extend(islice(self._items, limit))
        except BaseException as error:
            if not pulled:
                raise
            # What came before is called first; the error comes with the next question.
            self._items = _raising(error)
            return pulled, True
        return pulled, len(pulled) == limit

    def open(self, tell: Callable[[], None]) -> None:
        """What an iterator has is there when it is asked."""

    def close(self) -> None:
        """An iterator of the caller's is the caller's to close."""


def _raising(error: BaseException) -> Iterator[Any]:
    yield from ()  # a generator, so that it raises when it is asked
    raise error


class CallSource:
    """The source of a run. Any thread may ask.

    Arguments:
        items: what the function is called with, consumed as calls are taken; or a supply of it.
        total: how many there are, if that is known.
        instants: when calls are due, in seconds from the start; None: as soon as possible.
        window: how many calls may be taken and not yet released.
        runtime: seconds after which no more are given out.
        done: numbers of calls that are not to be made again.
        keep: whether items are remembered until `items_of` asks for them.
    """

    def __init__(
        self,
        items: Iterable[Any] | Supply,
        *,
        total: int | None = None,
        instants: Iterator[float] | None = None,
        window: int,
        runtime: float | None = None,
        done: Collection[int] = (),
        keep: bool = False,
    ) -> None:
        self.total = total
        self.window = window
        self.offset = 0.0
        self.started = 0.0
        self.taken = 0
        self.limited = 0  # planned calls that were given out late, as the window was full
        self.missed = 0  # planned calls that were due, and never given out: see `count_missed`
        self.error: BaseException | None = None
        self._supply = items if isinstance(items, Supply) else _Iterated(items)
        self._instants = instants
        self._ahead: deque[float] = deque()
        self._runtime = runtime
        self._deadline: float | None = None
        self._done = done
        self._keep = keep
        self._items: dict[int, Any] = {}
        self._next = 1
        self._out = 0
        self._over = False
        self._stopped_at: float | None = None
        self._was_full = False
        self._changes = 0
        self._listeners: list[Callable[[], None]] = []
        self._pulling = threading.Lock()  # held while the caller's iterator is asked
        self._changed = threading.Condition(threading.Lock())

    def begin(self) -> None:
        """Start the clock: from now on count the plan and the runtime."""
        self._supply.open(self.note_change)
        self.started = time.monotonic()
        self.offset = time.time() - self.started
        if self._runtime is not None:
            lag = 0.0 if self._instants is None else LAG
            self._deadline = self.started + self._runtime + lag

    @property
    def deadline(self) -> float | None:
        """When no more calls are given out; None: no such time."""
        return self._deadline

    @property
    def over(self) -> bool:
        """Whether no more calls will be given out."""
        return self._over

    def take(self, limit: int) -> Chunk | None:
        while True:
            seen = self._changes
            if (chunk := self.poll(limit)) is not False:
                return chunk
            with self._changed:
                if self._changes == seen:
                    self._changed.wait()

    def poll(self, limit: int) -> Chunk | Literal[False] | None:
        with self._pulling:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                self.stop()
            if self._over:
                return None
            room = min(limit, self.window - self._out)
            if room <= 0:
                self._was_full = True
                return False
            if self._instants is not None:
                room = self._look_ahead(room)
                if room == 0:
                    self._finish()
                    return None
            return self._pull(room)

    def _pull(self, room: int) -> Chunk | Literal[False] | None:
        ids, items, more = self._next_items(room)
        while more and ids and not items:  # all of them have been called in an earlier run
            ids, items, more = self._next_items(room)
        if not more:
            self._finish()
        if not items:
            return False if more else None
        if self._keep:
            self._items.update(zip(ids, items, strict=True))
        with self._changed:
            self._out += len(items)
            self.taken += len(items)
        planned = None
        if self._instants is not None:
            planned = [self._ahead.popleft() for _ in items]
            if self._was_full:
                self._count_limited(planned)
        return Chunk(ids, items, planned)

    def _count_limited(self, planned: list[float]) -> None:
        passed = bisect_left(planned, time.monotonic())
        self.limited += passed
        self._was_full = passed == len(planned)  # others may still be behind

    def _next_items(self, room: int) -> tuple[Sequence[int], list[Any], bool]:
        """Pull items.

        Returns:
            The numbers of calls to be made, or of those that are not to be; items; and whether
            there may be more.
        """
        try:
            items, more = self._supply.pull(room)
        except BaseException as error:  # noqa: BLE001 - the caller's; told when what runs has ended
            self.error = error
            return (), [], False
        ids: Sequence[int] = range(self._next, self._next + len(items))
        self._next += len(items)
        if self._done and items:
            kept = [pair for pair in zip(ids, items, strict=True) if pair[0] not in self._done]
            if kept:
                ids = [pair[0] for pair in kept]
            items = [pair[1] for pair in kept]
        return ids, items, more and not self._over

    def _look_ahead(self, room: int) -> int:
        # The first is given out whenever it is due, others only if they are due soon.
        ahead, started = self._ahead, self.started
        soon = time.monotonic() + HORIZON
        assert self._instants is not None  # noqa: S101 - asked by whoever has a plan
        while len(ahead) < room and (not ahead or ahead[-1] < soon):
            instant = next(self._instants, None)
            if instant is None:
                break
            if self._runtime is not None and instant >= self._runtime:
                break
            ahead.append(started + instant)
        return min(room, len(ahead))

    def release(self, number: int) -> None:
        """So many calls are no longer in the window."""
        with self._changed:
            was_full = self._out >= self.window
            self._out -= number
        if was_full:
            self.note_change()

    def items_of(self, ids: Iterable[int]) -> list[Any]:
        """The items of calls that have ended, once."""
        pop = self._items.pop
        return [pop(id_, None) for id_ in ids]

    def stop(self) -> None:
        """Give out nothing more. Does not wait for an iterator that does not answer."""
        if not self._over:
            self._stopped_at = time.monotonic()
        self._finish()

    def count_missed(self) -> None:
        """Count the calls that were due when it was stopped. Only once nobody takes any more."""
        if self._instants is None or self._stopped_at is None:
            return  # or the items had come to their end
        end = self._stopped_at - self.started
        if self._runtime is not None:
            end = min(end, self._runtime)
        if self._pulling.acquire(blocking=False):  # else an iterator still does not answer
            try:
                early = sum(instant < self.started + end for instant in self._ahead)
                self.missed = early + sum(1 for _ in takewhile(end.__gt__, self._instants))
            finally:
                self._pulling.release()

    def on_change(self, tell: Callable[[], None]) -> None:
        self._listeners.append(tell)

    def note_change(self) -> None:
        """Let all who wait ask again."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()
        for tell in self._listeners:
            tell()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._supply.close()
            self.note_change()
