"""What engines have in common that make calls elsewhere: one thread sends, another one collects."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from taskyard.dispatch.engine import Sink, Source
from taskyard.dispatch.outcome import Status

__all__ = ["RemoteEngine"]

Sent = TypeVar("Sent")


class RemoteEngine(ABC, Generic[Sent]):
    """Makes calls by sending them away, and hears what became of them.

    What was sent and has not ended is either with the subclass (`_take_all`), or held by a thread
    that is about to tell of it (`_held`); so each outcome is told once, whoever gives up when.
    """

    def __init__(self) -> None:
        self.limited = 0
        self._out = 0  # calls that were sent and have not ended
        self._held = 0  # threads that have taken calls, and have not told of all of them yet
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._stopped = threading.Event()
        self._all_sent = False
        self._given_up = False
        self._told = False
        self._threads: list[threading.Thread] = []
        self._sink: Sink
        self._source: Source

    @abstractmethod
    def _send_all(self) -> None:
        """Send the calls of the source, until it has no more or the run is stopped."""

    @abstractmethod
    def _collect_all(self) -> None:
        """Put what has ended, until all has been told."""

    @abstractmethod
    def _is_empty(self) -> bool:
        """Whether nothing is out. The lock is held."""

    @abstractmethod
    def _take_all(self) -> list[Sent]:
        """Take what was sent and has not ended. The lock is held."""

    @abstractmethod
    def _tell_all(self, left: list[Sent], status: Status) -> None:
        """Put calls whose outcome nobody will hear."""

    @abstractmethod
    def _leave(self) -> None:
        """Wake who collects: all has been told."""

    def prepare(self) -> None:
        """Its workers are there already, or they are not."""

    def start(self, source: Source, sink: Sink) -> None:
        self._source, self._sink = source, sink
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), daemon=True)
            for work in (self._send_rest, self._collect_all)
        ]
        for thread in self._threads:
            thread.start()

    def tend(self) -> None:
        """What happens wakes it."""

    def stop(self) -> None:
        self._stopped.set()
        with self._room:
            self._room.notify_all()

    def busy(self) -> int:
        return self._out

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the run
            self._break(error)

    def _send_rest(self) -> None:
        self._send_all()
        with self._lock:
            self._all_sent = True
        self._end_if_idle()

    def _break(self, error: Exception) -> None:
        """End, as it cannot go on."""
        self.stop()
        self._give_up(Status.UNKNOWN)
        self._end(error)

    def _give_up(self, status: Status) -> list[Sent]:
        """Tell of all that was sent and has not ended."""
        with self._lock:
            left = self._take_all()
            self._out = 0
            self._given_up = True
            self._held += 1
        self._tell_all(left, status)
        with self._lock:
            self._held -= 1
        return left

    def _end_if_idle(self) -> None:
        with self._lock:
            over = (self._all_sent or self._given_up) and self._is_empty() and not self._held
        if over:
            self._end()

    def _end(self, error: BaseException | None = None) -> None:
        with self._lock:
            if self._told:
                return
            self._told = True
        self._leave()
        self._sink.end(error)

    def _wait_until(self, planned: Sequence[float] | None) -> bool:
        """Wait for the first of some instants; says whether the run goes on."""
        delay = 0.0 if planned is None else planned[0] - time.monotonic()
        return not (self._stopped.wait(delay) if delay > 0 else self._stopped.is_set())
