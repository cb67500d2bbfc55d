"""Slots: claims are asked for as slots get free, run, and settled with the next question."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from taskyard.brokers.base import (
    AsyncDriver,
    Broker,
    Claim,
    Dead,
    Delivery,
    Group,
    GroupWant,
    Settlement,
    Step,
    Want,
)
from taskyard.errors import BrokerError, CorruptDatabase, ForeignDatabase, SchemaTooNew
from taskyard.task import Task
from taskyard.worker.execution import Execution
from taskyard.worker.hooks import Hooks
from taskyard.worker.instances import Instances
from taskyard.worker.isolation import Isolation
from taskyard.worker.lease import Lease
from taskyard.worker.quota import Quota
from taskyard.worker.settings import WorkerSettings
from taskyard.worker.slices import SliceSizes

__all__ = ["PARTING", "PERMANENT", "RECONNECT", "Host", "Pool", "Run"]

log = logging.getLogger("taskyard.worker")

LONGEST_SLEEP = 10.0
"""Seconds after which an idle worker asks again: its health is a claim attempt that succeeded."""
PERMANENT = (CorruptDatabase, ForeignDatabase, SchemaTooNew)
"""What no waiting mends: the worker ends with it."""
RECONNECT = (0.1, 5.0)
"""Seconds between tries while the broker fails: at first, at most."""


PARTING = 1.0
"""Seconds for which a worker that has nothing more to do waits for an answer of the broker."""


class Host(Protocol):
    """The worker that a pool belongs to."""

    broker: Broker
    settings: WorkerSettings
    owner: str
    messages: int
    isolation: Isolation
    hooks: Hooks | None
    paused: frozenset[str]
    quota: Quota

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to be started."""
        ...

    def tasks_of(self, group: Group) -> Mapping[str, Task[..., Any]]:
        """The tasks of a group, by name."""
        ...

    def notify(self) -> None:
        """Let all pools look again whether something can be claimed."""
        ...

    def has_drained(self) -> bool:
        """Whether there was nothing left for any pool, and no message has ended since."""
        ...

    def renew(self) -> None:
        """Renew the leases at once."""
        ...

    def note_progress(self, messages: int = 0) -> None:
        """Note a successful exchange with the broker, and messages that ended."""
        ...

    def note_dead(self, task: str, dead: Dead) -> None:
        """Note a dead letter; with `fail_fast`, it ends the worker."""
        ...


class Run:
    """A claim in a slot."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.task: asyncio.Task[None] | None = None
        self.work: asyncio.Future[Any] | None = None
        self.can_cancel = False
        self.kept: frozenset[int] | None = None  # what is left after a partial settlement
        self.began = time.monotonic()
        self.unsettled = len(execution.claim)

    def lose(self) -> None:
        """The lease was lost: tell the handler, and cancel it if that is possible."""
        if not self.execution.lease.lost:
            log.warning(
                "claim %s of %s was lost", self.execution.claim.token, self.execution.claim.group
            )
        self.execution.lease.lost = True
        self._cancel()

    def cancel(self, sequences: Set[int]) -> None:
        """Messages were cancelled: tell their handler, and cancel it if that is possible."""
        if self.execution.cancel(sequences):
            self._cancel()

    def give_up(self) -> None:
        """The grace time is over."""
        self.execution.stop(cancelled=True)
        self._cancel()

    def _cancel(self) -> None:
        if self.work is not None and self.can_cancel:
            self.work.cancel()


class Pool:
    """Slots that serve the same groups."""

    def __init__(self, host: Host, groups: list[Group], slots: int) -> None:
        self.slots = slots
        self.held: dict[int, Run] = {}
        self.drained = -1  # how many messages had ended when there was nothing left for this pool
        self._host = host
        self._broker = host.broker
        self._settings = host.settings
        self._hooks = host.hooks
        self._quota = host.quota
        self.groups = groups
        self._sizes = SliceSizes(host.settings.slice)
        self._settlements: list[Settlement] = []
        self._under_way: list[Settlement] = []  # those that the broker is being told of
        self._changed = asyncio.Event()
        self._limit: asyncio.Timeout | None = None  # of the exchange that is under way
        self._settling = False
        self._asked = 0.0
        self.progressed: float | None = None  # when something was claimed or settled last
        self._hard = False
        self._left = False
        self._woken = False  # it slept, and nothing was started since

    async def serve(
        self, driver: AsyncDriver, threads: ThreadPoolExecutor, instances: Instances
    ) -> None:
        """Claim, run and settle until the worker stops."""
        self._driver, self._threads, self._instances = driver, threads, instances
        listener = driver.listener()
        try:
            while not self._finished():
                self._changed.clear()
                if self._left:
                    # Asleep for a queue that is paused, it would keep wake-ups from others.
                    self._left = False
                    listener.close()
                    listener = driver.listener()
                want = self._want(listener.name or None)
                if want is not None or self._settlements:
                    ended = self._host.messages
                    step = await self._exchange(want)
                    if step.claims or want is None:  # it may have been the last settlement
                        continue
                    if self._has_drained(step, ended):
                        return
                    await self._sleep(listener, step)
                else:
                    await self._changed.wait()
        finally:
            listener.close()

    def stop(self, *, hard: bool) -> None:
        """Start nothing new; with `hard`, give up what runs."""
        self._hard = self._hard or hard
        for run in list(self.held.values()):
            self._hand_back(run)
            if hard:
                run.give_up()
            else:
                run.execution.stop()
        self._shorten_exchange()
        self._changed.set()

    def note_pause(self) -> None:
        """Serve other queues than before."""
        self._left = True
        self._changed.set()

    def notify(self) -> None:
        """Look again whether something can be claimed."""
        self._changed.set()

    def unsettled(self) -> set[int]:
        """The claims that have ended here, as far as the broker may not know it yet."""
        return {item.token for item in (*self._under_way, *self._settlements)} - self.held.keys()

    def _finished(self) -> bool:
        return self._host.stopping and not self.held and not self._settlements

    def _has_drained(self, step: Step, ended: int) -> bool:
        idle = not self.held and not self._settlements
        if not self._settings.burst or not idle or step.suspects or step.partial:
            return False
        # What another pool runs, or has run meanwhile, may have put messages for this one.
        if self.drained != ended:
            self.drained = ended
            self._host.notify()
        return self._host.has_drained()

    def _want(self, listener: str | None) -> Want | None:
        free = self.slots - len(self.held)
        if free <= 0 or self._host.stopping or not self._host.isolation.may_claim(self):
            return None
        groups = self.groups
        if self._host.paused:
            groups = [group for group in groups if group.queue not in self._host.paused]
            if not groups:
                return None
        left = self._quota.left_for(self)
        if left is not None and left <= 0:
            return None
        return Want(
            [self._group_want(group, left) for group in groups],
            self._host.owner,
            round(self._settings.lease * 1e6),
            claims=free if left is None else 1,  # each could hold all that is left
            drain=self._settings.burst,
            alone=self._host.isolation.is_idle,
            listener=listener,
        )

    def _group_want(self, group: Group, left: int | None) -> GroupWant:
        tasks = self._host.tasks_of(group)
        batch = max(task.policy.batch.size if task.policy.batch else 1 for task in tasks.values())
        size = self._sizes.size(group, batch)
        return GroupWant(group, size if left is None else min(size, left), frozenset(tasks))

    async def _exchange(self, want: Want | None) -> Step:
        settlements, self._settlements = self._settlements, []
        if want is None:
            return await self._step(settlements, None)
        isolation, step = self._host.isolation, None
        isolation.asks(want)
        asked, came = max(group.messages for group in want.groups), 0
        self._quota.take(asked)
        try:
            step = await self._step(settlements, want)
            for claim in step.claims:
                came += len(claim)
                self._launch(claim, step.now, self._asked)
            if step.claims and time.monotonic() - self._asked > self._settings.lease / 3:
                self._host.renew()  # the answer took so long that the next time may be too late
        finally:
            isolation.is_answered(self, want, step)
            self._quota.give_back(asked - came)
        return step

    async def _step(self, settlements: list[Settlement], want: Want | None) -> Step:
        self._settling, self._under_way = bool(settlements), settlements
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limit = limit
                self._shorten_exchange()
                return await self._ask(settlements, want)
        except TimeoutError:
            if not limit.expired():
                raise
            if self._under_way:
                log.error(
                    "the broker does not answer; what became of %s claims is not stored: their"
                    " messages are delivered again when the leases end",
                    len(self._under_way),
                )
            return Step([], [], 0)
        finally:
            self._limit, self._under_way = None, []

    def _shorten_exchange(self) -> None:
        """Wait no longer for an answer than it is worth when the worker stops."""
        given_up = self._hard or (self._host.stopping and not self._settling)
        if given_up and self._limit is not None and self._limit.when() is None:
            self._limit.reschedule(asyncio.get_running_loop().time() + PARTING)

    async def _ask(self, settlements: list[Settlement], want: Want | None) -> Step:
        delay, most = RECONNECT
        failed = False
        while True:
            # After a failure what is done comes first: if an answer is lost again, its claims are
            # nobody's until their leases end.
            wish = None if failed and settlements else want
            self._asked = time.monotonic()
            try:
                step = await self._driver.run(self._broker.step(settlements, wish))
            except PERMANENT:
                raise
            except BrokerError as error:
                log.error("the broker failed, trying again in %.1f s: %s", delay, error)
                await asyncio.sleep(delay)
                delay, failed = min(delay * 2, most), True
                if self._host.stopping:
                    want = None
                    if self._hard or not settlements:
                        return Step([], [], 0)
            else:
                self._settled(settlements, step)
                if wish is want or self._host.stopping:
                    return step
                settlements = []

    def _settled(self, settlements: list[Settlement], step: Step) -> None:
        for token in step.lost:
            log.warning("claim %s had been lost; nothing of it is settled", token)
            if token in self.held:
                self.held[token].lose()
        self._settling, self._under_way = False, []
        self._host.note_progress()
        if settlements or step.claims:
            self.progressed = self._asked
        if self._hooks is not None:
            self._hooks.stored(settlements, step.lost)

    async def _sleep(self, listener: Any, step: Step) -> None:
        timeout = LONGEST_SLEEP
        if step.next_at:
            timeout = min(timeout, max(0.0, (step.next_at - step.now) / 1e6))
        await listener.wait_async(timeout, self._changed)
        self._woken = True

    # A claim's way through a slot

    def _launch(self, claim: Claim, now: int, asked: float) -> None:
        tasks = self._host.tasks_of(claim.group)
        lease = Lease(self._settings.lease, asked)
        run = Run(Execution(claim, tasks, now, lease, self._hooks))
        if self._hooks is not None:
            self._hooks.claimed(claim, now)
        if self._host.stopping:  # it was on its way when the worker was told to stop
            run.execution.stop()
        self.held[claim.token] = run
        run.task = asyncio.create_task(self._run(claim, run, tasks))

    async def _run(self, claim: Claim, run: Run, tasks: Mapping[str, Task[..., Any]]) -> None:
        began = time.monotonic()
        execution = run.execution
        classes = any(task.is_class for task in tasks.values())
        try:
            ready = self._instances.acquire_ready(claim, tasks) if classes else None
            if ready is not None:
                execution.instances = ready
            elif classes:
                starting = asyncio.ensure_future(self._instances.acquire(claim, tasks))
                run.work, run.can_cancel = starting, True
                await asyncio.wait({starting})
                if not starting.cancelled():
                    execution.instances = starting.result()
            if run.work is None or not run.work.cancelled():
                await self._watch(run)
        except Exception:  # ours, not a handler's: the lease gives the messages back
            log.exception("running claim %s failed", claim.token)
            execution.lease.lost = True
        finally:
            if classes:
                self._instances.release(claim, tasks)
        elapsed = time.monotonic() - began
        self._sizes.observe(claim.group, execution.started, elapsed)
        del self.held[claim.token]
        self._host.isolation.has_ended(claim.token)
        if execution.lease.lost:
            self._quota.lose(run.unsettled)
        else:
            self._settle(run, execution.settlement())
        self._host.note_progress(execution.started)
        self._changed.set()

    async def _watch(self, run: Run) -> None:
        execution = run.execution
        if execution.is_async:
            work: asyncio.Future[None] = asyncio.ensure_future(execution.run_async())
        else:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._threads, execution.run)
            if self._woken:
                self._woken = False
                # Gives up the GIL: the thread would get it when this one waits next.
                time.sleep(0)  # noqa: ASYNC251 - it does not wait
        run.work, run.can_cancel = work, execution.is_async
        timeout = self._settings.slice * 2
        while True:
            await asyncio.wait({work}, timeout=timeout)
            if work.done():
                break
            timeout = self._overrun(run)
            if self._hard and not work.done():
                execution.stop(cancelled=True)
                return  # a thread, or a coroutine that refuses to be cancelled: nobody waits for it
        if not work.cancelled():
            work.result()

    def _overrun(self, run: Run) -> float:
        execution, slice_ = run.execution, self._settings.slice
        seconds = execution.running_for()
        if seconds >= slice_:
            self._hand_back(run)
        left = None if execution.is_async else execution.check_timeout()
        if left is None:
            return 1.0 if seconds >= slice_ else slice_
        shortest = max(slice_, 0.01)
        return min(left, shortest) if left > 0 else shortest

    def _hand_back(self, run: Run) -> None:
        partial = run.execution.hand_back(run.unsettled)
        if partial is not None:
            self._settle(run, partial)
            self._changed.set()

    def _settle(self, run: Run, settlement: Settlement) -> None:
        self._settlements.append(settlement)
        self._quota.settle(run.unsettled - len(settlement.keep), settlement)
        run.unsettled = len(settlement.keep)
        self._note_outcomes(run.execution.claim, settlement)
        if self._hooks is not None:
            self._hooks.note(run.execution, settlement, run.kept)
            run.kept = settlement.keep

    def _note_outcomes(self, claim: Claim, settlement: Settlement) -> None:
        if not settlement.outcomes:
            return
        for lane in claim.lanes:
            for _, message in lane.messages:
                outcome = settlement.outcomes.get(message.sequence)
                if isinstance(outcome, Dead):
                    self._note_dead(claim.group, lane.shard, message, outcome)

    def _note_dead(self, group: Group, shard: str, message: Delivery, dead: Dead) -> None:
        task = dead.task or group.name
        log.error(
            "message %s of task %s is dead: %s %s",
            dead.id or "(unreadable)",
            task,
            dead.failure.reason,
            dead.failure.kind and f"({dead.failure.kind})",
            extra={
                "message_id": dead.id,
                "task": task,
                "queue": group.queue,
                "shard": shard,
                "attempt": message.attempts + 1,
                "reason": dead.failure.reason,
                "error": dead.failure.kind,
            },
        )
        self._host.note_dead(task, dead)
