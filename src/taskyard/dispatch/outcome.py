"""What became of a call."""

from __future__ import annotations

import traceback
from enum import StrEnum
from types import TracebackType
from typing import Any

import msgspec

__all__ = ["CallError", "Outcome", "Status"]


class Status(StrEnum):
    """How a call ended."""

    COMPLETED = "completed"
    """It returned a value."""
    FAILED = "failed"
    """It raised, or took longer than it may."""
    CANCELLED = "cancelled"
    """The run was ended while it was under way."""
    UNDISPATCHED = "undispatched"
    """It was never begun."""
    LOST = "lost"
    """The process that it was under way in died."""
    UNKNOWN = "unknown"
    """It may have ended in a process that died before it could say so."""


class CallError(msgspec.Struct, frozen=True):
    """Why a call failed.

    Attributes:
        kind: the kind of error: the name of the exception's class.
        message: what it says, with its notes.
        stack: where it was raised, as text, without the error itself; "": not known.
        exception: the exception, without its frames, where it is at hand: not from another
            process if it cannot be pickled, and not from a log file.
    """

    kind: str
    message: str = ""
    stack: str = ""
    exception: BaseException | None = None

    @property
    def traceback(self) -> str:
        """The traceback as Python prints it; without frames where they are not known."""
        return f"{self.stack}{self.summary}\n"

    @property
    def summary(self) -> str:
        """Kind and message, in a line as Python prints it."""
        return f"{self.kind}: {self.message}" if self.message else self.kind

    @classmethod
    def of(cls, error: BaseException, *, skip: int = 1) -> CallError:
        """Take what is worth keeping from an exception, and let go of its frames.

        Arguments:
            error: the exception; it loses its traceback, and so do those it was caused by.
            skip: how many of the outermost frames are ours, and of no use to anybody.
        """
        frames = error.__traceback__
        for _ in range(skip):
            frames = None if frames is None else frames.tb_next
        stack = _chained(error, frames) if _is_chained(error) else _stack(frames)
        _let_go(error)
        return cls(type(error).__qualname__, _text(error), stack, error)


class Outcome(msgspec.Struct):
    """What became of one call. Instants are unix seconds.

    Attributes:
        id: the number of the call, from 1, in the order of the items.
        status: how it ended.
        planned: when it was to begin; without a plan, when it did.
        started: when it began.
        ended: when it ended.
        value: what the function returned. A callback `on_result` may put another one in its place.
        error: why it failed; None: it did not.
        metadata: what the function noted about the call (`context=True`).
        attempts: how often it was tried.
        item: what the function was called with, in streams and callbacks; None elsewhere.
    """

    id: int
    status: Status
    planned: float
    started: float
    ended: float
    value: Any = None
    error: CallError | None = None
    metadata: dict[str, Any] = {}
    attempts: int = 1
    item: Any = None

    @property
    def ok(self) -> bool:
        """Whether it returned a value."""
        return self.status is Status.COMPLETED

    @property
    def duration(self) -> float:
        """Seconds from its start to its end."""
        return self.ended - self.started

    @property
    def latency(self) -> float:
        """Seconds from when it was to begin to its end: what somebody who waits for it sees."""
        return self.ended - self.planned

    @property
    def lateness(self) -> float:
        """Seconds by which it began later than planned."""
        return self.started - self.planned


_STACKS: dict[tuple[tuple[object, int], ...], str] = {}
"""Stacks that were seen, as text: a call that fails often fails in the same place."""
MOST_STACKS = 1000


def _stack(frames: TracebackType | None) -> str:
    places = []
    at = frames
    while at is not None:
        places.append((at.tb_frame.f_code, at.tb_lineno))
        at = at.tb_next
    key = tuple(places)
    if (text := _STACKS.get(key)) is None:
        lines = traceback.format_tb(frames)
        text = "".join(["Traceback (most recent call last):\n", *lines]) if lines else ""
        if len(_STACKS) >= MOST_STACKS:
            _STACKS.clear()
        _STACKS[key] = text
    return text


def _is_chained(error: BaseException) -> bool:
    hidden = error.__suppress_context__ or error.__context__ is None
    return error.__cause__ is not None or not hidden or isinstance(error, BaseExceptionGroup)


def _chained(error: BaseException, frames: TracebackType | None) -> str:
    shown = traceback.TracebackException(type(error), error, frames)
    shown.__notes__ = []  # they stand in the message
    lines = list(shown.format())
    # The last line says what `summary` does; of a group, it is one of those within it.
    return "".join(lines if isinstance(error, BaseExceptionGroup) else lines[:-1])


def _text(error: BaseException) -> str:
    try:
        return "\n".join([str(error), *getattr(error, "__notes__", ())])
    except Exception:  # noqa: BLE001 - a user's class; the call has to end somehow
        return f"(its text cannot be shown: {type(error).__qualname__}.__str__ raised)"


def _let_go(error: BaseException) -> None:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        at = left.pop()
        if at is None or id(at) in seen:
            continue
        seen.add(id(at))
        # As `at.__traceback__ = None`, which a class may refuse: a frozen dataclass does.
        BaseException.with_traceback(at, None)
        left += [at.__cause__, at.__context__]
