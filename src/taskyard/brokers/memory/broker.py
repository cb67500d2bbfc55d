"""The memory broker and its drivers."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from taskyard.brokers.base import (
    Counts,
    DeadLetter,
    DeadQuery,
    Delivery,
    Group,
    Operation,
    Put,
    Record,
    Settlement,
    Step,
    Want,
)
from taskyard.brokers.bounds import Bounds
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.clock import wall_clock
from taskyard.brokers.common import CHUNK, Changed, in_chunks
from taskyard.brokers.facts import SEARCHED, Facts
from taskyard.brokers.lane import Gate, GroupPolicy
from taskyard.brokers.looking import Waiting
from taskyard.brokers.memory import cancelling, claims, explaining, looking, rates, steps
from taskyard.brokers.memory.bounds import set_bounds
from taskyard.brokers.memory.listeners import MemoryListener
from taskyard.brokers.memory.schedules import MemorySchedules
from taskyard.brokers.memory.state import MemoryState
from taskyard.brokers.memory.workers import MemoryWorkers
from taskyard.brokers.rate import Limited, Rate

__all__ = ["MemoryAsyncDriver", "MemoryBroker", "MemoryDriver"]

T = TypeVar("T")
MemoryStep: TypeAlias = Callable[[MemoryState], Any]


class MemoryBroker:
    """Queues in this process. A process that is forked has a copy of its own.

    Arguments:
        url: how it is called; two brokers of one URL are still two.
        clock: microseconds since 1970, for tests.
        dead_limit: dead letters that a group keeps; the oldest go.
        dead_age: seconds that dead letters are kept.
    """

    durable = False
    shared = False
    expires_records = False
    inboxes = None

    def __init__(
        self,
        url: str = "memory://",
        *,
        clock: Callable[[], int] | None = None,
        dead_limit: int = 10_000,
        dead_age: float = 30 * 86_400.0,
    ) -> None:
        self.url = url
        self._clock = clock or wall_clock
        self._lock = threading.Lock()
        self.schedules = MemorySchedules()
        self.workers = MemoryWorkers()
        self._state = MemoryState(dead_limit, round(dead_age * 1e6))
        _brokers.add(self)

    def driver(self) -> MemoryDriver:
        return MemoryDriver(self)

    def async_driver(self) -> MemoryAsyncDriver:
        return MemoryAsyncDriver(self)

    def set_partitions(self, queue: str, partitions: int) -> None:
        """Do nothing: all messages are in one place."""

    def partition(self, put: Put) -> Hashable:
        """All messages are in one place."""

    # Operations: each yields steps, and every step runs under the lock.

    def declare(
        self, group: Group, policy: GroupPolicy, *, replace: bool = False
    ) -> Operation[None]:
        yield partial(steps.declare, key=group, policy=policy, replace=replace)

    def put(
        self,
        puts: Sequence[Put],
        stored: list[Put] | None = None,  # noqa: ARG002 - all is one partition
    ) -> Operation[None]:
        yield partial(steps.put, puts=puts)

    def step(self, settlements: Sequence[Settlement], want: Want | None) -> Operation[Step]:
        reply: Step = yield partial(claims.step, settlements=settlements, want=want)
        return reply

    def extend(
        self,
        tokens: Sequence[int],
        lease: int,
        unknown: list[int] | None = None,  # noqa: ARG002 - all is one partition
    ) -> Operation[list[int]]:
        lost: list[int] = yield partial(claims.extend, tokens=tokens, lease=lease)
        return lost

    def cancel(self, id_: str, *, note: bool = True) -> Operation[Cancellation]:
        done: Cancellation = yield partial(cancelling.cancel, id_=id_, note=note)
        return done

    def cancel_key(self, group: Group, shard: str, key: str) -> Operation[Cancellation]:
        done: Cancellation = yield partial(cancelling.cancel_key, group=group, shard=shard, key=key)
        return done

    def explain(self, id_: str, *, search: int = SEARCHED) -> Operation[Facts]:
        facts: Facts = yield partial(explaining.explain, id_=id_, search=search)
        return facts

    def pulse(
        self, tokens: Sequence[int], progress: Sequence[tuple[int, str, bytes]] = ()
    ) -> Operation[list[tuple[int, int]]]:
        told: list[tuple[int, int]] = yield partial(
            cancelling.pulse, tokens=tokens, progress=progress
        )
        return told

    def reap(self, owners: Sequence[str] = ()) -> Operation[int]:
        total, dead = 0, frozenset(owners)
        while taken := (yield partial(claims.reap, owners=dead)):
            total += taken
        return total

    def records(
        self, ids: Sequence[str], listener: str | None = None
    ) -> Operation[list[Record | None]]:
        found: list[Record | None] = []
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            found += yield partial(steps.look_up, ids=chunk, listener=listener)
        return found

    def counts(self) -> Operation[list[Counts]]:
        counted: list[Counts] = yield steps.counts
        return counted

    def dead(self, query: DeadQuery) -> Operation[list[DeadLetter]]:
        letters: list[DeadLetter] = yield lambda state: state.letters.find(query)
        return letters

    def retry_dead(self, query: DeadQuery) -> Operation[int]:
        return (yield from _change_dead(steps.retry_dead, query))

    def discard_dead(self, query: DeadQuery) -> Operation[int]:
        return (yield from _change_dead(steps.discard_dead, query))

    def park(self, group: Group, shard: str) -> Operation[bool]:
        parked: bool = yield partial(steps.park, key=group, shard=shard)
        return parked

    def waiting(self, group: Group, shard: str | None = None) -> Operation[list[Waiting]]:
        found: list[Waiting] = yield partial(looking.waiting, key=group, shard=shard)
        return found

    def peek(
        self, group: Group, shard: str, priority: int, *, first: int = 0, limit: int = CHUNK
    ) -> Operation[list[Delivery]]:
        found: list[Delivery] = yield partial(
            looking.peek, key=group, shard=shard, priority=priority, first=first, limit=limit
        )
        return found

    def withdraw(
        self, group: Group, shard: str, priority: int, sequences: Sequence[int]
    ) -> Operation[list[int]]:
        removed: list[int] = yield partial(
            looking.withdraw, key=group, shard=shard, priority=priority, sequences=sequences
        )
        return removed

    def set_gate(self, queue: str, gate: Gate) -> Operation[Gate]:
        before: Gate = yield lambda state: state.set_gate(queue, gate)
        return before

    def set_rate(
        self, limited: Limited, rate: Rate | None, *, declared: bool = False
    ) -> Operation[None]:
        yield partial(rates.set_rate, limited=limited, rate=rate, declared=declared)

    def set_bounds(
        self, queue: str, bounds: Bounds | None, *, declared: bool = False
    ) -> Operation[None]:
        yield partial(set_bounds, queue=queue, bounds=bounds, declared=declared)

    def release(self, group: Group, shard: str) -> Operation[bool]:
        released: bool = yield partial(steps.release, key=group, shard=shard)
        return released

    def tidy(self) -> Operation[int]:
        removed: int = yield partial(steps.tidy, limit=CHUNK)
        return removed

    # For the drivers

    def apply(self, step: MemoryStep) -> Any:
        """Run one step, whole and alone."""
        with self._lock:
            self._state.now = self._clock()
            try:
                return step(self._state)
            finally:
                self._state.announce()

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end."""
        try:
            step = next(operation)
            while True:
                try:
                    reply = self.apply(step)
                except Exception as error:  # noqa: BLE001  # the operation decides what it means
                    step = operation.throw(error)
                else:
                    step = operation.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def listener(self) -> MemoryListener:
        """Make something to wait on."""
        made = MemoryListener(self._forget)
        self.apply(lambda state: state.listeners.add(made))
        return made

    def _forget(self, listener: MemoryListener) -> None:
        def leave(state: MemoryState) -> None:
            state.listeners.remove(listener)
            state.pass_on(listener.wants)

        self.apply(leave)


def _change_dead(step: Callable[..., Changed], query: DeadQuery) -> Operation[int]:
    return in_chunks(
        query, lambda state: state.letters.newest(), lambda chunk: partial(step, query=chunk)
    )


class MemoryDriver:
    """Runs operations of a memory broker for threads."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    def run(self, operation: Operation[T]) -> T:
        return self._broker.run(operation)

    def listener(self) -> MemoryListener:
        return self._broker.listener()

    def close(self) -> None:
        """Do nothing: there is nothing to free but the broker itself."""


class MemoryAsyncDriver:
    """Runs operations of a memory broker for an event loop.

    They run in place, since each takes less time than a hop to a thread; so a task that is
    cancelled has either not begun its operation or finished it.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def run(self, operation: Operation[T]) -> T:
        return self._broker.run(operation)

    def listener(self) -> MemoryListener:
        return self._broker.listener()

    async def close(self) -> None:
        """Do nothing: there is nothing to free but the broker itself."""

    def shut_down(self) -> None:
        """Do nothing, for the same reason."""


# A fork must not happen in the middle of a step of another thread: the child's copy would be
# half changed, and locked for ever.

_brokers: weakref.WeakSet[MemoryBroker] = weakref.WeakSet()
_held: list[threading.Lock] = []


def _before_fork() -> None:
    for broker in list(_brokers):
        broker._lock.acquire()
        _held.append(broker._lock)


def _after_fork() -> None:
    while _held:
        _held.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
