"""Firing what schedules say: any worker does it, each instant is done once."""

from __future__ import annotations

import asyncio
import logging

from taskyard.brokers.base import AsyncDriver
from taskyard.brokers.schedules import Schedule, Schedules
from taskyard.errors import BrokerError, EnqueueError, MissingExtra, PolicyError
from taskyard.scheduling import ScheduleTerms, fire, prune, read_plan, store
from taskyard.worker.pool import LONGEST_SLEEP, PERMANENT, RECONNECT

__all__ = ["Scheduler"]

log = logging.getLogger("taskyard.worker")

AT_ONCE = 100
"""Schedules that are looked at by one call."""

HINDERED = 0.25
"""Seconds after which is looked again while all that is due is what nobody here can carry out."""


class Scheduler:
    """Puts the messages of schedules when they are due.

    It may be cancelled anywhere: an instant that it was at is done by whoever comes next.

    Arguments:
        schedules: of the broker.
        driver: runs their operations.
        terms: what the program declares.
    """

    def __init__(
        self,
        schedules: Schedules,
        driver: AsyncDriver,
        terms: ScheduleTerms,
    ) -> None:
        self._schedules = schedules
        self._driver = driver
        self._plans = terms.plans
        self._undeclared = dict(terms.plans)
        self._unpruned = list(terms.owned)
        self._unreadable: set[str] = set()

    async def run(self) -> None:
        """Work until cancelled."""
        listener = self._driver.listener()
        delay, failing = RECONNECT[0], False
        try:
            while True:
                try:
                    await self.declare()
                    sleep = await self._fire_due(listener.name)
                    if sleep:
                        await listener.wait_async(sleep)
                except PERMANENT:
                    raise
                except Exception as error:  # whatever it is: nobody else looks
                    if not failing:
                        known = isinstance(error, BrokerError)
                        text = "schedules cannot be looked at, trying again: %s"
                        log.error(text, error, exc_info=None if known else error)
                    await asyncio.sleep(delay)
                    delay, failing = min(delay * 2, RECONNECT[1]), True
                else:
                    if failing:
                        log.info("schedules are looked at again")
                    delay, failing = RECONNECT[0], False
        finally:
            listener.close()

    async def fire_due(self) -> None:
        """Do all that is due now, then return."""
        await self.declare()
        while not await self._fire_due(None):
            pass

    async def declare(self) -> None:
        """Store what the program declares, unless it is stored like this; remove what it owned."""
        while self._undeclared:
            name, plan = next(iter(self._undeclared.items()))
            await self._driver.run(store(self._schedules, name, plan))
            del self._undeclared[name]
        while self._unpruned:
            await self._driver.run(prune(self._schedules, self._unpruned[-1], self._plans))
            self._unpruned.pop()

    async def _fire_due(self, listener: str | None) -> float:
        """Do what is due; returns the seconds to wait if there is nothing that could be done."""
        found = await self._driver.run(self._schedules.due(AT_ONCE, listener))
        done = False
        for one in found.schedules:
            done = await self._fire(one, found.now) or done
        if done:
            return 0.0
        if found.schedules:  # as long as they are due, nobody says when the next one is
            return HINDERED
        if not found.next_at:
            return LONGEST_SLEEP
        return min(LONGEST_SLEEP, max(0.001, (found.next_at - found.now) / 1e6))

    async def _fire(self, schedule: Schedule, now: int) -> bool:
        """Do what a schedule says, unless somebody else was faster; False: nobody here can."""
        try:
            plan = read_plan(schedule)
            moved, put = fire(schedule, plan, now)
        except (PolicyError, MissingExtra, ValueError, OverflowError) as error:
            # The latter two: what its times say means nothing to the library that is here.
            if schedule.name not in self._unreadable:
                self._unreadable.add(schedule.name)
                log.error("schedule %s cannot be carried out here: %s", schedule.name, error)
            return False
        try:
            changed = await self._driver.run(self._schedules.change(schedule, moved, put))
        except EnqueueError as error:  # the id is taken, or the queue takes no messages
            log.error("schedule %s leaves out an instant: %s", schedule.name, error)
            changed = await self._driver.run(self._schedules.change(schedule, moved))
        if changed and put is not None:
            log.debug("schedule %s put a message of task %s", schedule.name, plan.task)
        return True
