"""Bringing what other programs push into the inbox of a queue over to its tasks."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable
from typing import Any, Protocol

from taskyard.brokers.base import AsyncDriver, Dead
from taskyard.brokers.inboxes import Inboxes, Lot, Misfit
from taskyard.errors import BrokerError, QueueDraining, QueueFull
from taskyard.task import Task
from taskyard.worker.inbox import Reader
from taskyard.worker.pool import PERMANENT, RECONNECT

__all__ = ["Courier", "Recipient"]

log = logging.getLogger("taskyard.worker")

PAUSE = 0.05
"""Seconds for which somebody else is left alone with a lot; it takes the next ones too."""
FULL = 0.25
"""Seconds after which is looked again whether a queue that was full has room."""
HELD_BACK = 5.0
"""Seconds for which the inbox of a draining queue is left alone."""


class Recipient(Protocol):
    """The worker that a courier belongs to."""

    messages: int

    def notify(self) -> None:
        """Let all look again whether there is something to do."""
        ...

    def note_arrivals(self) -> None:
        """Note that there are new messages for the pools."""
        ...

    def note_dead(self, task: str, dead: Dead) -> None:
        """Note a dead letter; with `fail_fast`, it ends the worker."""
        ...


class Courier:
    """Empties the inbox of a queue, and waits for more.

    It may be cancelled anywhere: a lot that it was at is stored once, by whoever comes next.

    Attributes:
        drained: how many messages of the worker had ended when the inbox was empty, or its queue
            took nothing.

    Arguments:
        host: the worker.
        inboxes: of the broker.
        driver: runs their operations.
        queue: its name.
        tasks: those of its tasks that the worker knows.
        bare: whether it is the queue's bare inbox.
    """

    def __init__(
        self,
        host: Recipient,
        inboxes: Inboxes,
        driver: AsyncDriver,
        queue: str,
        tasks: Iterable[Task[..., Any]],
        *,
        bare: bool = False,
    ) -> None:
        self.drained = -1
        self._host = host
        self._inboxes = inboxes
        self._driver = driver
        self._queue = queue
        self._bare = bare
        self._called = f"the {'bare ' if bare else ''}inbox of queue {queue}"
        self._reader = Reader(queue, tasks)
        self._name = secrets.token_urlsafe(9)
        self._changed = asyncio.Event()
        self._closed_until: float | None = None
        self._full = self._burst = False

    async def run(self, *, burst: bool) -> None:
        """Work until cancelled.

        Arguments:
            burst: look whenever `notify` is called, instead of waiting for values.
        """
        self._burst = burst
        watch = self._inboxes.watch(self._queue, self._name, bare=self._bare)
        delay, failing = RECONNECT[0], False
        lot: Lot | None = None
        try:
            while True:
                try:
                    await self._empty(lot)
                    lot = None
                    if burst:
                        await self._changed.wait()
                    elif self._closed_until is not None:
                        await asyncio.sleep(self._closed_until - time.monotonic())
                    else:
                        lot = await watch.wait()
                except PERMANENT:
                    raise
                except Exception as error:  # whatever it is: nobody else looks
                    if not failing:
                        text = "%s fails, trying again: %s"
                        known = isinstance(error, BrokerError)
                        log.error(text, self._called, error, exc_info=None if known else error)
                    await asyncio.sleep(delay)
                    delay, failing = min(delay * 2, RECONNECT[1]), True
                else:
                    if failing:
                        log.info("%s is served again", self._called)
                    delay, failing = RECONNECT[0], False
        finally:
            watch.close()

    def notify(self) -> None:
        """Look again, in a burst."""
        self._changed.set()

    async def _empty(self, lot: Lot | None) -> None:
        """Move lot after lot, until the inbox is empty, somebody else moves them, or none can."""
        self._changed.clear()
        ended = self._host.messages
        if not self._is_closed():
            lot = lot or await self._collect(0)
            while lot is not None:
                if not lot.values:
                    await asyncio.sleep(PAUSE)
                    if self._closed_until is not None:
                        self._hold_back()
                    self._changed.set()  # nobody else tells when they are through
                    return
                if not await self._store(lot):
                    break
                lot = await self._collect(lot.number)
            else:
                self._note_open()
        if self.drained != ended:
            self.drained = ended
            self._host.notify()

    async def _store(self, lot: Lot) -> bool:
        """Store a lot; returns False if the queue takes nothing. Then it stays where it is."""
        items = list(map(self._reader.read, lot.values))
        try:
            misfits = await self._driver.run(self._inboxes.store(lot, items))
        except QueueDraining as error:
            if self._closed_until is None:
                log.warning("%s keeps what it has: %s", self._called, error)
            self._hold_back()
            return False
        except QueueFull as error:
            if not self._full:
                log.info("%s waits for room: %s", self._called, error)
            self._full = True
            if not self._burst:  # in a burst, whatever ends makes it look again
                self._closed_until = time.monotonic() + FULL
            return False
        self._full = False
        self._note_open()
        self._note(misfits)
        self._host.note_arrivals()
        return True

    def _hold_back(self) -> None:
        self._closed_until = time.monotonic() + HELD_BACK

    def _is_closed(self) -> bool:
        return self._closed_until is not None and time.monotonic() < self._closed_until

    def _note_open(self) -> None:
        if self._closed_until is not None:
            log.info("%s is served again", self._called)
            self._closed_until = None

    async def _collect(self, done: int) -> Lot | None:
        collecting = self._inboxes.collect(self._queue, self._name, done, bare=self._bare)
        return await self._driver.run(collecting)

    def _note(self, misfits: Iterable[Misfit]) -> None:
        for misfit in misfits:
            task, failure = misfit.dead.task or misfit.group.name, misfit.dead.failure
            log.error(
                "a value from %s is dead: %s (%s)",
                self._called,
                failure.reason,
                failure.kind,  # its text may tell of the payload
                extra={
                    "task": task,
                    "queue": self._queue,
                    "reason": failure.reason,
                    "error": failure.kind,
                },
            )
            self._host.note_dead(task, misfit.dead)
