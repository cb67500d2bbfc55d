"""The worker of one process: claims what fits its free slots, runs it, settles, and claims more."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskyard.brokers.base import AsyncDriver, Broker, Dead, Group, Operation
from taskyard.brokers.workers import Command, ControlMessage, Report
from taskyard.errors import (
    BrokerError,
    BrokerInaccessible,
    BrokerUnavailable,
    TaskyardError,
    WorkerError,
)
from taskyard.middleware import Middleware
from taskyard.result import encode_progress
from taskyard.scheduling import ScheduleTerms
from taskyard.task import Task
from taskyard.worker.attendance import Attendance, paused_after, report_of
from taskyard.worker.courier import Courier
from taskyard.worker.groups import QueueTerms, declarations
from taskyard.worker.hooks import make_hooks
from taskyard.worker.instances import Instances
from taskyard.worker.isolation import Isolation
from taskyard.worker.pool import PARTING, RECONNECT, Pool, Run
from taskyard.worker.quota import Quota
from taskyard.worker.scheduler import Scheduler
from taskyard.worker.settings import WorkerSettings

__all__ = ["Worker", "make_owner"]

log = logging.getLogger("taskyard.worker")

TIDY_EVERY = 30.0
LOOK = 0.5
"""Seconds after which a worker that ends when idle looks again at queues that are not empty."""
PULSE = 0.5
"""Seconds after which a worker asks again whether what it runs is cancelled."""


def make_owner() -> str:
    """A name for a worker process that no other one has."""
    return f"{socket.gethostname()}:{secrets.token_hex(6)}"


class Worker:
    """Runs tasks in this process, on an event loop and in threads.

    Arguments:
        broker: where messages wait.
        tasks: the tasks that it knows.
        settings: how to work.
        owner: its name in the broker.
        progress: called after every successful exchange with the broker.
        schedules: what the program declares of schedules.
        middleware: what is told of messages, the outermost first.
        queues: what the program declares of queues.

    Attributes:
        paused: the queues from which it was told to take nothing.
        left: those of them that it was told to leave: it takes nothing from them again.
        stopped_by: the signal that stopped it; None: none did.
        dismissed: whether it was told to shut down, by a control message.

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
        schedules: ScheduleTerms | None = None,
        middleware: Sequence[Middleware] = (),
        queues: QueueTerms | None = None,
    ) -> None:
        self.broker = broker
        self.hooks = make_hooks(middleware)
        self._schedules = schedules or ScheduleTerms()
        self._terms = queues or QueueTerms()
        self.settings = settings
        self.owner = owner or make_owner()
        self.messages = 0
        self._progress = progress
        self._groups: dict[Group, dict[str, Task[..., Any]]] = {}
        for task in tasks:
            if task.known:
                self._groups.setdefault(task.group, {})[task.name] = task
        self.quota = Quota(settings.limit)
        self._pools = self._make_pools()
        self._couriers: dict[Courier, asyncio.Task[None]] = {}
        self.isolation = Isolation(self._held)
        self._driver: AsyncDriver | None = None
        self.paused: frozenset[str] = frozenset()
        self.left: frozenset[str] = frozenset()
        self.stopped_by: signal.Signals | None = None
        self.dismissed = False
        self._serves = self._make_serves()
        self._attendance: Attendance | None = None
        self._started = time.monotonic()
        self._stopping = asyncio.Event()
        self._renewing = asyncio.Event()
        self._hard = False
        self._drained = False
        self._failure = ""

    def _make_pools(self) -> list[Pool]:
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
            pools.append(Pool(self, groups, slots))
        return pools

    def _make_serves(self) -> dict[str, list[str]]:
        serves: dict[str, list[str]] = {}
        for group in sorted({group for pool in self._pools for group in pool.groups}):
            serves.setdefault(group.queue, []).extend(sorted(self._groups[group]))
        return serves

    async def run(self) -> None:
        """Work until `stop`, with `burst` until nothing is left that can be done now.

        With `limit` until so many messages have ended, with `idle` until there was nothing for so
        long.

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
            if not await self._start(driver):
                return
            log.info("worker %s started: %s slots", self.owner, slots)
            self._attendance = Attendance(self, self.broker.workers, driver)
            helpers = [
                asyncio.create_task(self._renew(driver)),
                asyncio.create_task(self._pulse(driver)),
                asyncio.create_task(self._tidy(driver)),
                asyncio.create_task(self._attendance.run(_next_round)),
                asyncio.create_task(self._end_grace()),
            ]
            if self.settings.idle is not None:
                helpers.append(asyncio.create_task(self._end_idle(driver, self.settings.idle)))
            if self.settings.schedules:
                helpers += await self._start_scheduler(driver)
            try:
                await self._serve(driver, threads, instances)
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)
            await instances.close()
            log.info("worker %s ended after %s messages", self.owner, self.messages)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            await _part(driver, self._attendance)
        if self._failure:
            raise WorkerError(self._failure)

    async def _serve(
        self, driver: AsyncDriver, threads: ThreadPoolExecutor, instances: Instances
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for courier in self._make_couriers(driver):
                    running = group.create_task(courier.run(burst=self.settings.burst))
                    self._couriers[courier] = running
                serving = [
                    group.create_task(pool.serve(driver, threads, instances))
                    for pool in self._pools
                ]
                await asyncio.wait(serving)
                self._recall_couriers()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None  # what the first pool met; the others ended by it

    def stop(self, *, hard: bool = False) -> None:
        """Stop claiming; finish what runs within the grace time, give the rest back at once.

        Arguments:
            hard: do not wait for the grace time.
        """
        self._hard = self._hard or hard
        if not self._stopping.is_set():
            log.info("worker %s is stopping", self.owner)
            self._stopping.set()
            if self._attendance is not None:
                self._attendance.note_change()
        self._recall_couriers()
        for pool in self._pools:
            pool.stop(hard=self._hard)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    def _held(self) -> int:
        return sum(len(pool.held) for pool in self._pools)

    def notify(self) -> None:
        """Let all pools look again whether something can be claimed."""
        for pool in self._pools:
            pool.notify()
        for courier in self._couriers:
            courier.notify()

    def note_arrivals(self) -> None:
        """Note that there are new messages for the pools."""
        for pool in self._pools:
            pool.drained = -1
            pool.notify()

    def has_drained(self) -> bool:
        """Whether there was nothing left for any pool, and no message has ended since."""
        drained = [
            *(pool.drained for pool in self._pools),
            *(one.drained for one in self._couriers),
        ]
        self._drained = self._drained or (
            self.isolation.is_idle and all(ended == self.messages for ended in drained)
        )
        if self._drained:
            self.notify()
        return self._drained

    def renew(self) -> None:
        """Renew the leases at once."""
        self._renewing.set()

    def tasks_of(self, group: Group) -> Mapping[str, Task[..., Any]]:
        """The tasks of a group, by name."""
        return self._groups[group]

    def note_progress(self, messages: int = 0) -> None:
        """Note a successful exchange with the broker, and messages that ended."""
        self.messages += messages
        if messages:
            for courier in self._couriers:
                courier.notify()  # a handler may have pushed something
            if self.paused and self.is_paused and self._attendance and not self._held():
                self._attendance.note_change()  # it was pausing
        self._progress()
        if self.quota.is_used_up and not self.stopping:
            log.info("worker %s ends: its limit of messages is reached", self.owner)
            self.stop()
        most = self.settings.max_messages
        if most is not None and self.messages >= most and not self.stopping:
            log.info("worker %s is replaced after %s messages", self.owner, self.messages)
            self.stop()

    def note_dead(self, task: str, dead: Dead) -> None:
        """Note a dead letter; with `fail_fast`, it ends the worker."""
        if not self._failure and self.settings.ends_with(dead.failure):
            which = "the first" if self.settings.fail_fast is True else "a"
            self._failure = (
                f"stopped at {which} dead letter: message {dead.id or '(unreadable)'} of task "
                f"{task!r}, {dead.failure.reason}: {dead.failure.summary()}"
            )
            self.stop()

    async def _start(self, driver: AsyncDriver) -> bool:
        """Declare the groups, unless the worker is told to stop before; say whether it goes on."""
        declaring = asyncio.create_task(self._declare(driver))
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({declaring, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if declaring.done():
                declaring.result()
            return not self.stopping
        finally:
            declaring.cancel()
            stopped.cancel()

    async def _declare(self, driver: AsyncDriver) -> None:
        for declare in declarations(self.broker, self._groups, self._terms):
            await self._store(driver, declare)

    async def _store(self, driver: AsyncDriver, declare: Callable[[], Operation[None]]) -> None:
        delay, most = RECONNECT
        while True:
            try:
                await driver.run(declare())
            except BrokerInaccessible:
                raise
            except BrokerUnavailable as error:
                log.error("the broker failed, trying again in %.1f s: %s", delay, error)
                await asyncio.sleep(delay)
                delay = min(delay * 2, most)
            else:
                return

    # What others see of it, and tell it

    @property
    def is_paused(self) -> bool:
        """Whether it takes nothing from any queue."""
        return len(self.paused) == len(self._serves)

    def report(self) -> Report:
        """What it does now."""
        progressed = [pool.progressed for pool in self._pools if pool.progressed is not None]
        return report_of(
            serves=self._serves,
            slots=sum(pool.slots for pool in self._pools),
            started=self._started,
            progressed=max(progressed, default=None),
            paused=self.paused,
            stopping=self.stopping,
            executions=[run.execution for pool in self._pools for run in pool.held.values()],
        )

    def obey(self, message: ControlMessage, command: Command) -> None:
        """Do what it is told by a control message."""
        what = f"{command} {message.queue}".strip()
        log.info("worker %s was told: %s", self.owner, what)
        served = frozenset(self._serves)
        if command is Command.SHUTDOWN:
            self.left |= {message.queue} & served if message.queue else served
            if self.left == served:
                self.dismissed = True
                self.stop()
                return
        paused = self.left | paused_after(self.paused, served, command, message.queue)
        if paused != self.paused:
            self.paused = paused
            for pool in self._pools:
                pool.note_pause()

    # Beside the pools

    async def _start_scheduler(self, driver: AsyncDriver) -> list[asyncio.Task[None]]:
        scheduler = Scheduler(self.broker.schedules, driver, self._schedules)
        if self.settings.burst:
            await scheduler.fire_due()
            return []
        return [asyncio.create_task(scheduler.run())]

    def _make_couriers(self, driver: AsyncDriver) -> list[Courier]:
        inboxes, made = self.broker.inboxes, []
        if inboxes is None or not self.settings.inboxes:
            return []
        tasks: dict[str, list[Task[..., Any]]] = {}
        for group in {group for pool in self._pools for group in pool.groups}:
            tasks.setdefault(group.queue, []).extend(self._groups[group].values())
        kinds = (False, True) if self.settings.bare_inboxes else (False,)
        for queue, bare in itertools.product(sorted(tasks), kinds):
            if inboxes.name(queue, bare=bare):
                made.append(Courier(self, inboxes, driver, queue, tasks[queue], bare=bare))
            else:
                kind = "bare inbox" if bare else "inbox"
                log.warning("queue %s has no %s, because of its name", queue, kind)
        return made

    def _recall_couriers(self) -> None:
        for running in self._couriers.values():
            running.cancel()

    async def _renew(self, driver: AsyncDriver) -> None:
        lease = self.settings.lease
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(lease / 3 * random.uniform(0.9, 1.1)):
                    await self._renewing.wait()
            self._renewing.clear()
            held = {token: run for pool in self._pools for token, run in pool.held.items()}
            # What has ended must not run again only because telling the broker of it takes long.
            leased = held.keys() | {token for pool in self._pools for token in pool.unsettled()}
            if not leased:
                continue
            asked = time.monotonic()
            unknown: list[int] = []
            try:
                lost = await driver.run(
                    self.broker.extend(list(leased), round(lease * 1e6), unknown)
                )
            except BrokerError as error:
                log.warning("leases could not be renewed: %s", error)
                lost, unknown = [], list(held)
            else:
                self.note_progress()
            for token, run in held.items():
                if not any(token in pool.held for pool in self._pools):
                    continue  # it was settled meanwhile: nothing is lost
                if token in lost or (token in unknown and run.execution.lease.is_over()):
                    run.lose()
                elif token not in unknown:
                    run.execution.lease.deadline = asked + lease

    async def _pulse(self, driver: AsyncDriver) -> None:
        """Hear of messages that are cancelled while they run, and tell how far others are.

        What ends sooner than this asks needs neither.
        """
        while True:
            await asyncio.sleep(PULSE)
            old = time.monotonic() - PULSE
            runs = {
                token: run
                for pool in self._pools
                for token, run in pool.held.items()
                if run.began <= old
            }
            if runs:
                await self._pulse_of(driver, runs)

    async def _pulse_of(self, driver: AsyncDriver, runs: Mapping[int, Run]) -> None:
        told = {token: run.execution.take_progress() for token, run in runs.items()}
        progress = [
            (token, id_, encode_progress(one))
            for token, of_claim in told.items()
            for id_, one in of_claim.items()
        ]
        try:
            found = await driver.run(self.broker.pulse(list(runs), progress))
        except BrokerError as error:
            log.debug("the pulse of running messages failed: %s", error)
            for token, of_claim in told.items():
                runs[token].execution.keep_progress(of_claim)
            return
        cancelled: dict[int, set[int]] = {}
        for token, sequence in found:
            cancelled.setdefault(token, set()).add(sequence)
        for token, sequences in cancelled.items():
            runs[token].cancel(sequences)

    async def _tidy(self, driver: AsyncDriver) -> None:
        while True:
            try:
                await driver.run(self.broker.reap())
                while await driver.run(self.broker.tidy()):
                    pass
            except TaskyardError as error:
                log.warning("housekeeping failed: %s", error)
            self._check_memory()
            await asyncio.sleep(_next_round())

    def _check_memory(self) -> None:
        most = self.settings.max_memory
        if most is not None and not self.stopping and (used := _megabytes()) > most:
            log.info("worker %s is replaced: it uses %s MB", self.owner, used)
            self.stop()

    async def _end_idle(self, driver: AsyncDriver, idle: float) -> None:
        """End when the queues have been empty for so long, as far as looks at them tell."""
        since, seen = time.monotonic(), -1
        while not self.stopping:
            if self._held() or self.messages != seen or not await self._are_empty(driver):
                since, seen = time.monotonic(), self.messages
                await asyncio.sleep(min(max(idle, 0.05), LOOK))
            elif (left := since + idle - time.monotonic()) > 0:
                await asyncio.sleep(left)
            else:
                log.info("worker %s ends: its queues are empty", self.owner)
                self.stop()

    async def _are_empty(self, driver: AsyncDriver) -> bool:
        try:
            counts = await driver.run(self.broker.counts())
        except BrokerError as error:
            log.debug("it is not known whether the queues are empty: %s", error)
            return False
        return not any(
            one.waiting or one.delayed or one.running
            for one in counts
            if one.group.queue in self._serves and one.group in self._groups
        )

    async def _end_grace(self) -> None:
        await self._stopping.wait()
        await asyncio.sleep(self.settings.grace)
        log.warning("worker %s: the grace time of %s s is over", self.owner, self.settings.grace)
        for pool in self._pools:
            pool.stop(hard=True)


def _next_round() -> float:
    """Seconds until the next round of housekeeping."""
    return TIDY_EVERY * random.uniform(0.5, 1)


async def _part(driver: AsyncDriver, attendance: Attendance | None) -> None:
    """Leave the broker, without waiting for answers that do not come."""
    try:
        async with asyncio.timeout(PARTING):
            if attendance is not None:
                await attendance.leave()
            await driver.close()
    except TimeoutError:
        driver.shut_down()


def _megabytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak >> 20 if os.uname().sysname == "Darwin" else peak >> 10
