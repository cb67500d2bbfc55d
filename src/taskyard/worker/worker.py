"""The worker of one process: claims what fits its free slots, runs it, settles, and claims more."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskyard.brokers.base import (
    AsyncDriver,
    Broker,
    Claim,
    Dead,
    Group,
    GroupWant,
    Settlement,
    Step,
    Want,
)
from taskyard.errors import BrokerError, WorkerError
from taskyard.task import Task
from taskyard.worker.execution import Execution
from taskyard.worker.instances import Instances
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.slices import SliceSizes

__all__ = ["Worker", "make_owner"]

log = logging.getLogger("taskyard.worker")

LONGEST_SLEEP = 10.0
"""Seconds after which an idle worker asks again: its health is a claim attempt that succeeded."""
TIDY_EVERY = 30.0
RECONNECT = (0.1, 5.0)
"""Seconds between tries while the broker fails: at first, at most."""


def make_owner() -> str:
    """A name for a worker process that no other one has."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Worker:
    """Runs tasks in this process, on an event loop and in threads.

    Arguments:
        broker: where messages wait.
        tasks: the tasks that it knows.
        settings: how to work.
        owner: its name in the broker.
        progress: called after every successful exchange with the broker.

    Raises:
        WorkerError: there are no tasks, or a queue has none.
    """

    def __init__(
        self,
        broker: Broker,
        tasks: Iterable[Task[..., Any]],
        settings: WorkerSettings,
        *,
        owner: str | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.broker = broker
        self.settings = settings
        self.owner = owner or make_owner()
        self.messages = 0
        self._progress = progress
        self._groups: dict[Group, dict[str, Task[..., Any]]] = {}
        for task in tasks:
            if task.known:
                self._groups.setdefault(task.group, {})[task.name] = task
        self._pools = self._make_pools()
        self._driver: AsyncDriver | None = None
        self._stopping = asyncio.Event()
        self._hard = False
        self._failure = ""

    def _make_pools(self) -> list[_Pool]:
        if not self._groups:
            raise WorkerError("there are no tasks to work on: declare some with @yard.task")
        known = {group.queue for group in self._groups}
        chosen = self.settings.queues
        unknown = sorted(set(chosen or ()) - known)
        if unknown:
            raise WorkerError(
                f"no task uses the queue{'s' if len(unknown) > 1 else ''} {', '.join(unknown)};"
                f" the queues are {', '.join(sorted(known))}"
            )
        pools = []
        for queue, slots in self.settings.pools().items():
            wanted = {queue} if queue is not None else set(chosen or known)
            groups = [group for group in sorted(self._groups) if group.queue in wanted]
            pools.append(_Pool(self, groups, slots))
        return pools

    async def run(self) -> None:
        """Work until `stop`, or with `burst` until nothing is left that can be done now.

        Raises:
            PolicyConflict: a task is stored with another concurrency per shard.
            BrokerError: the broker cannot be used at all.
            WorkerError: a message ended as a dead letter, with `fail_fast`.
        """
        driver = self._driver = self.broker.async_driver()
        slots = sum(pool.slots for pool in self._pools)
        threads = ThreadPoolExecutor(slots, "taskyard-handler")
        instances = Instances(threads)
        try:
            await self._declare(driver)
            log.info("worker %s started: %s slots", self.owner, slots)
            helpers = [
                asyncio.create_task(self._renew(driver)),
                asyncio.create_task(self._tidy(driver)),
                asyncio.create_task(self._end_grace()),
            ]
            try:
                async with asyncio.TaskGroup() as group:
                    for pool in self._pools:
                        group.create_task(pool.serve(driver, threads, instances))
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
            await instances.close()
            log.info("worker %s ended after %s messages", self.owner, self.messages)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            await driver.close()
        if self._failure:
            raise WorkerError(self._failure)

    def stop(self, *, hard: bool = False) -> None:
        """Stop claiming; finish what runs within the grace time, give the rest back at once.

        Arguments:
            hard: do not wait for the grace time.
        """
        self._hard = self._hard or hard
        if not self._stopping.is_set():
            log.info("worker %s is stopping", self.owner)
            self._stopping.set()
        for pool in self._pools:
            pool.stop(hard=self._hard)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def tasks_of(self, group: Group) -> Mapping[str, Task[..., Any]]:
        """The tasks of a group, by name."""
        return self._groups[group]

    def note_progress(self, messages: int = 0) -> None:
        """Note a successful exchange with the broker, and messages that ended."""
        self.messages += messages
        self._progress()
        most = self.settings.max_messages
        if most is not None and self.messages >= most and not self.stopping:
            log.info("worker %s is replaced after %s messages", self.owner, self.messages)
            self.stop()

    def note_dead(self, task: str, dead: Dead) -> None:
        """Note a dead letter; with `fail_fast`, it ends the worker."""
        if self.settings.fail_fast and not self._failure:
            self._failure = (
                f"stopped at the first dead letter: message {dead.id or '(unreadable)'} of task "
                f"{task!r}, {dead.failure.reason}: {dead.failure.summary()}"
            )
            self.stop()

    async def _declare(self, driver: AsyncDriver) -> None:
        for group, tasks in self._groups.items():
            policy = None
            for task in tasks.values():
                policy = task.group_policy
                await driver.run(self.broker.declare(group, policy, replace=True))

    # Beside the pools

    async def _renew(self, driver: AsyncDriver) -> None:
        lease = self.settings.lease
        while True:
            await asyncio.sleep(lease / 3 * random.uniform(0.9, 1.1))
            held = {token: run for pool in self._pools for token, run in pool.held.items()}
            if not held:
                continue
            asked = time.monotonic()
            try:
                lost = await driver.run(self.broker.extend(list(held), round(lease * 1e6)))
            except BrokerError as error:
                log.warning("leases could not be renewed: %s", error)
                lost = [token for token, run in held.items() if run.deadline < asked]
            else:
                self.note_progress()
                for token, run in held.items():
                    if token not in lost:
                        run.deadline = asked + lease
            for token in lost:
                held[token].lose()

    async def _tidy(self, driver: AsyncDriver) -> None:
        while True:
            try:
                await driver.run(self.broker.reap())
                while await driver.run(self.broker.tidy()):
                    pass
            except BrokerError as error:
                log.warning("housekeeping failed: %s", error)
            self._check_memory()
            await asyncio.sleep(TIDY_EVERY * random.uniform(0.5, 1))

    def _check_memory(self) -> None:
        most = self.settings.max_memory
        if most is not None and not self.stopping and (used := _megabytes()) > most:
            log.info("worker %s is replaced: it uses %s MB", self.owner, used)
            self.stop()

    async def _end_grace(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self.settings.grace)
        log.warning("worker %s: the grace time of %s s is over", self.owner, self.settings.grace)
        for pool in self._pools:
            pool.stop(hard=True)


def _megabytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak >> 20 if os.uname().sysname == "Darwin" else peak >> 10


class _Run:
    """A claim in a slot."""

    def __init__(self, execution: Execution, deadline: float) -> None:
        self.execution = execution
        self.deadline = deadline
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Future[None] | None = None

    def lose(self) -> None:
        """The lease was lost: tell the handler, and cancel it if that is possible."""
        if not self.execution.lost.is_set():
            log.warning(
                "claim %s of %s was lost", self.execution.claim.token, self.execution.claim.group
            )
        self.execution.lost.set()
        self._cancel()

    def give_up(self) -> None:
        """The grace time is over."""
        self.execution.stop(cancelled=True)
        self._cancel()

    def _cancel(self) -> None:
        if self.work is not None and self.execution.is_async:
            self.work.cancel()


class _Pool:
    """Slots that serve the same groups."""

    def __init__(self, worker: Worker, groups: list[Group], slots: int) -> None:
        self.slots = slots
        self.held: dict[int, _Run] = {}
        self._worker = worker
        self._broker = worker.broker
        self._settings = worker.settings
        self._groups = groups
        self._sizes = SliceSizes(worker.settings.slice)
        self._settlements: list[Settlement] = []
        self._changed = asyncio.Event()
        self._hard = False

    async def serve(
        self, driver: AsyncDriver, threads: ThreadPoolExecutor, instances: Instances
    ) -> None:
        """Claim, run and settle until the worker stops."""
        self._driver, self._threads, self._instances = driver, threads, instances
        listener = driver.listener()
        try:
            while not self._finished():
                self._changed.clear()
                want = self._want(listener.name or None)
                if want is not None or self._settlements:
                    step = await self._exchange(want)
                    for claim in step.claims:
                        self._launch(claim, step.now)
                    if step.claims:
                        continue
                    if want is not None and self._has_drained(step):
                        return
                    await self._sleep(listener if want else None, step)
                else:
                    await self._changed.wait()
        finally:
            listener.close()

    def stop(self, *, hard: bool) -> None:
        """Start nothing new; with `hard`, give up what runs."""
        self._hard = self._hard or hard
        for run in list(self.held.values()):
            if hard:
                run.give_up()
            else:
                run.execution.stop()
        self._changed.set()

    def _finished(self) -> bool:
        return self._worker.stopping and not self.held and not self._settlements

    def _has_drained(self, step: Step) -> bool:
        return self._settings.burst and not step.claims and not self.held and not self._settlements

    def _want(self, listener: str | None) -> Want | None:
        free = self.slots - len(self.held)
        if free <= 0 or self._worker.stopping:
            return None
        return Want(
            [self._group_want(group) for group in self._groups],
            self._worker.owner,
            round(self._settings.lease * 1e6),
            claims=free,
            drain=self._settings.burst,
            listener=listener,
        )

    def _group_want(self, group: Group) -> GroupWant:
        tasks = self._worker.tasks_of(group)
        batch = max(task.policy.batch.size if task.policy.batch else 1 for task in tasks.values())
        return GroupWant(group, self._sizes.size(group, batch), frozenset(tasks))

    async def _exchange(self, want: Want | None) -> Step:
        settlements, self._settlements = self._settlements, []
        delay, most = RECONNECT
        while True:
            try:
                step = await self._driver.run(self._broker.step(settlements, want))
            except BrokerError as error:
                log.error("the broker failed, trying again in %.1f s: %s", delay, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, most)
                if self._worker.stopping:
                    want = None
                    if self._hard:
                        return Step([], [], 0)
            else:
                if step.lost:
                    log.warning("%s claims had been lost; nothing of them is settled", step.lost)
                self._worker.note_progress()
                return step

    async def _sleep(self, listener: Any, step: Step) -> None:
        changed = asyncio.ensure_future(self._changed.wait())
        waiting = {changed}
        timeout = LONGEST_SLEEP
        if step.next_at:
            timeout = min(timeout, max(0.0, (step.next_at - step.now) / 1e6))
        if listener is not None:
            waiting.add(asyncio.ensure_future(listener.wait_async(timeout)))
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    # A claim's way through a slot

    def _launch(self, claim: Claim, now: int) -> None:
        tasks = self._worker.tasks_of(claim.group)
        # The broker answered a moment ago, so the true deadline is a little earlier.
        run = _Run(Execution(claim, tasks, now), time.monotonic() + self._settings.lease)
        self.held[claim.token] = run
        run.task = asyncio.create_task(self._run(claim, run, tasks))

    async def _run(self, claim: Claim, run: _Run, tasks: Mapping[str, Task[..., Any]]) -> None:
        began = time.monotonic()
        execution = run.execution
        classes = any(task.is_class for task in tasks.values())
        try:
            if classes:
                execution.instances = await self._instances.acquire(claim, tasks)
            await self._watch(run)
        except Exception:  # ours, not a handler's: the lease gives the messages back
            log.exception("running claim %s failed", claim.token)
            execution.lost.set()
        finally:
            if classes:
                self._instances.release(claim, tasks)
        elapsed = time.monotonic() - began
        self._sizes.observe(claim.group, execution.started, elapsed)
        del self.held[claim.token]
        if not execution.lost.is_set():
            settlement = execution.settlement()
            self._settlements.append(settlement)
            self._note_outcomes(claim, settlement)
        self._worker.note_progress(execution.started)
        self._changed.set()

    async def _watch(self, run: _Run) -> None:
        execution = run.execution
        if execution.is_async:
            work: asyncio.Future[None] = asyncio.ensure_future(execution.run_async())
        else:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._threads, execution.run)
        run.work = work
        timeout = self._settings.slice * 2
        while True:
            await asyncio.wait({work}, timeout=timeout)
            if work.done():
                break
            timeout = self._overrun(execution)
            if self._hard and not execution.is_async:
                execution.stop(cancelled=True)
                return  # its thread cannot be stopped; nobody waits for it any more
        if not work.cancelled():
            work.result()

    def _overrun(self, execution: Execution) -> float:
        slice_ = self._settings.slice
        seconds, limit = execution.running_for()
        if seconds >= slice_ and (partial := execution.hand_back()) is not None:
            self._settlements.append(partial)
            self._note_outcomes(execution.claim, partial)
            self._changed.set()
        if limit is None or execution.is_async:
            return 1.0 if seconds >= slice_ else slice_
        if seconds >= limit:
            execution.time_out()
            return 1.0
        return min(1.0, limit - seconds, max(slice_, 0.01))

    def _note_outcomes(self, claim: Claim, settlement: Settlement) -> None:
        for outcome in settlement.outcomes.values():
            if isinstance(outcome, Dead):
                task = outcome.task or claim.group.name
                log.error(
                    "message %s of task %s is dead: %s",
                    outcome.id or "(unreadable)",
                    task,
                    outcome.failure.reason,
                    extra={
                        "message_id": outcome.id,
                        "task": task,
                        "queue": claim.group.queue,
                        "reason": outcome.failure.reason,
                        "error": outcome.failure.kind,
                    },
                )
                self._worker.note_dead(task, outcome)
