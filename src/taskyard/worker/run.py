"""Running a worker: in this process, or in children under a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeAlias

from taskyard.brokers.base import Broker
from taskyard.brokers.bounds import Bounds
from taskyard.errors import WorkerError
from taskyard.middleware import Middleware
from taskyard.policy import RateLimit
from taskyard.scheduling import Plan, ScheduleTerms
from taskyard.task import Task
from taskyard.worker.groups import QueueTerms
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.worker import Worker

__all__ = [
    "HARD",
    "STOPPING",
    "Prepare",
    "ShouldReplace",
    "Signals",
    "TaskSource",
    "check_shared",
    "prepare_nothing",
    "run_with",
    "run_worker",
    "serve",
    "stopped_by_signals",
]

log = logging.getLogger("taskyard.worker")


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that tell a process to stop; the second one, to wait for nothing."""
HARD = signal.SIGQUIT
"""Tells a process below a supervisor to wait for nothing."""


class Signals:
    """Which signals stop a process, and which of them wait for nothing.

    Those that come within a moment count as one: whoever stops a whole group of processes
    (`timeout`, systemd, a shell) may reach one twice. Below a supervisor, SIGTERM is no more than
    the first however often it comes: systemd sends it to every process of a service, and the
    supervisor passes its own on.

    Arguments:
        stop: called with whether to wait for nothing.
        supervised: whether this process is below a supervisor.

    Attributes:
        first: the one that came first; None: none did.
    """

    MOMENT = 0.5

    def __init__(self, stop: Callable[[bool], None], *, supervised: bool = False) -> None:
        self.first: signal.Signals | None = None
        self._stop = stop
        self._supervised = supervised
        self._count = 0
        self._last = float("-inf")

    def numbers(self) -> list[signal.Signals]:
        """The signals to listen to."""
        if self._supervised:
            return [signal.SIGTERM, HARD]
        # Whoever started this may have switched some off for it, as nohup and `sh -c "... &"` do.
        return [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]

    def hear(self, number: int, frame: object = None) -> None:
        """Take a signal."""
        del frame
        self.first = self.first or signal.Signals(number)
        if self._supervised:
            self._stop(number == HARD)
            return
        now = time.monotonic()
        if now - self._last < self.MOMENT:
            return
        self._last = now
        self._count += 1
        log.info("received %s", signal.Signals(number).name)
        self._stop(self._count > 1)


class TaskSource(Protocol):
    """What has tasks and a broker: a yard."""

    broker: Broker
    tasks: dict[str, Task[..., Any]]
    plans: dict[str, Plan]
    owned_schedules: list[str]
    middleware: list[Middleware]
    queue_rates: dict[str, RateLimit | None]
    queue_bounds: dict[str, Bounds]

    def close(self) -> None:
        """Close what is open."""
        ...


ShouldReplace: TypeAlias = Callable[[BaseProcess], bool]
"""Whether a worker process is to be replaced by a new one; asked every second."""

Prepare: TypeAlias = Callable[[Any, int], None]
"""Gets a process ready to work: given its source of tasks, and its number from 0."""


def prepare_nothing(source: TaskSource, number: int) -> None:
    """Leave a process as it is."""


def run_worker(
    source: TaskSource,
    *,
    queues: Mapping[str, int] | Sequence[str] | None = None,
    concurrency: int | None = None,
    should_replace: ShouldReplace | None = None,
    **settings: Any,
) -> signal.Signals | None:
    """Run a worker until it is told to stop; see `Yard.run_worker`."""
    given = dict(settings, queues=queues)
    if concurrency is not None:
        given["concurrency"] = concurrency
    known = [field.name for field in fields(WorkerSettings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise WorkerError(
            f"a worker has no setting {', '.join(unknown)}; there are {', '.join(known)}"
        )
    return run_with(source, WorkerSettings(**given), should_replace)


def run_with(
    source: TaskSource, chosen: WorkerSettings, should_replace: ShouldReplace | None = None
) -> signal.Signals | None:
    """Run a worker until it is told to stop.

    Arguments:
        source: its tasks and broker.
        chosen: how to work.
        should_replace: which processes are to be replaced; None: those that died.

    Returns:
        The signal that ended it; None: something else did.

    Raises:
        WorkerError: it cannot start, or go on.
    """
    if chosen.processes == 0:
        if should_replace is not None:
            raise WorkerError(
                "should_replace is asked by the supervisor, which processes=0 does without: use "
                "processes=1 or more"
            )
        return serve(source, chosen).stopped_by
    check_shared(source)
    Worker(source.broker, source.tasks.values(), chosen)  # complain before there are children
    from taskyard.worker.supervisor import Supervisor

    supervisor = Supervisor(lambda: source, chosen, should_replace=should_replace)
    source.close()  # an open connection must not be carried into children
    return supervisor.run()


def check_shared(source: TaskSource) -> None:
    """Check that worker processes can share the broker.

    Raises:
        WorkerError: it lives in one process.
    """
    if not source.broker.shared:
        raise WorkerError(
            f"{source.broker.url} lives in one process, so it cannot have worker processes: "
            f"use processes=0, or a broker that processes share (sqlite:///yard.db)"
        )


def serve(
    source: TaskSource,
    settings: WorkerSettings,
    *,
    owner: str | None = None,
    progress: Callable[[], None] = lambda: None,
    supervisor: int | None = None,
) -> Worker:
    """Run a worker in this process.

    Arguments:
        source: its tasks and broker.
        settings: how to work.
        owner: its name in the broker.
        progress: called after every successful exchange with the broker.
        supervisor: below a supervisor, a file descriptor that is readable when that is gone.

    Returns:
        The worker, after its end.
    """
    worker = Worker(
        source.broker,
        list(source.tasks.values()),
        settings,
        owner=owner,
        progress=progress,
        schedules=ScheduleTerms(source.plans, source.owned_schedules),
        middleware=source.middleware,
        queues=QueueTerms(source.queue_rates, source.queue_bounds),
    )

    async def main() -> None:
        with stopped_by_signals(worker, supervised=supervisor is not None) as signals:
            if supervisor is not None:
                _stop_without(supervisor, worker)
            try:
                await worker.run()
            finally:
                worker.stopped_by = signals.first

    asyncio.run(main())
    return worker


class _Stoppable(Protocol):
    def stop(self, *, hard: bool = False) -> None: ...


class _Listening:
    """Who is stopped by signals on one event loop."""

    def __init__(self, *, supervised: bool) -> None:
        self.workers: list[_Stoppable] = []
        self.signals = Signals(self._stop, supervised=supervised)
        self._previous: dict[signal.Signals, Any] = {}

    def _stop(self, hard: bool) -> None:
        for worker in list(self.workers):
            worker.stop(hard=hard)

    def begin(self, numbers: Sequence[signal.Signals]) -> None:
        self._previous = {number: signal.getsignal(number) for number in numbers}
        for number in self._previous:
            asyncio.get_running_loop().add_signal_handler(number, self.signals.hear, number)

    def end(self) -> None:
        for number, handler in self._previous.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            if handler is not None:  # it was not set from Python
                signal.signal(number, handler)


_listening: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Listening] = (
    weakref.WeakKeyDictionary()
)


@contextlib.contextmanager
def stopped_by_signals(
    worker: _Stoppable,
    numbers: Sequence[signal.Signals] | None = None,
    *,
    supervised: bool = False,
) -> Iterator[Signals]:
    """Let signals stop a worker within a block, with all others of the same event loop.

    The second signal stops them without waiting for anything. Only the main thread hears any.

    Arguments:
        worker: what has a `stop(hard=…)`.
        numbers: the signals, for the first worker of the loop; those of `Signals`, if left out.
        supervised: whether this process is below a supervisor.

    Yields:
        Those that were heard.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Signals(lambda _: None)
        return
    loop = asyncio.get_running_loop()
    listening = _listening.get(loop)
    if listening is None:
        listening = _listening[loop] = _Listening(supervised=supervised)
        listening.begin(listening.signals.numbers() if numbers is None else numbers)
    listening.workers.append(worker)
    try:
        yield listening.signals
    finally:
        listening.workers.remove(worker)
        if not listening.workers:
            del _listening[loop]
            listening.end()


def _stop_without(supervisor: int, worker: Worker) -> None:
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        # Nothing is ever sent this way.
        loop.remove_reader(supervisor)
        log.error("the process that started this worker is gone")
        worker.stop()

    loop.add_reader(supervisor, on_end)
