"""What can be asked and told of what a broker holds, without knowing the tasks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal

from taskyard.bounding import OnOverflow, make_bounds
from taskyard.brokers.base import Counts
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.explain import explain
from taskyard.brokers.explanation import Explanation
from taskyard.brokers.lane import Gate
from taskyard.brokers.rate import UNLIMITED, Limited, Rate
from taskyard.brokers.workers import Command, WorkerInfo, look
from taskyard.connection import Connection
from taskyard.context import Progress
from taskyard.deadletters import DeadLetters
from taskyard.errors import PolicyError
from taskyard.message import checked_id
from taskyard.packing import Packing
from taskyard.payload import Unnamed
from taskyard.policy import RateLimit, checked_name, checked_rate
from taskyard.result import Result
from taskyard.staff import Told, tell
from taskyard.task import Task, stored_rate
from taskyard.timetable import Timetable

__all__ = ["Control"]


class Control(Connection):
    """Looks at messages, queues and workers, and steers them.

    Arguments:
        broker: as of a `Connection`.
        packing: what may have been done to results.

    Attributes:
        dead: the dead letters.
        schedules: all schedules that the broker knows.
    """

    def __init__(self, broker: object, packing: Packing) -> None:
        super().__init__(broker)
        self.dead = DeadLetters(self)
        self.schedules = Timetable(self)
        self._unnamed = Unnamed(packing)

    # Messages

    def result(self, message_id: str) -> Result[Any]:
        """A handle on a message by its id; its result comes as plain data.

        `Task.result` gives it by the task's types.

        Raises:
            EnqueueError: no message can have this id.
        """
        return Result(checked_id(message_id), self.reader, self._unnamed.decode_result)

    def cancel(self, message_id: str) -> Cancellation:
        """Cancel a message.

        One that waits, also for its time or for a retry, is removed. Of one that runs, the worker
        is told within about a second: an asynchronous handler is cancelled, a synchronous one sees
        it in its context. It is not run again, even if its worker dies. What ended stays as it is.

        A message whose task keeps no results has no record to find it by. Its id is noted instead,
        for a week, and it is removed when its turn comes. A cancellation never means messages that
        are put later under the same id.

        Arguments:
            message_id: its id.

        Returns:
            What happened, and who runs it if it was told.

        Raises:
            EnqueueError: no message can have this id.
            BrokerError: the storage failed.
        """
        return self.reader.cancel(checked_id(message_id), note=True)

    async def acancel(self, message_id: str) -> Cancellation:
        """Do the same without blocking the event loop; see `cancel`."""
        return await self.reader.cancel_async(checked_id(message_id), note=True)

    def explain(self, message_id: str) -> Explanation:
        """Say why a message is not running; nothing is changed.

        When several things hold it up, it is the one that has to go away first. A message whose
        task keeps no results is found while it runs, as a dead letter, and while it waits among
        the first 10,000 (of each partition): looking for it takes longer then.

        Arguments:
            message_id: its id.

        Returns:
            The reason, in data and (`text`) in one sentence; of an id of which nothing is known,
            the reason is `Why.UNKNOWN`.

        Raises:
            EnqueueError: no message can have this id.
            BrokerError: the storage failed.
        """
        return self.driver.run(explain(self.broker, checked_id(message_id)))

    async def aexplain(self, message_id: str) -> Explanation:
        """Do the same without blocking the event loop; see `explain`."""
        return await self.async_driver.run(explain(self.broker, checked_id(message_id)))

    def progress(self, message_id: str) -> Progress | None:
        """What the handler of a message told last (see `Context.progress`); None: nothing.

        Arguments:
            message_id: its id.

        Raises:
            NotFound: there is no record of it: its task keeps no results, or its time is over.
        """
        return self.result(message_id).progress()

    async def aprogress(self, message_id: str) -> Progress | None:
        """Do the same without blocking the event loop; see `progress`."""
        return await self.result(message_id).aprogress()

    # Queues

    def counts(self) -> list[Counts]:
        """The numbers of every queue and task, sorted."""
        return self.driver.run(self.broker.counts())

    def pause(self, queue: str) -> Gate:
        """Let no worker get messages of a queue, until it is resumed.

        What runs goes on, and messages can be put. It holds for all workers at once, and through
        restarts.

        Arguments:
            queue: its name. It need not have messages yet.

        Returns:
            What the queue let through before.
        """
        return self._set_gate(queue, Gate.PAUSED)

    def drain(self, queue: str) -> Gate:
        """Let no messages be put into a queue, until it is resumed: `QueueDraining` is raised.

        Workers go on until it is empty; batches do not wait to fill. What is retried or delayed
        is still run.

        Returns:
            What the queue let through before.
        """
        return self._set_gate(queue, Gate.DRAINING)

    def resume(self, queue: str) -> Gate:
        """End `pause` and `drain`.

        Returns:
            What the queue let through before: `Gate.OPEN` if there was nothing to resume.
        """
        return self._set_gate(queue, Gate.OPEN)

    def _set_gate(self, queue: str, gate: Gate) -> Gate:
        checked_name("queue", queue)
        return self.driver.run(self.broker.set_gate(queue, gate))

    def rate(
        self,
        limited: Task[..., Any] | str,
        limit: RateLimit | Literal["as declared"] | None,
        *,
        shards: bool = False,
    ) -> None:
        """Change a rate limit at run time, for all workers at once, and through restarts.

        It wins over what is declared, until it is set to `"as declared"`.

        Arguments:
            limited: a task (with an `order`: all tasks of it), or the name of a queue.
            limit: how many messages are handed out; None: there is no limit.
            shards: of a task, the limit of each of its shards (`shard_rate`).

        Raises:
            PolicyError: the limit is none, or `shards` is asked of a queue.
        """
        if limit != "as declared":
            checked_rate("a rate limit", limit)
        self.driver.run(self.broker.set_rate(_limited(limited, shards=shards), _stored(limit)))

    def bound(
        self,
        queue: str,
        *,
        max_length: int | None = None,
        shard_max_length: int | None = None,
        overflow: OnOverflow = "raise",
        block_timeout: float | timedelta | None = None,
        as_declared: bool = False,
    ) -> None:
        """Change how much a queue holds, for all programs at once, and through restarts.

        It wins over what is declared, until it is set `as_declared`. What is there already stays,
        even if it is more.

        Arguments:
            queue: its name. It need not have messages yet.
            max_length: as in `queue`; without it and the next one there is no limit.
            shard_max_length: as in `queue`.
            overflow: as in `queue`.
            block_timeout: seconds, as in `queue`.
            as_declared: let hold again what programs declare.

        Raises:
            PolicyError: the name, a number or the bounds are wrong.
        """
        checked_name("queue", queue)
        bounds = make_bounds(max_length, shard_max_length, overflow, block_timeout)
        if as_declared and bounds:
            raise PolicyError("as_declared=True and bounds contradict each other: give one of them")
        self.driver.run(self.broker.set_bounds(queue, None if as_declared else bounds))

    # Workers

    def workers(self) -> list[WorkerInfo]:
        """The workers of the broker, sorted by host and start.

        One that was killed is there for 15 minutes still; it is `silent` after a minute.
        """
        return self.driver.run(look(self.broker.workers))

    async def aworkers(self) -> list[WorkerInfo]:
        """The workers of the broker; see `workers`."""
        return await self.async_driver.run(look(self.broker.workers))

    def tell(self, workers: Told, command: Command | str, queue: str | None = None) -> list[str]:
        """Tell workers to shut down, or to take no messages for a while.

        They hear it within about a second. What they run goes on. It concerns these runs of them:
        a worker that is started later knows nothing of it. To pause a queue for all workers, also
        later ones, use `pause`.

        Arguments:
            workers: the id of a worker, several ids, or "all".
            command: "shutdown": stop as after SIGTERM; its supervisor starts no other one. With
                a queue: take nothing from that any more, also after a "resume"; who leaves its
                last one stops.
                "pause": take no messages, until "resume".
            queue: what concerns only this queue; None: all that the worker serves.

        Returns:
            The ids of those that were told; a silent one may never hear it.

        Raises:
            WorkerError: there is no such command, or what was given is no id.
            NotFound: there is no worker of an id. The others were told.
        """
        return self.driver.run(tell(self.broker.workers, workers, command, queue))

    async def atell(
        self, workers: Told, command: Command | str, queue: str | None = None
    ) -> list[str]:
        """Tell workers something without blocking the event loop; see `tell`."""
        return await self.async_driver.run(tell(self.broker.workers, workers, command, queue))


def _limited(limited: Task[..., Any] | str, *, shards: bool) -> Limited:
    if isinstance(limited, Task):
        return Limited(limited.group.queue, limited.group.name, shards)
    if shards:
        raise PolicyError("a queue has one limit for all its shards: give the task for shards=")
    return Limited(checked_name("queue", limited))


def _stored(limit: RateLimit | Literal["as declared"] | None) -> Rate | None:
    if isinstance(limit, RateLimit):
        return stored_rate(limit)
    return UNLIMITED if limit is None else None
