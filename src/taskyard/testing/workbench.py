"""Claiming, running and settling for a test: what a worker does, one claim after the other.

What is run, and in which order, is a generator that yields jobs; who drives it runs each in its
own thread or on its own event loop before it asks for the next.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from taskyard.brokers.base import (
    Back,
    Claim,
    Group,
    GroupWant,
    Operation,
    Outcome,
    Settlement,
    Step,
    Want,
)
from taskyard.brokers.common import stored_parts
from taskyard.brokers.schedules import Schedule, Schedules
from taskyard.errors import EnqueueError, TestingError
from taskyard.scheduling import fire, read_plan, store
from taskyard.task import Task
from taskyard.testing.broker import NotingBroker
from taskyard.testing.clock import moment_of
from taskyard.testing.report import Attempt, Report, attempts_of
from taskyard.worker.execution import Execution
from taskyard.worker.groups import QueueTerms, declarations
from taskyard.worker.hooks import Hooks, make_hooks
from taskyard.worker.lease import Lease
from taskyard.yard import Yard

__all__ = ["LIMIT", "Job", "Jobs", "Tally", "Terms", "Workbench"]

LIMIT = 10_000
"""Attempts after which something is taken for endless, unless a test says otherwise."""

FIRED = 100
"""Schedules that are done at once."""

LEASE = 1e10
"""Seconds: longer than anything that is delayed, so that a jump of the clock loses no claim."""

Tasks: TypeAlias = Mapping[str, Task[..., Any]]


@dataclass(frozen=True, slots=True)
class Terms:
    """How far to go.

    Attributes:
        advance: jump to what is due next when nothing is due now.
        until: jump not further than this, and to it in the end; 0: until no message is left.
        limit: attempts at most.
        drain: batches do not wait to fill.
        schedules: do what schedules say.
    """

    advance: bool = False
    until: int = 0
    limit: int = LIMIT
    drain: bool = False
    schedules: bool = True


class Tally:
    """What has run so far, of one call and of those within it.

    Attributes:
        attempts: what has run.
        scheduled: messages that schedules have put.
        next_at: when the first of what is left becomes due, microseconds; 0: nothing does.
        is_open: whether the call goes on.
        depth: how many calls there are within each other.
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.scheduled = 0
        self.next_at = 0
        self.is_open = True
        self.depth = 0


@dataclass(frozen=True, slots=True)
class Job:
    """A claim to be run.

    Attributes:
        execution: runs it.
        tasks: those of its group, by name.
    """

    execution: Execution
    tasks: Tasks

    @property
    def has_instances(self) -> bool:
        """Whether one of its tasks is a handler class."""
        return any(task.is_class for task in self.tasks.values())

    @property
    def has_timeout(self) -> bool:
        """Whether one of its tasks limits the time of its handler."""
        return any(task.policy.timeout is not None for task in self.tasks.values())


Jobs: TypeAlias = Generator[Job, None, None]


class Workbench:
    """Works off what waits in the broker of a test.

    Arguments:
        yard: whose tasks.
        broker: where their messages wait.
    """

    def __init__(self, yard: Yard, broker: NotingBroker) -> None:
        self._yard = yard
        self._broker = broker

    def jobs(self, terms: Terms, tally: Tally, *, loopless: bool = False) -> Jobs:
        """Claim, and settle what was run, until nothing is left under the terms.

        Arguments:
            terms: how far to go.
            tally: where to note what has run.
            loopless: leave alone what needs an event loop.

        Yields:
            What is to be run next.

        Raises:
            TestingError: it does not come to an end.
        """
        groups = self._groups(loopless=loopless)
        hooks = make_hooks(self._yard.middleware)
        self.declare()
        while True:
            _check_limit(terms, tally)
            fired = self._fire_due(tally) if terms.schedules else False
            step = self._claim(groups, drain=terms.drain)
            for claim in step.claims:
                yield from self._run(claim, groups[claim.group], step.now, hooks, tally)
            # Of very much that is due, a step lets only so much into its lanes.
            more = fired or step.claims or 0 < step.next_at <= step.now
            if not more and not self._jump(terms, step):
                tally.next_at = step.next_at
                return

    def declare(self) -> None:
        """Store what the program declares, as a worker does when it starts."""
        terms = QueueTerms(self._yard.queue_rates, self._yard.queue_bounds)
        for declare in declarations(self._broker, self._groups(), terms):
            self._broker.run(declare())
        for name, plan in self._yard.plans.items():
            self._broker.run(store(self._broker.schedules, name, plan))

    def report(self, tally: Tally) -> Report:
        """Sum up what has run, and what is left."""
        counts = self._broker.run(self._broker.counts())
        left = sum(one.waiting + one.delayed for one in counts)
        moment = moment_of(tally.next_at) if tally.next_at else None
        return Report(tuple(tally.attempts), tally.scheduled, left, moment)

    def needs_loop(self) -> Task[..., Any] | None:
        """A task that has a message to be run now, and that needs an event loop; or None."""
        groups = {group: tasks for group, tasks in self._groups().items() if _needs_loop(tasks)}
        for claim in self._claim(groups, drain=True).claims:
            back: dict[int, Outcome] = {
                message.sequence: Back() for lane in claim.lanes for _, message in lane.messages
            }
            self._settle(Settlement(claim.token, back))
            return next(iter(groups[claim.group].values()))
        return None

    def _groups(self, *, loopless: bool = False) -> dict[Group, dict[str, Task[..., Any]]]:
        groups: dict[Group, dict[str, Task[..., Any]]] = {}
        for task in self._yard.tasks.values():
            groups.setdefault(task.group, {})[task.name] = task
        return {
            group: groups[group]
            for group in sorted(groups)
            if not (loopless and _needs_loop(groups[group]))
        }

    def _claim(self, groups: Mapping[Group, Tasks], *, drain: bool) -> Step:
        wants = [GroupWant(key, _size(tasks), frozenset(tasks)) for key, tasks in groups.items()]
        want = Want(wants, "testing", round(LEASE * 1e6), drain=drain)
        return self._broker.run(self._broker.step([], want))

    def _run(self, claim: Claim, tasks: Tasks, now: int, hooks: Hooks | None, tally: Tally) -> Jobs:
        lease = Lease(LEASE, time.monotonic())
        execution = Execution(claim, tasks, now, lease, hooks, keep_errors=True)
        if hooks is not None:
            hooks.claimed(claim, now)
        try:
            yield Job(execution, tasks)
        except BaseException:  # whoever runs it was interrupted, or cancelled
            execution.stop(cancelled=True)
            self._settle(execution.settlement())
            raise
        settlement = execution.settlement()
        if hooks is not None:
            hooks.note(execution, settlement, None)
        self._settle(settlement)
        if hooks is not None:
            hooks.stored([settlement], [])
        errors = execution.errors or {}
        tally.attempts += attempts_of(claim, settlement, errors)
        for error in errors.values():
            if isinstance(error, KeyboardInterrupt):  # it is meant for the test, not the handler
                raise error

    def _settle(self, settlement: Settlement) -> None:
        self._broker.run(self._broker.step([settlement], None))

    def _fire_due(self, tally: Tally) -> bool:
        """Do what schedules say now, or a part of it; False: there was nothing to do."""
        schedules = self._broker.schedules
        due = self._broker.run(schedules.due(FIRED))
        for one in due.schedules:
            tally.scheduled += self._broker.run(_fire(schedules, one, due.now))
        return bool(due.schedules)

    def _jump(self, terms: Terms, step: Step) -> bool:
        """Set the clock to what comes next; False: there is nothing to be done any more."""
        if not (terms.advance or terms.until):
            return False
        clock, next_at = self._broker.clock, step.next_at
        if terms.schedules and (next_at or terms.until):
            pending = self._broker.run(self._broker.schedules.due(1)).next_at
            next_at = min(next_at or pending, pending or next_at)
        found = next_at > 0 and not 0 < terms.until < next_at
        # Another thread that enqueues may have put it further forward meanwhile.
        clock.microseconds = max(clock.microseconds, next_at if found else terms.until)
        return found


def _needs_loop(tasks: Tasks) -> bool:
    return any(task.is_async or task.is_class for task in tasks.values())


def _size(tasks: Tasks) -> int:
    """Messages of one call: so that each sees what the one before it has done."""
    return max(task.policy.batch.size if task.policy.batch else 1 for task in tasks.values())


def _fire(schedules: Schedules, one: Schedule, now: int) -> Operation[bool]:
    """Do what a schedule says; returns whether it put a message."""
    moved, put = fire(one, read_plan(one), now)
    try:
        yield from schedules.change(one, moved, put)
    except EnqueueError:  # the queue takes no messages, say: as with a worker, it is left out
        yield from schedules.change(one, moved)
        return False
    return put is not None and bool(stored_parts(put))


def _check_limit(terms: Terms, tally: Tally) -> None:
    count = len(tally.attempts) + tally.scheduled
    if count <= terms.limit:
        return
    counted: Counter[str] = Counter(attempt.task for attempt in tally.attempts)
    most = ", ".join(f"{times} of {name!r}" for name, times in counted.most_common(3))
    raise TestingError(
        f"no end in sight after {len(tally.attempts)} attempts ({most or 'none'}) and "
        f"{tally.scheduled} messages of schedules. If something enqueues or retries itself for "
        f"ever, or a schedule keeps it going, say how far to go (until=); if there is that much "
        f"to do, raise limit= (now {terms.limit})"
    )
