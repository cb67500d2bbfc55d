"""What an engine is: it takes calls from a source, makes them, and hands outcomes to a sink.

Instants here are seconds of `time.monotonic()`, which is the same clock in all processes of a
machine; `Source.offset` turns them into unix seconds.

Calls travel many at a time, by columns: there is no object, lock or queue operation per call.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from taskyard.dispatch.outcome import CallError, Status
from taskyard.policy import Retry

__all__ = ["Chunk", "Engine", "Finished", "Job", "Kind", "Sink", "Source", "StartMethod"]

Kind = Literal["threads", "processes", "hybrid", "async"]
StartMethod = Literal["fork", "forkserver", "spawn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is done with each item, and by how many.

    Attributes:
        function: called with an item.
        workers: how many calls are under way at most.
        open_loop: whether calls have planned instants.
        timeout: seconds that an attempt may take; None: as long as it likes.
        retry: when a failed attempt is tried again; None: never.
        context: whether the function gets a second argument, a `calls.Call`.
        per_process: hybrid: how many threads a process has; None: the engine decides.
    """

    function: Callable[..., Any]
    workers: int
    open_loop: bool = False
    timeout: float | None = None
    retry: Retry | None = None
    context: bool = False
    per_process: int | None = None

    @property
    def plain(self) -> bool:
        """Whether there is nothing to do for a call but to make it."""
        return self.timeout is None and self.retry is None and not self.context


class Chunk(NamedTuple):
    """Calls to be made.

    Attributes:
        ids: their numbers, rising.
        items: what the function is to be called with.
        planned: when each is to begin; None: as soon as possible.
    """

    ids: Sequence[int]
    items: list[Any]
    planned: Sequence[float] | None = None


_NOTHING: dict[int, Any] = {}  # never written to


class Finished(NamedTuple):
    """Calls that have ended, in any order; all columns are of the same length.

    Attributes:
        ids: their numbers.
        started: when they began.
        ended: when they ended.
        values: what the function returned; None where it did not.
        planned: when they were to begin; None: there was no plan.
        failures: by position, why a call failed.
        statuses: by position, where it neither completed nor failed.
        metadata: by position, what the function noted, where it noted something.
        attempts: by position, how often a call was tried, where it was more than once.
    """

    ids: Sequence[int]
    started: array[float]
    ended: array[float]
    values: list[Any]
    planned: array[float] | None = None
    failures: dict[int, CallError] = _NOTHING
    statuses: dict[int, Status] = _NOTHING
    metadata: dict[int, dict[str, Any]] = _NOTHING
    attempts: dict[int, int] = _NOTHING


class Source(Protocol):
    """Where calls come from. Any thread may ask."""

    offset: float
    """Unix seconds less seconds of the monotonic clock."""

    def take(self, limit: int) -> Chunk | None:
        """Take calls: waits while the window is full, and for items that are not there yet.

        Arguments:
            limit: how many at most. Of planned calls, only those that are due soon are given out.

        Returns:
            At least one call; None: there are no more, or the run is to end.
        """
        ...

    def poll(self, limit: int) -> Chunk | Literal[False] | None:
        """Take calls without waiting.

        Returns:
            As `take`; False: none now. `on_change` tells when to ask again.
        """
        ...

    def on_change(self, tell: Callable[[], None]) -> None:
        """Have a function called, from any thread, whenever `poll` may answer something else."""
        ...


class Sink(Protocol):
    """Where outcomes go. Any thread may tell."""

    def put(self, finished: Finished) -> None:
        """Take over what has ended, which belongs to the sink from now on."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come.

        Arguments:
            error: why the engine cannot go on; None: all that was taken has been put.
        """
        ...


class Engine(Protocol):
    """Makes the calls of a source. One engine serves one run.

    Calls that were taken and are never put count as undispatched, so an engine that stops simply
    drops what it has not begun.
    """

    limited: int
    """How many planned calls began late because all workers were busy."""

    def prepare(self) -> None:
        """Get ready, so that calls can begin as soon as the clock of the run does.

        Raises:
            WorkerError: there can be no workers.
        """
        ...

    def start(self, source: Source, sink: Sink) -> None:
        """Begin to take and to make calls, in the background, and return at once.

        It ends by itself with `Sink.end`, when the source has no more and every call has ended.
        """
        ...

    def tend(self) -> None:
        """Do what has to be done from time to time: called about every 50 ms by one thread.

        Hands over what has ended and is still held, enforces timeouts, replaces the dead.
        """
        ...

    def stop(self) -> None:
        """Begin no more calls; those that run go on, then it ends."""
        ...

    def abandon(self) -> None:
        """Wait for no call any longer: what runs is put as cancelled, then it ends at once."""
        ...

    def busy(self) -> int:
        """How many calls are under way, about."""
        ...

    def close(self) -> None:
        """Let go of everything. Called once, after `Sink.end` or an error."""
        ...
