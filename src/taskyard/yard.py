"""The yard: a registry of tasks in front of a broker."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from taskyard.bounding import (
    OnOverflow,
    make_bounds,
    put_when_there_is_room,
    put_when_there_is_room_async,
)
from taskyard.brokers.base import (
    AsyncDriver,
    Broker,
    Counts,
    DeadLetter,
    DeadQuery,
    Driver,
    Put,
)
from taskyard.brokers.bounds import Bounds
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.explain import explain
from taskyard.brokers.explanation import Explanation
from taskyard.brokers.lane import Gate
from taskyard.brokers.rate import UNLIMITED, Limited, Rate
from taskyard.brokers.urls import LOCAL_URL, open_broker, open_client, start_for
from taskyard.brokers.workers import Command, WorkerInfo, look
from taskyard.buffered import Buffered, Buffers
from taskyard.coalesce import AsyncCoalescer, Coalescer
from taskyard.codec import Codec
from taskyard.compression import Compression
from taskyard.context import Progress
from taskyard.encryption import Keys
from taskyard.enqueue import Enqueuer
from taskyard.errors import BrokerError, NotFound, PolicyError, QueueFull
from taskyard.middleware import Middleware, overrides
from taskyard.packing import COMPRESS_ABOVE, LIMIT, Packing
from taskyard.payload import Unnamed
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
from taskyard.result import RecordReader, Result
from taskyard.schedule import CatchUp, When
from taskyard.scheduling import Plan, checked_schedule_name
from taskyard.sharding import shard_text
from taskyard.staff import Told, tell
from taskyard.task import ORDER, BatchTask, Handler, Task, stored_rate
from taskyard.timetable import Timetable, make_plan

__all__ = ["DeadLetters", "Yard"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _TaskMaker(Protocol):
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: type[Handler[T]], /) -> Task[[T], Any]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class _BatchMaker(Protocol):
    @overload
    def __call__(self, function: type[Handler[list[T]]], /) -> BatchTask[T, Any]: ...
    @overload
    def __call__(
        self, function: Callable[[list[T]], Coroutine[Any, Any, None]], /
    ) -> BatchTask[T, None]: ...
    @overload
    def __call__(
        self, function: Callable[[list[T]], Coroutine[Any, Any, list[R]]], /
    ) -> BatchTask[T, R]: ...
    @overload
    def __call__(
        self, function: Callable[[list[T]], Coroutine[Any, Any, list[R] | None]], /
    ) -> BatchTask[T, R | None]: ...
    @overload
    def __call__(self, function: Callable[[list[T]], None], /) -> BatchTask[T, None]: ...
    @overload
    def __call__(self, function: Callable[[list[T]], list[R]], /) -> BatchTask[T, R]: ...
    @overload
    def __call__(
        self, function: Callable[[list[T]], list[R] | None], /
    ) -> BatchTask[T, R | None]: ...


class Yard:
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
        self._packing = Packing.declared(
            max_message_bytes, compression, compress_above, encryption, codec
        )
        self._server = start_for(broker) if start_server else None
        self.broker = _broker(LOCAL_URL if start_server and broker == "" else broker)
        self.tasks: dict[str, Task[..., Any]] = {}
        self.plans: dict[str, Plan] = {}
        self.queue_rates: dict[str, RateLimit | None] = {}
        self.queue_bounds: dict[str, Bounds] = {}
        self.middleware: list[Middleware] = []
        self.around_enqueue: list[Middleware] = []
        self.dead = DeadLetters(self)
        self.schedules = Timetable(self)
        self._driver: Driver | None = None
        self._async_driver: AsyncDriver | None = None
        self._opening = threading.Lock()
        self._declared: set[str] = set()
        self._unstored_bounds: dict[str, Bounds] = {}
        self._reader = self._make_reader()
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
    ) -> _BatchMaker: ...
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
    ) -> _TaskMaker: ...
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
        if function is None:
            return lambda target: self._declare(target, name, declared)
        return self._declare(function, name, declared)

    def _declare(self, function: Any, name: str | None, declared: Any) -> Task[..., Any]:
        _check_handler(function)
        self._check_importable(function, name)
        chosen = checked_name("name", function.__name__ if name is None else name)
        if chosen.startswith(ORDER):
            raise PolicyError(
                f"a task cannot be called {chosen!r}: its messages would be among those of "
                f"order={chosen.removeprefix(ORDER)!r}"
            )
        if chosen in self.tasks:
            raise PolicyError(
                f"there are two tasks called {chosen!r}; their messages could not be told apart. "
                f"Give one of them another name=, or its function"
            )
        kind: type[Task[..., Any]] = Task if declared.batch is None else BatchTask
        task = kind(self, chosen, function, declared, packing=self._packing)
        self._check_order(task)
        self.tasks[chosen] = task
        return task

    def _check_importable(self, function: Any, name: str | None) -> None:
        own = getattr(function, "__name__", None)
        qualified = getattr(function, "__qualname__", own or "")
        if name is not None:
            return
        if own is None or own == "<lambda>":
            raise PolicyError(
                f"{function!r} has no name that a worker could know it by: give name="
            )
        if "<locals>" in qualified and self.broker.shared:
            raise PolicyError(
                f"{qualified} is defined inside a function, so a worker process that imports "
                f"{function.__module__} does not find it. Move it to the module, or give name= "
                f"if every worker process declares it as this one does"
            )

    def _check_order(self, task: Task[..., Any]) -> None:
        if task.policy.order is None:
            return
        for other in self.tasks.values():
            if other.group != task.group:
                continue
            mine, theirs = task.policy, other.policy
            differing = [
                item
                for item in ("batch", "on_error", "max_deliveries", "rate", "shard_rate")
                if getattr(mine, item) != getattr(theirs, item)
            ]
            if task.is_async != other.is_async:
                differing.append("being async")
            if differing:
                raise PolicyError(
                    f"tasks {task.name!r} and {other.name!r} share the order "
                    f"{mine.order!r} but differ in {', '.join(differing)}: tasks of a common "
                    f"order need the same"
                )

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
        queue, order = self._whereabouts(name, queue, order)
        declared = policy(
            {
                "queue": queue,
                "batch": batch,
                "order": order,
                "ordered": order is not None,
                "codec": codec,
            }
        )

        def elsewhere(*_args: Any, **_kwargs: Any) -> Any:
            raise NotFound(f"task {name!r} is declared elsewhere, so it cannot be called here")

        kind: type[Task[..., Any]] = BatchTask if batch else Task
        return kind(self, name, elsewhere, declared, packing=self._packing, known=False)

    def _whereabouts(
        self, name: str, queue: str | None, order: str | None
    ) -> tuple[str, str | None]:
        # `taskyard release` names an order's group like a task, so "order:" is allowed here.
        here = self.tasks.get(checked_name("name", name))
        if here is None or queue not in (None, here.policy.queue):
            return "default" if queue is None else queue, order
        if order not in (None, here.policy.order):
            raise PolicyError(
                f"task {name!r} has order={here.policy.order!r} here, not {order!r}: "
                f"nobody would run the message"
            )
        return here.policy.queue, here.policy.order

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
        removed (`taskyard schedules remove`). To store one at once use `yard.schedules.add`.

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
        if self._unstored_bounds and (queue := task.policy.queue) in self._unstored_bounds:
            bounds = self._unstored_bounds[queue]
            self.driver.run(self.broker.set_bounds(queue, bounds, declared=True))
            self._unstored_bounds.pop(queue, None)
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
        if self._unstored_bounds and (queue := task.policy.queue) in self._unstored_bounds:
            bounds = self._unstored_bounds[queue]
            await self.async_driver.run(self.broker.set_bounds(queue, bounds, declared=True))
            self._unstored_bounds.pop(queue, None)
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

    # Looking

    def result(self, message_id: str) -> Result[Any]:
        """A handle on a message by its id; its result comes as plain data.

        `Task.result` gives it by the task's types.
        """
        return Result(message_id, self._reader, Unnamed(self._packing).decode_result)

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
            BrokerError: the storage failed.
        """
        return self._reader.cancel(message_id, note=True)

    async def acancel(self, message_id: str) -> Cancellation:
        """Do the same without blocking the event loop; see `cancel`."""
        return await self._reader.cancel_async(message_id, note=True)

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
            BrokerError: the storage failed.
        """
        return self.driver.run(explain(self.broker, message_id))

    async def aexplain(self, message_id: str) -> Explanation:
        """Do the same without blocking the event loop; see `explain`."""
        return await self.async_driver.run(explain(self.broker, message_id))

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

    @property
    def reader(self) -> RecordReader:
        """Where results are looked up."""
        return self._reader

    def counts(self) -> list[Counts]:
        """The numbers of every queue and task, sorted."""
        return self.driver.run(self.broker.counts())

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
        group = self._find(task).group
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
        group = self._find(task).group
        return self.driver.run(self.broker.park(group, shard_text(shard)))

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
        of_task = isinstance(limited, Task)
        if shards and not of_task:
            raise PolicyError("a queue has one limit for all its shards: give the task for shards=")
        if isinstance(limited, Task):
            what = Limited(limited.group.queue, limited.group.name, shards)
        else:
            what = Limited(checked_name("queue", limited))
        rate: Rate | None = UNLIMITED
        if isinstance(limit, RateLimit):
            rate = stored_rate(limit)
        elif limit is not None:
            rate = None
        self.driver.run(self.broker.set_rate(what, rate))

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

    def _set_gate(self, queue: str, gate: Gate) -> Gate:
        checked_name("queue", queue)
        return self.driver.run(self.broker.set_gate(queue, gate))

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
            command: "shutdown": stop as after SIGTERM; its supervisor starts no other one.
                "pause": take no messages, until "resume".
            queue: pause or resume only this queue; None: all that the worker serves.

        Returns:
            The ids of those that were told; a silent one may never hear it.

        Raises:
            WorkerError: there is no such command, or it concerns no queue.
            NotFound: there is no worker of an id. The others were told.
        """
        return self.driver.run(tell(self.broker.workers, workers, command, queue))

    async def atell(
        self, workers: Told, command: Command | str, queue: str | None = None
    ) -> list[str]:
        """Tell workers something without blocking the event loop; see `tell`."""
        return await self.async_driver.run(tell(self.broker.workers, workers, command, queue))

    def _find(self, task: Task[..., Any] | str) -> Task[..., Any]:
        if isinstance(task, Task):
            return task
        if task not in self.tasks:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise NotFound(f"this yard has no task {task!r}; it has {known}")
        return self.tasks[task]

    # Working

    def run_worker(
        self,
        *,
        queues: Mapping[str, int] | Sequence[str] | None = None,
        concurrency: int | None = None,
        processes: int = 0,
        burst: bool = False,
        **settings: Any,
    ) -> None:
        """Run a worker here until it is told to stop by SIGTERM, SIGINT, or (burst) has no work.

        Arguments:
            queues: the queues to serve (all of the yard's tasks, if left out); a mapping gives
                each a concurrency of its own.
            concurrency: handler calls at a time, per process.
            processes: 0: run in this process. More: child processes under a supervisor, which
                restarts those that die and gives back at once what they held.
            burst: return when nothing is left that can be done now.
            settings: the other fields of `taskyard.worker.WorkerSettings`.

        Raises:
            WorkerError: a setting is wrong, the yard has no tasks, or a queue is unknown.
            PolicyConflict: a task is stored with another concurrency per shard.
        """
        from taskyard.worker import run_worker

        run_worker(
            self,
            queues=queues,
            concurrency=concurrency,
            processes=processes,
            burst=burst,
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
        self.close()
        self.broker = _broker(broker)
        self._async_driver = None
        self._declared.clear()
        self._unstored_bounds = dict(self.queue_bounds)
        self._reader = self._make_reader()
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

    def _make_reader(self) -> RecordReader:
        broker = self.broker

        def current() -> Yard:
            if self.broker is not broker:
                raise BrokerError(
                    f"this result belongs to {broker.url}, but its yard uses {self.broker.url} now"
                )
            return self

        return RecordReader(broker, lambda: current().driver, lambda: current().async_driver)

    @property
    def driver(self) -> Driver:
        """Runs the broker's operations for threads."""
        if self._driver is None:
            with self._opening:
                if self._driver is None:
                    self._driver = self.broker.driver()
        return self._driver

    @property
    def async_driver(self) -> AsyncDriver:
        """Runs the broker's operations for event loops."""
        if self._async_driver is None:
            with self._opening:
                if self._async_driver is None:
                    self._async_driver = self.broker.async_driver()
        return self._async_driver

    def close(self) -> None:
        """Close what is open, if no event loop uses it. The yard can be used again."""
        asynchronous, self._async_driver = self._async_driver, None
        if asynchronous is not None:
            asynchronous.shut_down()
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.close()

    async def aclose(self) -> None:
        """Close what is open, including what `aenqueue` and `aget` opened."""
        driver, self._async_driver = self._async_driver, None
        if driver is not None:
            await driver.close()
        self.close()

    def __enter__(self) -> Yard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Yard at {self.broker.url}, {len(self.tasks)} tasks>"


def _check_handler(function: Any) -> None:
    handler = function
    if inspect.isclass(function):
        handler = getattr(function, "handle", Handler.handle)
        if not issubclass(function, Handler) or handler is Handler.handle:
            handler = None
    if not callable(handler):
        raise PolicyError(
            f"a task is made of a function or a Handler class that has a handle(), not {function!r}"
        )
    if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
        raise PolicyError(f"{function!r} has a yield in it, so calling it would run nothing")


def _broker(given: object) -> Broker:
    if isinstance(given, str):
        return open_broker(given)
    if hasattr(given, "async_driver"):
        return cast("Broker", given)
    found = open_client(given)
    if found is None:
        raise BrokerError(
            f"a broker is a URL (sqlite:///yard.db), a broker or a client of redis-py,"
            f" not {given!r}"
        )
    return found


class DeadLetters:
    """The dead letters of a yard.

    Arguments:
        yard: whose.
    """

    def __init__(self, yard: Yard) -> None:
        self._yard = yard

    def list(
        self,
        numbers: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Sequence[DeadLetter]:
        """List dead letters, oldest first.

        Arguments:
            numbers: only these.
            queue: only of this queue.
            task: only of this task.
            after: only with a higher number, for paging.
            limit: this many at most.
        """
        query = DeadQuery(queue=queue, task=task, numbers=numbers, after=after, limit=limit)
        return self._yard.driver.run(self._yard.broker.dead(query))

    def retry(
        self,
        numbers: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        limit: int = 1_000_000,
    ) -> int:
        """Put dead letters back at the tails of their shards, as if they were new.

        Arguments:
            numbers: only these.
            queue: only of this queue.
            task: only of this task.
            limit: this many at most.

        Returns:
            How many there were.
        """
        query = DeadQuery(queue=queue, task=task, numbers=numbers, limit=limit)
        return self._yard.driver.run(self._yard.broker.retry_dead(query))

    def discard(
        self,
        numbers: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        limit: int = 1_000_000,
    ) -> int:
        """Remove dead letters; see `retry`."""
        query = DeadQuery(queue=queue, task=task, numbers=numbers, limit=limit)
        return self._yard.driver.run(self._yard.broker.discard_dead(query))
