"""Where outcomes arrive: they are counted, logged, and handed to whoever waits for them."""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from taskyard.dispatch.engine import Finished
from taskyard.dispatch.log import Log
from taskyard.dispatch.outcome import Status
from taskyard.dispatch.source import CallSource

__all__ = ["Collector", "Recent"]


class Recent(NamedTuple):
    """Calls that ended lately; instants are those of the monotonic clock."""

    planned: array[float]
    started: array[float]
    ended: array[float]


RECENT = 20_000
"""Calls that are remembered to show how it goes, about."""


class Collector:
    """The sink of a run.

    Arguments:
        source: told of what has left the window.
        log: what keeps outcomes; None: nobody does.
        hold: whether what arrives is held, and counts for the window, until `take` is called.
        wake: called, from any thread, when something arrived that is held, and at the end.
    """

    def __init__(
        self,
        source: CallSource,
        log: Log | None,
        *,
        hold: bool,
        wake: Callable[[], None],
    ) -> None:
        self.log = log
        self.hold = hold
        self.ended = False
        self.error: BaseException | None = None
        self.finished = 0
        self.recent: deque[Recent] = deque()  # the oldest first
        self._remembered = 0
        self._counts = dict.fromkeys(Status, 0)
        self._source = source
        self._wake = wake
        self._held: deque[Finished] = deque()
        self._lock = threading.Lock()

    @property
    def counts(self) -> Mapping[Status, int]:
        """How many ended how."""
        return self._counts

    def put(self, finished: Finished) -> None:
        number = len(finished.ids)
        if number == 0:
            return
        with self._lock:
            if self.ended:
                return  # too late: the run does not wait for it any longer
            self._count(finished)
            self._remember(finished)
            if self.hold:
                self._held.append(finished)
            elif self.log is not None:
                self.log.add(finished)
        if self.hold:
            self._wake()
        else:
            self._source.release(number)

    def add(self, finished: Finished) -> None:
        """Count and log what ended in an earlier run."""
        self._count(finished)
        if self.log is not None:
            self.log.add(finished)

    def end(self, error: BaseException | None = None) -> None:
        with self._lock:
            self.ended = True
            self.error = error
        self._wake()

    def take(self) -> Finished | None:
        """What arrived first of what is held; the caller then tells the source to release it."""
        try:
            return self._held.popleft()
        except IndexError:
            return None

    def _remember(self, finished: Finished) -> None:
        planned = finished.planned or finished.started
        self.recent.append(Recent(planned, finished.started, finished.ended))
        self._remembered += len(finished.ids)
        while self._remembered > RECENT and len(self.recent) > 1:
            self._remembered -= len(self.recent.popleft().ended)

    def _count(self, finished: Finished) -> None:
        number = len(finished.ids)
        self.finished += number
        counts = self._counts
        failed = len(finished.failures)
        if finished.statuses:
            failed = len(finished.failures.keys() - finished.statuses.keys())
            for status in finished.statuses.values():
                counts[status] += 1
        counts[Status.FAILED] += failed
        counts[Status.COMPLETED] += number - failed - len(finished.statuses)
