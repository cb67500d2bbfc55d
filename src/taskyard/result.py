"""What became of a message."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from taskyard import context
from taskyard.brokers.base import AsyncDriver, Broker, Driver, Listener, Operation, Record
from taskyard.errors import (
    NotFound,
    ResultNotKept,
    ResultTimeout,
    ResultWaitRefused,
    TaskDiscarded,
    TaskFailed,
)
from taskyard.message import Failure, State

__all__ = ["RecordReader", "Result", "Results"]

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
    """

    def __init__(
        self,
        broker: Broker,
        driver: Callable[[], Driver],
        async_driver: Callable[[], AsyncDriver],
    ) -> None:
        self._broker = broker
        self._driver = driver
        self._async_driver = async_driver

    def read(self, message_id: str) -> Record | None:
        """The record of a message; None if there is none (any more)."""
        return self._driver().run(self._broker.records([message_id]))[0]

    async def read_async(self, message_id: str) -> Record | None:
        """The same, without blocking the event loop."""
        return (await self._async_driver().run(self._broker.records([message_id])))[0]

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


def _is_over(record: Record | None) -> bool:
    return record is None or record.state.final


def _remaining(end: float | None, now: float) -> float:
    return LONGEST_WAIT if end is None else min(end - now, LONGEST_WAIT)


class Result(Generic[R]):
    """A handle on a message: its id, and what became of it.

    Attributes:
        id: the message's id.
    """

    __slots__ = ("_decode", "_reader", "id")

    def __init__(self, message_id: str, reader: RecordReader | None, decode: Decoder) -> None:
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

    def _kept(self) -> RecordReader:
        if self._reader is None:
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
        if found.state is State.DONE:
            if found.result in (None, NOTHING):  # a batch handler may return None for all
                return None  # type: ignore[return-value]
            value: R = self._decode(found.result, self.id)
            return value
        if found.state is State.DEAD:
            raise TaskFailed(self.id, found.failure or Failure("unknown"))
        if found.state is State.DISCARDED:
            raise TaskDiscarded(f"message {self.id} was discarded")
        raise ResultTimeout(f"message {self.id} is still {found.state} after {timeout} s")

    def __repr__(self) -> str:
        return f"Result({self.id!r})"


class Results(Sequence[Result[R]]):
    """The results of `enqueue_many`, in the order of its items.

    Ids that taskyard made are kept as ranges, so this stays small however many there are.
    """

    def __init__(
        self, ids: Sequence[Sequence[str]], reader: RecordReader | None, decode: Decoder
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
                return self._result(chunk[at])
            at -= len(chunk)
        raise IndexError(index)

    def __iter__(self) -> Iterator[Result[R]]:
        for chunk in self._chunks:
            for message_id in chunk:
                yield self._result(message_id)

    def _result(self, message_id: str) -> Result[R]:
        return Result(message_id, self._reader, self._decode)

    def __repr__(self) -> str:
        return f"<{self._length} results>"
