"""What is known of the calls of a run, by columns: the only thing that a report is made from."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, isfinite
from operator import itemgetter, lt
from typing import Any

import msgspec

__all__ = ["Calls", "Conditions", "Samples", "record"]


class Conditions(msgspec.Struct):
    """Under which conditions the calls were made.

    Attributes:
        title: what to call the run; "": its function's name.
        function: the name of what was called.
        kind: what the workers were: "threads", "processes", "hybrid", "async"…; "": not known.
        workers: how many there were at most; 0: not known.
        plan: when calls were to begin, in words; "": there was no plan.
        open_loop: whether calls were planned for instants, and did not wait for earlier ones.
        limited: how many calls began late because all workers were busy.
        interrupted: whether the run was ended before its plan was.
    """

    title: str = ""
    function: str = ""
    kind: str = ""
    workers: int = 0
    plan: str = ""
    open_loop: bool = False
    limited: int = 0
    interrupted: bool = False

    @property
    def has_known_loop(self) -> bool:
        """Whether it is known if calls waited for earlier ones: logs of other tools do not say."""
        return bool(self.open_loop or self.workers or self.kind)

    @property
    def loop(self) -> str:
        """Which loop it was: "open" or "closed"; "": that is not known."""
        return ("open" if self.open_loop else "closed") if self.has_known_loop else ""


_FARTHEST = 6e10
"""Seconds from 1970 to what is no instant: some 1,900 years."""


def _instants() -> array[float]:
    return array("d")


def _numbers() -> array[int]:
    return array("q")


class Samples(msgspec.Struct):
    """Calls that have ended, a column for each thing known of them, in any order.

    The columns have one entry per call: about 25 bytes, so that millions are cheap.

    Attributes:
        planned: when a call was to begin, as unix seconds; where there was no plan, `started`.
        started: when it did.
        ended: when it ended.
        success: 1 where it succeeded, 0 where it failed.
        ids: the numbers of the calls; empty: they are 1, 2, 3…
        kinds: of failed calls (by index), the kind of error: "ValueError", "HTTP 503".
        messages: of failed calls (by index), what the error said.
        metadata: of calls (by index), what they noted about themselves.
        undispatched: how many calls were never begun.
        cancelled: how many were cancelled.
        lost: how many were under way in a process that died.
        unknown: how many may have ended, but nobody knows how.
        invalid: how many entries could not be understood, and are counted nowhere else.
        breaks: how often the run had ended, and was taken up again later.
        conditions: under which they were made.
        notes: what whoever reads the numbers must know about where they are from.
    """

    planned: array[float] = msgspec.field(default_factory=_instants)
    started: array[float] = msgspec.field(default_factory=_instants)
    ended: array[float] = msgspec.field(default_factory=_instants)
    success: bytearray = msgspec.field(default_factory=bytearray)
    ids: array[int] = msgspec.field(default_factory=_numbers)
    kinds: dict[int, str] = {}
    messages: dict[int, str] = {}
    metadata: dict[int, dict[str, Any]] = {}
    undispatched: int = 0
    cancelled: int = 0
    lost: int = 0
    unknown: int = 0
    invalid: int = 0
    breaks: int = 0
    conditions: Conditions = msgspec.field(default_factory=Conditions)
    notes: list[str] = []

    def __len__(self) -> int:
        return len(self.started)

    @classmethod
    def from_columns(
        cls, started: Sequence[float], ended: Sequence[float], success: Iterable[bool]
    ) -> Samples:
        """Take over calls of which no more is known.

        Arguments:
            started: when they began, as unix seconds.
            ended: when they ended.
            success: whether they succeeded.

        Raises:
            TypeError: an instant is no number.
            ValueError: an instant is none, or the columns are of different lengths.
        """
        samples = cls(
            started=array("d", started), ended=array("d", ended), success=bytearray(success)
        )
        number = len(samples.started)
        if not number == len(samples.ended) == len(samples.success):
            raise ValueError("the columns are of different lengths")
        for column in (samples.started, samples.ended):
            if number and not (
                _is_instant(min(column)) and _is_instant(max(column)) and isfinite(fsum(column))
            ):
                raise ValueError("an instant is none")
        samples.planned = array("d", samples.started)
        return samples

    @classmethod
    def from_logs(cls, logs: Iterable[Mapping[str, Any]]) -> Samples:
        """Take over logs: ours, or those of worker-dispatcher.

        Arguments:
            logs: dictionaries as `Run.logs` has them, or with `task_id`, `started_at`,
                `ended_at`, `duration`, `result` and `metadata`. Of the latter, a call succeeded if
                its result is true, and is no response with a status code other than 200. Those of
                other tools are understood as `reading.read_samples` says.

        Raises:
            ReportError: nothing in them says when calls began and ended.
        """
        from taskyard.report.reading import read_rows

        return read_rows(logs)

    @classmethod
    def merged(cls, parts: Iterable[Samples]) -> Samples:
        """The calls of several files or machines, as if they were of one run.

        Their clocks are taken to show the same time. Conditions are those of the first, but for
        what can be added up.
        """
        whole = cls()
        for number, part in enumerate(parts):
            offset, apart = len(whole), _are_apart(whole, part)
            for name in ("planned", "started", "ended", "success"):
                getattr(whole, name).extend(getattr(part, name))
            whole.ids.extend(part.ids or range(1, len(part) + 1))
            for name in ("kinds", "messages", "metadata"):
                moved = {index + offset: value for index, value in getattr(part, name).items()}
                getattr(whole, name).update(moved)
            for name in ("undispatched", "cancelled", "lost", "unknown", "invalid"):
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
            whole.breaks += part.breaks + apart
            whole.notes += [note for note in part.notes if note not in whole.notes]
            whole.conditions = (
                _together(whole.conditions, part.conditions, apart=apart)
                if number
                else msgspec.structs.replace(part.conditions)
            )
        return whole

    def ordered(self) -> Calls:
        """The calls in the order of their ends."""
        ended = self.ended
        backwards = sum(map(lt, ended, self.started))
        if backwards:  # the clock was put back meanwhile
            ended = array("d", map(max, ended, self.started))
        order = sorted(range(len(ended)), key=ended.__getitem__)
        picked = itemgetter(*order) if len(order) > 1 else tuple
        return Calls(
            planned=array("d", picked(self.planned)),
            started=array("d", picked(self.started)),
            ended=array("d", picked(ended)),
            success=bytearray(picked(self.success)),
            begins=array("d", sorted(self.started)),
            backwards=backwards,
        )


class Calls(msgspec.Struct):
    """The columns of samples, in the order of the ends; no call ends before it begins.

    Attributes:
        planned: when a call was to begin.
        started: when it did.
        ended: when it ended.
        success: 1 where it succeeded.
        begins: when calls began, rising: not the order of the others.
        backwards: how many ended before they began, by the clock; they are taken to have taken
            no time.
    """

    planned: array[float]
    started: array[float]
    ended: array[float]
    success: bytearray
    begins: array[float]
    backwards: int


def _is_instant(value: float) -> bool:
    return -_FARTHEST < value < _FARTHEST


def record(
    samples: Samples,
    instants: tuple[float | None, float, float],
    number: int | None = None,
    error: tuple[str, str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Add a call that ended to samples, or leave them as they were.

    Arguments:
        samples: what it is added to.
        instants: when it was to begin (None: there was no plan), when it did, and when it ended.
        number: its own; None: its place.
        error: of a call that failed, the kind of error, and what it said.
        metadata: what it noted about itself.

    Raises:
        ValueError: the instants are none: not finite, or thousands of years off.
        TypeError, OverflowError: the number is none of 64 bits.
    """
    planned, started, ended = instants
    if planned is None:
        planned = started
    for instant in (planned, started, ended):
        if not _is_instant(instant):
            raise ValueError(f"{instant} is no instant")
    place = len(samples.started)
    samples.ids.append(place + 1 if number is None else number)  # the only one that may be refused
    samples.planned.append(planned)
    samples.started.append(started)
    samples.ended.append(ended)
    samples.success.append(error is None)
    if error is not None:
        samples.kinds[place] = error[0]
        if error[1]:
            samples.messages[place] = error[1]
    if metadata:
        samples.metadata[place] = metadata


def _are_apart(one: Samples, other: Samples) -> bool:
    """Whether all calls of one ended before the first of the other began."""
    if not len(one) or not len(other):
        return False
    return max(one.ended) <= min(other.started) or max(other.ended) <= min(one.started)


def _together(one: Conditions, other: Conditions, *, apart: bool) -> Conditions:
    workers = max(one.workers, other.workers) if apart else one.workers + other.workers
    return msgspec.structs.replace(
        one,
        workers=workers if one.workers and other.workers else 0,
        limited=one.limited + other.limited,
        open_loop=one.open_loop or other.open_loop,
        interrupted=one.interrupted or other.interrupted,
    )
