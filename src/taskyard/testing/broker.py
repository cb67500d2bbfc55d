"""The broker of a yard in a test: one in memory, which notes what is put."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from taskyard.brokers.base import Operation, Put
from taskyard.brokers.common import stored_parts
from taskyard.brokers.memory import MemoryBroker
from taskyard.brokers.memory.broker import MemoryAsyncDriver, MemoryDriver
from taskyard.brokers.memory.listeners import MemoryListener
from taskyard.brokers.memory.schedules import MemorySchedules
from taskyard.brokers.schedules import Schedule
from taskyard.brokers.unique import Mode
from taskyard.errors import TestingError
from taskyard.testing.clock import Clock

__all__ = ["NotedAsyncDriver", "NotedDriver", "NotedPut", "NotingBroker", "Unwaited"]


class NotedPut(NamedTuple):
    """What was stored, and when.

    Attributes:
        put: the messages.
        at: microseconds of the clock.
    """

    put: Put
    at: int


class NotingBroker(MemoryBroker):
    """A broker in memory that notes what is put into it.

    Arguments:
        clock: its clock.

    Attributes:
        clock: its clock.
        noted: what was stored since it was made.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__("memory://testing", clock=clock)
        self.clock = clock
        self.noted: list[NotedPut] = []
        self.schedules = _NotingSchedules(self._note)

    def driver(self) -> MemoryDriver:
        return NotedDriver(self)

    def async_driver(self) -> MemoryAsyncDriver:
        return NotedAsyncDriver(self)

    def put(self, puts: Sequence[Put], stored: list[Put] | None = None) -> Operation[None]:
        yield from super().put(puts, stored)
        for put in puts:
            self._note(put)

    def _note(self, put: Put) -> None:
        now = self.clock.microseconds
        self.noted += [NotedPut(self._timed(part), now) for part in stored_parts(put)]

    def _timed(self, put: Put) -> Put:
        """A debounced message with the time until which it is put off."""
        if put.unique is None or put.unique.mode is not Mode.DEBOUNCE:
            return put
        [key] = put.unique.keys
        holder = self._state.keys.of(put.group, put.shard).get(key)
        # None: another thread has moved the clock, and had it run.
        due = self.clock.microseconds + put.unique.span if holder is None else holder.due
        return msgspec.structs.replace(put, due=due)


class _NotingSchedules(MemorySchedules):
    def __init__(self, note: Callable[[Put], None]) -> None:
        self._note = note

    def change(
        self, old: Schedule, new: Schedule | None, put: Put | None = None
    ) -> Operation[bool]:
        changed = yield from super().change(old, new, put)
        if changed and put is not None:
            self._note(put)
        return changed


class NotedDriver(MemoryDriver):
    """Runs operations for threads, and lets nobody wait for what does not come."""

    def listener(self) -> MemoryListener:
        return Unwaited()


class NotedAsyncDriver(MemoryAsyncDriver):
    """Runs operations for event loops, and lets nobody wait for what does not come."""

    def listener(self) -> MemoryListener:
        return Unwaited()


class Unwaited(MemoryListener):
    """A listener that refuses to wait: whoever waits in a test keeps it from going on."""

    def __init__(self) -> None:
        super().__init__(lambda _: None)

    def wait(self, timeout: float) -> bool:  # noqa: ARG002 - it does not take any
        """Refuse."""
        raise TestingError(
            "nothing runs messages while a test waits for them: call run_until_idle() first, or "
            "look with get(timeout=0). A worker does not run on the broker of a test either: "
            "use `with yard.using('memory://')` for that"
        )

    async def wait_async(self, timeout: float, also: asyncio.Event | None = None) -> bool:  # noqa: ARG002 - as above
        """Refuse."""
        return self.wait(timeout)
