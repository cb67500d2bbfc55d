"""Outcomes as they come, none of which is kept."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from types import TracebackType
from typing import Self

from taskyard.dispatch.conduct import Conductor
from taskyard.dispatch.outcome import Outcome
from taskyard.dispatch.plan import Plan
from taskyard.dispatch.progress import Snapshot
from taskyard.dispatch.result import Counts, Order

__all__ = ["Stream"]


class _Sorter:
    """Brings outcomes into their order.

    Arguments:
        order: "items": by their numbers; "completed": as they come.
    """

    def __init__(self, order: Order) -> None:
        self._sorts = order == "items"
        self._early: dict[int, Outcome] = {}
        self._next = 1
        self.skip: Collection[int] = ()  # calls of an earlier run, which do not come
        self.ready: deque[Outcome] = deque()

    def add(self, outcomes: list[Outcome]) -> None:
        if not self._sorts:
            self.ready.extend(outcomes)
            return
        self._early.update((outcome.id, outcome) for outcome in outcomes)
        while self._next in self._early or self._next in self.skip:
            if (outcome := self._early.pop(self._next, None)) is not None:
                self.ready.append(outcome)
            self._next += 1

    def rest(self) -> None:
        """Nothing more comes: what is left is behind calls that have no outcome."""
        for id_ in sorted(self._early):
            self.ready.append(self._early.pop(id_))


class Stream:
    """The outcomes of a run, each as soon as it is there: an iterator, and an async one.

    The run begins when the first outcome is asked for. In a `with` block, or at the end of the
    loop, it is ended in order.

    Arguments:
        plan: what is to be done.
        order: of the outcomes.
    """

    def __init__(self, plan: Plan, order: Order = "completed") -> None:
        self._plan = plan
        self._sorter = _Sorter(order)
        self._conductor: Conductor | None = None
        self._given = 0  # since something was released
        self._closed = False
        self._untold = False  # it ended by itself, and whoever looks was not told yet

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Outcome:
        while (outcome := self._take()) is None:
            if self._closed:
                self._say_why()
                raise StopIteration
            conductor = self._begun(None)
            try:
                came = conductor.outcomes()
            except BaseException:
                self._end(abandon=True)
                raise
            self._note(came)
        return outcome

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        while (outcome := self._take()) is None:
            if self._closed:
                self._say_why()
                raise StopAsyncIteration
            conductor = self._begun(asyncio.get_running_loop())
            try:
                came = await conductor.aoutcomes()
            except BaseException:
                await self._aend(abandon=True)
                raise
            self._note(came)
        return outcome

    @property
    def counts(self) -> Counts:
        """How many calls have ended how, up to now."""
        return Counts() if self._conductor is None else self._conductor.snapshot().counts

    def snapshot(self) -> Snapshot | None:
        """How it goes; None: it has not begun."""
        return None if self._conductor is None else self._conductor.snapshot()

    def close(self) -> None:
        """End it in order: begin no more calls, and wait for those that run, within the grace."""
        self._end(abandon=False)

    async def aclose(self) -> None:
        """As `close`, in an event loop."""
        await self._aend(abandon=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(abandon=isinstance(error, KeyboardInterrupt))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._aend(abandon=isinstance(error, asyncio.CancelledError))

    def __del__(self) -> None:
        # Whoever left the loop without a `with`: nothing new is begun, but nobody waits.
        if self._conductor is not None and not self._closed:
            self._conductor.close()

    def _take(self) -> Outcome | None:
        if not self._sorter.ready:
            self._release()
            return None
        self._given += 1
        return self._sorter.ready.popleft()

    def _release(self) -> None:
        if self._given and self._conductor is not None:
            self._conductor.release(self._given)
            self._given = 0

    def _begun(self, loop: asyncio.AbstractEventLoop | None) -> Conductor:
        if self._conductor is None:
            conductor = Conductor(self._plan, keep=False, hold=True, loop=loop)
            try:
                conductor.begin()
            except BaseException:
                self._closed = True  # there is no end to wait for
                conductor.close()
                raise
            self._sorter.skip = conductor.earlier
            self._conductor = conductor
        return self._conductor

    def _note(self, came: list[Outcome] | None) -> None:
        if came is not None:
            self._sorter.add(came)
            return
        self._sorter.rest()
        self._closed = True
        assert self._conductor is not None  # noqa: S101 - it gave what came
        self._conductor.close()
        self._untold = True

    def _say_why(self) -> None:
        """Raise, once, if it ended early."""
        if self._untold and self._conductor is not None:
            self._untold = False
            self._conductor.finish()

    def _end(self, *, abandon: bool) -> None:
        self._sorter.ready.clear()
        if self._closed or self._conductor is None:
            self._closed = True
            return
        self._closed = True
        try:
            self._conductor.stop(abandon=abandon)
        finally:
            self._conductor.close()

    async def _aend(self, *, abandon: bool) -> None:
        self._sorter.ready.clear()
        if self._closed or self._conductor is None:
            self._closed = True
            return
        self._closed = True
        try:
            await self._conductor.astop(abandon=abandon)
        finally:
            self._conductor.close()
