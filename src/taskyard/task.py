"""A task: a handler with its policy, and the ways to enqueue a call of it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

import msgspec

from taskyard.brokers.base import Group, Put
from taskyard.brokers.lane import GroupPolicy
from taskyard.errors import EnqueueError, PayloadError, PolicyError
from taskyard.message import IdMaker
from taskyard.payload import PayloadCodec
from taskyard.policy import PRIORITIES, Policy, ShardKey, seconds
from taskyard.result import RecordReader, Result, Results

__all__ = ["BatchTask", "Enqueuer", "Handler", "Options", "Outlet", "Task"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

DEFAULT_RESULT_TTL = 86_400.0
CHUNK_MESSAGES = 1000
CHUNK_BYTES = 4 << 20
LONGEST_SHARD = 500

_ids = IdMaker()


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


class Options(msgspec.Struct, frozen=True):
    """What can be said with a single call of `enqueue`.

    Attributes:
        delay: seconds until the message may run.
        due: the moment from which it may run; a datetime without a zone is local time.
        priority: instead of the task's.
        shard: instead of what the task's `shard` makes of the arguments.
        id: instead of a random one. For `enqueue_many`, `id` and `shard` and `priority` may be
            functions of the item.
    """

    delay: float | timedelta | None = None
    due: datetime | None = None
    priority: int | Callable[[Any], int] | None = None
    shard: Any = None
    id: str | Callable[[Any], str] | None = None


OPTION_NAMES = frozenset(Options.__struct_fields__)


class Outlet(Protocol):
    """Where tasks put messages: the yard."""

    def put(self, task: Task[..., Any], puts: Sequence[Put]) -> None:
        """Store messages."""
        ...

    async def put_async(self, task: Task[..., Any], puts: Sequence[Put]) -> None:
        """Store messages without blocking the event loop."""
        ...

    @property
    def reader(self) -> RecordReader:
        """Where results are looked up."""
        ...


class Task(Generic[P, R]):
    """A named function and its policy. `Yard.task` makes them.

    Calling a task calls its function, here and now.

    Attributes:
        name: its name, which is what travels.
        function: the handler: a function, or a class with `create`, `start`, `handle`, `stop`.
        policy: what was declared.
        codec: encodes and decodes its messages.
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
        known: bool = True,
    ) -> None:
        self._outlet = outlet
        self.name = name
        self.function = function
        self.policy = policy
        self.known = known
        self.is_class = inspect.isclass(function)
        handler = function.handle if self.is_class else function  # type: ignore[attr-defined]
        self.codec = PayloadCodec.of(
            handler, task=name, batch=policy.batch is not None, skip_self=self.is_class
        )
        self.is_async = inspect.iscoroutinefunction(handler)
        self._signature = _signature(handler, skip_self=self.is_class)
        self.group = Group(policy.queue, f"order:{policy.order}" if policy.order else name)
        self.envelope_task = name if policy.order else ""
        self.result_ttl = _result_ttl(policy, self.codec) if known else None

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
    ) -> Enqueuer[P, R]:
        """Bind options to enqueue with, leaving the arguments to the task's own types.

        Arguments:
            delay: seconds until the message may run.
            due: the moment from which it may run; without a zone it is local time.
            priority: instead of the task's; lower goes first.
            shard: instead of what the task makes of the arguments.
            id: instead of a random one.

        Returns:
            Something with the same `enqueue`, `aenqueue`, `enqueue_many`, `aenqueue_many`.

        Raises:
            EnqueueError: two options contradict each other, or one is wrong.
        """
        return Enqueuer(self, Options(delay, due, priority, shard, id))

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
    def enqueue(self, *args: Any, **kwargs: Any) -> Result[R]:
        """Store a call of this task; it is kept when this returns.

        The options of `options()` can be given by name, as far as the handler has no argument of
        that name.

        Returns:
            A handle on the message.

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
            options: as for `options()`; `priority`, `shard` and `id` may be functions of the item.

        Returns:
            Handles on the messages, in order.

        Raises:
            PayloadError: an item does not fit; says which. Its chunk of a thousand was not
                stored, earlier ones were.
            EnqueueError: an option is wrong, or an id is taken.
            BrokerError: the storage failed; earlier chunks are stored.
        """
        return Enqueuer(self, _options(options)).enqueue_many(items)

    async def aenqueue_many(self, items: Iterable[Any], **options: Any) -> Results[R]:
        """Do the same without blocking the event loop; see `enqueue_many`."""
        return await Enqueuer(self, _options(options)).aenqueue_many(items)

    def argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        """The value that a call gives to one of the handler's parameters.

        Raises:
            KeyError: there is no such parameter, or the call leaves it out and it has no default.
            TypeError: the arguments do not fit the signature.
        """
        if self.codec.single and not kwargs and name in self._signature.parameters:
            return args[0]
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[name]

    def result(self, message_id: str) -> Result[R]:
        """A handle on a message of this task, by its id."""
        return self._handle(message_id)

    def _split(self, kwargs: dict[str, Any]) -> tuple[Enqueuer[P, R], dict[str, Any]]:
        given = OPTION_NAMES.intersection(kwargs)
        if given:
            given -= self._signature.parameters.keys()
        if not given:
            return Enqueuer(self, _PLAIN), kwargs
        options = _options({name: kwargs[name] for name in given})
        return Enqueuer(self, options), {k: v for k, v in kwargs.items() if k not in given}

    def _handle(self, message_id: str) -> Result[R]:
        return Result(message_id, self._reader(), self.codec.decode_result)

    def _reader(self) -> RecordReader | None:
        return self._outlet.reader if self.result_ttl or not self.known else None

    def __repr__(self) -> str:
        return f"<task {self.name!r} of queue {self.policy.queue!r}>"


class BatchTask(Task[[T], R]):
    """A task whose handler gets lists; each message is one element.

    Calling it calls its function with a list, here and now.
    """

    def __call__(self, items: list[T]) -> Any:  # type: ignore[override]
        """Call the function with a list, here and now."""
        return self.function(items)  # type: ignore[arg-type]


_PLAIN = Options()


def _signature(handler: Callable[..., Any], *, skip_self: bool) -> inspect.Signature:
    try:
        signature = inspect.signature(handler)
    except ValueError:  # a builtin that does not tell
        return inspect.Signature()
    if not skip_self:
        return signature
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _options(given: dict[str, Any]) -> Options:
    unknown = sorted(set(given) - OPTION_NAMES)
    if unknown:
        raise EnqueueError(
            f"unknown option {', '.join(unknown)}; there are {', '.join(sorted(OPTION_NAMES))}"
        )
    return Options(**given)


def _result_ttl(policy: Policy, codec: PayloadCodec) -> float | None:
    if policy.result_ttl != "auto":
        return policy.result_ttl
    return DEFAULT_RESULT_TTL if codec.keeps_results else None


class Enqueuer(Generic[P, R]):
    """Enqueues calls of a task with fixed options."""

    __slots__ = ("_delay", "_due", "_options", "_task")

    def __init__(self, task: Task[P, R], options: Options) -> None:
        self._task = task
        self._options = options
        self._delay = 0
        self._due = 0
        if options is not _PLAIN:
            self._check(options)

    def _check(self, options: Options) -> None:
        if options.delay is not None and options.due is not None:
            raise EnqueueError("delay= and due= contradict each other: give one of them")
        try:
            if options.delay is not None:
                self._delay = round(seconds("delay", options.delay) * 1e6)
        except PolicyError as error:
            raise EnqueueError(str(error)) from None
        if options.due is not None:
            if not isinstance(options.due, datetime):
                raise EnqueueError(f"due must be a datetime, not {options.due!r}")
            self._due = max(1, round(options.due.timestamp() * 1e6))
        if options.priority is not None and not callable(options.priority):
            _priority(options.priority)

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """See `Task.enqueue`."""
        message_id, put = self._one(args, kwargs)
        self._task._outlet.put(self._task, [put])
        return self._task._handle(message_id)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """See `Task.aenqueue`."""
        message_id, put = self._one(args, kwargs)
        await self._task._outlet.put_async(self._task, [put])
        return self._task._handle(message_id)

    def enqueue_many(self, items: Iterable[Any]) -> Results[R]:
        """See `Task.enqueue_many`."""
        chunks = []
        for ids, puts in self._chunks(items):
            self._task._outlet.put(self._task, puts)
            chunks.append(ids)
        return self._results(chunks)

    async def aenqueue_many(self, items: Iterable[Any]) -> Results[R]:
        """See `Task.aenqueue_many`."""
        chunks = []
        for ids, puts in self._chunks(items):
            await self._task._outlet.put_async(self._task, puts)
            chunks.append(ids)
        return self._results(chunks)

    def _results(self, chunks: list[Sequence[str]]) -> Results[R]:
        return Results(chunks, self._task._reader(), self._task.codec.decode_result)

    def _one(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Put]:
        task, options = self._task, self._options
        message_id = _ids.take(1)[0] if options.id is None else _message_id(options.id)
        body = task.codec.encode(message_id, args, kwargs, group_task=task.envelope_task)
        priority = task.policy.priority if options.priority is None else _priority(options.priority)
        put = self._put(self._shard(args, kwargs), priority, [body], [message_id])
        return message_id, put

    def _put(self, shard: str, priority: int, bodies: list[bytes], ids: Sequence[str]) -> Put:
        ttl = self._task.result_ttl
        return Put(
            self._task.group,
            bodies,
            shard,
            priority,
            self._delay,
            self._due,
            ids if ttl else None,
            round(ttl * 1e6) if ttl else 0,
        )

    def _shard(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if self._options.shard is not None:
            return _shard_text(self._options.shard)
        key = self._task.policy.shard
        if key is None:
            return ""
        return _shard_text(_shard_of(self._task, key, args, kwargs))

    # Many

    def _chunks(self, items: Iterable[Any]) -> Iterator[tuple[Sequence[str], list[Put]]]:
        if isinstance(items, (str, bytes)):
            raise EnqueueError("enqueue_many takes many items; enqueue takes one text or bytes")
        iterator = iter(items)
        position = 0
        while chunk := list(itertools.islice(iterator, CHUNK_MESSAGES)):
            try:
                ids, bodies = self._encode(chunk)
            except PayloadError as error:
                if position == 0:
                    raise
                text = f"in the chunk that begins at item {position}: {error}"
                raise PayloadError(text) from error.__cause__
            position += len(chunk)
            for first, last in _by_bytes(bodies):
                part = ids[first:last]
                yield part, self._grouped(chunk[first:last], part, bodies[first:last])

    def _encode(self, chunk: list[Any]) -> tuple[Sequence[str], list[bytes]]:
        make_id = self._options.id
        ids: Sequence[str]
        if make_id is None:
            ids = _ids.take(len(chunk))
        elif callable(make_id):
            ids = [_message_id(make_id(item)) for item in chunk]
        else:
            raise EnqueueError("enqueue_many needs an id per item: give id= as a function of it")
        return ids, self._task.codec.encode_many(ids, chunk, group_task=self._task.envelope_task)

    def _grouped(self, items: Sequence[Any], ids: Sequence[str], bodies: list[bytes]) -> list[Put]:
        policy, options = self._task.policy, self._options
        shard = policy.shard if options.shard is None else options.shard
        if not callable(options.priority) and not callable(shard) and not policy.shard:
            priority = policy.priority if options.priority is None else options.priority
            return [self._put(_shard_text(shard), priority, bodies, ids)]
        groups: dict[tuple[str, int], tuple[list[bytes], list[str]]] = {}
        for item, message_id, body in zip(items, ids, bodies, strict=True):
            key = (self._shard_of_item(item), self._priority_of_item(item))
            group = groups.get(key)
            if group is None:
                group = groups[key] = ([], [])
            group[0].append(body)
            group[1].append(message_id)
        return [self._put(*key, *group) for key, group in groups.items()]

    def _shard_of_item(self, item: Any) -> str:
        shard = self._options.shard
        if callable(shard):
            return _shard_text(shard(item))
        if self._task.codec.single:
            return self._shard((item,), {})
        if isinstance(item, dict):
            return self._shard((), item)
        return self._shard(tuple(item), {})

    def _priority_of_item(self, item: Any) -> int:
        priority = self._options.priority
        if priority is None:
            return self._task.policy.priority
        return _priority(priority(item) if callable(priority) else priority)


def _by_bytes(bodies: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Cut a chunk where its bytes would stall everybody else for too long."""
    first = size = 0
    for index, body in enumerate(bodies):
        if size and size + len(body) > CHUNK_BYTES:
            yield first, index
            first, size = index, 0
        size += len(body)
    yield first, len(bodies)


def _message_id(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise EnqueueError(f"id must be a text of 1 to 200 characters, not {value!r}")
    return value


def _priority(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in PRIORITIES:
        raise EnqueueError(
            f"priority must be a whole number from {PRIORITIES.start} to "
            f"{PRIORITIES.stop - 1}, not {value!r}"
        )
    return value


def _shard_text(value: object) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else str(value)
    if len(text) > LONGEST_SHARD:
        raise EnqueueError(
            f"a shard key may have {LONGEST_SHARD} characters; this one has {len(text)}"
        )
    return text


def _shard_of(
    task: Task[..., Any], key: ShardKey, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    try:
        if callable(key):
            return key(*args, **kwargs)
        if task.policy.batch is not None:
            return _field(args[0], key)
        return task.argument(key, args, kwargs)
    except Exception as error:  # the user's function, or an argument without that field
        raise EnqueueError(
            f"task {task.name!r}: the shard key {key!r} cannot be made of this message: "
            f"{type(error).__name__}: {error}"
        ) from error


def _field(item: Any, name: str) -> object:
    return item[name] if isinstance(item, dict) else getattr(item, name)
