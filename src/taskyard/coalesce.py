"""Sharing round trips: callers that put messages at the same time are served by one put.

While one put is under way, others gather; then they are sent together. A caller that is alone
waits for nobody. Every call returns when its own messages are stored, or raises its own error.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar, cast

from taskyard.brokers.base import AsyncDriver, Broker, Driver, Operation, Put
from taskyard.errors import BrokerUnavailable, NotConfirmed, QueueFull

__all__ = [
    "CHUNK_BYTES",
    "CHUNK_MESSAGES",
    "AsyncCoalescer",
    "Coalescer",
    "Entry",
    "put_entries",
    "take_chunk",
]

CHUNK_MESSAGES = 1000
CHUNK_BYTES = 4 << 20
"""What is put at once, so that nobody else waits for long: so many messages, or bytes of them."""
LARGE = 100
"""More messages than this in a call gain nothing from company."""

SLOW = 0.001
"""Seconds that a put takes for which it is worth switching threads to have more company."""

ALONE = object()
"""The place of what is put by itself."""

AnyEntry = TypeVar("AnyEntry", bound="Entry")


class Entry:
    """What one call puts: stored whole or not at all, within a partition.

    Attributes:
        puts: the messages.
        kept: those of them that are stored already, though others were refused.
        messages: how many they are.
        size: their bytes.
        error: why they were not stored.
    """

    __slots__ = ("error", "kept", "messages", "puts", "size")

    def __init__(self, puts: Sequence[Put]) -> None:
        self.puts = puts
        self.kept: list[Put] = []
        self.messages = sum([len(put.bodies) for put in puts])
        self.size = sum([len(body) for put in puts for body in put.bodies])
        self.error: BaseException | None = None


def _place_of(broker: Broker, puts: Sequence[Put]) -> Hashable:
    """The partition in which a call's messages are stored; `ALONE` if there is not just one."""
    if len(puts) == 1:
        return broker.partition(puts[0])
    partitions = {broker.partition(put) for put in puts}
    return partitions.pop() if len(partitions) == 1 else ALONE


def _split(broker: Broker, entries: Sequence[Entry]) -> list[list[Entry]]:
    """What can be stored together, in an order that keeps that of each partition."""
    parts: list[list[Entry]] = []
    here: dict[Hashable, list[Entry]] = {}
    for entry in entries:
        place = _place_of(broker, entry.puts)
        if place is ALONE:
            parts += [*here.values(), [entry]]
            here = {}
        else:
            here.setdefault(place, []).append(entry)
    return [*parts, *here.values()]


def put_entries(broker: Broker, entries: Sequence[Entry]) -> Operation[None]:
    """Store what several callers put, together if possible.

    If somebody's messages are refused, all others' are stored nevertheless: the entries are halved
    until those are alone. Each learns of its own failure by its `error`; nothing is raised.
    """
    parts = _split(broker, entries)[::-1]
    while parts:
        part = parts.pop()
        merged = _merged(part)
        stored = [put for entry in part for put in entry.kept]  # for errors to tell of
        try:
            yield from broker.put(list(merged.values()), stored)
        except (BrokerUnavailable, NotConfirmed) as error:
            # It would be the same with any part, and each try can take long.
            left = _left(part, merged, stored)
            for entry in left:
                entry.error = _copied(error)
            for entry in (entry for rest in parts for entry in rest):
                entry.error = _copied(error) if not entry.kept else _partly(error)
            return
        except Exception as error:  # noqa: BLE001  # it is raised where it belongs
            left = _left(part, merged, stored)
            if isinstance(error, QueueFull) and (len(part) == 1 or _is_hopeless(error)):
                _hold_back(broker, error, part, [*left, *itertools.chain(*parts)])
            elif len(part) == 1:
                part[0].error = error
            middle = len(left) // 2
            halves = (left[middle:], left[:middle]) if len(part) > 1 else ()
            parts = [rest for rest in map(_open, (*parts, *halves)) if rest]


def _open(entries: Sequence[Entry]) -> list[Entry]:
    """Those that were not refused."""
    return [entry for entry in entries if entry.error is None]


def _is_hopeless(full: QueueFull) -> bool:
    """Whether a queue has no room for a single message."""
    no_room = full.shard is None and full.length >= full.limit and not full.too_large
    return no_room and full.overflow != "drop"


def _hold_back(
    broker: Broker, full: QueueFull, part: list[Entry], waiting: Sequence[Entry]
) -> None:
    """Refuse entries for want of room.

    Also what is behind them, without asking, if there is no room at all, or if their callers wait
    for it: it must not overtake them.

    Arguments:
        broker: where to store.
        full: why a part was refused.
        part: that part: one entry, or several if there is no room for anything.
        waiting: what is not stored: of the part, and behind it.
    """
    place = _place_of(broker, waiting[0].puts)
    if len(part) == 1:
        _refuse(full, part[0])
    if full.patience or _is_hopeless(full):
        for entry in _open(waiting):
            if _is_behind(entry, full) and _place_of(broker, entry.puts) == place:
                _refuse(full, entry)


def _refuse(full: QueueFull, entry: Entry) -> None:
    error = copy.copy(full)
    error.left = entry.puts
    entry.error = error


def _is_behind(entry: Entry, full: QueueFull) -> bool:
    """Whether something of an entry goes where there is no room.

    What has unique keys may need none; nobody knows before it is tried.
    """
    return any(
        put.group.queue == full.queue
        and (put.unique is None or full.patience > 0)
        and (full.shard is None or (put.shard == full.shard and not (put.delay or put.due)))
        for put in entry.puts
    )


def _left(
    entries: Sequence[Entry], merged: Mapping[Hashable, Put], stored: Sequence[Put]
) -> list[Entry]:
    """The entries of which something is not stored, with nothing but that."""
    if not stored:
        return list(entries)
    done = set(map(id, stored))
    for entry in entries:
        puts, entry.puts = entry.puts, []
        for put in puts:
            (entry.kept if id(merged[put.way]) in done else entry.puts).append(put)
    return [entry for entry in entries if entry.puts]


def _partly(error: BaseException) -> BaseException:
    """The error of others, for a call of which something is stored."""
    made = type(error)(f"{error}; what the call put into other partitions is stored")
    made.__cause__ = error
    return made


def _copied(error: BaseException) -> BaseException:
    """The same error, to be raised in another thread at the same time."""
    made = copy.copy(error)
    made.__cause__ = error
    return made


def _merged(entries: Sequence[Entry]) -> dict[Hashable, Put]:
    """The puts of all entries, those that go the same way made one."""
    made: dict[Hashable, Put] = {}
    copied: set[Hashable] = set()
    for entry in entries:
        for put in entry.puts:
            way = put.way
            known = made.get(way)
            if known is None:
                made[way] = put
                continue
            if way not in copied:
                copied.add(way)
                known = made[way] = copy.copy(known)
                known.bodies = list(known.bodies)
                known.ids = None if known.ids is None else list(known.ids)
            known.bodies += put.bodies
            if put.ids is not None:
                known.ids = cast("list[str]", known.ids)
                known.ids += put.ids
    return made


def take_chunk(waiting: deque[AnyEntry]) -> list[AnyEntry]:
    """Remove the first entries, as many as are put at once, and at least one."""
    chunk: list[AnyEntry] = []
    messages = size = 0
    while waiting:
        messages += waiting[0].messages
        size += waiting[0].size
        if chunk and (messages > CHUNK_MESSAGES or size > CHUNK_BYTES):
            break
        chunk.append(waiting.popleft())
    return chunk


# Threads


class _Waiter(Entry):
    """An entry whose thread waits until it is stored, or until it is its turn to store."""

    __slots__ = ("leads", "turn")

    def __init__(self, puts: Sequence[Put], *, leads: bool = False) -> None:
        super().__init__(puts)
        self.leads = leads
        self.turn = threading.Lock()  # an event would cost ten times as much
        if not leads:
            self.turn.acquire()


class Coalescer:
    """Puts for threads.

    A thread that finds nothing under way stores its own messages. Those that come meanwhile wait;
    when it is done, the first of them stores what all of them have, and so on.

    Signals raise errors anywhere in the main thread, also where nobody could clean up behind them.
    So it has no part in this, and stores what it has by itself.

    Arguments:
        broker: where to store.
        driver: makes or gives the driver for threads.
    """

    def __init__(self, broker: Broker, driver: Callable[[], Driver]) -> None:
        self._broker = broker
        self._driver = driver
        self._lock = threading.Lock()
        # A place is here while something is under way to it, with those who wait behind that.
        self._waiting: dict[Hashable, deque[_Waiter]] = {}
        self._expected = 0  # how many are worth waiting for
        _coalescers.add(self)

    def put(self, puts: Sequence[Put]) -> None:
        """Store messages, all or none; see `Broker.put` for what it raises."""
        place = ALONE if _is_main_thread() or _is_large(puts) else _place_of(self._broker, puts)
        if place is ALONE:
            self._driver().run(self._broker.put(puts))
            return
        waiter = None
        with self._lock:
            waiting = self._waiting.get(place)
            if waiting is None:
                waiting = self._waiting[place] = deque()
                if self._expected > 1:
                    waiter = _Waiter(puts, leads=True)
            else:
                waiter = _Waiter(puts)
            if waiter is not None:
                waiting.append(waiter)
        if waiter is None:
            self._put_alone(place, puts)
        else:
            self._put_together(place, waiter)

    def _put_alone(self, place: Hashable, puts: Sequence[Put]) -> None:
        try:
            self._driver().run(self._broker.put(puts))
        finally:
            self._hand_over(place)

    def _put_together(self, place: Hashable, waiter: _Waiter) -> None:
        try:
            waiter.turn.acquire()
            if waiter.leads:
                self._await_crowd(place)
        except BaseException:  # somebody may raise errors in other threads, too
            self._step_out(place, waiter)
            raise
        if waiter.leads:
            self._lead(place, waiter)
        if waiter.error is not None:
            raise waiter.error

    def _await_crowd(self, place: Hashable) -> None:
        """Let those run who were just served: they may be back at once."""
        waiting, before = self._waiting[place], 0
        while before < len(waiting) < self._expected:
            before = len(waiting)
            time.sleep(0)

    def _lead(self, place: Hashable, leader: _Waiter) -> None:
        with self._lock:
            chunk = take_chunk(self._waiting[place])
        begin = time.monotonic()
        try:
            self._driver().run(put_entries(self._broker, chunk))
        except BaseException as error:
            _fail(chunk, error)
            if not isinstance(error, Exception):
                raise
        finally:
            slow = time.monotonic() - begin > SLOW
            self._expected = len(chunk) + len(self._waiting[place]) if slow else 0
            for waiter in chunk:
                if waiter is not leader:
                    waiter.turn.release()
            self._hand_over(place)

    def _hand_over(self, place: Hashable) -> None:
        with self._lock:
            waiting = self._waiting.get(place)
            if not waiting:
                self._waiting.pop(place, None)
                return
            waiting[0].leads = True
            waiting[0].turn.release()

    def _step_out(self, place: Hashable, waiter: _Waiter) -> None:
        with self._lock:
            waiting = self._waiting.get(place)
            if waiting is None or waiter not in waiting:
                return
            waiting.remove(waiter)
        if waiter.leads:
            self._hand_over(place)

    def abandon(self) -> None:
        """Forget who is here: after a fork, in the child, where nobody of them is."""
        self._lock = threading.Lock()
        self._waiting = {}


def _is_large(puts: Sequence[Put]) -> bool:
    return sum([len(put.bodies) for put in puts]) > LARGE


def _is_main_thread() -> bool:
    return threading.get_ident() == threading.main_thread().ident


def _fail(entries: Iterable[Entry], error: BaseException) -> None:
    """Note that the driver failed, or that whoever used it was interrupted."""
    for entry in entries:
        if entry.error is not None:
            continue
        entry.error = _copied(error)
        if not isinstance(error, Exception):
            entry.error = BrokerUnavailable(
                "whoever was to store this together with other messages was interrupted, so it "
                "is not known whether it is stored"
            )
            entry.error.__cause__ = error


# Event loops


class _Caller(Entry):
    """An entry whose task waits until it is stored."""

    __slots__ = ("stored",)

    def __init__(self, puts: Sequence[Put], stored: asyncio.Future[None]) -> None:
        super().__init__(puts)
        self.stored = stored

    def settle(self) -> None:
        """Let the task go on; it raises the error, if there is one."""
        if not self.stored.done():  # else it was cancelled
            self.stored.set_result(None)


class _LoopState:
    """Who waits on one event loop, by place, and the tasks that store for them."""

    def __init__(self) -> None:
        self.waiting: dict[Hashable, deque[_Caller]] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.crowd = 0  # how many there were the last time


class AsyncCoalescer:
    """Puts for event loops; see `Coalescer`.

    A task that finds nothing under way stores its own messages. What others have meanwhile is
    stored by a task of nobody, so that none of them suffers when another is cancelled.

    Arguments:
        broker: where to store.
        driver: makes or gives the driver for event loops.
    """

    def __init__(self, broker: Broker, driver: Callable[[], AsyncDriver]) -> None:
        self._broker = broker
        self._driver = driver
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopState] = (
            weakref.WeakKeyDictionary()
        )

    async def put(self, puts: Sequence[Put]) -> None:
        """Store messages, all or none; see `Broker.put` for what it raises."""
        place = ALONE if _is_large(puts) else _place_of(self._broker, puts)
        if place is ALONE:
            await self._driver().run(self._broker.put(puts))
            return
        loop = asyncio.get_running_loop()
        state = self._loops.get(loop)
        if state is None:
            state = self._loops[loop] = _LoopState()
        waiting = state.waiting.get(place)
        if waiting is None and state.crowd <= 1:
            state.waiting[place] = deque()
            try:
                await self._driver().run(self._broker.put(puts))
            finally:
                self._go_on(loop, state, place)
            return
        caller = _Caller(puts, loop.create_future())
        state.waiting.setdefault(place, deque()).append(caller)
        if waiting is None:
            # It begins after those tasks that were just served, and may be back at once.
            self._go_on(loop, state, place)
        await caller.stored
        if caller.error is not None:
            raise caller.error

    def _go_on(self, loop: asyncio.AbstractEventLoop, state: _LoopState, place: Hashable) -> None:
        waiting = state.waiting[place]
        while waiting and waiting[0].stored.done():
            waiting.popleft()
        if not waiting or loop.is_closed():
            del state.waiting[place]
            return
        task = loop.create_task(self._store(loop, state, place))
        state.tasks.add(task)
        task.add_done_callback(state.tasks.discard)

    async def _store(
        self, loop: asyncio.AbstractEventLoop, state: _LoopState, place: Hashable
    ) -> None:
        chunk = [caller for caller in take_chunk(state.waiting[place]) if not caller.stored.done()]
        try:
            if chunk:
                await self._driver().run(put_entries(self._broker, chunk))
        except asyncio.CancelledError:  # the loop ends
            for caller in chunk:
                caller.stored.cancel()
            raise
        except BaseException as error:
            _fail(chunk, error)
            if not isinstance(error, Exception):
                raise
        finally:
            state.crowd = len(chunk) + len(state.waiting[place])
            for caller in chunk:
                caller.settle()
            self._go_on(loop, state, place)


_coalescers: weakref.WeakSet[Coalescer] = weakref.WeakSet()


def _after_fork() -> None:
    for coalescer in list(_coalescers):
        coalescer.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
