"""Running a worker: in this process, or in children under a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol, TypeAlias

from taskyard.brokers.base import Broker
from taskyard.brokers.bounds import Bounds
from taskyard.errors import WorkerError
from taskyard.middleware import Middleware
from taskyard.policy import RateLimit
from taskyard.scheduling import Plan
from taskyard.task import Task
from taskyard.worker.groups import QueueTerms
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.worker import Worker

__all__ = [
    "HARD",
    "STOPPING",
    "Prepare",
    "Signals",
    "TaskSource",
    "check_shared",
    "prepare_nothing",
    "run_worker",
    "serve",
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
    """

    MOMENT = 0.5

    def __init__(self, stop: Callable[[bool], None], *, supervised: bool = False) -> None:
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
    middleware: list[Middleware]
    queue_rates: dict[str, RateLimit | None]
    queue_bounds: dict[str, Bounds]

    def close(self) -> None:
        """Close what is open."""
        ...


Prepare: TypeAlias = Callable[[Any, int], None]
"""Gets a process ready to work: given its source of tasks, and its number from 0."""


def prepare_nothing(source: TaskSource, number: int) -> None:
    """Leave a process as it is."""


def run_worker(
    source: TaskSource,
    *,
    queues: Mapping[str, int] | Sequence[str] | None = None,
    concurrency: int | None = None,
    **settings: Any,
) -> None:
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
    chosen = WorkerSettings(**given)
    if chosen.processes == 0:
        serve(source, chosen)
        return
    check_shared(source)
    Worker(source.broker, source.tasks.values(), chosen)  # complain before there are children
    from taskyard.worker.supervisor import Supervisor

    supervisor = Supervisor(lambda: source, chosen)
    source.close()  # an open connection must not be carried into children
    supervisor.run()


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
        plans=source.plans,
        middleware=source.middleware,
        queues=QueueTerms(source.queue_rates, source.queue_bounds),
    )

    async def main() -> None:
        with _stopped_by_signals(worker, supervised=supervisor is not None):
            if supervisor is not None:
                _stop_without(supervisor, worker)
            await worker.run()

    asyncio.run(main())
    return worker


@contextlib.contextmanager
def _stopped_by_signals(worker: Worker, *, supervised: bool) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    signals = Signals(lambda hard: worker.stop(hard=hard), supervised=supervised)
    previous = {number: signal.getsignal(number) for number in signals.numbers()}
    for number in previous:
        loop.add_signal_handler(number, signals.hear, number)
    try:
        yield
    finally:
        for number, handler in previous.items():
            loop.remove_signal_handler(number)
            if handler is not None:  # it was not set from Python
                signal.signal(number, handler)


def _stop_without(supervisor: int, worker: Worker) -> None:
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        # Nothing is ever sent this way.
        loop.remove_reader(supervisor)
        log.error("the supervisor is gone")
        worker.stop()

    loop.add_reader(supervisor, on_end)
