"""Enqueueing: from a call, and what was said with it, to what is put into the broker."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar

import msgspec

from taskyard.brokers.base import Group, Put
from taskyard.brokers.cancelling import Cancellation
from taskyard.brokers.unique import Keys, Mode
from taskyard.coalesce import CHUNK_BYTES, CHUNK_MESSAGES
from taskyard.errors import EnqueueError, PayloadError, PolicyError
from taskyard.message import IdMaker, checked_id
from taskyard.middleware import EnqueueCall, Middleware, around_enqueue
from taskyard.policy import LONGEST, PRIORITIES, seconds
from taskyard.result import RecordReader, Result, Results, Standing, UniqueResult
from taskyard.sharding import shard_text

if TYPE_CHECKING:
    from taskyard.task import Task

__all__ = ["OPTION_NAMES", "PLAIN", "Enqueuer", "Options", "Outlet", "make_options"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_ids = IdMaker()


class Options(msgspec.Struct, frozen=True):
    """What can be said with a single call of `enqueue`.

    Attributes:
        delay: seconds until the message may run.
        due: the moment from which it may run; a datetime without a zone is local time.
        priority: instead of the task's.
        shard: instead of what the task's `shard` makes of the arguments.
        id: instead of a random one.
        unique_key: instead of what the task's `unique` makes of the arguments.
        expires: seconds that the message may wait for its first attempt, instead of the task's.
        result_ttl: seconds for which the result is kept, instead of the task's.

    For `enqueue_many`, `id`, `shard`, `priority` and `unique_key` may be functions of the item;
    `shard` and `priority` also lists with a value per item.
    """

    delay: float | timedelta | None = None
    due: datetime | None = None
    priority: int | Callable[[Any], int] | list[int] | None = None
    shard: Any = None
    id: str | Callable[[Any], str] | None = None
    unique_key: Any = None
    expires: float | timedelta | None = None
    result_ttl: float | timedelta | None = None


OPTION_NAMES = frozenset(Options.__struct_fields__)
NAMING = ("shard", "unique_key")
"""The options that say which message `cancel` means."""


class Outlet(Protocol):
    """Where tasks put messages: the yard."""

    @property
    def around_enqueue(self) -> Sequence[Middleware]:
        """Middleware that is told of calls of `enqueue`."""
        ...

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


PLAIN = Options()


def make_options(given: dict[str, Any]) -> Options:
    unknown = sorted(set(given) - OPTION_NAMES)
    if unknown:
        raise EnqueueError(
            f"unknown option {', '.join(unknown)}; there are {', '.join(sorted(OPTION_NAMES))}"
        )
    return Options(**given)


class Enqueuer(Generic[P, R]):
    """Enqueues calls of a task with fixed options."""

    __slots__ = ("_delay", "_due", "_expires", "_options", "_result_ttl", "_task", "_uniqueness")

    def __init__(self, task: Task[P, R], options: Options) -> None:
        self._task = task
        self._options = options
        self._delay = 0
        self._due = 0
        self._expires = 0
        self._result_ttl = task.result_ttl
        self._uniqueness = task.uniqueness
        if options is not PLAIN:
            self._check(options)

    def _check(self, options: Options) -> None:
        if options.delay is not None and options.due is not None:
            raise EnqueueError("delay= and due= contradict each other: give one of them")
        try:
            self._take_durations(options)
        except PolicyError as error:
            raise EnqueueError(str(error)) from None
        if options.due is not None:
            if not isinstance(options.due, datetime):
                raise EnqueueError(f"due must be a datetime, not {options.due!r}")
            self._due = _due(options.due)
        for priority in _known_priorities(options.priority):
            _priority(priority)
        if options.unique_key is not None and self._uniqueness is None:
            self._uniqueness = self._task.make_uniqueness()
        times = (options.delay, options.due)
        if self._uniqueness and self._uniqueness.is_debounced and times != (None, None):
            raise EnqueueError(
                "a debounced message is put off by the delay= of its Unique: leave delay= and "
                "due= out"
            )

    def _take_durations(self, options: Options) -> None:
        if options.delay is not None:
            self._delay = round(seconds("delay", options.delay) * 1e6)
        if options.expires is not None:
            expires = seconds("expires", options.expires, open_=True)
            self._expires = max(1, round(expires * 1e6))
        if options.result_ttl is not None:
            self._result_ttl = self._checked_ttl(options.result_ttl)

    def _checked_ttl(self, given: float | timedelta) -> float:
        ttl = seconds("result_ttl", given, open_=True)
        if not self._task.result_ttl:  # its workers do not send what they would have to keep
            raise EnqueueError(
                f"task {self._task.name!r} keeps no results, so result_ttl= cannot be said with a "
                f"call: declare the task with a result_ttl="
            )
        return ttl

    def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """See `Task.enqueue`."""
        message_id, put = self._one(args, kwargs)
        outlet = self._task.outlet
        if outlet.around_enqueue:
            with self._around(message_id) as call:
                call.add_headers([put])
                outlet.put(self._task, [put])
                call.messages = _stored([put])
        else:
            outlet.put(self._task, [put])
        return self._result(message_id, put)

    async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> Result[R]:
        """See `Task.aenqueue`."""
        message_id, put = self._one(args, kwargs)
        outlet = self._task.outlet
        if outlet.around_enqueue:
            with self._around(message_id) as call:
                call.add_headers([put])
                await outlet.put_async(self._task, [put])
                call.messages = _stored([put])
        else:
            await outlet.put_async(self._task, [put])
        return self._result(message_id, put)

    def enqueue_many(self, items: Iterable[Any]) -> Results[R]:
        """See `Task.enqueue_many`."""
        chunks: list[Sequence[str] | Standing] = []
        with self._around() as call:
            for ids, puts in self._chunks(items):
                call.add_headers(puts)
                self._task.outlet.put(self._task, puts)
                call.messages += _stored(puts)
                chunks.append(ids)
        return self._results(chunks)

    async def aenqueue_many(self, items: Iterable[Any]) -> Results[R]:
        """See `Task.aenqueue_many`."""
        chunks: list[Sequence[str] | Standing] = []
        with self._around() as call:
            for ids, puts in self._chunks(items):
                call.add_headers(puts)
                await self._task.outlet.put_async(self._task, puts)
                call.messages += _stored(puts)
                chunks.append(ids)
        return self._results(chunks)

    def cancel(self, *args: P.args, **kwargs: P.kwargs) -> Cancellation:
        """See `Task.cancel`."""
        return self._task.outlet.reader.cancel_key(*self._held(args, kwargs))

    async def acancel(self, *args: P.args, **kwargs: P.kwargs) -> Cancellation:
        """See `Task.acancel`."""
        return await self._task.outlet.reader.cancel_key_async(*self._held(args, kwargs))

    def _held(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Group, str, str]:
        """Where the unique key of a call is held, and the key."""
        said = msgspec.structs.asdict(self._options)
        strange = [name for name in said if said[name] is not None and name not in NAMING]
        if strange:
            raise EnqueueError(
                f"cancel() finds a message by its unique key, and {strange[0]}= is no part of "
                f"that: leave it out, or cancel by id with yard.cancel(id)"
            )
        keys = self._unique_key(args, kwargs)
        if keys is None:
            raise EnqueueError(
                f"task {self._task.name!r} is not declared as unique, so its messages hold no key "
                f"to find them by: give the unique_key= that they were enqueued with, or cancel "
                f"by id with yard.cancel(id)"
            )
        return self._task.group, self._shard(args, kwargs), keys[0]

    def _around(self, message_id: str = "") -> AbstractContextManager[EnqueueCall]:
        """Middleware around a call; without an id, around one of many items."""
        task = self._task
        call = EnqueueCall(task.name, task.policy.queue, message_id, many=not message_id)
        middleware = task.outlet.around_enqueue
        return around_enqueue(middleware, call) if middleware else nullcontext(call)

    def _result(self, message_id: str, put: Put) -> Result[R]:
        if put.unique is None:
            return self._task.result(message_id)
        standing = Standing([message_id], [(put.unique, [0])])
        return UniqueResult(standing, 0, self._task.reader, self._task.codec.decode_result)

    def _results(self, chunks: Sequence[Sequence[str] | Standing]) -> Results[R]:
        return Results(chunks, self._task.reader, self._task.codec.decode_result)

    def _one(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, Put]:
        given = self._options.id
        message_id = _ids.take(1)[0] if given is None else checked_id(given)
        return message_id, self._put_one(message_id, args, kwargs)

    def _put_one(self, message_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Put:
        task, options = self._task, self._options
        body = task.codec.encode(message_id, args, kwargs, group_task=task.envelope_task)
        priority = task.policy.priority if options.priority is None else _priority(options.priority)
        key = self._unique_key(args, kwargs)
        return self._put(self._shard(args, kwargs), priority, [body], [message_id], key)

    def put_of_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Put:
        """Make the message of a call as `enqueue` does, without an id and without storing it.

        Raises:
            PayloadError: an argument does not fit.
            EnqueueError: its shard cannot be made.
        """
        return self._put_one("", args, kwargs)

    @property
    def task(self) -> Task[P, R]:
        """Whose messages it makes."""
        return self._task

    @property
    def options(self) -> Options:
        """What it was made with."""
        return self._options

    def put_of(self, item: Any) -> Put:
        """Make the message of an item as `enqueue_many` does, without storing it.

        Its shard is made of what the handler will get, not of the item: of an item that comes from
        elsewhere, as JSON say, that may be something else.

        Raises:
            PayloadError: the item does not fit.
            EnqueueError: its shard or id cannot be made.
        """
        task, shard = self._task, self._options.shard
        given, decoded = self._options.id, None
        message_id = _ids.take(1)[0] if given is None else checked_id(given)
        try:
            [body] = task.codec.encode_many([message_id], [item], group_task=task.envelope_task)
        except PayloadError as error:
            raise PayloadError(str(error).removeprefix("item 0: ")) from error.__cause__
        if shard is not None:
            key = shard_text(shard(item) if callable(shard) else shard)
        elif task.policy.shard is not None:
            decoded = task.codec.decode(body)
            key = task.sharding.of_call(decoded[1], decoded[2])
        else:
            key = ""
        unique = None
        if self._uniqueness is not None:
            _, args, kwargs = decoded or task.codec.decode(body)
            given_key = self._options.unique_key
            unique = self._unique_key(
                args, kwargs, given_key(item) if callable(given_key) else None
            )
        return self._put(key, self._priority_of_item(item), [body], [message_id], unique)

    def _put(
        self,
        shard: str,
        priority: int,
        bodies: list[bytes],
        ids: Sequence[str],
        keys: list[str] | None = None,
    ) -> Put:
        ttl = self._result_ttl
        return Put(
            self._task.group,
            bodies,
            shard,
            priority,
            self._delay,
            self._due,
            ids if ttl else None,
            max(1, round(ttl * 1e6)) if ttl else 0,
            self._task.envelope_task,
            self._uniqueness.keys(keys) if keys is not None and self._uniqueness else None,
            self._expires,
        )

    def _unique_key(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], given: object = None
    ) -> list[str] | None:
        """The key of a message; None if it has none."""
        if self._uniqueness is None:
            return None
        if given is None:
            given = self._options.unique_key
        if callable(given):
            raise EnqueueError(
                "unique_key= may be a function only for enqueue_many: give its value"
            )
        if given is not None:
            return [self._uniqueness.of_value(given)]
        return [self._uniqueness.of_call(args, kwargs)]

    def _shard(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        if callable(self._options.shard):
            raise EnqueueError("shard= may be a function only for enqueue_many: give its value")
        if self._options.shard is not None:
            return shard_text(self._options.shard)
        return self._task.sharding.of_call(args, kwargs)

    # Many

    def _chunks(self, items: Iterable[Any]) -> Iterator[tuple[Sequence[str] | Standing, list[Put]]]:
        if isinstance(items, (str, bytes)):
            raise EnqueueError("enqueue_many takes many items; enqueue takes one text or bytes")
        if isinstance(items, Mapping):
            raise EnqueueError(
                "enqueue_many takes many items, and of a mapping only the keys would be stored: "
                "give a list of items, or its keys(), values() or items()"
            )
        if not isinstance(items, Iterable):
            raise EnqueueError(f"enqueue_many takes an iterable of items, not {items!r}")
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
                lanes = self._lanes(chunk[first:last], position - len(chunk) + first)
                if self._uniqueness is None:
                    yield part, self._grouped(lanes, part, bodies[first:last])
                else:
                    items = chunk[first:last]
                    yield self._grouped_unique(items, lanes, part, bodies[first:last])

    def _encode(self, chunk: list[Any]) -> tuple[Sequence[str], list[bytes]]:
        make_id = self._options.id
        ids: Sequence[str]
        if make_id is None:
            ids = _ids.take(len(chunk))
        elif callable(make_id):
            ids = [checked_id(make_id(item)) for item in chunk]
        else:
            raise EnqueueError("enqueue_many needs an id per item: give id= as a function of it")
        return ids, self._task.codec.encode_many(ids, chunk, group_task=self._task.envelope_task)

    def _grouped(
        self, lanes: Iterable[tuple[str, int]] | None, ids: Sequence[str], bodies: list[bytes]
    ) -> list[Put]:
        if lanes is None:
            return [self._put(*self._common_lane(), bodies, ids)]
        if not self._task.result_ttl:
            of_lane: defaultdict[tuple[str, int], list[bytes]] = defaultdict(list)
            for key, body in zip(lanes, bodies, strict=True):
                of_lane[key].append(body)
            return [self._put(*key, some, ()) for key, some in of_lane.items()]
        groups: dict[tuple[str, int], tuple[list[bytes], list[str]]] = {}
        for key, message_id, body in zip(lanes, ids, bodies, strict=True):
            group = groups.get(key)
            if group is None:
                group = groups[key] = ([], [])
            group[0].append(body)
            group[1].append(message_id)
        return [self._put(*key, *group) for key, group in groups.items()]

    @property
    def _is_one_lane(self) -> bool:
        """Whether shard and priority are those of all items."""
        own, said = self._task.policy.shard, self._options
        return own is None and not any(
            callable(value) or isinstance(value, list) for value in (said.shard, said.priority)
        )

    def _common_lane(self) -> tuple[str, int]:
        return shard_text(self._options.shard), self._priority_of_item(None)

    def _grouped_unique(
        self,
        items: Sequence[Any],
        lanes: Iterable[tuple[str, int]] | None,
        ids: Sequence[str],
        bodies: list[bytes],
    ) -> tuple[Standing, list[Put]]:
        """Puts by lane, and of which of them each message will learn whether it stands."""
        keys = self._unique_keys(items)
        if lanes is None:
            put = self._put(*self._common_lane(), bodies, ids, keys)
            return Standing(ids, [(put.unique, range(len(ids)))] if put.unique else []), [put]
        of_lane: dict[tuple[str, int], list[int]] = {}
        for index, own in enumerate(lanes):
            of_lane.setdefault(own, []).append(index)
        puts: list[Put] = []
        parts: list[tuple[Keys, Sequence[int]]] = []
        for own, indices in of_lane.items():
            some = [[values[index] for index in indices] for values in (ids, keys)]
            put = self._put(*own, [bodies[index] for index in indices], *some)
            puts.append(put)
            if put.unique is not None:
                parts.append((put.unique, indices))
        return Standing(ids, parts), puts

    def _unique_keys(self, items: Sequence[Any]) -> list[str]:
        uniqueness, given = self._uniqueness, self._options.unique_key
        if uniqueness is None:
            return []
        if given is None:
            return uniqueness.of_items(items)
        return [uniqueness.of_value(given(item) if callable(given) else given) for item in items]

    def _lanes(self, items: Sequence[Any], first: int) -> Iterator[tuple[str, int]] | None:
        """Shard and priority of each item; None: they are the same.

        Arguments:
            items: the items.
            first: which of all items the first of these is.
        """
        if self._is_one_lane:
            return None
        priority = self._options.priority
        priorities: Iterable[int] = (
            _part("priority", priority, first, len(items))
            if isinstance(priority, list)
            else map(self._priority_of_item, items)
        )
        return zip(self._shards(items, first), priorities, strict=True)

    def _shards(self, items: Sequence[Any], first: int) -> Iterable[str]:
        shard = self._options.shard
        if callable(shard):
            return (shard_text(shard(item)) for item in items)
        if isinstance(shard, list):
            return _shard_texts(_part("shard", shard, first, len(items)))
        if shard is not None:
            return itertools.repeat(shard_text(shard), len(items))
        return map(self._task.sharding.of_item, items)

    def _priority_of_item(self, item: Any) -> int:
        priority = self._options.priority
        if priority is None:
            return self._task.policy.priority
        return _priority(priority(item) if callable(priority) else priority)


def _shard_texts(values: list[Any]) -> Iterable[str]:
    """The keys of shards; of what mostly are the same few, each is made once."""
    if set(map(type, values)) <= {int, str}:  # else equal ones may have other texts
        texts = {value: shard_text(value) for value in set(values)}
        return [texts[value] for value in values]
    return map(shard_text, values)


def _known_priorities(given: object) -> Sequence[object]:
    """What of priorities can be checked before there are items."""
    if isinstance(given, list):
        return list(set(given)) if set(map(type, given)) == {int} else given
    return () if given is None or callable(given) else (given,)


def _part(option: str, values: list[T], first: int, number: int) -> list[T]:
    part = values[first : first + number]
    if len(part) < number:
        raise EnqueueError(
            f"a list of {option}= needs a value per item; it has {len(values):,}, and there are "
            f"more items"
        )
    return part


def _stored(puts: Sequence[Put]) -> int:
    """How many messages of puts are stored: not those that unique keys kept back."""
    return sum([len(put.bodies) - _kept_back(put) for put in puts])


def _kept_back(put: Put) -> int:
    keys = put.unique
    # A debounced message that found its key held is stored in place of another.
    return 0 if keys is None or keys.mode is Mode.DEBOUNCE else len(keys.standing or ())


def _by_bytes(bodies: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Cut a chunk where its bytes would stall everybody else for too long."""
    if sum(map(len, bodies)) <= CHUNK_BYTES:
        yield 0, len(bodies)
        return
    first = size = 0
    for index, body in enumerate(bodies):
        if size and size + len(body) > CHUNK_BYTES:
            yield first, index
            first, size = index, 0
        size += len(body)
    yield first, len(bodies)


def _due(moment: datetime) -> int:
    try:
        due = moment.timestamp()
    except (OverflowError, ValueError):  # naive, and at the edge of what a datetime can be
        due = math.inf
    if due > time.time() + LONGEST:
        raise EnqueueError(f"due must be within a hundred years, not {moment}")
    return max(1, round(due * 1e6))


def _priority(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in PRIORITIES:
        raise EnqueueError(
            f"priority must be a whole number from {PRIORITIES.start} to "
            f"{PRIORITIES.stop - 1}, not {value!r}"
        )
    return value
