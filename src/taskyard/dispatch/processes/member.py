"""A worker process as its parent sees it: what it was given, and what became of that."""

from __future__ import annotations

import socket
from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from os import close
from time import monotonic
from typing import Any, NamedTuple

from taskyard.dispatch.engine import Finished
from taskyard.dispatch.outcome import CallError, Status
from taskyard.dispatch.processes.carrying import main_is_importable
from taskyard.dispatch.processes.cells import Cells
from taskyard.dispatch.processes.child import Given, Handed, LotSent
from taskyard.dispatch.processes.nursery import Births, Post
from taskyard.dispatch.processes.wire import (
    Broken,
    Line,
    doubles,
    dump,
    longs,
    pack,
    unpack,
    unpack_error,
)

__all__ = ["InCall", "Lot", "Member", "outcome"]


class Lot:
    """Calls that are handed out together.

    Attributes:
        ids: their numbers.
        items: what the function is called with.
        planned: when each is to begin; None: as soon as possible.
        attempt: which attempt it is.
        started: when the first attempt began, of a single call that is tried again.
        deaths: how many processes died that had been given it and had begun none of it.
        moves: how often it was taken back, not begun.
        base: the serial of the first, in the process that has it.
    """

    __slots__ = (
        "attempt",
        "base",
        "deaths",
        "gone",
        "ids",
        "items",
        "left",
        "moves",
        "planned",
        "started",
    )

    def __init__(
        self,
        ids: Sequence[int],
        items: list[Any],
        planned: Sequence[float] | None = None,
        *,
        attempt: int = 1,
        started: float | None = None,
        deaths: int = 0,
        moves: int = 0,
    ) -> None:
        self.ids = ids
        self.items = items
        self.planned = planned
        self.attempt = attempt
        self.started = started
        self.deaths = deaths
        self.moves = moves
        self.base = 0
        self.left = len(items)
        self.gone = bytearray(len(items))  # by position: whether it ended, or was given back

    def cut(self, number: int) -> tuple[Lot, Lot | None]:
        """Split off the first calls; the rest is None if there is none."""
        if number >= len(self.items):
            return self, None
        return self._part(0, number), self._part(number, len(self.items))

    def _part(self, begin: int, end: int) -> Lot:
        return Lot(
            self.ids[begin:end],
            self.items[begin:end],
            None if self.planned is None else self.planned[begin:end],
            attempt=self.attempt,
            started=self.started,
            deaths=self.deaths,
            moves=self.moves,
        )

    def picked(self, places: Iterable[int], *, deaths: int = 0, moves: int = 0) -> Lot:
        """The calls at these positions."""
        chosen = list(places)
        return Lot(
            [self.ids[at] for at in chosen],
            [self.items[at] for at in chosen],
            None if self.planned is None else [self.planned[at] for at in chosen],
            attempt=self.attempt,
            started=self.started,
            deaths=deaths,
            moves=moves,
        )


class InCall(NamedTuple):
    """A call that is under way.

    Attributes:
        lot: what it belongs to.
        at: its position in that.
        begun: when the attempt began; infinite: it waits for that.
        attempt: which attempt it is.
    """

    lot: Lot
    at: int
    begun: float
    attempt: int


def outcome(
    lot: Lot,
    at: int,
    started: float,
    *,
    error: CallError | None = None,
    status: Status | None = None,
    attempt: int = 1,
) -> Finished:
    """What became of one call that its process told nothing of."""
    return Finished(
        [lot.ids[at]],
        array("d", [started if lot.started is None else lot.started]),
        array("d", [monotonic()]),
        [None],
        None if lot.planned is None else array("d", [lot.planned[at]]),
        {} if error is None else {0: error},
        {} if status is None else {0: status},
        {},
        {0: attempt} if attempt > 1 else {},
    )


class Member:
    """A worker process.

    Arguments:
        number: its number in this run.
        threads: how many threads it has.
        births: starts it.

    Attributes:
        line: where lots go out and what has ended comes in.
        ready: whether it has said that it can work.
        open: how many calls it holds, with those that it is in.
        recalling: whether it was asked to give back what it has not begun, and has not answered.
        recalled_at: when it was; infinite, after `take_back`.
        retired: whether it is given nothing more, as a call in it takes too long.
        idle_since: when it was seen to be in no call that is waited for, being retired.
        seen: how far it had come when that was looked at last, and since when.
        unsent: bytes that waited to be sent to it then.
    """

    def __init__(self, number: int, threads: int, births: Births) -> None:
        self.number = number
        self.threads = threads
        self.ready = False
        self.open = 0
        self.recalling = False
        self.recalled_at = 0.0
        self.retired = False
        self.idle_since: float | None = None
        self.seen = (0, 0.0)
        self.unsent = 0
        self._serial = 1
        self._stopped = False
        self._whole = births.apart and not main_is_importable()
        self._dropped: set[int] = set()  # serials of calls that are waited for no longer
        self._lots: dict[int, Lot] = {}  # by base, in the order in which they were sent
        with ExitStack() as ours, ExitStack() as lent:
            line, theirs = socket.socketpair()
            ours.enter_context(line)
            lent.enter_context(theirs)
            orders, heard = socket.socketpair()
            ours.enter_context(orders)
            lent.enter_context(heard)
            cells = Cells.create(threads)
            lent.callback(close, cells)
            self.line, self._orders = Line(line), Line(orders)
            self.cells = Cells(cells, threads)
            births.start(Post(number, threads, theirs, heard, cells))
            ours.pop_all()  # they stay open

    # What it is given

    def send(self, lot: Lot, *, with_ids: bool) -> tuple[int, Finished | None]:
        """Give it calls.

        Returns:
            How many bytes their items have, and what cannot be sent at all.
        """
        packed = pack(lot.items, "the item", whole=self._whole)
        refused = None
        if isinstance(packed, list):
            lot, packed, refused = _without_refused(lot, packed)
        size = len(packed) if isinstance(packed, bytes) else sum(map(len, packed))  # type: ignore[arg-type]
        if lot.items:
            lot.base = self._serial
            self._serial += len(lot.items)
            self._lots[lot.base] = lot
            if not self.open:  # until now there was nothing to get on with
                self.seen = (self.seen[0], monotonic())
            self.open += len(lot.items)
            planned = None if lot.planned is None else array("d", lot.planned).tobytes()
            ids = lot.ids if with_ids else None
            self.line.send(dump(LotSent(lot.base, packed, planned, ids, lot.attempt)))
        return size, refused

    def recall(self) -> None:
        """Ask for what it has not begun."""
        self._begin_recall()
        self._orders.send(dump(("recall", self._serial)))

    def stop(self) -> None:
        """Ask for what it has not begun, and for no further attempts; once."""
        if not self._stopped:
            self._stopped = True
            self._begin_recall()
            self._orders.send(dump(("stop", self._serial)))

    def _begin_recall(self) -> None:
        self.recalling = True
        self.recalled_at = monotonic()
        self.cells.recalled[0] = self._serial

    def dismiss(self) -> None:
        """Let it end: there will be nothing more."""
        self.retired = True
        self.line.close_sending()

    # What it tells

    def settle(self, handed: Handed) -> Finished:
        """Take note of calls that have ended."""
        serials = _serials(handed)
        if self._dropped and not self._dropped.isdisjoint(serials):
            handed = _without(handed, self._dropped)
            serials = _serials(handed)
        number = len(serials)
        started, ended = doubles(handed.started), doubles(handed.ended)
        failures = {at: unpack_error(error) for at, error in handed.failures.items()}
        values = unpack(handed.values, "the result")
        if isinstance(handed.values, list):
            for at, value in enumerate(values):
                if type(value) is Broken:
                    values[at], failures[at] = None, value.error
        planned: array[float] | None = None
        ids: list[int] = []
        at = 0
        while at < number:
            lot = self._lot_of(serials[at])
            end, begin = self._run_of(lot, serials, at), serials[at] - lot.base
            length = end - at
            ids.extend(lot.ids[begin : begin + length])
            if lot.planned is not None:
                planned = array("d") if planned is None else planned
                planned.extend(lot.planned[begin : begin + length])
            if lot.started is not None:
                started[at] = lot.started  # of a single call
            self._gone(lot, begin, length)
            at = end
        metadata = {at: _noted(pairs) for at, pairs in handed.metadata.items()}
        return Finished(
            ids, started, ended, values, planned, failures, {}, metadata, handed.attempts
        )

    def _lot_of(self, serial: int) -> Lot:
        for base, lot in self._lots.items():
            if base <= serial < base + len(lot.items):
                return lot
        raise KeyError(serial)

    @staticmethod
    def _run_of(lot: Lot, serials: Sequence[int], at: int) -> int:
        """Where the run of consecutive serials of a lot ends that begins here."""
        first = serials[at]
        most = min(lot.base + len(lot.items) - first, len(serials) - at)
        if serials[at + most - 1] == first + most - 1 and _rising(serials, at, most):
            return at + most
        end = at + 1
        while end < at + most and serials[end] == first + end - at:
            end += 1
        return end

    def _gone(self, lot: Lot, begin: int, length: int) -> None:
        lot.gone[begin : begin + length] = b"\1" * length
        lot.left -= length
        self.open -= length
        if not lot.left:
            del self._lots[lot.base]

    def given_back(self, given: Given) -> list[Lot]:
        """Take back what it says that it has not begun."""
        taken = set(longs(given.serials))
        taken.update(range(given.since, given.until))
        if given.until:
            self.recalling = False
        return self._taken_back(taken.__contains__)

    def take_back(self) -> list[Lot]:
        """Take back what it has not begun some milliseconds after it was recalled.

        It need not say so, which it cannot while a call does not let go of the interpreter.
        """
        self.recalled_at = float("inf")
        reached = self.cells.reached()
        return self._taken_back(lambda serial: serial > reached)

    def _taken_back(self, is_taken: Callable[[int], bool]) -> list[Lot]:
        back = []
        for lot in list(self._lots.values()):
            places = [
                at for at in range(len(lot.items)) if not lot.gone[at] and is_taken(lot.base + at)
            ]
            if places:
                back.append(lot.picked(places, deaths=lot.deaths, moves=lot.moves + 1))
                for at in places:
                    self._gone(lot, at, 1)
        return back

    def unbegun(self) -> int:
        """How many of its calls are not begun, about."""
        return max(0, min(self.open, self._serial - 1 - self.cells.reached()))

    def moves(self) -> int:
        """How often what it holds was taken back from others, at most."""
        return max((lot.moves for lot in self._lots.values()), default=0)

    def waits(self) -> bool:
        """Whether a thread of it waits for the instant of a planned call."""
        return bool(self.cells.waiting())

    # Its end

    def estate(self) -> tuple[list[tuple[Lot, int]], list[tuple[Lot, int]], list[Lot]]:
        """What it leaves, after its death and after what it handed over was heard.

        Returns:
            The calls that it was in; those that had ended, presumably; what it had not begun.
        """
        running, reached = set(self.cells.running()), self.cells.reached()
        spared = set(self.cells.waiting())
        lost, unknown, rest = [], [], []
        for lot in self._lots.values():
            unbegun = []
            for at in range(len(lot.items)):
                serial = lot.base + at
                if lot.gone[at]:
                    continue
                if serial in running:
                    lost.append((lot, at))
                elif serial <= reached and serial not in spared:
                    unknown.append((lot, at))
                else:
                    unbegun.append(at)
            if unbegun:
                rest.append(lot.picked(unbegun, deaths=lot.deaths))
        self._lots.clear()
        self.open = 0
        return lost, unknown, rest

    def in_call(self) -> list[InCall]:
        """The calls that it is in."""
        found = []
        cells = self.cells
        for thread, serial in enumerate(cells.calls):
            if serial > 0:
                for base, lot in self._lots.items():
                    if base <= serial < base + len(lot.items) and not lot.gone[serial - base]:
                        attempt = max(1, cells.attempts[thread])
                        found.append(InCall(lot, serial - base, cells.begun[thread], attempt))
        return found

    def take_out(self, lot: Lot, at: int) -> None:
        """Wait for a call no longer."""
        self._dropped.add(lot.base + at)
        self._gone(lot, at, 1)

    def close(self) -> None:
        """Let go of what it was reached by."""
        self.line.close()
        self._orders.close()


def _serials(handed: Handed) -> Sequence[int]:
    return longs(handed.serials) if isinstance(handed.serials, bytes) else handed.serials


def _rising(serials: Sequence[int], at: int, length: int) -> bool:
    """Whether so many serials from here on follow each other."""
    if isinstance(serials, range):
        return True
    return serials[at : at + length] == array("q", range(serials[at], serials[at] + length))


def _noted(packed: Any) -> dict[str, Any]:
    """What a function noted, as far as it can be pickled."""
    return dict(pair for pair in unpack(packed, "it") if type(pair) is not Broken)


def _without(handed: Handed, dropped: set[int]) -> Handed:
    """Take out calls that nobody waits for."""
    serials = _serials(handed)
    kept = [at for at, serial in enumerate(serials) if serial not in dropped]
    started, ended = doubles(handed.started), doubles(handed.ended)
    values = unpack(handed.values, "the result")

    def moved(noted: dict[int, Any]) -> dict[int, Any]:
        return {to: noted[at] for to, at in enumerate(kept) if at in noted}

    return Handed(
        array("q", [serials[at] for at in kept]).tobytes(),
        array("d", [started[at] for at in kept]).tobytes(),
        array("d", [ended[at] for at in kept]).tobytes(),
        pack([values[at] for at in kept], "the result"),
        moved(handed.failures),
        moved(handed.metadata),
        moved(handed.attempts),
    )


def _without_refused(
    lot: Lot, packed: list[bytes | CallError]
) -> tuple[Lot, list[bytes | CallError], Finished | None]:
    """Take out the calls whose items cannot be pickled: they have failed."""
    refused = [at for at, one in enumerate(packed) if isinstance(one, CallError)]
    if not refused:
        return lot, packed, None
    now = array("d", [monotonic()]) * len(refused)
    bad = lot.picked(refused)
    failures = {
        number: error
        for number, at in enumerate(refused)
        if isinstance(error := packed[at], CallError)
    }
    finished = Finished(
        bad.ids,
        now,
        array("d", now),
        [None] * len(refused),
        None if bad.planned is None else array("d", bad.planned),
        failures,
    )
    kept = [at for at, one in enumerate(packed) if not isinstance(one, CallError)]
    kept_lot = lot.picked(kept, deaths=lot.deaths, moves=lot.moves)
    return kept_lot, [packed[at] for at in kept], finished
