"""Gathering what a block of code enqueues, and storing it a thousand at a time."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

from taskyard.bounding import Patience
from taskyard.brokers.base import AsyncDriver, Broker, Driver, Put
from taskyard.coalesce import CHUNK_BYTES, CHUNK_MESSAGES, Entry, put_entries, take_chunk
from taskyard.errors import NotConfirmed, QueueFull, TaskyardError
from taskyard.message import read_envelope

__all__ = ["Buffered", "Buffers"]

NAMED = 5
"""How many messages an error names."""

_Owner: TypeAlias = tuple[int, int, asyncio.Task[Any] | None]


def _owner() -> _Owner:
    """The process, thread and task that run here."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop
        task = None
    return os.getpid(), threading.get_ident(), task


class Buffers:
    """The open blocks of a yard, each for the thread or task that opened it.

    Arguments:
        broker: where to store.
        driver: makes or gives the driver for threads.
        async_driver: makes or gives the driver for event loops.
    """

    def __init__(
        self,
        broker: Broker,
        driver: Callable[[], Driver],
        async_driver: Callable[[], AsyncDriver],
    ) -> None:
        self.broker = broker
        self.driver = driver
        self.async_driver = async_driver
        self._open: dict[_Owner, Buffered] = {}

    def are_open(self) -> bool:
        """Whether anybody in this process is in a block."""
        return any(owner[0] == os.getpid() for owner in list(self._open))

    def mine(self) -> Buffered | None:
        """The block in which this is called; None outside of any."""
        # After a fork the parent's are here, too: it is the parent that stores what they hold.
        return self._open.get(_owner()) if self._open else None

    def enter(self, buffered: Buffered) -> tuple[_Owner, Buffered]:
        """Open a block here, unless there is one.

        Returns:
            The thread or task, and its block.
        """
        owner = _owner()
        return owner, self._open.setdefault(owner, buffered)

    def leave(self, owner: _Owner, buffered: Buffered) -> None:
        """Close the block of a thread or task if it is this one."""
        if self._open.get(owner) is buffered:
            del self._open[owner]


class Buffered:
    """A block whose messages are gathered; see `Yard.buffered`.

    Attributes:
        not_stored: the ids of its messages that could not be stored, once an error said so.
    """

    def __init__(self, buffers: Buffers) -> None:
        self.not_stored: list[str] = []
        self._buffers = buffers
        self._entries: deque[Entry] = deque()
        self._messages = 0
        self._size = 0
        self._entered: list[tuple[_Owner, Buffered]] = []

    # Called by the yard

    def put(self, puts: Sequence[Put]) -> None:
        """Gather messages, and store what is gathered if it is enough."""
        entry = self._gather(puts)
        while chunk := self._full_chunk():
            self._store(chunk)
            self._check(chunk, entry)

    async def put_async(self, puts: Sequence[Put]) -> None:
        """The same, without blocking the event loop."""
        entry = self._gather(puts)
        while chunk := self._full_chunk():
            await self._store_async(chunk)
            self._check(chunk, entry)

    # The block

    def __enter__(self) -> Buffered:
        self._entered.append(self._buffers.enter(self))
        return self._entered[-1][1]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        block = self._leave()
        try:
            if chunk := block._next_chunk():
                block._store(chunk)
                block._check(chunk)
        except TaskyardError as failure:
            _raise_or_note(failure, error)

    async def __aenter__(self) -> Buffered:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        block = self._leave()
        try:
            if chunk := block._next_chunk():
                await block._store_async(chunk)
                block._check(chunk)
        except TaskyardError as failure:
            _raise_or_note(failure, error)

    def _leave(self) -> Buffered:
        """Returns the block whose messages are to be stored: the outermost."""
        owner, block = self._entered.pop()
        if owner[0] != os.getpid():
            return Buffered(self._buffers)  # the parent has these messages, and stores them
        if not self._entered:
            self._buffers.leave(owner, self)
        return block

    def _store(self, chunk: list[Entry]) -> None:
        """Store what there is room for; what waits for room is tried again for a while."""
        patience, left, pause = Patience(), chunk, 0.0
        while left:
            try:
                if pause:
                    time.sleep(pause)
                self._buffers.driver().run(put_entries(self._buffers.broker, left))
            except BaseException:
                self.not_stored += [id_ for entry in left for id_ in _ids(entry)]
                raise
            left, pause = _refused(left, patience)

    async def _store_async(self, chunk: list[Entry]) -> None:
        """The same, without blocking the event loop."""
        patience, left, pause = Patience(), chunk, 0.0
        while left:
            try:
                if pause:
                    await asyncio.sleep(pause)
                await self._buffers.async_driver().run(put_entries(self._buffers.broker, left))
            except BaseException:
                self.not_stored += [id_ for entry in left for id_ in _ids(entry)]
                raise
            left, pause = _refused(left, patience)

    # What is gathered

    def _gather(self, puts: Sequence[Put]) -> Entry:
        entry = Entry(puts)
        self._entries.append(entry)
        self._count(entry, 1)
        return entry

    def _count(self, entry: Entry, sign: int) -> None:
        self._messages += sign * entry.messages
        self._size += sign * entry.size

    def _full_chunk(self) -> list[Entry]:
        full = self._messages >= CHUNK_MESSAGES or self._size >= CHUNK_BYTES
        return self._next_chunk() if full else []

    def _next_chunk(self) -> list[Entry]:
        chunk = take_chunk(self._entries)
        for entry in chunk:
            self._count(entry, -1)
        return chunk

    def _check(self, chunk: list[Entry], last: Entry | None = None) -> None:
        """Raise an error if something of a chunk was not stored.

        Arguments:
            chunk: what was to be stored.
            last: what is put by the call that is about to fail; so it must not be stored later.
        """
        failed = [entry for entry in chunk if entry.error is not None]
        if not failed:
            return
        errors = [entry.error for entry in failed if entry.error is not None]
        if self._entries and self._entries[-1] is last:
            failed.append(self._entries.pop())
            self._count(failed[-1], -1)
        ids = [id_ for entry in failed for id_ in _ids(entry)]
        self.not_stored += ids
        _raise(errors[0], ids)


def _refused(entries: Sequence[Entry], patience: Patience) -> tuple[list[Entry], float]:
    """Those that are to be put again since they wait for room, and the seconds until then."""
    full = [
        (entry, entry.error)
        for entry in entries
        if isinstance(entry.error, QueueFull) and entry.error.patience
    ]
    if not full:
        return [], 0.0
    if len(full) < len(entries):
        patience.renew()
    try:
        pause = patience.next(full[0][1])
    except QueueFull as error:
        for entry, _ in full:
            entry.error = error
        return [], 0.0
    for entry, _ in full:
        entry.error = None
    return [entry for entry, _ in full], pause


def _ids(entry: Entry) -> list[str]:
    envelopes = [read_envelope(body) for put in entry.puts for body in put.bodies]
    return [envelope.id for envelope in envelopes if envelope is not None]


def _raise(error: BaseException, ids: list[str]) -> NoReturn:
    """Raise an error of the same kind that says what was not stored."""
    named = ", ".join(ids[:NAMED])
    if len(ids) > NAMED:
        named += f" and {len(ids) - NAMED} more"
    # Without enough replicas they are stored, but may be lost with their master.
    fate = "confirmed" if isinstance(error, NotConfirmed) else "stored"
    text = f"buffered messages that were not {fate}: {named}. The reason: {error}"
    if isinstance(error, TaskyardError):
        raise type(error)(text) from error
    error.add_note(text)
    raise error


def _raise_or_note(failure: TaskyardError, error: BaseException | None) -> None:
    """Raise what went wrong at the end of a block, unless something went wrong in it."""
    if error is None:
        raise failure
    error.add_note(str(failure))
