"""What a broker keeps of workers: that they are there, what they report, and what they are told.

A worker refreshes its entry with its housekeeping, and takes it out when it ends. Of one that was
killed the entry stays until it expires. What a worker is told waits in its mailbox, which is part
of the entry and goes with it: another run has another id. A broker reads neither reports nor
control messages.

Reports hold ages, not times: the broker notes when it got one, so all times are of its clock.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from taskyard.brokers.base import Operation

__all__ = [
    "KEPT",
    "LONGEST_MAIL",
    "SHOWN_CALLS",
    "SILENT",
    "CallReport",
    "Command",
    "ControlMessage",
    "Present",
    "Report",
    "RunningCall",
    "WorkerEntry",
    "WorkerInfo",
    "WorkerState",
    "Workers",
    "knows",
    "look",
    "read_workers",
]

log = logging.getLogger("taskyard.worker")

SILENT = 60 * 1_000_000
"""Microseconds without a refresh after which a worker is called silent; it comes twice as often."""
KEPT = 900 * 1_000_000
"""Microseconds without a refresh after which an entry has expired."""
LONGEST_MAIL = 100
"""Control messages that wait for a worker; the oldest give way."""
SHOWN_CALLS = 20
"""Running calls that a report names, those that have run longest."""


class Command(StrEnum):
    """What a worker can be told."""

    SHUTDOWN = "shutdown"
    PAUSE = "pause"
    RESUME = "resume"


class WorkerState(StrEnum):
    """What a worker does."""

    RUNNING = "running"
    PAUSING = "pausing"
    """It takes nothing more, from no queue; something runs still."""
    PAUSED = "paused"
    STOPPING = "stopping"


class ControlMessage(msgspec.Struct, frozen=True, array_like=True):
    """What a worker is told.

    Attributes:
        number: rises with every one.
        command: a `Command`; whatever else it is, nobody does it.
        queue: what it concerns; "": all queues of the worker.
    """

    number: int
    command: str
    queue: str = ""


class WorkerEntry(msgspec.Struct, frozen=True):
    """A worker as it is stored.

    Attributes:
        id: of this run of it.
        seen: when it was refreshed, microseconds.
        report: an encoded `Report`.
    """

    id: str
    seen: int
    report: bytes


class Present(msgspec.Struct, frozen=True):
    """The reply of `Workers.find`.

    Attributes:
        now: the broker's time, microseconds.
        workers: the entries, those of silent workers too.
    """

    now: int
    workers: list[WorkerEntry]


class Workers(Protocol):
    """The workers of a broker."""

    def attend(
        self, worker: str, report: bytes, listener: str, heard: int
    ) -> Operation[list[ControlMessage]]:
        """Make or refresh an entry, and look into its mailbox; expired entries are removed.

        Arguments:
            worker: its id.
            report: what is stored.
            listener: who is woken when it is told something; "": nobody.
            heard: the number of the last control message that it carried out: up to there they
                are removed.

        Returns:
            The others, in the order in which they were told.
        """
        ...

    def mail(self, worker: str, heard: int) -> Operation[list[ControlMessage]]:
        """Look into a mailbox, and change nothing.

        Arguments:
            worker: its id.
            heard: only messages with a higher number.
        """
        ...

    def retire(self, workers: Sequence[str]) -> Operation[None]:
        """Remove entries, with their mail: these workers have ended."""
        ...

    def find(self) -> Operation[Present]:
        """List the entries that have not expired."""
        ...

    def tell(self, workers: Sequence[str], command: str, queue: str) -> Operation[list[str]]:
        """Put a control message into mailboxes, and wake the workers.

        An equal one that is still there is replaced: doing it twice would change nothing.

        Arguments:
            workers: their ids.
            command: what they are told.
            queue: what it concerns; "": all queues.

        Returns:
            Those that were told. The others have no entry.
        """
        ...


# What a worker writes


class CallReport(msgspec.Struct, omit_defaults=True):
    """A call of a handler that runs.

    Attributes:
        task: its task.
        id: the id of its message, or of the first one of a batch.
        messages: how many it has.
        age: for how long it runs, microseconds.
    """

    task: str
    id: str = ""
    messages: int = 1
    age: int = 0


class Report(msgspec.Struct, omit_defaults=True):
    """What a worker says of itself. A newer one may say more: what is unknown is passed over.

    Attributes:
        host: its machine.
        pid: its process there.
        version: of taskyard.
        serves: tasks by queue.
        slots: calls at a time.
        age: how long ago it started, microseconds.
        idle: how long ago it last claimed or settled something; None: it never did.
        state: a `WorkerState`.
        paused: the queues from which it was told to take nothing.
        running: calls of handlers that run.
        calls: some of them, `SHOWN_CALLS` at most.
    """

    host: str
    pid: int
    version: str
    serves: dict[str, list[str]]
    slots: int
    age: int
    idle: int | None = None
    state: str = WorkerState.RUNNING
    paused: list[str] = []
    running: int = 0
    calls: list[CallReport] = []


# What others read


@dataclass(frozen=True, slots=True)
class RunningCall:
    """A call of a handler that runs.

    Attributes:
        task: its task.
        id: the id of its message, or of the first one of a batch.
        messages: how many messages it has.
        since: when it began.
    """

    task: str
    id: str
    messages: int
    since: datetime


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker, as somebody looks at it. Times are of the broker's clock.

    Attributes:
        id: of this run of it; another run has another one.
        host: its machine.
        pid: its process there.
        version: of taskyard.
        serves: the names of the tasks that it knows, by queue.
        slots: how many calls of handlers it makes at a time.
        state: what it did when it was last seen.
        paused: the queues from which it was told to take nothing.
        running: calls of handlers that ran then.
        calls: some of them: the 20 that had run longest.
        started: when it started.
        seen: when it last said that it is there; it does so every 15 to 30 seconds.
        progress: when it last claimed or settled something; None: it never did.
        silent: whether it has not been seen for more than a minute: it was killed, is stuck, or
            cannot reach the broker.
    """

    id: str
    host: str
    pid: int
    version: str
    serves: dict[str, list[str]]
    slots: int
    state: str
    paused: list[str]
    running: int
    calls: list[RunningCall]
    started: datetime
    seen: datetime
    progress: datetime | None
    silent: bool

    @property
    def queues(self) -> list[str]:
        """The queues that it serves, sorted."""
        return sorted(self.serves)

    @property
    def tasks(self) -> list[str]:
        """The tasks that it knows, as QUEUE/TASK, sorted."""
        return sorted(f"{queue}/{task}" for queue, tasks in self.serves.items() for task in tasks)


_read = msgspec.msgpack.Decoder(Report).decode


def read_workers(present: Present) -> list[WorkerInfo]:
    """Make of entries what people look at, sorted by host and start."""
    found = [info for entry in present.workers if (info := _info(entry, present.now)) is not None]
    return sorted(found, key=lambda info: (info.host, info.started, info.id))


def _info(entry: WorkerEntry, now: int) -> WorkerInfo | None:
    try:
        report = _read(entry.report)
    except msgspec.MsgspecError as error:
        log.warning("the entry of worker %s cannot be read: %s", entry.id, error)
        return None
    return WorkerInfo(
        id=entry.id,
        host=report.host,
        pid=report.pid,
        version=report.version,
        serves=report.serves,
        slots=report.slots,
        state=report.state,
        paused=report.paused,
        running=report.running,
        calls=[
            RunningCall(call.task, call.id, call.messages, _time(entry.seen - call.age))
            for call in report.calls
        ],
        started=_time(entry.seen - report.age),
        seen=_time(entry.seen),
        progress=None if report.idle is None else _time(entry.seen - report.idle),
        silent=now - entry.seen > SILENT,
    )


def _time(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / 1e6, UTC)


def look(workers: Workers) -> Generator[Any, Any, list[WorkerInfo]]:
    """An operation that lists workers.

    Arguments:
        workers: those of a broker.
    """
    return read_workers((yield from workers.find()))


def knows(workers: Iterable[WorkerInfo], queue: str, task: str) -> bool:
    """Whether a worker that is not silent takes messages of a task from a queue.

    One that is paused, or stops, counts as well: it knows the task.

    Arguments:
        workers: what was found, as by `Yard.workers`.
        queue: the name of the queue.
        task: the name of the task.
    """
    return any(not one.silent and task in one.serves.get(queue, ()) for one in workers)
