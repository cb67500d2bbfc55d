"""A worker's entry in the broker: it says what the worker does, and brings what it is told.

It is refreshed as often as the worker keeps house, but beside that: tidying up may take long, most
of all while a part of the broker is away. Who tells the worker something wakes it, so that it looks
at once; a wake-up that is lost is made up for by the next refresh.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import metadata
from typing import Protocol

import msgspec

from taskyard.brokers.base import AsyncDriver, Listener
from taskyard.brokers.workers import (
    SHOWN_CALLS,
    CallReport,
    Command,
    ControlMessage,
    Report,
    Workers,
    WorkerState,
)
from taskyard.errors import BrokerError, BrokerUnavailable
from taskyard.message import read_envelope
from taskyard.worker.execution import Execution

__all__ = ["Attendance", "Attendant", "paused_after", "report_of", "state_of"]

log = logging.getLogger("taskyard.worker")

_encode = msgspec.msgpack.Encoder().encode

WHILE_PAUSED = 10.0
"""Seconds between refreshes while the worker claims nothing: they show that it is well."""


class Attendant(Protocol):
    """The worker whose entry it is."""

    owner: str

    @property
    def is_paused(self) -> bool:
        """Whether it takes nothing from any queue."""
        ...

    def report(self) -> Report:
        """What it does now."""
        ...

    def obey(self, message: ControlMessage, command: Command) -> None:
        """Do what it is told."""
        ...

    def note_progress(self, messages: int = 0) -> None:
        """Note a successful exchange with the broker."""
        ...


class Attendance:
    """Keeps the entry of a worker, and listens.

    Arguments:
        host: the worker.
        workers: of the broker.
        driver: runs their operations.
    """

    def __init__(self, host: Attendant, workers: Workers, driver: AsyncDriver) -> None:
        self._host = host
        self._workers = workers
        self._driver = driver
        self._listener: Listener | None = None
        self._heard = 0
        self._changed = asyncio.Event()
        self._stale = False
        self._asked: asyncio.Future[list[ControlMessage]] | None = None

    async def run(self, pause: Callable[[], float]) -> None:
        """Work until cancelled; `leave` follows.

        Arguments:
            pause: gives the seconds until the next refresh.
        """
        while True:
            await self.refresh()
            await self.wait(pause())

    async def refresh(self) -> None:
        """Store what the worker does, and do what it was told; it may fail."""
        try:
            while self._obey(await self._attend()):
                pass  # so that others see what it does now
        except BrokerUnavailable as error:  # others tell of that
            log.debug("the worker is not registered: %s", error)
        except BrokerError as error:
            log.warning("the worker cannot be registered, trying again: %s", error)

    async def wait(self, seconds: float) -> None:
        """Do what the worker is told, until the next refresh.

        Arguments:
            seconds: for so long.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            woken = await self._sleep(min(left, WHILE_PAUSED) if self._host.is_paused else left)
            if self._stale or (self._host.is_paused and not woken):
                await self.refresh()
            elif woken:
                await self._look()

    def note_change(self) -> None:
        """Let others see soon what the worker does now."""
        self._stale = True
        self._changed.set()

    async def leave(self) -> None:
        """Remove the entry, if the broker answered when it was asked last to keep it."""
        if self._listener is not None:
            self._listener.close()
        if self._asked is None:
            return
        # One that arrives behind the removal would make the entry again.
        await asyncio.wait({self._asked})
        if not self._asked.cancelled() and self._asked.exception() is None:
            try:
                await self._driver.run(self._workers.retire([self._host.owner]))
            except BrokerError as error:
                log.debug("the worker stays registered until that expires: %s", error)

    async def _attend(self) -> list[ControlMessage]:
        if self._listener is None:
            self._listener = self._driver.listener()
            self._listener.ignore_changes()
        self._stale = False
        asking = self._workers.attend(
            self._host.owner, _encode(self._host.report()), self._listener.name, self._heard
        )
        self._asked = asyncio.ensure_future(self._driver.run(asking))
        mail = await asyncio.shield(self._asked)
        if self._host.is_paused:
            self._host.note_progress()  # it claims nothing that would show it
        return mail

    async def _look(self) -> None:
        try:
            mail = await self._driver.run(self._workers.mail(self._host.owner, self._heard))
        except BrokerError as error:
            log.debug("the mailbox cannot be looked into: %s", error)  # the refresh tells
            return
        if self._obey(mail):
            await self.refresh()

    async def _sleep(self, seconds: float) -> bool:
        """Wait to be told something, or for a change; returns whether a wake-up came."""
        if self._listener is None:
            await asyncio.sleep(seconds)
            return False
        try:
            return await self._listener.wait_async(seconds, self._changed)
        finally:
            self._changed.clear()

    def _obey(self, mail: Sequence[ControlMessage]) -> bool:
        """Do what is new; returns whether there was anything."""
        new = [message for message in mail if message.number > self._heard]
        for message in new:
            self._heard = message.number
            try:
                command = Command(message.command)
            except ValueError:
                log.warning("an unknown control message is dropped: %r", message.command[:100])
            else:
                self._host.obey(message, command)
        return bool(new)


# What follows from what, without a worker


def paused_after(
    paused: frozenset[str], served: frozenset[str], command: Command, queue: str
) -> frozenset[str]:
    """From which queues a worker takes nothing after it was told something.

    Arguments:
        paused: those before.
        served: all that it serves.
        command: what it was told.
        queue: what that concerns; "": all. One that is not served changes nothing.
    """
    meant = frozenset({queue}) & served if queue else served
    if command is Command.PAUSE:
        return paused | meant
    return paused - meant if command is Command.RESUME else paused


def state_of(*, stopping: bool, paused: bool, running: bool) -> WorkerState:
    """What a worker does.

    Arguments:
        stopping: whether it stops.
        paused: whether it takes nothing from any queue.
        running: whether something runs.
    """
    if stopping:
        return WorkerState.STOPPING
    if paused:
        return WorkerState.PAUSING if running else WorkerState.PAUSED
    return WorkerState.RUNNING


def report_of(
    *,
    serves: dict[str, list[str]],
    slots: int,
    started: float,
    progressed: float | None,
    paused: Iterable[str],
    stopping: bool,
    executions: Iterable[Execution],
) -> Report:
    """Make the report of a worker in this process.

    Arguments:
        serves: its tasks by queue.
        slots: calls at a time.
        started: when it started, of the monotonic clock.
        progressed: when it last claimed or settled something; None: never.
        paused: the queues from which it takes nothing.
        stopping: whether it stops.
        executions: its claims.
    """
    now = time.monotonic()
    calls = [call for execution in executions if (call := _call(execution)) is not None]
    calls.sort(key=lambda call: -call.age)
    names = sorted(paused)
    return Report(
        host=socket.gethostname(),
        pid=os.getpid(),
        version=_version(),
        serves=serves,
        slots=slots,
        age=_micros(now - started),
        idle=None if progressed is None else _micros(now - progressed),
        state=state_of(stopping=stopping, paused=len(names) == len(serves), running=bool(calls)),
        paused=names,
        running=len(calls),
        calls=calls[:SHOWN_CALLS],
    )


def _call(execution: Execution) -> CallReport | None:
    current = execution.current()
    if current is None:
        return None
    call, seconds = current
    envelope = read_envelope(call.messages[0][1].body)
    id_ = "" if envelope is None else envelope.id
    return CallReport(call.task.name, id_, len(call.messages), _micros(seconds))


def _micros(seconds: float) -> int:
    return max(0, round(seconds * 1e6))


@cache
def _version() -> str:
    try:
        return metadata.version("taskyard")
    except metadata.PackageNotFoundError:
        return "unknown"
