"""A run from its beginning to its end: it ties source, engine and collector together."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterable, Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from taskyard.dispatch.collector import Collector
from taskyard.dispatch.engine import Engine, Finished
from taskyard.dispatch.engines import engine_of
from taskyard.dispatch.log import Log, outcomes_of
from taskyard.dispatch.logfile import Header, LogFile
from taskyard.dispatch.outcome import Outcome, Status
from taskyard.dispatch.plan import Plan
from taskyard.dispatch.progress import Show, Snapshot, pulse
from taskyard.dispatch.result import Counts, Run, RunInfo
from taskyard.dispatch.signals import handling
from taskyard.dispatch.source import CallSource
from taskyard.errors import RunFailed

__all__ = ["Conductor"]

log = logging.getLogger("taskyard.run")

TICK = 0.05
"""Seconds between looks at what nobody tells of: timeouts, ends, what busy workers hold."""
SHOWN = 0.25
"""Seconds between two snapshots."""

PATIENCE = 5.0
"""Seconds for which an engine that was told to wait for nothing may go on before it is left."""

OnResult = Callable[[Outcome], object]
OnDone = Callable[[Run], object]


class Conductor:
    """Conducts one run.

    Arguments:
        plan: what is to be done.
        on_result: called with each outcome, by whoever conducts.
        on_done: called with the `Run`.
        show: called with a snapshot now and then.
        keep: whether outcomes are logged.
        hold: whether outcomes count for the window until somebody has looked at them.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        on_result: OnResult | None = None,
        on_done: OnDone | None = None,
        show: Show | None = None,
        keep: bool = True,
        hold: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.plan = plan
        self.interrupted = ""
        self._on_result, self._on_done, self._show = on_result, on_done, show
        self._loop = loop
        self._failure: tuple[str, BaseException] | None = None
        self._log = Log() if keep else None
        self._bell: SimpleQueue[None] = SimpleQueue()  # its `put` may be called by signal handlers
        self._rung = asyncio.Event()
        self._signals: list[str] = []
        self._tended = self._shown = 0.0
        self._stopped_at: float | None = None
        self._abandoned_at: float | None = None
        self._file = None if plan.resume is None else LogFile(plan.resume, self._header())
        try:
            self._prepare(hold=hold)
        except BaseException:
            self._close_file()
            raise

    def _prepare(self, *, hold: bool) -> None:
        plan = self.plan
        earlier = None if self._file is None else self._file.earlier
        items: Any = plan.items
        if isinstance(items, AsyncIterable):
            from taskyard.dispatch.feed import Feed

            items = Feed(items, self._loop)
        self._hold = hold or self._on_result is not None or self._file is not None
        self.earlier = frozenset(() if earlier is None else earlier.ids)
        self._source = CallSource(
            items,
            total=plan.total,
            instants=plan.instants(),
            window=plan.window,
            runtime=plan.runtime,
            done=self.earlier,
            keep=hold or self._on_result is not None,
        )
        self._collector = Collector(self._source, self._log, hold=self._hold, wake=self.wake)
        self._engine: Engine = engine_of(plan, self._loop)

    def _header(self) -> Header:
        plan = self.plan
        return Header(
            function=plan.name,
            started=time.time(),
            kind=plan.kind,
            workers=plan.workers,
            plan=plan.pace_text,
            total=plan.total,
        )

    def run(self) -> Run:
        """Run it in this thread."""
        with self._conducted():
            while not self._collector.ended:
                self._wait()
                self._advance()
                self._deliver()
            self._deliver()
        run = self._finish()
        if self._on_done is not None:
            self._on_done(run)
        self._raise_failure(run)
        return run

    async def arun(self) -> Run:
        """Run it in this event loop."""
        with self._conducted():
            try:
                while not self._collector.ended:
                    await self._await()
                    self._advance()
                    await self._adeliver()
                await self._adeliver()
            except asyncio.CancelledError:
                await self.astop(abandon=True)
                raise
        run = self._finish()
        if self._on_done is not None:
            await _awaited(self._on_done(run))
        self._raise_failure(run)
        return run

    @contextmanager
    def _conducted(self) -> Iterator[None]:
        try:
            with handling(self._note_signal):
                self.begin()
                yield
        finally:
            self.close()

    # In parts, for streams.

    def begin(self) -> None:
        """Begin to make calls."""
        self._engine.prepare()
        self._source.begin()
        earlier = None if self._file is None else self._file.earlier
        if self._log is not None:
            self._log.offset = self._source.offset
        if earlier is not None:
            self._collector.add(_shifted(earlier, -self._source.offset))
        self._engine.start(self._source, self._collector)

    def outcomes(self) -> list[Outcome] | None:
        """Wait for outcomes.

        Returns:
            What came, and leaves the window when `release` is told; None: nothing more will.
        """
        while True:
            self._look()
            if (finished := self._collector.take()) is not None:
                return self._outcomes(finished)
            if self._collector.ended:
                # What was put before the end may have come since it was asked for.
                finished = self._collector.take()
                return None if finished is None else self._outcomes(finished)
            self._wait()
            self._advance()

    async def aoutcomes(self) -> list[Outcome] | None:
        """As `outcomes`, in an event loop."""
        while True:
            self._look()
            if (finished := self._collector.take()) is not None:
                return self._outcomes(finished)
            if self._collector.ended:
                finished = self._collector.take()
                return None if finished is None else self._outcomes(finished)
            await self._await()
            self._advance()

    def release(self, number: int) -> None:
        """So many outcomes have been looked at."""
        self._source.release(number)

    def stop(self, *, abandon: bool = False) -> None:
        """End in order, and wait for it.

        Arguments:
            abandon: do not wait for what runs.
        """
        self._stop()
        if abandon:
            self._abandon()
        while not self._collector.ended:
            self._drop()
            self._wait()
            self._advance()
        self._drop()

    async def astop(self, *, abandon: bool = False) -> None:
        """As `stop`, in an event loop."""
        self._stop()
        if abandon:
            self._abandon()
        while not self._collector.ended:
            self._drop()
            await self._await()
            self._advance()
        self._drop()

    def _drop(self) -> None:
        while (finished := self._collector.take()) is not None:
            self._outcomes(finished)  # into the file
            self._source.release(len(finished.ids))

    def finish(self) -> None:
        """Say why it ended early.

        Raises:
            RunFailed: it did.
        """
        self._raise_failure(self._finish())

    def close(self) -> None:
        """Let go of everything."""
        self._source.stop()
        self._engine.close()
        while (finished := self._collector.take()) is not None:
            self._outcomes(finished)  # into the file: nobody looked at it, but it has ended
        self._close_file()

    def _close_file(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:
            self._fail_to_write(self._file, error)

    # What happens.

    def wake(self) -> None:
        """Have it looked what is new. Any thread, and any signal handler, may call it."""
        if self._loop is None:
            if self._bell.empty():
                self._bell.put(None)
        elif not self._rung.is_set():
            with suppress(RuntimeError):  # the loop is closed: nobody waits any longer
                self._loop.call_soon_threadsafe(self._rung.set)

    def _wait(self) -> None:
        with suppress(Empty):
            self._bell.get(timeout=self._tick())

    async def _await(self) -> None:
        try:
            async with asyncio.timeout(self._tick()):
                await self._rung.wait()
        except TimeoutError:
            pass
        self._rung.clear()

    def _tick(self) -> float:
        timeout, deadline = self.plan.timeout, self._source.deadline
        tick = TICK if timeout is None else min(TICK, max(timeout / 4, 0.005))
        if deadline is not None and self._stopped_at is None:
            tick = min(tick, max(0.0, deadline - time.monotonic()))
        return tick

    def _note_signal(self, name: str) -> None:
        self._signals.append(name)
        self.wake()

    def _advance(self) -> None:
        while self._signals:
            self._heed(self._signals.pop(0))
        now = time.monotonic()
        if now - self._tended >= self._tick() * 0.9:
            self._tended = now
            self._engine.tend()
        deadline, grace = self._source.deadline, self.plan.grace
        if deadline is not None and now >= deadline:
            self._stop()
        if self._stopped_at is not None and grace is not None and now - self._stopped_at > grace:
            self._abandon()
        if self._abandoned_at is not None and now - self._abandoned_at > PATIENCE:
            self._collector.end()  # its loop is blocked, for one
        if self._show is not None and now - self._shown >= SHOWN:
            self._shown = now
            self._tell_progress(self._show, self.snapshot())

    def _look(self) -> None:
        """Advance if it is time to: for whoever is busy with outcomes, which may never run out."""
        if self._signals or time.monotonic() - self._tended >= TICK:
            self._advance()

    def _tell_progress(self, show: Show, snapshot: Snapshot) -> None:
        try:
            show(snapshot)
        except Exception as error:  # noqa: BLE001 - the caller's; raised when the run has ended
            self._show = None
            self._fail("progress raised", error)

    def _fail(self, text: str, error: BaseException) -> None:
        self._failure = self._failure or (text, error)
        self._stop()

    def _heed(self, name: str) -> None:
        self.interrupted = self.interrupted or name
        if self._stopped_at is None:
            self._stop()  # before it is said
            log.warning(
                "%s: no more calls are begun, %d are under way; once more ends them, too",
                name,
                self._engine.busy(),
            )
        else:
            self._abandon()

    def _stop(self) -> None:
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._source.stop()
            self._engine.stop()

    def _abandon(self) -> None:
        if self._abandoned_at is None:
            self._abandoned_at = time.monotonic()
            self._engine.abandon()

    # Outcomes.

    def _outcomes(self, finished: Finished) -> list[Outcome]:
        made = self._made(finished)
        self._write(made)
        return made

    def _made(self, finished: Finished) -> list[Outcome]:
        items = self._source.items_of(finished.ids)
        return list(outcomes_of(finished, self._source.offset, items))

    def _write(self, outcomes: list[Outcome]) -> None:
        """Write outcomes into the file. If it takes no more, the run ends in order."""
        if self._file is None or self._file.broken:
            return
        try:
            self._file.write(outcomes)
        except OSError as error:  # a full disk, for one
            self._fail_to_write(self._file, error)

    def _fail_to_write(self, file: LogFile, error: OSError) -> None:
        self._fail(f"{file.path} cannot be written:", error)

    def _deliver(self) -> None:
        while (finished := self._collector.take()) is not None:
            with self._taking_over(finished) as outcomes:
                for outcome in outcomes:
                    if self._on_result is None or self._failure is not None:
                        break
                    with self._calling_back():
                        self._on_result(outcome)
                    self._look()

    async def _adeliver(self) -> None:
        while (finished := self._collector.take()) is not None:
            with self._taking_over(finished) as outcomes:
                for outcome in outcomes:
                    if self._on_result is None or self._failure is not None:
                        break
                    with self._calling_back():
                        await _awaited(self._on_result(outcome))
                    self._look()

    @contextmanager
    def _taking_over(self, finished: Finished) -> Iterator[list[Outcome]]:
        """Log and release what has ended, after callbacks have seen it."""
        outcomes = self._made(finished)
        try:
            yield outcomes
        finally:
            if self._on_result is not None:
                finished = _as_left(finished, outcomes)
            if self._log is not None:
                self._log.add(finished)
            self._write(outcomes)
            self._source.release(len(outcomes))

    @contextmanager
    def _calling_back(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the caller's; raised when the run has ended
            self._fail("on_result raised", error)

    # The end.

    def snapshot(self, *, ended: bool = False) -> Snapshot:
        """How it goes."""
        source, now = self._source, time.monotonic()
        rate, latencies = pulse(self._collector.recent, source.started)
        counts = self._counts()
        left = None
        if source.deadline is not None:
            left = max(0.0, source.deadline - now)
        if source.total is not None and rate > 0:
            until = counts.undispatched / rate
            left = until if left is None else min(left, until)
        return Snapshot(
            counts=counts,
            total=source.total,
            in_flight=self._engine.busy(),
            elapsed=now - source.started,
            left=left,
            rate=rate,
            p50=_at(latencies, 0.5),
            p95=_at(latencies, 0.95),
            p99=_at(latencies, 0.99),
            limited=self._limited(),
            stopping=self._stopped_at is not None,
            ended=ended,
        )

    def _finish(self) -> Run:
        plan, source = self.plan, self._source
        source.count_missed()
        for name in self._signals:  # it came when everything had ended
            self.interrupted = self.interrupted or name
        info = RunInfo(
            function=plan.name,
            kind=plan.kind,
            workers=plan.workers,
            plan=plan.pace_text,
            total=plan.total,
            started=source.started + source.offset,
            ended=time.monotonic() + source.offset,
            limited=self._limited(),
            interrupted=self.interrupted,
        )
        if self._failure is None and source.error is not None:
            self._failure = ("the items raised", source.error)
        if self._failure is None and self._collector.error is not None:
            self._failure = ("the engine broke:", self._collector.error)
        if self._show is not None:
            self._tell_progress(self._show, self.snapshot(ended=True))
        error = None if self._failure is None else self._failure[1]
        log_ = Log(source.offset) if self._log is None else self._log
        return Run(self._counts(), info, log_, error)

    def _raise_failure(self, run: Run) -> None:
        if self._failure is None:
            return
        text, error = self._failure
        about = f": {error}" if str(error) else ""
        raise RunFailed(f"{text} {type(error).__qualname__}{about}", run) from error

    def _limited(self) -> int:
        # Not their sum: while all workers are busy the window fills, and both count the same calls.
        return max(self._engine.limited, self._source.limited)

    def _counts(self) -> Counts:
        counts = self._collector.counts
        finished = self._collector.finished
        known = self._source.total
        if known is None:
            known = self._source.taken + self._source.missed + len(self.earlier)
        return Counts(
            completed=counts[Status.COMPLETED],
            failed=counts[Status.FAILED],
            cancelled=counts[Status.CANCELLED],
            undispatched=max(0, known - finished) + counts[Status.UNDISPATCHED],
            lost=counts[Status.LOST],
            unknown=counts[Status.UNKNOWN],
        )


async def _awaited(answer: object) -> None:
    if inspect.isawaitable(answer):
        await answer


def _at(values: list[float], share: float) -> float | None:
    return values[min(len(values) - 1, int(share * len(values)))] if values else None


def _shifted(finished: Finished, by: float) -> Finished:
    for column in (finished.started, finished.ended, finished.planned):
        if column is not None:
            for at, instant in enumerate(column):
                column[at] = instant + by
    return finished


def _as_left(finished: Finished, outcomes: list[Outcome]) -> Finished:
    """What has ended, with what callbacks made of it."""
    return finished._replace(
        values=[outcome.value for outcome in outcomes],
        metadata={at: outcome.metadata for at, outcome in enumerate(outcomes) if outcome.metadata},
    )
