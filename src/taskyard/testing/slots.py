"""Where the handlers of a test run: in the thread of the test, or on its event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from contextvars import copy_context
from typing import Any, ParamSpec, TypeVar

from taskyard.testing.workbench import Job, Jobs
from taskyard.worker.execution import Execution
from taskyard.worker.instances import Instances

__all__ = ["Loops", "SameThread", "loop_runs_here", "run_here", "run_on_loop"]

P = ParamSpec("P")
T = TypeVar("T")

GLANCE = 0.01
"""Seconds after which somebody looks whether the time of a synchronous handler is over."""


class SameThread(Executor):
    """Runs what it is given at once, in the thread that gives it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `Executor.submit`."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            future.set_exception(error)
        return future


class Loops:
    """An event loop for each thread that runs asynchronous handlers without having one.

    It stays until the end of the test, as a worker's stays: what handlers open on it goes on.
    """

    def __init__(self) -> None:
        self._runners: dict[int, asyncio.Runner] = {}

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in this thread, on the thread's own loop."""
        thread = threading.get_ident()
        runner = self._runners.get(thread)
        if runner is None:
            # With a factory of its own it leaves the thread's current event loop as it is.
            runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
            self._runners[thread] = runner
        return runner.run(coroutine, context=copy_context())

    def close(self) -> None:
        """End what still runs on the loops, and close them."""
        while self._runners:
            _, runner = self._runners.popitem()
            # In a thread of its own, as a loop may be running in this one.
            closer = threading.Thread(target=runner.close)
            closer.start()
            closer.join()


def loop_runs_here() -> bool:
    """Whether an event loop runs in this thread, so that nothing else can run one."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_here(jobs: Jobs, loops: Loops) -> None:
    """Run jobs in this thread.

    Arguments:
        jobs: what to run.
        loops: for what needs an event loop.
    """
    instances = Instances(SameThread())
    used = False
    with closing(jobs):
        try:
            for job in jobs:
                if job.has_instances:
                    used = True
                    job.execution.instances = loops.run(
                        instances.acquire(job.execution.claim, job.tasks)
                    )
                if job.execution.is_async:
                    loops.run(job.execution.run_async())
                else:
                    _run_watched(job)
                if job.has_instances:
                    loops.run(_release(instances, job))
        finally:
            if used:
                loops.run(instances.close())


async def run_on_loop(jobs: Jobs) -> None:
    """Run jobs on this event loop; synchronous handlers too, which block it meanwhile.

    Arguments:
        jobs: what to run.
    """
    instances = Instances(SameThread())
    with closing(jobs):
        try:
            for job in jobs:
                if job.has_instances:
                    claim = job.execution.claim
                    job.execution.instances = await instances.acquire(claim, job.tasks)
                if job.execution.is_async:
                    await job.execution.run_async()
                else:
                    _run_watched(job)
                if job.has_instances:
                    instances.release(job.execution.claim, job.tasks)
        finally:
            await instances.close()


async def _release(instances: Instances, job: Job) -> None:
    instances.release(job.execution.claim, job.tasks)


def _run_watched(job: Job) -> None:
    if job.has_timeout:
        with _watched(job.execution):
            job.execution.run()
    else:
        job.execution.run()


@contextmanager
def _watched(execution: Execution) -> Iterator[None]:
    """Let a synchronous handler be told when its time is over, as a worker does."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(GLANCE):
            execution.check_timeout()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
