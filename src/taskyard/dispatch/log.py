"""Outcomes by columns, for millions of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, overload

from taskyard.dispatch.engine import Finished
from taskyard.dispatch.outcome import CallError, Outcome, Status

__all__ = ["CODES", "STATUSES", "Log", "outcomes_of"]

STATUSES: tuple[Status, ...] = tuple(Status)
CODES: dict[Status, int] = {status: code for code, status in enumerate(STATUSES)}
_FAILED = CODES[Status.FAILED]


class Log(Sequence[Outcome]):
    """What became of calls, in the order in which they ended.

    Each is kept in about 35 bytes beside its value; an `Outcome` is made when it is looked at.

    Arguments:
        offset: unix seconds less seconds of the clock by which instants come in.
    """

    __slots__ = (
        "attempts",
        "codes",
        "ended",
        "failures",
        "ids",
        "metadata",
        "offset",
        "planned",
        "started",
        "values",
    )

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.ids = array("q")
        self.started = array("d")
        self.ended = array("d")
        self.planned: array[float] | None = None
        self.codes = bytearray()
        self.values: list[Any] = []
        self.failures: dict[int, CallError] = {}
        self.metadata: dict[int, dict[str, Any]] = {}
        self.attempts: dict[int, int] = {}

    def add(self, finished: Finished) -> None:
        """Take over what has ended."""
        base, number = len(self.ids), len(finished.ids)
        self.ids.extend(finished.ids)
        self._plan(finished)
        self.started.extend(finished.started)
        self.ended.extend(finished.ended)
        self.values.extend(finished.values)
        self.codes.extend(bytes(number))
        if finished.failures or finished.statuses:
            for at, error in finished.failures.items():
                self.failures[base + at] = error
                self.codes[base + at] = _FAILED
            for at, status in finished.statuses.items():
                self.codes[base + at] = CODES[status]
        for at, noted in finished.metadata.items():
            self.metadata[base + at] = noted
        for at, attempts in finished.attempts.items():
            self.attempts[base + at] = attempts

    def _plan(self, finished: Finished) -> None:
        if finished.planned is not None:
            if self.planned is None:
                self.planned = array("d", self.started)
            self.planned.extend(finished.planned)
        elif self.planned is not None:
            self.planned.extend(finished.started)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> Outcome: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Outcome]: ...
    def __getitem__(self, at: int | slice) -> Outcome | Sequence[Outcome]:
        if isinstance(at, slice):
            return [self._outcome(index) for index in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(f"there are {len(self)} outcomes, and so none at {at}")
        return self._outcome(at % len(self))

    def __iter__(self) -> Iterator[Outcome]:
        return map(self._outcome, range(len(self)))

    def _outcome(self, at: int) -> Outcome:
        offset, started = self.offset, self.started[at]
        planned = started if self.planned is None else self.planned[at]
        return Outcome(
            self.ids[at],
            STATUSES[self.codes[at]],
            planned + offset,
            started + offset,
            self.ended[at] + offset,
            self.values[at],
            self.failures.get(at),
            self.metadata.get(at, {}),
            self.attempts.get(at, 1),
        )

    def order(self) -> list[int]:
        """The positions of all outcomes in the order of their numbers."""
        return sorted(range(len(self.ids)), key=self.ids.__getitem__)


def outcomes_of(
    finished: Finished, offset: float, items: Sequence[Any] | None = None
) -> Iterator[Outcome]:
    """Make outcomes of what has ended.

    Arguments:
        finished: it.
        offset: what is added to its instants.
        items: what the calls were made with, if it is known.
    """
    completed, failed = Status.COMPLETED, Status.FAILED
    failures, statuses = finished.failures, finished.statuses
    planned = finished.started if finished.planned is None else finished.planned
    rows = zip(
        finished.ids,
        planned,
        finished.started,
        finished.ended,
        finished.values,
        repeat(None) if items is None else items,
        strict=False,
    )
    for at, (id_, plan, started, ended, value, item) in enumerate(rows):
        error = failures.get(at)
        status = statuses.get(at, completed if error is None else failed)
        yield Outcome(
            id_,
            status,
            plan + offset,
            started + offset,
            ended + offset,
            value,
            error,
            finished.metadata.get(at, {}),
            finished.attempts.get(at, 1),
            item,
        )
