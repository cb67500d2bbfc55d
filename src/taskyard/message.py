"""What travels: the envelope of a message, the states it goes through, and failures as data."""

from __future__ import annotations

import os
import threading
import traceback as tracebacks
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import thread as futures
from enum import StrEnum
from typing import Any, Generic, TypeVar, overload

import msgspec

from taskyard.errors import EnqueueError

__all__ = [
    "Envelope",
    "Failure",
    "IdMaker",
    "Ids",
    "Reason",
    "State",
    "checked_id",
    "is_text",
    "packed_headers",
    "read_envelope",
    "read_headers",
    "read_id",
    "with_headers",
]

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
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether a message in this state is never run again by itself."""
        return self in (State.DONE, State.DEAD, State.DISCARDED, State.CANCELLED)


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
    DROPPED = "dropped"
    """Its bounded queue was full, and it made room for a later message."""
    WRONG_RESULTS = "wrong number of results"
    """The batch handler ran, but returned another number of results than messages."""


class Envelope(msgspec.Struct, Generic[T], array_like=True, gc=False):
    """A message as it is stored: an array of id, payload and, in order groups, its task.

    One with headers has a fourth element, a map of texts; see `with_headers`. As whoever decodes an
    envelope passes over it, only those who want the headers pay for them.
    """

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
        except BaseException as broken:  # noqa: BLE001 - a user's __str__ may raise
            message = f"(its text could not be made: {type(broken).__name__})"
        return cls(
            str(reason), kind, _storable(message[:10_000]), _storable(_traceback(error)[-20_000:])
        )

    def summary(self) -> str:
        """One line for people."""
        text = f"{self.kind}: {self.message}" if self.kind else self.message
        return text or self.reason


def _traceback(error: BaseException) -> str:
    try:
        shown = tracebacks.TracebackException.from_exception(error, compact=True)
        chain: list[tracebacks.TracebackException | None] = [shown]
        while chain:
            if (part := chain.pop()) is None:
                continue
            users = (i for i, frame in enumerate(part.stack) if not _is_ours(frame.filename))
            del part.stack[: next(users, len(part.stack))]
            chain += [part.__cause__, part.__context__, *(part.exceptions or ())]
        return "".join(shown.format())
    except BaseException as broken:  # noqa: BLE001 - it calls the user's __str__ too
        return f"(the traceback could not be made: {type(broken).__name__})"


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OWN) or filename == futures.__file__


_OWN = os.path.dirname(__file__) + os.sep


def _storable(text: str) -> str:
    """Half a surrogate pair (of a file's name, say) is no text that could be stored."""
    return text.encode("utf-8", "backslashreplace").decode()


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


def read_id(body: bytes) -> str:
    """Read the id of a stored message; "" when it is no envelope."""
    try:
        return _raw.decode(body).id
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return ""


_raw = msgspec.msgpack.Decoder(Envelope[msgspec.Raw])


# Headers

_BARE, _HEADED = b"\x93", b"\x94"
"""What the array of a message begins with: three elements, or a fourth one with headers."""


class _Headed(msgspec.Struct, array_like=True, gc=False):
    id: msgspec.Raw
    payload: msgspec.Raw
    task: msgspec.Raw
    headers: dict[str, str]


_headed = msgspec.msgpack.Decoder(_Headed)
_encode_headers = msgspec.msgpack.Encoder(order="sorted").encode


def packed_headers(headers: Mapping[str, str]) -> bytes:
    """Encode headers for `with_headers`.

    Raises:
        ValueError: they are no texts by texts.
    """
    return _encode_headers(msgspec.convert(headers, dict[str, str]))


def with_headers(body: bytes, packed: bytes) -> bytes:
    """Give headers to a message that has none.

    Arguments:
        body: the message, as it would be stored.
        packed: what `packed_headers` made.
    """
    return _HEADED + body[1:] + packed if body.startswith(_BARE) else body


def read_headers(body: bytes) -> dict[str, str]:
    """Read the headers of a stored message; none when it has none, or is no message."""
    if not body.startswith(_HEADED):
        return {}
    try:
        return _headed.decode(body).headers
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return {}


class Ids(Sequence[str]):
    """Message ids: 16 characters, unique without asking anybody, sorted by age for each producer.

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
            first, last, step = index.indices(self._length)
            if step == 1:
                return Ids(self._prefix, self._first + first, max(0, last - first))
            return [self[i] for i in range(first, last, step)]
        if not -self._length <= index < self._length:
            raise IndexError(f"there are {self._length} ids, so none at {index}")
        return f"{self._prefix}{self._first + index % self._length:05x}"

    def __iter__(self) -> Iterator[str]:
        prefix = self._prefix
        for number in range(self._first, self._first + self._length):
            yield f"{prefix}{number:05x}"


def is_text(value: str) -> bool:
    """Whether every storage gives a str back unchanged: not with NUL, or half a surrogate pair."""
    if "\0" in value:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def checked_id(value: object) -> str:
    """The id itself.

    Raises:
        EnqueueError: no message can have it.
    """
    if not isinstance(value, str) or not 0 < len(value) <= 200 or not is_text(value):
        raise EnqueueError(f"id must be a text of 1 to 200 characters without NUL, not {value!r}")
    return value


class IdMaker:
    """Makes message ids: a random prefix per process, and a counter."""

    LAST = 0xFFFFF

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._renew()

    def _renew(self) -> None:
        # 55 random bits: of a million producers, two are alike with a chance of 1 in 70,000.
        bits = int.from_bytes(os.urandom(7), "big") & ((1 << 55) - 1)
        self._prefix = "".join(_ALPHABET[bits >> shift & 31] for shift in range(50, -1, -5))
        self._next = 0

    def take(self, count: int) -> Ids:
        """Make ids.

        Arguments:
            count: how many, 1 to 1,048,576.
        """
        with self._lock:
            if self._next + count - 1 > self.LAST:
                self._renew()
            first = self._next
            self._next += count
            return Ids(self._prefix, first, count)


_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
