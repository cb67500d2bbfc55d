"""Running a worker: in this process, or in children under a supervisor."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

from taskyard.brokers.base import Broker
from taskyard.errors import WorkerError
from taskyard.task import Task
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.worker import Worker

__all__ = ["Signals", "TaskSource", "check_shared", "run_worker", "serve"]


class Signals:
    """Counts signals to stop, but as one those that come within a moment.

    Whoever stops a whole group of processes (`timeout`, systemd, a shell) may reach one twice.
    """

    MOMENT = 0.5

    def __init__(self) -> None:
        self._count = 0
        self._last = float("-inf")

    def count(self) -> int:
        """Count one more; say the how-manieth it is, or 0 when it came with the one before."""
        now = time.monotonic()
        if now - self._last < self.MOMENT:
            return 0
        self._last = now
        self._count += 1
        return self._count


class TaskSource(Protocol):
    """What has tasks and a broker: a yard."""

    broker: Broker
    tasks: dict[str, Task[..., Any]]

    def close(self) -> None:
        """Close what is open."""
        ...


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
    source.close()  # an open connection must not be carried into children
    from taskyard.worker.supervisor import Supervisor

    Supervisor(lambda: source, chosen).run()


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
    watch: Callable[[asyncio.AbstractEventLoop, Worker], None] | None = None,
) -> Worker:
    """Run a worker in this process.

    Arguments:
        source: its tasks and broker.
        settings: how to work.
        owner: its name in the broker.
        progress: called after every successful exchange with the broker.
        watch: called once with the running loop and the worker.

    Returns:
        The worker, after its end.
    """
    worker = Worker(
        source.broker, list(source.tasks.values()), settings, owner=owner, progress=progress
    )

    async def main() -> None:
        loop = asyncio.get_running_loop()
        signals = Signals()

        def on_signal() -> None:
            if count := signals.count():
                worker.stop(hard=count > 1)

        ours = threading.current_thread() is threading.main_thread()
        if ours:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, on_signal)
        if watch is not None:
            watch(loop, worker)
        try:
            await worker.run()
        finally:
            if ours:
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.remove_signal_handler(number)

    asyncio.run(main())
    return worker
