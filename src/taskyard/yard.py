"""The yard: a registry of tasks in front of a broker."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from taskyard.bounding import (
    OnOverflow,
    make_bounds,
    put_when_there_is_room,
    put_when_there_is_room_async,
)
from taskyard.brokers.base import Broker, Put
from taskyard.brokers.bounds import Bounds
from taskyard.brokers.urls import LOCAL_URL, start_for
from taskyard.buffered import Buffered, Buffers
from taskyard.coalesce import AsyncCoalescer, Coalescer
from taskyard.codec import Codec
from taskyard.compression import Compression
from taskyard.control import Control
from taskyard.encryption import Keys
from taskyard.enqueue import Enqueuer
from taskyard.errors import BrokerError, PolicyError, QueueFull
from taskyard.middleware import Middleware, overrides
from taskyard.packing import COMPRESS_ABOVE, LIMIT, Packing
from taskyard.policy import (
    Backoff,
    Batch,
    OnError,
    RateLimit,
    Retry,
    ShardKey,
    Unique,
    UniqueKey,
    checked_name,
    checked_rate,
    policy,
)
from taskyard.registry import BatchMaker, Registry, TaskMaker
from taskyard.schedule import CatchUp, When
from taskyard.scheduling import Plan, checked_schedule_name
from taskyard.sharding import shard_text
from taskyard.task import Handler, Task
from taskyard.timetable import make_plan

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

__all__ = ["Yard"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Yard(Control):
    """Tasks, and the broker in which their messages wait.

    Nothing is opened before the first message is enqueued or looked for, so a yard can be made
    when a module is imported.

    Arguments:
        broker: a URL (see `taskyard.brokers.urls.open_broker`), a broker, or a client object of
            redis-py, of whichever kind.
        start_server: start a Redis server of one's own at the URL's host and port (the default:
            127.0.0.1:6379), with its data in the folder `taskyard-redis`, and stop it when the
            program ends. One that another process of this machine has started there is used.
        max_message_bytes: a message, or a result, may have so many bytes before it is compressed.
        compression: "zlib" or "zstd" (extra `zstd`): how payloads and results are compressed.
        compress_above: bytes from which on they are.
        encryption: what they are encrypted with (extra `encryption`): `Keys`, or "env:NAME" for
            those in an environment variable.
        codec: encodes arguments and results instead of taskyard. Of several the first one encodes,
            and all decode.

    Attributes:
        broker: where messages wait.
        tasks: the tasks by name.
        dead: the dead letters.
        plans: the schedules that this program declares, by name.
        owned_schedules: what the names of schedules begin with that are this program's alone.
        queue_rates: the rate limits that it declares of queues, by name.
        queue_bounds: how much it declares that queues hold, by name.
        schedules: all schedules that the broker knows.
        middleware: what is told of messages on their way, the outermost first.
        around_enqueue: those of them that are told of calls of `enqueue`.

    Raises:
        BrokerError: the URL is wrong, or the server could not be started.
        MissingExtra: there is no server to start, or a package is missing.
        PolicyError: what was said of payloads is wrong.
    """

    def __init__(
        self,
        broker: str | Broker | object = "",
        *,
        start_server: bool = False,
        max_message_bytes: int = LIMIT,
        compression: Compression | None = None,
        compress_above: int = COMPRESS_ABOVE,
        encryption: Keys | str | None = None,
        codec: Codec | Sequence[Codec] | None = None,
    ) -> None:
        packing = Packing.declared(
            max_message_bytes, compression, compress_above, encryption, codec
        )
        self._server = start_for(broker) if start_server else None
        super().__init__(LOCAL_URL if start_server and broker == "" else broker, packing)
        self._registry = Registry(self, packing)
        self.tasks = self._registry.tasks
        self.plans: dict[str, Plan] = {}
        self.owned_schedules: list[str] = []
        self.queue_rates: dict[str, RateLimit | None] = {}
        self.queue_bounds: dict[str, Bounds] = {}
        self.middleware: list[Middleware] = []
        self.around_enqueue: list[Middleware] = []
        self._declared: set[str] = set()
        self._unstored_bounds: dict[str, Bounds] = {}
        self._make_ways_in()

    # Declaring

    def queue(
        self,
        name: str,
        *,
        partitions: int | None = None,
        rate: RateLimit | Literal["as stored"] | None = "as stored",
        max_length: int | None = None,
        shard_max_length: int | None = None,
        overflow: OnOverflow = "raise",
        block_timeout: float | timedelta | None = None,
    ) -> None:
        """Declare how a queue is kept. A queue that nobody declares is made when it is used.

        Arguments:
            name: its name.
            rate: the limit of how many messages of it are handed out; None: there is none. Workers
                store it when they start, unless it is left out. See `rate` to change it later.
            partitions: over how many parts of a Redis (Cluster) a new queue is spread, 1 to 1024.
                A shard is always in one of them, so its order holds. An existing queue keeps what
                it has, unless `taskyard split` doubles it. Other brokers keep all in one place.
            max_length: messages of all its tasks that wait or are delayed, at most. Those that run,
                and dead letters, do not count. With partitions each gets its part of it.
            shard_max_length: messages that wait in a shard of a task, at most; those that are
                delayed do not count. Retries and whatever else comes back enter nevertheless.
            overflow: what becomes of a call that brings too much: "raise": `QueueFull`; "block":
                it waits for room; "drop": the oldest waiting messages of the same shard, or else of
                those whose turn is next, become dead letters.
            block_timeout: seconds for which "block" waits before it raises `QueueFull`; 30, if
                left out.

        Programs store bounds with their first message, and workers when they start. The last
        declaration holds; one that leaves the bounds out changes nothing. See `bound`.

        Raises:
            PolicyError: the name, a number or the bounds are wrong.
        """
        checked_name("queue", name)
        if rate != "as stored":
            checked_rate("rate", rate)
            self.queue_rates[name] = rate
        bounds = make_bounds(max_length, shard_max_length, overflow, block_timeout)
        if bounds:
            self.queue_bounds[name] = self._unstored_bounds[name] = bounds
        if partitions is None:
            return
        if type(partitions) is not int or not 1 <= partitions <= 1024:
            raise PolicyError(f"partitions must be from 1 to 1,024, not {partitions!r}")
        self.broker.set_partitions(name, partitions)

    @overload
    def task(self, function: type[Handler[T]], /) -> Task[[T], Any]: ...
    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(
        self,
        /,
        *,
        batch: Batch | int,
        name: str | None = None,
        queue: str = ...,
        shard: ShardKey | None = None,
        ordered: bool = False,
        shard_concurrency: int | None = None,
        order: str | None = None,
        priority: int = 0,
        retry: Retry | int | Backoff | None = ...,
        timeout: float | timedelta | None = None,
        expires: float | timedelta | None = None,
        max_deliveries: int = 3,
        on_error: OnError = "block",
        result_ttl: float | timedelta | Literal["auto"] | None = "auto",
        linger: float | timedelta = 1.0,
        unique: Unique | UniqueKey | Literal[True] = None,
        max_bytes: int | None = None,
        codec: Codec | Sequence[Codec] | None = None,
        rate: RateLimit | None = None,
        shard_rate: RateLimit | None = None,
    ) -> BatchMaker: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str = ...,
        batch: None = None,
        shard: ShardKey | None = None,
        ordered: bool = False,
        shard_concurrency: int | None = None,
        order: str | None = None,
        priority: int = 0,
        retry: Retry | int | Backoff | None = ...,
        timeout: float | timedelta | None = None,
        expires: float | timedelta | None = None,
        max_deliveries: int = 3,
        on_error: OnError = "block",
        result_ttl: float | timedelta | Literal["auto"] | None = "auto",
        linger: float | timedelta = 1.0,
        unique: Unique | UniqueKey | Literal[True] = None,
        max_bytes: int | None = None,
        codec: Codec | Sequence[Codec] | None = None,
        rate: RateLimit | None = None,
        shard_rate: RateLimit | None = None,
    ) -> TaskMaker: ...
    def task(self, function: Any = None, /, *, name: str | None = None, **options: Any) -> Any:
        """Declare a task: `@yard.task`, or `@yard.task(...)` with a policy.

        Arguments:
            function: a plain or `async` function, or a subclass of `Handler`.
            name: what travels; the function's name if left out. Workers find the task by it.
            queue: the queue that its messages wait in.
            batch: a `Batch`, or its size: the handler takes a list of messages.
            shard: what messages are grouped by: the name of an argument (or of a field of a
                batch's elements), or a function of the arguments.
            ordered: one claim per shard at a time, in order.
            shard_concurrency: this many claims per shard at a time.
            order: the name of an order that several tasks share; they need the same policy.
            priority: lower goes first, -1024 to 1023.
            retry: a `Retry`, a number of retries, None for unlimited ones, or a function of the
                context and the error (see `Retry`). Three with exponential back-off, if left out.
            timeout: seconds that an attempt may take. Async handlers are cancelled. A synchronous
                one cannot be stopped: its context says that the time is over, and the attempt
                counts as failed when it returns.
            expires: seconds that a message may wait for its first attempt; later it becomes a dead
                letter instead.
            max_deliveries: how often a message may take its worker down before it is given up.
            on_error: what happens to an ordered shard whose head fails: "block" (it is retried in
                place; out of retries it becomes a dead letter), "skip" (dead letter at once) or
                "park" (out of retries, the shard is held until `release`).
            result_ttl: seconds for which results are kept; None: not at all; "auto": a day, unless
                the function is annotated to return None.
            linger: for handler classes: seconds for which an instance is kept without messages.
            unique: by what two messages are the same, so that no second one is put beside the
                first: the name of an argument (or of a field of a batch's elements), a tuple of
                names, a function of the arguments, True (all arguments), or a `Unique`, which says
                for how long. Until the message is done, if left to it.
            max_bytes: bytes of a message, or a result, instead of the yard's `max_message_bytes`.
            codec: instead of the yard's; `()`: none.
            rate: a `RateLimit`: how many messages of it are handed out. In an `order`, of all its
                tasks together.
            shard_rate: a `RateLimit` of the messages of each shard.
            options: the policy: everything from `queue` to `shard_rate`.

        Returns:
            The task, or a decorator that makes it.

        Raises:
            PolicyError: the policy contradicts itself or another task's, an annotation cannot be
                sent, or a worker could not find the function.
        """
        declared = policy(options)

        def declare(target: Any) -> Task[..., Any]:
            return self._registry.declare(target, name, declared, shared=self.broker.shared)

        return declare if function is None else declare(function)

    def remote(
        self,
        name: str,
        *,
        queue: str | None = None,
        batch: bool = False,
        order: str | None = None,
        codec: Codec | Sequence[Codec] | None = None,
    ) -> Task[..., Any]:
        """A task that is declared elsewhere, to enqueue messages for it by name.

        Arguments cannot be checked here, no shard can be made of them (give `shard=`), and its
        results can be looked up only if the declaring program put the message.

        Arguments:
            name: the task's name.
            queue: its queue; if left out, that of this yard's task of the name, or "default".
            batch: whether its handler takes lists.
            order: its order, if it shares one; known if this yard has the task.
            codec: its codec, if it is another one than this yard's.

        Returns:
            The task; calling it raises.

        Raises:
            PolicyError: a name is wrong, or the order is not that of this yard's task.
        """
        return self._registry.remote(name, queue=queue, batch=batch, order=order, codec=codec)

    def schedule(
        self,
        task: Task[..., Any] | Enqueuer[..., Any],
        /,
        *args: Any,
        when: When,
        name: str | None = None,
        catch_up: CatchUp = "latest",
        jitter: float | timedelta = 0.0,
        **kwargs: Any,
    ) -> str:
        """Declare that a task is to be run again and again: workers store it when they start.

        Each instant is done once, by whichever worker comes first; its message has the id
        `name@instant`. A declaration that changed replaces the stored one, and what was missed
        under that stays missed. One that is no longer in the program stays stored until it is
        removed (`taskyard schedules remove`, or see `own_schedules`). To store one at once use
        `yard.schedules.add`.

        Arguments:
            task: the task, or what `task.options(priority=…, shard=…)` gives.
            args: for the handler, by position.
            when: `cron(…)`, `every(…)`, `rrule(…)` or `RegularSchedule(…)`.
            name: its own; the task's, if left out.
            catch_up: what is made up for after all workers were away: the "latest" instant that
                was missed, the "earliest", "all" of them, or "none".
            jitter: seconds by which each message is put off at most, differently each time, so
                that not everything begins at the full hour.
            kwargs: for the handler, by name.

        Returns:
            Its name.

        Raises:
            PolicyError: something of it is wrong, or there are two of the name.
            PayloadError: an argument does not fit the handler.
        """
        plan = make_plan(task, args, kwargs, when, catch_up=catch_up, jitter=jitter)
        chosen = checked_schedule_name(plan.task if name is None else name)
        if chosen in self.plans:
            raise PolicyError(
                f"there are two schedules called {chosen!r}: give one of them another name="
            )
        self.plans[chosen] = plan
        return chosen

    def own_schedules(self, prefix: str) -> None:
        """Declare that all schedules whose names begin with something are this program's.

        When its workers start, they remove those of them that it does not declare.

        Arguments:
            prefix: what their names begin with, as `reports/`.

        Raises:
            PolicyError: it is no short printable text.
        """
        self.owned_schedules.append(checked_schedule_name(prefix))

    def use_middleware(self, middleware: Middleware) -> None:
        """Let a middleware be told of what is enqueued from now on, and of what workers do.

        Those that were added before are around it.

        Arguments:
            middleware: an instance of a subclass of `Middleware`.

        Raises:
            PolicyError: it is none.
        """
        if not isinstance(middleware, Middleware):
            raise PolicyError(f"a middleware is an instance of Middleware, not {middleware!r}")
        self.middleware.append(middleware)
        if overrides(middleware, "enqueue"):
            self.around_enqueue.append(middleware)

    # Storing (called by tasks)

    def put(self, task: Task[..., Any], puts: Sequence[Put]) -> None:
        """Store messages of a task."""
        if task.name not in self._declared and task.known:
            self.driver.run(self.broker.declare(task.group, task.group_policy))
            self._declared.add(task.name)
        unstored = self._unstored_bounds
        if unstored and (bounds := unstored.get(queue := task.policy.queue)) is not None:
            self.driver.run(self.broker.set_bounds(queue, bounds, declared=True))
            unstored.pop(queue, None)
        buffered = self._buffers.mine()
        if buffered is not None:
            buffered.put(puts)
            return
        try:
            self._coalescer.put(puts)
        except QueueFull as full:
            put_when_there_is_room(full, puts, self._coalescer.put)

    async def put_async(self, task: Task[..., Any], puts: Sequence[Put]) -> None:
        """Store messages of a task without blocking the event loop."""
        if task.name not in self._declared and task.known:
            await self.async_driver.run(self.broker.declare(task.group, task.group_policy))
            self._declared.add(task.name)
        unstored = self._unstored_bounds
        if unstored and (bounds := unstored.get(queue := task.policy.queue)) is not None:
            await self.async_driver.run(self.broker.set_bounds(queue, bounds, declared=True))
            unstored.pop(queue, None)
        buffered = self._buffers.mine()
        if buffered is not None:
            await buffered.put_async(puts)
            return
        try:
            await self._async_coalescer.put(puts)
        except QueueFull as full:
            await put_when_there_is_room_async(full, puts, self._async_coalescer.put)

    def buffered(self) -> Buffered:
        """Gather what a block enqueues, and store it by a thousand messages or 4 MiB at once.

        Use it by `with`, or by `async with` in coroutines. It concerns what the thread, or the
        task, that entered the block enqueues for this yard. What `enqueue` returns there can be
        waited for after the block.

        The block is no transaction, it only saves time: what was enqueued before it ends by an
        error is stored nevertheless, as it would be without the block. If the process dies, what
        was gathered is lost. A `delay` counts from when the message is stored.

        The block, and each `enqueue` in it, may raise what `Task.enqueue` raises, with the ids of
        the messages that were not stored, of whichever call: these are only those that were
        refused themselves, or all that were gathered if the broker was not available. All ids are
        in the block's `not_stored`. When an error comes out of the block already, this is noted
        at that one.

        A block within a block adds to what the outer one gathered, and stores all of it at its
        end.
        """
        return Buffered(self._buffers)

    # Shards

    def release(self, task: Task[..., Any] | str, shard: object = "") -> bool:
        """Release a parked shard: its head is tried again.

        Arguments:
            task: the task or its name.
            shard: the shard's key; None or an empty text: what is in no shard.

        Returns:
            Whether it was parked.

        Raises:
            EnqueueError: the key can be no shard's.
            NotFound: there is no such task.
        """
        group = self._registry.find(task).group
        return self.driver.run(self.broker.release(group, shard_text(shard)))

    def park(self, task: Task[..., Any] | str, shard: object = "") -> bool:
        """Hold a shard until it is released; what runs of it goes on.

        Arguments:
            task: the task or its name.
            shard: the shard's key; None or an empty text: what is in no shard.

        Returns:
            Whether it was not parked before.

        Raises:
            EnqueueError: the key can be no shard's.
            NotFound: there is no such task.
        """
        group = self._registry.find(task).group
        return self.driver.run(self.broker.park(group, shard_text(shard)))

    # Working

    def run_worker(
        self,
        *,
        queues: Mapping[str, int] | Sequence[str] | None = None,
        concurrency: int | None = None,
        processes: int = 0,
        burst: bool = False,
        should_replace: Callable[[BaseProcess], bool] | None = None,
        **settings: Any,
    ) -> signal.Signals | None:
        """Run a worker here until it is told to stop by SIGTERM, SIGINT, or (burst) has no work.

        Arguments:
            queues: the queues to serve (all of the yard's tasks, if left out); a mapping gives
                each a concurrency of its own.
            concurrency: handler calls at a time, per process.
            processes: 0: run in this process. More: child processes under a supervisor, which
                restarts those that die and gives back at once what they held.
            burst: return when nothing is left that can be done now.
            should_replace: asked every second of each child process, which is stopped as by
                SIGTERM and replaced if it says so. For an age or a memory limit of one's own.
            settings: the other fields of `taskyard.worker.WorkerSettings`.

        Returns:
            The signal that it was stopped by; None: it ended for another reason.

        Raises:
            WorkerError: a setting is wrong, the yard has no tasks, or a queue is unknown.
            PolicyConflict: a task is stored with another concurrency per shard.
        """
        from taskyard.worker import run_worker

        return run_worker(
            self,
            queues=queues,
            concurrency=concurrency,
            processes=processes,
            burst=burst,
            should_replace=should_replace,
            **settings,
        )

    # Opening and closing

    def use(self, broker: str | Broker) -> None:
        """Use another broker from now on; messages stay where they are.

        Arguments:
            broker: a URL, or a broker.

        Raises:
            BrokerError: the URL is wrong, or a block of `buffered` is open.
        """
        if self._buffers.are_open():
            raise BrokerError(
                "another broker cannot be used within `with yard.buffered()`: end the block first"
            )
        super().use(broker)
        self._declared.clear()
        self._unstored_bounds = dict(self.queue_bounds)
        self._make_ways_in()

    @contextmanager
    def using(self, broker: str | Broker) -> Iterator[None]:
        """Use another broker within a block, and the former one again behind it; see `use`.

        Results of messages that were enqueued in the block can be looked up only there.

        Arguments:
            broker: a URL, or a broker.

        Raises:
            BrokerError: the URL is wrong, or a block of `buffered` is open.
        """
        before = self.broker
        self.use(broker)
        try:
            yield
        finally:
            self.use(before)

    def _make_ways_in(self) -> None:
        driver, async_driver = (lambda: self.driver), (lambda: self.async_driver)
        self._coalescer = Coalescer(self.broker, driver)
        self._async_coalescer = AsyncCoalescer(self.broker, async_driver)
        self._buffers = Buffers(self.broker, driver, async_driver)

    def __repr__(self) -> str:
        return f"<Yard at {self.broker.url}, {len(self.tasks)} tasks>"
