"""What travels: the envelope of a message, the states it goes through, and failures as data."""

from __future__ import annotations

import os
import traceback as tracebacks
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Generic, TypeVar, overload

import msgspec

__all__ = ["Envelope", "Failure", "Ids", "Reason", "State", "read_envelope"]

T = TypeVar("T")


class State(StrEnum):
    """The states of a message (see the glossary)."""

    WAITING = "waiting"
    DELAYED = "delayed"
    RUNNING = "running"
    RETRYING = "retrying"
    DONE = "done"
    DEAD = "dead"
    DISCARDED = "discarded"

    @property
    def final(self) -> bool:
        """Whether a message in this state is never run again by itself."""
        return self in (State.DONE, State.DEAD, State.DISCARDED)


class Reason(StrEnum):
    """Why a message became a dead letter."""

    FAILED = "failed"
    """Its handler raised, and the retries are used up."""
    REFUSED = "failed by handler"
    """Its handler called `fail`, or the retry function answered so."""
    TIMEOUT = "timeout"
    """Its last attempt took longer than `timeout`."""
    EXPIRED = "expired"
    """It waited longer than `expires`."""
    WORKER_LOST = "worker lost"
    """It was alone in a claim when its worker died, and had been delivered often enough."""
    UNREADABLE = "unreadable payload"
    """What arrived does not fit the handler's annotations, or is no message at all."""
    WRONG_RESULTS = "wrong number of results"
    """The batch handler ran, but returned another number of results than messages."""


class Envelope(msgspec.Struct, Generic[T], array_like=True, gc=False):
    """A message as it is stored: an array of id, payload and, in order groups, its task."""

    id: str
    payload: T
    task: str = ""


class Failure(msgspec.Struct, frozen=True):
    """What went wrong, as data: no class is ever rebuilt from it.

    Attributes:
        reason: one of `Reason`, or the text that a handler gave to `fail`.
        kind: the qualified name of the exception's class, for people to read.
        message: the text of the exception.
        traceback: the remote traceback as text; empty when there was none.
    """

    reason: str
    kind: str = ""
    message: str = ""
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, reason: str = Reason.FAILED) -> Failure:
        """Describe an exception, without the frames of taskyard above the handler's."""
        kind = type(error).__qualname__
        if type(error).__module__ not in ("builtins", "__main__"):
            kind = f"{type(error).__module__}.{kind}"
        try:
            message = str(error)
        except Exception as broken:  # a user's __str__ may raise; the failure must be kept anyway
            message = f"(its text could not be made: {type(broken).__name__})"
        return cls(str(reason), kind, message[:10_000], _traceback(error)[-20_000:])

    def summary(self) -> str:
        """One line for people."""
        text = f"{self.kind}: {self.message}" if self.kind else self.message
        return text or self.reason


def _traceback(error: BaseException) -> str:
    own = os.path.dirname(__file__) + os.sep
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(own):
        frames = frames.tb_next
    try:
        return "".join(tracebacks.format_exception(type(error), error, frames))
    except Exception as broken:  # the same: a traceback that cannot be printed must not hide it
        return f"(the traceback could not be made: {type(broken).__name__})"


_lenient = msgspec.msgpack.Decoder(Envelope[Any])


def read_envelope(body: bytes) -> Envelope[Any] | None:
    """Read a stored message without knowing its task.

    Arguments:
        body: the bytes as stored.

    Returns:
        The envelope with its payload as plain data, or None when it is no envelope.
    """
    try:
        return _lenient.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None


class Ids(Sequence[str]):
    """Message ids: 16 characters, unique without asking anybody, sorted by producer and age.

    A range of them is kept as a prefix and two numbers, however long it is.
    """

    __slots__ = ("_first", "_length", "_prefix")

    def __init__(self, prefix: str, first: int, length: int) -> None:
        self._prefix = prefix
        self._first = first
        self._length = length

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._length))]
        if not -self._length <= index < self._length:
            raise IndexError(f"there are {self._length} ids, so none at {index}")
        return "%s%06x" % (self._prefix, self._first + index % self._length)

    def __iter__(self) -> Iterator[str]:
        prefix = self._prefix
        for number in range(self._first, self._first + self._length):
            yield "%s%06x" % (prefix, number)
