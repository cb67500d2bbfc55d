"""What can be said about a worker, checked in one place for Python and the command line."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from taskyard.errors import WorkerError
from taskyard.message import Failure

__all__ = ["WorkerSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The settings of a worker.

    Arguments:
        queues: queues to serve; a mapping gives each a concurrency of its own. None: all that the
            yard's tasks name.
        concurrency: handler calls at a time, per process.
        processes: child processes; 0: none, the worker runs in the calling process.
        burst: end when nothing is left that can be done now; batches that still wait to fill are
            flushed.
        lease: seconds for which claims are leased; they are renewed every third of it.
        grace: seconds that running handlers get to end after SIGTERM.
        slice: seconds of work that a slot claims at once, by what the task took so far.
        max_messages: a process is replaced after about this many messages (with processes=0 it
            ends); what it has claimed is finished first.
        max_memory: the same when it uses this many megabytes.
        health_file: a file that is touched while every process makes progress; needs a supervisor.
        inboxes: take in what other programs push into the inboxes of the queues, where the broker
            has some.
        bare_inboxes: with these, also the lists that are named like the queues and nothing else,
            as producers push to that know nothing of taskyard.
        schedules: do what is due by schedules, those of the yard and all others in the broker.
        fail_fast: a message that ends as a dead letter ends the worker, with an error; or a
            function that says so of each, by why it died.
        limit: the worker ends when exactly so many messages have ended here, well or badly. It
            never takes more; what is tried again or given back does not count. Needs processes=0.
        idle: the worker ends when its queues have been empty for so many seconds: nothing waits,
            is delayed, or runs anywhere. Needs processes=0.
    """

    queues: Mapping[str, int] | Sequence[str] | None = None
    concurrency: int = 8
    processes: int = 0
    burst: bool = False
    lease: float = 30.0
    grace: float = 30.0
    slice: float = 0.05
    max_messages: int | None = None
    max_memory: int | None = None
    health_file: str | None = None
    inboxes: bool = True
    bare_inboxes: bool = False
    schedules: bool = True
    fail_fast: bool | Callable[[Failure], bool] = False
    limit: int | None = None
    idle: float | None = None

    def __post_init__(self) -> None:
        _whole("concurrency", self.concurrency, 1, 10_000)
        _whole("processes", self.processes, 0, 1_000)
        _seconds("lease", self.lease, 0.1, 86_400)
        _seconds("grace", self.grace, 0, 86_400)
        _seconds("slice", self.slice, 0.001, 60)
        if self.max_messages is not None:
            _whole("max_messages", self.max_messages, 1, 1 << 62)
        if self.max_memory is not None:
            _whole("max_memory", self.max_memory, 1, 1 << 40)
        self._check_end()
        queues: object = () if self.queues is None else self.queues
        if (
            isinstance(queues, str)
            or not isinstance(queues, Collection)
            or not all(isinstance(name, str) for name in queues)
        ):
            raise WorkerError(f"queues must be a list of names or a mapping, not {self.queues!r}")
        if self.health_file is not None and self.processes == 0:
            raise WorkerError(
                "health_file is kept by the supervisor, which processes=0 does without: "
                "use processes=1 or more"
            )
        for name, count in self.pools().items():
            if name is not None:
                _whole(f"the concurrency of queue {name!r}", count, 1, 10_000)

    def _check_end(self) -> None:
        if self.limit is not None:
            _whole("limit", self.limit, 1, 1 << 62)
        if self.idle is not None:
            _seconds("idle", self.idle, 0, 86_400)
        for name in ("limit", "idle"):
            if self.processes and getattr(self, name) is not None:
                raise WorkerError(
                    f"{name} ends one worker, but a supervisor replaces those that end: "
                    f"use processes=0, or leave {name} out"
                )

    def pools(self) -> dict[str | None, int]:
        """Slots per queue; under None the slots that are common to all queues."""
        if isinstance(self.queues, Mapping):
            if not self.queues:
                raise WorkerError("queues is empty: name at least one, or leave it out for all")
            return dict(self.queues.items())
        if self.queues is not None and not self.queues:
            raise WorkerError("queues is empty: name at least one, or leave it out for all")
        return {None: self.concurrency}

    def ends_with(self, failure: Failure) -> bool:
        """Whether a message that died of this ends the worker."""
        return self.fail_fast(failure) if callable(self.fail_fast) else self.fail_fast


def _whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise WorkerError(
            f"{name} must be a whole number from {least:,} to {most:,}, not {value!r}"
        )


def _seconds(name: str, value: object, least: float, most: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not least <= value <= most:  # type: ignore[arg-type,operator]
        raise WorkerError(f"{name} must be from {least:g} to {most:g} seconds, not {value!r}")
