"""A yard that runs what is enqueued at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from taskyard.brokers.base import Operation, Put
from taskyard.errors import TestingError
from taskyard.testing.broker import NotedAsyncDriver, NotedDriver, NotingBroker
from taskyard.testing.clock import Clock
from taskyard.testing.report import Report, raise_failure
from taskyard.testing.slots import loop_runs_here, run_here, run_on_loop
from taskyard.testing.workbench import LIMIT, Tally, Terms
from taskyard.testing.yards import YardInTest, checked_clock
from taskyard.yard import Yard

__all__ = ["InlineAsyncDriver", "InlineBroker", "InlineDriver", "InlineYard", "inline"]

T = TypeVar("T")

_outer: ContextVar[Tally | None] = ContextVar("taskyard_inline", default=None)
"""Where this is called within a handler: what counts for the outermost `enqueue`.

A task that a handler left running has it too, when it is not open any more.
"""

DEPTH = 20
"""How many handlers run within each other; what one enqueues that is deeper runs after it."""


def _open_tally() -> Tally | None:
    """The tally of the outermost `enqueue`, within handlers that it runs."""
    outer = _outer.get()
    return outer if outer is not None and outer.is_open else None


def inline(
    yard: Yard,
    *,
    clock: Clock | None = None,
    raise_errors: bool = True,
    limit: int = LIMIT,
) -> InlineYard:
    """Let a yard run what is enqueued at once, before `enqueue` returns.

        with testing.inline(yard):
            sign_up("ada")
            assert outbox == ["ada"]

    It is run as a worker does it, in the thread of `enqueue`, with retries, timeouts, results and
    middleware. Nobody waits: for a delay or the next attempt, the yard's clock is put forward, and
    batches do not wait to fill. Schedules do nothing. What handlers enqueue runs within them; if
    it cannot (its shard is ordered and busy), it runs after them.

    Arguments:
        yard: the program's own. Its broker is not touched in the block, and it has it back behind
            it.
        clock: the time in the block. If left out, one that begins now.
        raise_errors: let `enqueue` raise what a handler raised, if no retry made up for it. The
            outermost `enqueue` does, not those in handlers. With False, it is kept: `get()` raises
            `TaskFailed`, `yard.dead` lists it, and it is in `report`.
        limit: attempts of one `enqueue` after which it is taken for endless.

    Returns:
        A context manager, which gives itself.

    Raises:
        TestingError: it is no yard, or no clock.
    """
    return InlineYard(
        yard, InlineBroker(checked_clock(yard, clock)), raise_errors=raise_errors, limit=limit
    )


class InlineYard(YardInTest):
    """A yard that runs what is enqueued at once; `inline` makes it.

    Arguments:
        yard: the program's own.
        broker: the one in memory.
        raise_errors: whether `enqueue` raises what handlers raised.
        limit: attempts of one `enqueue` at most.
    """

    def __init__(self, yard: Yard, broker: InlineBroker, *, raise_errors: bool, limit: int) -> None:
        super().__init__(yard, broker)
        self._raise_errors = raise_errors
        self._all = Tally()
        self._terms = Terms(advance=True, limit=limit, drain=True, schedules=False)
        broker.yard = self

    @property
    def report(self) -> Report:
        """What has run in the block so far, and what is left."""
        self.check()
        return self._workbench.report(self._all)

    def work_off(self) -> None:
        """Run what can be run (called after each operation of the broker).

        Raises:
            TestingError: it does not come to an end, or needs an event loop that is in use here.
        """
        loopless = loop_runs_here()
        with self._counting() as tally:
            if tally is not None:
                run_here(self._workbench.jobs(self._terms, tally, loopless=loopless), self._loops)
        if loopless and _open_tally() is None:
            self._refuse_loopless()
        self._raise(tally)

    async def work_off_async(self) -> None:
        """Do the same on this event loop."""
        with self._counting() as tally:
            if tally is not None:
                await run_on_loop(self._workbench.jobs(self._terms, tally))
        self._raise(tally)

    @contextmanager
    def _counting(self) -> Iterator[Tally | None]:
        """Give what to count with; None: the outer ones run what there is."""
        outer = _open_tally()
        tally = outer or Tally()
        if tally.depth >= DEPTH:
            yield None
            return
        tally.depth += 1
        token = _outer.set(tally)
        try:
            yield tally
        finally:
            _outer.reset(token)
            tally.depth -= 1
            if outer is None:
                tally.is_open = False
                self._all.attempts += tally.attempts
                self._all.next_at = tally.next_at

    def _raise(self, tally: Tally | None) -> None:
        if self._raise_errors and tally is not None and not tally.is_open:
            raise_failure(tally.attempts)

    def _refuse_loopless(self) -> None:
        task = self._workbench.needs_loop()
        if task is not None:
            raise TestingError(
                f"task {task.name!r} needs an event loop, and the one of this thread is busy with "
                f"who enqueues: say `await {task.name}.aenqueue(...)`, or use testing.stored() "
                f"and `await test_yard.arun_until_idle()`"
            )


class InlineBroker(NotingBroker):
    """A broker in memory behind each operation of which everything runs that can.

    Attributes:
        yard: what runs it.
    """

    yard: InlineYard

    def driver(self) -> InlineDriver:
        return InlineDriver(self)

    def async_driver(self) -> InlineAsyncDriver:
        return InlineAsyncDriver(self)

    def partition(self, put: Put) -> Hashable:  # noqa: ARG002 - the same for all
        """Name a place of its own for each put.

        Whoever enqueues stores, and runs, what it has by itself: callers that share a put wait
        for each other, which a handler that enqueues could not.
        """
        return object()


class InlineDriver(NotedDriver):
    """Runs operations for threads, and what can be run then."""

    def __init__(self, broker: InlineBroker) -> None:
        super().__init__(broker)
        self._yard = broker.yard

    def run(self, operation: Operation[T]) -> T:
        result = super().run(operation)
        self._yard.work_off()
        return result


class InlineAsyncDriver(NotedAsyncDriver):
    """Runs operations for event loops, and what can be run then."""

    def __init__(self, broker: InlineBroker) -> None:
        super().__init__(broker)
        self._yard = broker.yard

    async def run(self, operation: Operation[T]) -> T:
        result = await super().run(operation)
        await self._yard.work_off_async()
        return result
