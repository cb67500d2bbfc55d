"""A yard whose messages wait until the test has them run."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from taskyard.errors import TestingError
from taskyard.testing.broker import NotingBroker
from taskyard.testing.clock import Clock, microseconds_of
from taskyard.testing.report import Report, raise_failure
from taskyard.testing.slots import loop_runs_here, run_here, run_on_loop
from taskyard.testing.workbench import LIMIT, Jobs, Tally, Terms
from taskyard.testing.yards import YardInTest, checked_clock
from taskyard.yard import Yard

__all__ = ["StoredYard", "stored"]


def stored(yard: Yard, *, clock: Clock | None = None) -> StoredYard:
    """Let a yard store its messages in memory while a test looks at them and has them run.

        with testing.stored(yard) as test_yard:
            sign_up("ada")
            assert test_yard.enqueued(welcome)[0].args == ("ada",)
            test_yard.run_until_idle()

    Arguments:
        yard: the program's own. Its broker is not touched in the block, and it has it back behind
            it.
        clock: the time in the block, which stands still unless the test moves it. If left out, one
            that begins now.

    Returns:
        A context manager, which gives itself.

    Raises:
        TestingError: it is no yard, or no clock.
    """
    return StoredYard(yard, NotingBroker(checked_clock(yard, clock)))


class StoredYard(YardInTest):
    """A yard whose messages wait in memory until the test has them run; `stored` makes it.

    Nothing runs by itself: to wait for the result of a message that has not run is an error.
    """

    def run_until_idle(
        self,
        *,
        advance: bool = False,
        until: datetime | timedelta | None = None,
        schedules: bool = True,
        raise_errors: bool = True,
        limit: int = LIMIT,
    ) -> Report:
        """Run what is due, one call of a handler after the other, in this thread.

        It is run as a worker does it, with retries, timeouts, results, middleware and schedules.
        What handlers enqueue is run too. By default the clock stands still: what is delayed, waits
        for its next attempt or for a batch to fill, stays (`Report.left`).

        Arguments:
            advance: when nothing is due, set the clock to what is due next, and go on until no
                message is left that becomes due by time. Schedules that come due on the way are
                done; they alone do not keep it going.
            until: do the same up to this time (of the clock; a timedelta: from now), schedules
                included, and leave the clock there. A datetime without a zone is local time.
            schedules: do what the schedules of the program, and others in the yard, say.
            raise_errors: when nothing is left to run, raise the error of the first message that
                has failed and that no later attempt made up for. With False, errors are only in
                the report.
            limit: attempts, and messages of schedules, after which it is taken for endless.

        Returns:
            What ran, and what is left.

        Raises:
            TestingError: it does not come to an end, an event loop runs in this thread, or the
                yard uses another broker.
        """
        self.check()
        if loop_runs_here():
            raise TestingError(
                "an event loop runs in this thread: say `await test_yard.arun_until_idle()`"
            )
        tally = Tally()
        run_here(
            self._jobs(tally, until, Terms(advance, limit=limit, schedules=schedules)), self._loops
        )
        return self._ended(tally, raise_errors)

    async def arun_until_idle(
        self,
        *,
        advance: bool = False,
        until: datetime | timedelta | None = None,
        schedules: bool = True,
        raise_errors: bool = True,
        limit: int = LIMIT,
    ) -> Report:
        """Do the same on this event loop; see `run_until_idle`.

        Synchronous handlers run in its thread too, and block it meanwhile.
        """
        self.check()
        tally = Tally()
        await run_on_loop(
            self._jobs(tally, until, Terms(advance, limit=limit, schedules=schedules))
        )
        return self._ended(tally, raise_errors)

    def _jobs(self, tally: Tally, until: datetime | timedelta | None, terms: Terms) -> Jobs:
        moment = self.clock.now + until if isinstance(until, timedelta) else until
        if moment is not None:
            terms = replace(terms, until=microseconds_of(moment))
        return self._workbench.jobs(terms, tally)

    def _ended(self, tally: Tally, raise_errors: bool) -> Report:
        if raise_errors:
            raise_failure(tally.attempts)
        return self._workbench.report(tally)
