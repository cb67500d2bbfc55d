"""A worker process: it is given lots of calls, makes them in its threads, and hands them back.

Its threads share one iterator over the lot in hand; `next` of a range's iterator is atomic, so a
call is taken without a lock. Whoever finds it exhausted reads the next lot. Besides there is a
*clerk*, a thread that hands over what has ended while calls run, and hears orders: so it does both
even while all threads are in long calls.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import operator
import os
import signal
import socket
import sys
import threading
from array import array
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any, NamedTuple

from taskyard.dispatch.calls import Call, next_delay
from taskyard.dispatch.engine import Job
from taskyard.dispatch.outcome import CallError
from taskyard.dispatch.processes.cells import Cells
from taskyard.dispatch.processes.wire import (
    Broken,
    Reader,
    dump,
    is_readable,
    pack,
    pack_error,
    send,
    unpack,
)

__all__ = ["HAND_OVER_EVERY", "Given", "Handed", "LotSent", "deafen", "run_child"]

HAND_OVER_EVERY = 0.02
"""Seconds after which a thread that has ended a call hands over what has ended in all."""
AT_LEAST = 0.002
"""The same, after which one that has ended a lot does: its end is the time to ask for more."""
CLERK_EVERY = 0.04
"""Seconds after which the clerk does, if no thread has. With the 5 ms that it may wait for the
interpreter, what has ended is kept for less than 50 ms, unless a call does not let go of that."""


class LotSent(NamedTuple):
    """Calls for a process, on the wire.

    Attributes:
        base: the serial of the first; the others follow.
        items: packed.
        planned: the instants, as bytes of doubles; None: as soon as possible.
        ids: their numbers, for functions that want to know.
        attempt: which attempt it is.
    """

    base: int
    items: bytes | list[bytes | CallError]
    planned: bytes | None = None
    ids: Any = None
    attempt: int = 1


class Handed(NamedTuple):
    """Calls that have ended, on the wire: columns as bytes; dictionaries by position.

    Serials that follow each other are a range.
    """

    serials: bytes | range
    started: bytes
    ended: bytes
    values: bytes | list[bytes | CallError]
    failures: dict[int, tuple[str, str, str, bytes | None]]
    metadata: dict[int, Any]
    attempts: dict[int, int]


class Given(NamedTuple):
    """Calls that are given back, not begun, on the wire.

    Attributes:
        serials: those of the lot in hand.
        since: all from this serial on, up to that of the order.
        until: that.
    """

    serials: bytes
    since: int
    until: int


class _Lot:
    """Calls in hand."""

    __slots__ = ("attempt", "base", "broken", "ids", "items", "planned", "rest")

    def __init__(self, sent: LotSent) -> None:
        self.base = sent.base
        self.items = unpack(sent.items, "the item")
        self.broken = type(sent.items) is list and any(type(one) is Broken for one in self.items)
        self.planned = None if sent.planned is None else memoryview(sent.planned).cast("d")
        self.ids = sent.ids
        self.attempt = sent.attempt
        self.rest: Iterator[int] = iter(range(len(self.items)))

    @property
    def has_more(self) -> bool:
        """Whether a call is left that nobody has taken."""
        return operator.length_hint(self.rest) > 0


class _Batch:
    """What has ended in a thread, and was not handed over.

    The columns grow one by one, `ended` last, so that another thread sees how many are complete.
    """

    __slots__ = ("attempts", "ended", "failures", "metadata", "serials", "started", "values")

    def __init__(self) -> None:
        self.serials = array("q")
        self.started = array("d")
        self.values: list[Any] = []
        self.ended = array("d")
        self.failures: dict[int, CallError] = {}
        self.metadata: dict[int, dict[str, Any]] = {}
        self.attempts: dict[int, int] = {}

    def cut(self, into: _Batch) -> None:
        """Move what is complete."""
        number = len(self.ended)
        for name in ("serials", "started", "values", "ended"):
            column = getattr(self, name)
            getattr(into, name).extend(column[:number])
            del column[:number]
        for name in ("failures", "metadata", "attempts"):
            noted = getattr(self, name)
            if noted:
                for serial in [*noted]:
                    getattr(into, name)[serial] = noted.pop(serial)


class _Child:
    """The process."""

    def __init__(
        self,
        job: Job,
        threads: int,
        offset: float,
        line: socket.socket,
        orders: socket.socket,
        cells: Cells,
    ) -> None:
        self._job = job
        self._offset = offset
        self._cells = cells
        self._line, self._orders = line, orders
        self._lots = Reader(line)
        self._lot: _Lot | None = None
        self._ended = False
        self._reached = 1  # the serial that the next lot begins with, or a later one
        self._recalled = 0  # what is below it was given back, as far as it was not in hand
        self._receiving = threading.Lock()
        self._taking = threading.Lock()  # of the lot in hand, `_reached` and `_recalled`
        self._batches = [_Batch() for _ in range(threads)]
        self._handing = threading.Lock()
        self._due = 0.0  # when a thread hands over next
        self._stopped = threading.Event()
        self._parent = os.getppid()
        self._copied = False

    def run(self) -> None:
        """Work until the parent wants no more."""
        os.register_at_fork(after_in_child=self._note_copy)
        self._send("ready", None)
        clerk = threading.Thread(target=self._serve, name="taskyard-clerk", daemon=True)
        clerk.start()
        for number in range(1, len(self._batches)):
            threading.Thread(
                target=self._work, args=(number,), name=f"taskyard-run-{number}", daemon=True
            ).start()
        self._work(0)

    def _note_copy(self) -> None:
        """Called in a process that the function has forked.

        That is to end when the function's side of things tells it to: `terminate` of
        multiprocessing's pools would wait for it for ever. And it is no worker.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._copied = True
        self._due = 0.0  # it hands over at once, if the function returns in it, too
        self._line.close()
        self._orders.close()

    def _end_copy(self) -> None:
        """End here, in a process that the function forked and returned in, before it tells."""
        if self._copied:
            os._exit(0)

    # Calls

    def _work(self, number: int) -> None:
        try:
            while (lot := self._next_lot()) is not None:
                make = self._make if self._job.plain and not lot.broken else self._make_with_care
                if lot.planned is None:
                    make(lot, lot.rest, number)
                    continue
                for at in lot.rest:
                    self._wait_for(lot, at, number)
                    make(lot, iter((at,)), number)
                    self._cells.waits[number] = 0
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)  # the parent is gone
        except BaseException:  # ours: this process is of no use any more
            logging.getLogger("taskyard.dispatch").exception("a worker process failed")
            os._exit(1)

    def _make(self, lot: _Lot, rest: Iterator[int], number: int) -> None:
        function, calls, base, items = self._job.function, self._cells.calls, lot.base, lot.items
        batch, begun, recalled = self._batches[number], self._cells.begun, self._cells.recalled
        begins, starts = batch.serials.append, batch.started.append
        returns, ends = batch.values.append, batch.ended.append
        clock = monotonic
        for at in rest:
            serial = base + at
            item = items[at]
            begun[number] = now = clock()
            calls[number] = serial
            if serial < recalled[0]:
                self._spare(serial, number)
                continue
            begins(serial)
            starts(now)
            try:
                value = function(item)
            except BaseException as error:  # noqa: BLE001 - the function's; an outcome like others
                value = None
                batch.failures[serial] = CallError.of(error)
            returns(value)
            now = clock()
            ends(now)
            if now >= self._due:
                self._end_copy()
                calls[number] = -serial
                self._hand_over()
        calls[number] = -abs(calls[number])

    def _make_with_care(self, lot: _Lot, rest: Iterator[int], number: int) -> None:
        batch, calls = self._batches[number], self._cells.calls
        for at in rest:
            serial, item = lot.base + at, lot.items[at]
            planned = None if lot.planned is None else lot.planned[at] + self._offset
            call = Call(0 if lot.ids is None else lot.ids[at], planned, lot.attempt)
            self._cells.attempts[number] = lot.attempt
            self._cells.begun[number] = now = monotonic()
            calls[number] = serial
            if serial < self._cells.recalled[0]:
                self._spare(serial, number)
                continue
            batch.serials.append(serial)
            batch.started.append(now)
            if type(item) is Broken:
                batch.failures[serial], value = item.error, None
            else:
                value = self._attempts(batch, serial, call, item, number)
            if call.metadata:
                batch.metadata[serial] = call.metadata
            if call.attempt > 1:
                batch.attempts[serial] = call.attempt
            batch.values.append(value)
            now = monotonic()
            batch.ended.append(now)
            self._end_copy()
            calls[number] = -serial
            if now >= self._due:
                self._hand_over()

    def _spare(self, serial: int, number: int) -> None:
        """Give back a call that was recalled while this thread was about to begin it."""
        self._cells.calls[number] = -(serial - 1)
        self._send("given", Given(array("q", [serial]).tobytes(), 0, 0))

    def _attempts(self, batch: _Batch, serial: int, call: Call, item: Any, number: int) -> Any:
        function, begun = self._job.function, self._cells.begun
        while True:
            try:
                return function(item, call) if self._job.context else function(item)
            except BaseException as error:  # noqa: BLE001 - the function's; an outcome like others
                self._end_copy()
                stopped = self._stopped.is_set()
                delay = None if stopped else next_delay(self._job.retry, error, call)
                if delay is None:
                    batch.failures[serial] = CallError.of(error)
                    return None
            begun[number] = float("inf")
            self._stopped.wait(delay)
            call.attempt += 1
            self._cells.attempts[number] = call.attempt
            begun[number] = monotonic()

    def _wait_for(self, lot: _Lot, at: int, number: int) -> None:
        planned = lot.planned
        assert planned is not None  # noqa: S101 - such lots come here
        self._cells.waits[number] = lot.base + at
        if planned[at] > monotonic():
            self._hand_over()
            while (rest := planned[at] - monotonic()) > 0:
                sleep(rest)

    # Lots

    def _next_lot(self) -> _Lot | None:
        if not self._receiving.acquire(blocking=False):
            self._hand_over()  # as this may take long
            self._receiving.acquire()
        try:
            while not self._ended:
                with self._taking:
                    lot = self._lot
                    if lot is not None and lot.has_more:
                        return lot
                self._receive()
            return None
        finally:
            self._receiving.release()

    def _receive(self) -> None:
        early = self._due - (HAND_OVER_EVERY - AT_LEAST)
        if monotonic() >= early or not is_readable(self._line, 0):
            self._hand_over()
        sent: LotSent | None = self._lots.read()
        if sent is None:
            self._ended = True
            return
        if type(sent.items) is list:
            self._hand_over()  # before code of the user's is run that may end this process
        lot = _Lot(sent)
        with self._taking:
            self._reached = lot.base + len(lot.items)
            if lot.base >= self._recalled:
                self._lot = lot

    def _give_back(self, until: int) -> None:
        with self._taking:
            taken = array("q")
            if self._lot is not None:
                taken.extend([self._lot.base + at for at in self._lot.rest])
            since, self._recalled = max(self._reached, self._recalled), until
        self._send("given", Given(taken.tobytes(), since, until))

    # The parent

    def _serve(self) -> None:
        """Be the clerk."""
        orders = Reader(self._orders)
        while True:
            try:
                if os.getppid() != self._parent:
                    break  # other processes that it has forked hold copies of its ends of sockets
                if is_readable(self._orders, CLERK_EVERY):
                    if (order := orders.read()) is None:
                        break
                    name, value = order
                    if name == "stop":
                        self._stopped.set()
                    self._give_back(value)
                self._hand_over()
            except OSError:
                break
        os._exit(1)  # the parent is gone: nobody wants to know any more

    def _hand_over(self) -> None:
        with self._handing:
            batch = _Batch()
            for each in self._batches:
                if each.ended:
                    each.cut(batch)
            if batch.ended:
                self._due = monotonic() + HAND_OVER_EVERY
                self._send_batch(batch)

    def _send_batch(self, batch: _Batch) -> None:
        _flush()
        places = {}
        if batch.failures or batch.metadata or batch.attempts:
            places = {serial: at for at, serial in enumerate(batch.serials)}
        serials = batch.serials
        first, last = serials[0], serials[-1]
        # A single thread makes calls in order.
        in_row = len(self._batches) == 1 and last - first + 1 == len(serials)
        handed = Handed(
            range(first, last + 1) if in_row else serials.tobytes(),
            batch.started.tobytes(),
            batch.ended.tobytes(),
            pack(batch.values, "the result"),
            {places[serial]: pack_error(error) for serial, error in batch.failures.items()},
            {places[s]: pack([*one.items()], "it") for s, one in batch.metadata.items()},
            {places[serial]: number for serial, number in batch.attempts.items()},
        )
        send(self._line, dump(("handed", handed)))

    def _send(self, name: str, value: Any) -> None:
        with self._handing:
            send(self._line, dump((name, value)))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed, or somebody's own
            stream.flush()


def deafen() -> None:
    """Let what ends the whole group of processes pass by: the parent stops in order.

    Not by ignoring: that would pass on to programs that the function starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _hear_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))


def _hear_nothing(number: int, frame: object) -> None:
    """What is called for a signal that is somebody else's business."""


def run_child(
    job: Job,
    threads: int,
    offset: float,
    line: socket.socket,
    orders: socket.socket,
    cells: int,
) -> None:
    """Be a worker process; never returns.

    Arguments:
        job: what to do with items.
        threads: how many threads to have.
        offset: unix seconds less seconds of the monotonic clock.
        line: lots come in here, what has ended goes out.
        orders: orders come in here; closed when the parent is gone.
        cells: a file descriptor of the memory to tell in which calls are under way.
    """
    code = 0
    try:
        deafen()
        # What the function starts is no child of a daemon, which could have none.
        multiprocessing.current_process().daemon = False
        shared = Cells(cells, threads)
        os.close(cells)
        _Child(job, threads, offset, line, orders, shared).run()
    except (BrokenPipeError, ConnectionResetError):
        code = 1  # the run was over before this process was ready
    except BaseException:
        logging.getLogger("taskyard.dispatch").exception("a worker process failed")
        code = 1
    with contextlib.suppress(Exception):
        logging.shutdown()
    _flush()
    os._exit(code)
