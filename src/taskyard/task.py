"""A task: a handler with its policy, and the ways to enqueue a call of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, TypeVar, overload

from taskyard.brokers.base import Group
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.lane import GroupPolicy
from taskyard.brokers.rate import Rate
from taskyard.enqueue import OPTION_NAMES, PLAIN, Enqueuer, Options, Outlet, make_options
from taskyard.errors import PolicyError
from taskyard.message import checked_id
from taskyard.packing import Packing
from taskyard.payload import PayloadCodec
from taskyard.policy import Policy, RateLimit, seconds
from taskyard.result import RecordReader, Result, Results
from taskyard.sharding import Sharding
from taskyard.supplied import codec_of
from taskyard.uniqueness import Uniqueness

__all__ = ["ORDER", "BatchTask", "Handler", "Task", "stored_rate"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_RESULT_TTL = 86_400.0

ORDER = "order:"
"""What the names of groups begin with that belong to an `order`, and not to a task."""


class Handler(Generic[T]):
    """The class form of a handler, with a life cycle.

    A worker makes an instance per shard when it first claims messages of it, and keeps it while
    the shard's messages keep coming (the policy's `linger`). All methods may be plain or `async`.
    """

    @classmethod
    def create(cls) -> Any:
        """Make the instance; override it to pass dependencies. Returns the handler."""
        return cls()

    def start(self) -> Any:
        """Called once, before the first `handle`."""

    def handle(self, message: T, /) -> Any:  # noqa: ARG002 - for those who override it
        """Run a message; for batch tasks, a list of them. Must be overridden."""
        raise TypeError(f"{type(self).__qualname__} does not define handle()")

    def stop(self) -> Any:
        """Called once, when the worker leaves the shard, or ends."""


class Task(Generic[P, R]):
    """A named function and its policy. `Yard.task` makes them.

    Calling a task calls its function, here and now.

    Attributes:
        outlet: where its messages are put: the yard.
        name: its name, which is what travels.
        function: the handler: a function, or a class with `create`, `start`, `handle`, `stop`.
        policy: what was declared.
        codec: encodes and decodes its messages.
        sharding: makes the shards of its messages.
        uniqueness: how its messages are unique; None: they are not.
        group: whose lanes its messages wait in.
        known: whether it is declared here, or only known by name.
    """

    def __init__(
        self,
        outlet: Outlet,
        name: str,
        function: Callable[P, Any],
        policy: Policy,
        *,
        packing: Packing | None = None,
        known: bool = True,
    ) -> None:
        self.outlet = outlet
        self.name = name
        self.function = function
        self.policy = policy
        self.known = known
        self.is_class = inspect.isclass(function)
        handler = function.handle if self.is_class else function  # type: ignore[attr-defined]
        self.codec = codec_of(
            handler,
            task=name,
            batch=policy.batch is not None,
            skip_self=self.is_class,
            packing=(packing or Packing()).of_task(policy.max_bytes, policy.codecs),
        )
        self.is_async = _is_async(handler)
        self._signature = _signature(handler, skip_self=self.is_class)
        self._check_names()
        self.sharding = Sharding(
            name,
            policy.shard,
            self._signature,
            batch=policy.batch is not None,
            single=self.codec.single,
        )
        self.group = Group(policy.queue, f"{ORDER}{policy.order}" if policy.order else name)
        self.envelope_task = name if policy.order else ""
        self.uniqueness = None if policy.unique is None else self.make_uniqueness()
        self.result_ttl = _result_ttl(policy, self.codec) if known else None

    def _check_names(self) -> None:
        unique = self.policy.unique
        named = [("shard", self.policy.shard)]
        if unique is not None:
            keys = unique.key if isinstance(unique.key, tuple) else (unique.key,)
            named += [("unique", key) for key in keys]
        parameters = self._signature.parameters
        any_name = any(item.kind is item.VAR_KEYWORD for item in parameters.values())
        for what, name in named:
            if isinstance(name, str) and self.policy.batch is None and name not in parameters:
                if any_name:
                    continue
                raise PolicyError(
                    f"task {self.name!r}: {what}={name!r} names no argument of its handler, which "
                    f"takes {', '.join(parameters) or 'none'}"
                )

    def make_uniqueness(self) -> Uniqueness:
        """How its messages are unique; by what is given with a call, if not by the policy."""
        return Uniqueness(
            self.name,
            self.policy.unique,
            self._signature,
            batch=self.policy.batch is not None,
            single=self.codec.single,
            member=self.envelope_task,
        )

    @property
    def group_policy(self) -> GroupPolicy:
        """What the broker must know of the policy."""
        batch = self.policy.batch
        return GroupPolicy(
            size=batch.size if batch else 1,
            within=round(batch.within * 1e6) if batch else 0,
            bytes=(batch.bytes or 0) if batch else 0,
            concurrency=self.policy.claims_per_shard or 0,
            max_deliveries=self.policy.max_deliveries,
            members=(self.name,) if self.policy.order else (),
            rate=stored_rate(self.policy.rate),
            shard_rate=stored_rate(self.policy.shard_rate),
            minimum=(batch.minimum or 0) if batch else 0,
            lead=round(batch.lead_seconds * 1e6) if batch else 0,
        )

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function, here and now."""
        return self.function(*args, **kwargs)

    def options(
        self,
        *,
        delay: float | timedelta | None = None,
        due: datetime | None = None,
        priority: int | None = None,
        shard: object = None,
        id: str | None = None,  # noqa: A002 - the name that users look for
        unique_key: object = None,
        expires: float | timedelta | None = None,
        result_ttl: float | timedelta | None = None,
    ) -> Enqueuer[P, R]:
        """Bind options to enqueue with, leaving the arguments to the task's own types.

        Arguments:
            delay: seconds until the message may run.
            due: the moment from which it may run; without a zone it is local time.
            priority: instead of the task's; lower goes first.
            shard: instead of what the task makes of the arguments.
            id: instead of a random one.
            unique_key: instead of what the task makes of the arguments. Of a task that is not
                declared as unique, too: then it is held until the message is done.
            expires: seconds that the message may wait for its first attempt, instead of the task's.
                They count from when it may run. A batch that still fills does not make it wait for
                longer (see `Batch.lead`).
            result_ttl: seconds for which the result is kept, instead of the task's, which must keep
                results.

        Returns:
            Something with the same `enqueue`, `aenqueue`, `enqueue_many`, `aenqueue_many`, `cancel`
            and `acancel`.

        Raises:
            EnqueueError: two options contradict each other, or one is wrong.
        """
        options = Options(delay, due, priority, shard, id, unique_key, expires, result_ttl)
        return Enqueuer(self, options)

    @overload
    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, delay: float | timedelta, **options: Any) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, due: datetime, **options: Any) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, priority: int, **options: Any) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, shard: object, **options: Any) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, id: str, **options: Any) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, unique_key: object, **options: Any) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, expires: float | timedelta, **options: Any) -> Result[R]: ...
    @overload
    def enqueue(self, *args: Any, result_ttl: float | timedelta, **options: Any) -> Result[R]: ...
    def enqueue(self, *args: Any, **kwargs: Any) -> Result[R]:
        """Store a call of this task; it is kept when this returns.

        The options of `options()` can be given by name, as far as the handler has no argument of
        that name.

        Returns:
            A handle on the message. Of a task whose messages are unique: on the one that stands,
            which may have been there before; its `created` says so.

        Raises:
            PayloadError: an argument does not fit the handler.
            EnqueueError: an option is wrong, or the id is taken.
            BrokerError: the storage failed, and nothing was stored.
        """
        enqueuer, kwargs = self._split(kwargs)
        return enqueuer.enqueue(*args, **kwargs)

    @overload
    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]: ...
    @overload
    async def aenqueue(self, *args: Any, delay: float | timedelta, **options: Any) -> Result[R]: ...
    @overload
    async def aenqueue(self, *args: Any, due: datetime, **options: Any) -> Result[R]: ...
    @overload
    async def aenqueue(self, *args: Any, priority: int, **options: Any) -> Result[R]: ...
    @overload
    async def aenqueue(self, *args: Any, shard: object, **options: Any) -> Result[R]: ...
    @overload
    async def aenqueue(self, *args: Any, id: str, **options: Any) -> Result[R]: ...
    @overload
    async def aenqueue(self, *args: Any, unique_key: object, **options: Any) -> Result[R]: ...
    @overload
    async def aenqueue(
        self, *args: Any, expires: float | timedelta, **options: Any
    ) -> Result[R]: ...
    @overload
    async def aenqueue(
        self, *args: Any, result_ttl: float | timedelta, **options: Any
    ) -> Result[R]: ...
    async def aenqueue(self, *args: Any, **kwargs: Any) -> Result[R]:
        """Do the same without blocking the event loop; see `enqueue`."""
        enqueuer, kwargs = self._split(kwargs)
        return await enqueuer.aenqueue(*args, **kwargs)

    def enqueue_many(self, items: Iterable[Any], **options: Any) -> Results[R]:
        """Store a call per item, a thousand in one transaction.

        Items are read as they are stored, so they may be generated without end in sight.

        Arguments:
            items: for a task of one argument, that argument; otherwise tuples of arguments by
                position, or mappings of arguments by name.
            options: as for `options()`; `priority`, `shard`, `id` and `unique_key` may be functions
                of the item, `priority` and `shard` also lists with a value per item.

        Returns:
            Handles on the messages, in order.

        Raises:
            PayloadError: an item does not fit; says which. Its chunk of a thousand was not
                stored, earlier ones were.
            EnqueueError: an option is wrong, or an id is taken.
            BrokerError: the storage failed; earlier chunks are stored.
        """
        return Enqueuer(self, make_options(options)).enqueue_many(items)

    async def aenqueue_many(self, items: Iterable[Any], **options: Any) -> Results[R]:
        """Do the same without blocking the event loop; see `enqueue_many`."""
        return await Enqueuer(self, make_options(options)).aenqueue_many(items)

    @overload
    def cancel(self, *args: P.args, **kwargs: P.kwargs) -> Cancellation: ...
    @overload
    def cancel(self, *args: Any, unique_key: object, **options: Any) -> Cancellation: ...
    @overload
    def cancel(self, *args: Any, shard: object, **options: Any) -> Cancellation: ...
    def cancel(self, *args: Any, **kwargs: Any) -> Cancellation:
        """Cancel the message that holds the unique key of this call.

        It is what `Yard.cancel` does, for who does not know the id: give what was given to
        `enqueue`. Key and shard are made of the arguments; `unique_key=` and `shard=` are taken
        instead, and then arguments that neither is made of can be left out. Only the message that
        holds the key now is meant, none that takes it later.

        The key is free then, also that of a window. Only a message that runs keeps it until it
        ends, if it holds it until it is done.

        Returns:
            What happened, and who runs it if it was told. `Cancelled.UNKNOWN`: nobody holds the
            key. `Cancelled.ENDED`: its window is still open, but the message had ended; nothing was
            changed.

        Raises:
            EnqueueError: the task is not unique and no `unique_key=` is given, no key or shard can
                be made of this, or an option says nothing of which message is meant.
            BrokerError: the storage failed.
        """
        enqueuer, kwargs = self._split(kwargs)
        return enqueuer.cancel(*args, **kwargs)

    @overload
    async def acancel(self, *args: P.args, **kwargs: P.kwargs) -> Cancellation: ...
    @overload
    async def acancel(self, *args: Any, unique_key: object, **options: Any) -> Cancellation: ...
    @overload
    async def acancel(self, *args: Any, shard: object, **options: Any) -> Cancellation: ...
    async def acancel(self, *args: Any, **kwargs: Any) -> Cancellation:
        """Do the same without blocking the event loop; see `cancel`."""
        enqueuer, kwargs = self._split(kwargs)
        return await enqueuer.acancel(*args, **kwargs)

    def result(self, message_id: str) -> Result[R]:
        """A handle on a message of this task, by its id.

        Raises:
            EnqueueError: no message can have this id.
        """
        return Result(checked_id(message_id), self.reader, self.codec.decode_result)

    @property
    def reader(self) -> RecordReader:
        """Where its messages are looked up."""
        reader = self.outlet.reader
        return reader if self.result_ttl or not self.known else reader.without_records

    def _split(self, kwargs: dict[str, Any]) -> tuple[Enqueuer[P, R], dict[str, Any]]:
        given = OPTION_NAMES.intersection(kwargs)
        if given:
            given -= self._signature.parameters.keys()
        if not given:
            return Enqueuer(self, PLAIN), kwargs
        options = make_options({name: kwargs[name] for name in given})
        return Enqueuer(self, options), {k: v for k, v in kwargs.items() if k not in given}

    def __repr__(self) -> str:
        return f"<task {self.name!r} of queue {self.policy.queue!r}>"


class BatchTask(Task[[T], R]):
    """A task whose handler gets lists; each message is one element.

    Calling it calls its function with a list, here and now.
    """

    def __call__(self, items: list[T]) -> Any:  # type: ignore[override]
        """Call the function with a list, here and now."""
        return self.function(items)  # type: ignore[arg-type]


def _is_async(handler: Callable[..., Any]) -> bool:
    called = getattr(handler, "__call__", handler)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(called)


def _signature(handler: Callable[..., Any], *, skip_self: bool) -> inspect.Signature:
    try:
        signature = inspect.signature(handler)
    except ValueError:  # a builtin that does not tell
        return inspect.Signature()
    if not skip_self:
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


@overload
def stored_rate(limit: RateLimit) -> Rate: ...
@overload
def stored_rate(limit: None) -> None: ...
@overload
def stored_rate(limit: RateLimit | None) -> Rate | None: ...
def stored_rate(limit: RateLimit | None) -> Rate | None:
    """A rate limit as brokers keep it."""
    if limit is None:
        return None
    per = seconds("rate limit per", limit.per)
    assert limit.burst is not None  # noqa: S101 - the limit has chosen one
    return Rate(limit.count, round(per * 1e6), limit.burst)


def _result_ttl(policy: Policy, codec: PayloadCodec) -> float | None:
    if policy.result_ttl != "auto":
        return policy.result_ttl
    return DEFAULT_RESULT_TTL if codec.keeps_results else None
