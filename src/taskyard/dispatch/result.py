"""What a run leaves: results, logs, counts, a report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from taskyard.dispatch.log import CODES, Log
from taskyard.dispatch.outcome import Outcome, Status
from taskyard.errors import CallFailed

if TYPE_CHECKING:
    from taskyard.report import Report, Samples

__all__ = ["Counts", "Run", "RunInfo"]

Order = Literal["items", "completed"]
RAISE: Any = object()
_COMPLETED = CODES[Status.COMPLETED]


class Counts(msgspec.Struct, frozen=True):
    """How many calls ended how."""

    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    undispatched: int = 0
    lost: int = 0
    unknown: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.begun + self.undispatched

    @property
    def begun(self) -> int:
        """Those that were begun."""
        return self.completed + self.failed + self.cancelled + self.lost + self.unknown


class RunInfo(msgspec.Struct, kw_only=True):
    """What was run, and how.

    Attributes:
        function: the name of the function.
        kind: what the workers were.
        workers: how many there were at most.
        plan: when calls were due, in words; "": as soon as possible.
        total: how many calls there were to be; None: not known.
        started: when the run began, as unix seconds.
        ended: when it ended, as unix seconds.
        limited: how many planned calls began late because all workers were busy.
        interrupted: the signal that asked it to end: "SIGINT" or "SIGTERM"; "": none did.
    """

    function: str
    kind: str
    workers: int
    plan: str = ""
    total: int | None = None
    started: float = 0.0
    ended: float = 0.0
    limited: int = 0
    interrupted: str = ""


class Run:
    """A run that has ended.

    Attributes:
        counts: how many calls ended how.
        info: what was run, and how.
        log: the outcomes, in the order in which they ended.
        error: why the run ended before its plan: what the items or a callback raised; None:
            nothing did.
    """

    def __init__(
        self, counts: Counts, info: RunInfo, log: Log, error: BaseException | None = None
    ) -> None:
        self.counts = counts
        self.info = info
        self.log = log
        self.error = error

    @property
    def started(self) -> float:
        """When it began, as unix seconds."""
        return self.info.started

    @property
    def ended(self) -> float:
        """When it ended, as unix seconds."""
        return self.info.ended

    @property
    def duration(self) -> float:
        """Seconds that it took."""
        return self.info.ended - self.info.started

    def __len__(self) -> int:
        return len(self.log)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{number} {name}"
            for name, number in msgspec.structs.asdict(self.counts).items()
            if number
        )
        return f"<Run of {self.info.function}: {counts or 'no calls'}>"

    def results(self, *, order: Order = "items", default: Any = RAISE) -> list[Any]:
        """What the function returned.

        The n-th is of the n-th item. After a run that was ended early they end with the last call
        that was begun.

        Arguments:
            order: `"items"`, or `"completed"`: the order in which calls ended.
            default: stands where a call has not completed.

        Raises:
            CallFailed: a call has not completed, and there is no default.
        """
        log = self.log
        if log.codes.count(_COMPLETED) == len(log) and order == "completed":
            return list(log.values)
        places = log.order() if order == "items" else range(len(log))
        values: list[Any] = []
        for at in places:
            if order == "items":
                self._fill(values, log.ids[at] - 1, default)
            if log.codes[at] == _COMPLETED:
                values.append(log.values[at])
            elif default is RAISE:
                raise CallFailed(log[at])
            else:
                values.append(default)
        return values

    def _fill(self, values: list[Any], number: int, default: Any) -> None:
        """Put the default where calls were never begun, though later ones were."""
        while len(values) < number:
            if default is RAISE:
                now = self.info.ended
                raise CallFailed(Outcome(len(values) + 1, Status.UNDISPATCHED, now, now, now))
            values.append(default)

    def logs(self) -> list[dict[str, Any]]:
        """The outcomes in the order of the items, as dictionaries."""
        from taskyard.dispatch.logfile import entry

        return [entry(self.log[at]) for at in self.log.order()]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the log to a file: a line of JSON that says what was run, then one per outcome.

        `taskyard report` reads it, and `resume` takes it for the calls that have no outcome.

        Arguments:
            path: the file, which is replaced.

        Raises:
            OSError: it cannot be written.
        """
        from taskyard.dispatch.logfile import Header, save

        info = self.info
        header = Header(
            function=info.function,
            started=info.started,
            kind=info.kind,
            workers=info.workers,
            plan=info.plan,
            total=info.total,
        )
        save(Path(path), header, self.log)

    def failures(self) -> Iterator[Outcome]:
        """The outcomes of calls that have not completed, in the order in which they ended."""
        codes = self.log.codes
        return (self.log[at] for at in range(len(codes)) if codes[at] != _COMPLETED)

    def samples(self) -> Samples:
        """The columns that a report is made from."""
        from taskyard.dispatch.sampling import samples_of

        return samples_of(self)

    def report(self, **options: Any) -> Report:
        """The numbers: throughput, latency, errors. See `taskyard.report.make_report`."""
        from taskyard.report import make_report

        return make_report(self.samples(), **options)
