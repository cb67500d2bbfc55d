"""What became of a message."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

import msgspec

from taskyard import context
from taskyard.brokers.base import AsyncDriver, Broker, Driver, Group, Listener, Operation, Record
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.unique import Keys
from taskyard.context import Progress
from taskyard.errors import (
    EnqueueError,
    NotFound,
    ResultNotKept,
    ResultTimeout,
    ResultWaitRefused,
    TaskCancelled,
    TaskDiscarded,
    TaskFailed,
)
from taskyard.message import Failure, State

__all__ = [
    "RecordReader",
    "Result",
    "Results",
    "Standing",
    "UniqueResult",
    "encode_progress",
    "progress_of",
]

R = TypeVar("R")

LONGEST_WAIT = 10.0
"""Seconds after which a waiter looks again without having been woken: wake-ups can get lost, where
a server fails or an account may not publish."""

NOTHING = b"\xc0"
"""None, encoded."""

Decoder = Callable[[bytes, str], Any]
"""Makes a result of its bytes and the id of its message."""

_Watch = Generator[Operation[list[Record | None]] | float, Any, Record | None]


class RecordReader:
    """Looks records up and waits for them.

    Arguments:
        broker: where they are.
        driver: makes or gives the driver for threads.
        async_driver: makes or gives the driver for event loops.
        kept: whether there are records of the messages that are asked for.

    Attributes:
        kept: the same.
        without_records: the same broker for messages that have none.
    """

    def __init__(
        self,
        broker: Broker,
        driver: Callable[[], Driver],
        async_driver: Callable[[], AsyncDriver],
        *,
        kept: bool = True,
    ) -> None:
        self.kept = kept
        self.without_records: RecordReader = (
            RecordReader(broker, driver, async_driver, kept=False) if kept else self
        )
        self._broker = broker
        self._driver = driver
        self._async_driver = async_driver

    def read(self, message_id: str) -> Record | None:
        """The record of a message; None if there is none (any more)."""
        return self._driver().run(self._broker.records([message_id]))[0]

    async def read_async(self, message_id: str) -> Record | None:
        """The same, without blocking the event loop."""
        return (await self._async_driver().run(self._broker.records([message_id])))[0]

    def read_many(self, message_ids: Sequence[str], listener: Listener) -> list[Record | None]:
        """The records of messages, or None; what has not ended will wake a listener when it has."""
        return self._driver().run(self._broker.records(message_ids, listener.name or None))

    def listener(self) -> Listener:
        """Somebody who can wait for messages to end, in a thread. Close it."""
        return self._driver().listener()

    def cancel(self, message_id: str, *, note: bool) -> Cancellation:
        """See `Broker.cancel`."""
        return self._driver().run(self._broker.cancel(message_id, note=note))

    async def cancel_async(self, message_id: str, *, note: bool) -> Cancellation:
        """The same, without blocking the event loop."""
        return await self._async_driver().run(self._broker.cancel(message_id, note=note))

    def cancel_key(self, group: Group, shard: str, key: str) -> Cancellation:
        """See `Broker.cancel_key`."""
        return self._driver().run(self._broker.cancel_key(group, shard, key))

    async def cancel_key_async(self, group: Group, shard: str, key: str) -> Cancellation:
        """The same, without blocking the event loop."""
        return await self._async_driver().run(self._broker.cancel_key(group, shard, key))

    def wait(self, message_id: str, timeout: float | None) -> Record | None:
        """Wait until a record is final, or gone.

        Returns:
            The record as it is in the end; not final if the time is over.
        """
        record = self.read(message_id)
        if _is_over(record) or timeout == 0:
            return record
        driver = self._driver()
        listener = driver.listener()
        watch = self._watch(message_id, listener, timeout)
        answer: Any = None
        try:
            while True:
                step = watch.send(answer)
                answer = listener.wait(step) if isinstance(step, float) else driver.run(step)
        except StopIteration as end:
            found: Record | None = end.value
            return found
        finally:
            listener.close()

    async def wait_async(self, message_id: str, timeout: float | None) -> Record | None:
        """The same, without blocking the event loop."""
        record = await self.read_async(message_id)
        if _is_over(record) or timeout == 0:
            return record
        driver = self._async_driver()
        listener = driver.listener()
        watch = self._watch(message_id, listener, timeout)
        answer: Any = None
        try:
            while True:
                step = watch.send(answer)
                if isinstance(step, float):
                    answer = await listener.wait_async(step)
                else:
                    answer = await driver.run(step)
        except StopIteration as end:
            found: Record | None = end.value
            return found
        finally:
            listener.close()

    def _watch(self, message_id: str, listener: Listener, timeout: float | None) -> _Watch:
        """Ask, by turns, to run an operation and to wait for some seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            found: list[Record | None]
            found = yield self._broker.records([message_id], listener.name or None)
            record = found[0]
            remaining = _remaining(end, time.monotonic())
            if _is_over(record) or remaining <= 0:
                return record
            yield remaining


_told = msgspec.msgpack.Decoder(tuple[float | None, float | None, str])


def encode_progress(progress: Progress) -> bytes:
    """What a handler told, as its record keeps it."""
    return msgspec.msgpack.encode((progress.done, progress.total, progress.note))


def progress_of(record: Record) -> Progress | None:
    """What the handler of a message told last; None: nothing."""
    if record.progress is None:
        return None
    return Progress(*_told.decode(record.progress), record.told_at / 1e6)


def _is_over(record: Record | None) -> bool:
    return record is None or record.state.final


def _remaining(end: float | None, now: float) -> float:
    return LONGEST_WAIT if end is None else min(end - now, LONGEST_WAIT)


class Standing:
    """Of messages with unique keys, which ones stand: these, or those that were there before.

    Arguments:
        ids: the ids that the messages were given.
        parts: what was put, with the indices of its messages in `ids`.
    """

    __slots__ = ("_found", "_ids", "_parts")

    def __init__(self, ids: Sequence[str], parts: Sequence[tuple[Keys, Sequence[int]]]) -> None:
        self._ids = ids
        self._parts = parts
        self._found: dict[int, str] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def id(self, index: int) -> str:
        """The id of the message that stands.

        Raises:
            EnqueueError: it is not stored yet, so nobody knows.
        """
        return self._held().get(index) or self._ids[index]

    def is_new(self, index: int) -> bool:
        """Whether the message found its key free; raises the same."""
        return index not in self._held()

    def _held(self) -> dict[int, str]:
        if self._found is None:
            found: dict[int, str] = {}
            for keys, indices in self._parts:
                if keys.standing is None:
                    raise EnqueueError(
                        "which message stands is known when it is stored: after the block of "
                        "`buffered`, if that did not raise an error"
                    )
                found.update((indices[at], id_) for at, id_ in keys.standing.items())
            self._found, self._parts = found, ()
        return self._found


class Result(Generic[R]):
    """A handle on a message: its id, and what became of it.

    Attributes:
        id: the message's id.
        created: whether `enqueue` stored a message. False: one with the same unique key was there
            already, and this is a handle on it; or, if the task debounces, this message took its
            place. Always True without unique keys.
    """

    __slots__ = ("_decode", "_reader", "id")

    created = True

    def __init__(self, message_id: str, reader: RecordReader, decode: Decoder) -> None:
        self.id = message_id
        self._reader = reader
        self._decode = decode

    def get(self, timeout: float | None = None, *, inside_handler: bool = False) -> R:
        """Wait for the result.

        Arguments:
            timeout: seconds to wait at most; None: without limit.
            inside_handler: allow waiting inside a handler. It occupies a slot of the worker
                that may be needed to run the very message that is waited for.

        Returns:
            What the handler returned.

        Raises:
            TaskFailed: the message ended as a dead letter; the error is in `failure`.
            TaskDiscarded: it was discarded.
            TaskCancelled: it was cancelled.
            ResultTimeout: it did not end in time.
            ResultNotKept: the task keeps no results.
            ResultWaitRefused: a handler runs here, and `inside_handler` is not set.
            NotFound: there is no record of it (any more).
        """
        reader = self._waitable(inside_handler, timeout)
        return self._value(reader.wait(self.id, timeout), timeout)

    async def aget(self, timeout: float | None = None, *, inside_handler: bool = False) -> R:
        """Wait for the result without blocking the event loop; see `get`."""
        reader = self._waitable(inside_handler, timeout)
        return self._value(await reader.wait_async(self.id, timeout), timeout)

    def status(self) -> State:
        """The state that the message is in.

        Raises:
            ResultNotKept: the task keeps no results, so nothing is remembered of its messages.
            NotFound: there is no record of it (any more).
        """
        return self._found(self._kept().read(self.id)).state

    async def astatus(self) -> State:
        """The same, without blocking the event loop."""
        return self._found(await self._kept().read_async(self.id)).state

    def failure(self) -> Failure | None:
        """Why the message is dead, or was before its dead letter was discarded; else None.

        Raises:
            ResultNotKept: the task keeps no results.
            NotFound: there is no record of it (any more).
        """
        return self._found(self._kept().read(self.id)).failure

    def cancel(self) -> Cancellation:
        """Cancel the message; see `Yard.cancel`."""
        return self._reader.cancel(self.id, note=not self._reader.kept)

    async def acancel(self) -> Cancellation:
        """The same, without blocking the event loop."""
        return await self._reader.cancel_async(self.id, note=not self._reader.kept)

    def progress(self) -> Progress | None:
        """What its handler told last of how far it is; None: nothing.

        Raises:
            ResultNotKept: the task keeps no results, so there is no record that it could be in.
            NotFound: there is no record of it (any more).
        """
        return progress_of(self._found(self._kept().read(self.id)))

    async def aprogress(self) -> Progress | None:
        """The same, without blocking the event loop."""
        return progress_of(self._found(await self._kept().read_async(self.id)))

    def _kept(self) -> RecordReader:
        if not self._reader.kept:
            raise ResultNotKept(
                f"nothing is kept of message {self.id}: its task returns None, or was declared "
                f"with result_ttl=None. Declare the task with result_ttl=3600 to wait for it"
            )
        return self._reader

    def _waitable(self, inside_handler: bool, timeout: float | None) -> RecordReader:
        if not inside_handler and timeout != 0 and context.running.get() is not None:
            raise ResultWaitRefused(
                "waiting for a result inside a handler can deadlock: the slot that waits may be "
                "the one that is needed. Enqueue the follow-up from the other task, or say "
                "get(inside_handler=True) if other slots are certain to be free"
            )
        return self._kept()

    def _found(self, record: Record | None) -> Record:
        if record is None:
            raise NotFound(
                f"there is no record of message {self.id}: it never was, or its time to live "
                f"is over"
            )
        return record

    def _value(self, record: Record | None, timeout: float | None) -> R:
        found = self._found(record)
        if not found.state.final:
            raise ResultTimeout(f"message {self.id} is still {found.state} after {timeout} s")
        return self.value_of(found)

    def value_of(self, found: Record) -> R:
        """What the message returned, by its final record.

        Raises:
            TaskFailed: it ended as a dead letter.
            TaskDiscarded: it was discarded.
            TaskCancelled: it was cancelled.
        """
        if found.state is State.DONE:
            if found.result in (None, NOTHING):  # a batch handler may return None for all
                return None  # type: ignore[return-value]
            value: R = self._decode(found.result, self.id)
            return value
        if found.state is State.DEAD:
            raise TaskFailed(self.id, found.failure or Failure("unknown"))
        if found.state is State.DISCARDED:
            raise TaskDiscarded(f"message {self.id} was discarded")
        raise TaskCancelled(f"message {self.id} was cancelled")

    def __repr__(self) -> str:
        return f"Result({self.id!r})"


class UniqueResult(Result[R]):
    """A handle on the message that stands; within `buffered` it is known only after the block."""

    __slots__ = ("_index", "_standing")

    def __init__(
        self, standing: Standing, index: int, reader: RecordReader, decode: Decoder
    ) -> None:
        self._standing = standing
        self._index = index
        self._reader = reader
        self._decode = decode

    @property
    def id(self) -> str:  # type: ignore[override]
        """The id of the message that stands."""
        return self._standing.id(self._index)

    @property
    def created(self) -> bool:  # type: ignore[override]
        """Whether a message was stored that found its key free."""
        return self._standing.is_new(self._index)

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except EnqueueError:
            return "Result(not stored yet)"


class Results(Sequence[Result[R]]):
    """The results of `enqueue_many`, in the order of its items.

    Ids that taskyard made are kept as ranges, so this stays small however many there are.
    """

    def __init__(
        self, ids: Sequence[Sequence[str] | Standing], reader: RecordReader, decode: Decoder
    ) -> None:
        self._chunks = ids
        self._reader = reader
        self._decode = decode
        self._length = sum(map(len, ids))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Result[R]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Result[R]]: ...
    def __getitem__(self, index: int | slice) -> Result[R] | Sequence[Result[R]]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(self._length))]
        at = index + self._length if index < 0 else index
        if not 0 <= at < self._length:
            raise IndexError(f"there are {self._length} results, so none at {index}")
        for chunk in self._chunks:
            if at < len(chunk):
                return self._result(chunk, at)
            at -= len(chunk)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Result[R]]:
        for chunk in self._chunks:
            if isinstance(chunk, Standing):
                yield from (self._result(chunk, at) for at in range(len(chunk)))
            else:
                for message_id in chunk:
                    yield Result(message_id, self._reader, self._decode)

    def _result(self, chunk: Sequence[str] | Standing, at: int) -> Result[R]:
        if isinstance(chunk, Standing):
            return UniqueResult(chunk, at, self._reader, self._decode)
        return Result(chunk[at], self._reader, self._decode)

    def __repr__(self) -> str:
        return f"<{self._length} results>"
