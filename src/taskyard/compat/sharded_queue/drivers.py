"""Where requests wait, and who keeps two workers from one thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, NamedTuple, TypeVar

from taskyard import Yard
from taskyard.brokers.base import Broker, Group, Operation
from taskyard.brokers.urls import broker_of
from taskyard.compat.sharded_queue.handlers import Handler, find_handler
from taskyard.compat.sharded_queue.requests import JsonTupleSerializer, Serializer, read_request
from taskyard.compat.sharded_queue.settings import settings
from taskyard.compat.sharded_queue.tasks import make_task, priority_of, route_priority
from taskyard.errors import NotFound
from taskyard.task import BatchTask

__all__ = [
    "Coordinator",
    "JsonTupleSerializer",
    "RedisCoordinator",
    "RedisLock",
    "RedisStorage",
    "RuntimeCoordinator",
    "RuntimeLock",
    "RuntimeStorage",
    "Storage",
]

R = TypeVar("R")

PAGE = 1000
"""Requests that are looked at with one call."""


class Coordinator:
    """Takes the place of the original's: that two workers never have one thread is the storage's.

    So each worker may have one of its own.
    """


class RuntimeCoordinator(Coordinator):
    """For workers of one process."""


class RedisCoordinator(Coordinator):
    """For workers of any number of processes.

    Arguments:
        redis: a client object of redis-py.
    """

    def __init__(self, redis: Any) -> None:
        self.redis = redis


RuntimeLock = RuntimeCoordinator
RedisLock = RedisCoordinator


class Storage:
    """Where requests wait.

    A pipe is what `Tube.pipe` gives; what its methods give and take are requests as texts, by the
    serializer of the queue. A batch that is being handled is not in its pipe.

    Arguments:
        source: a URL, a broker or a client object.

    Attributes:
        broker: the core's.
        serializer: makes texts of requests.
    """

    def __init__(self, source: object) -> None:
        self.broker: Broker = broker_of(source)
        self.serializer: Serializer = JsonTupleSerializer()
        self._yards: dict[str, Yard] = {}
        self._tasks: dict[object, BatchTask[Any, None]] = {}
        self._loops: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}

    @property
    def yard(self) -> Yard:
        """The tasks of the present `tube_prefix`."""
        prefix = settings.tube_prefix
        yard = self._yards.get(prefix)
        if yard is None:
            yard = self._yards[prefix] = Yard(self.broker)
        return yard

    def task(self, handler: type[Handler[Any]]) -> BatchTask[Any, None]:
        """The task of a handler, to put messages for it."""
        key = (handler, settings.tube_prefix, self.serializer)
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = make_task(self.yard, handler, self.serializer)
        return task

    async def opened(self) -> Yard:
        """The yard, whose connections are closed when the running event loop ends.

        Nothing in the document closes a storage, so it has itself closed: an event loop closes
        asynchronous generators before it ends.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops[loop] = self._until_the_end_of(loop)
            await anext(self._loops[loop])
        return self.yard

    async def _until_the_end_of(
        self, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._loops.pop(loop, None)
            if not self._loops:
                await self.aclose()

    async def pipes(self) -> list[str]:
        """The pipes in which requests wait."""
        pipes: list[str] = []
        for counts in await self._run(self.broker.counts()):
            group = counts.group
            if group.queue != f"{settings.tube_prefix}{group.name}":
                continue
            handler = find_handler(group.name)
            for shard, priority, _ in await self._run(self.broker.waiting(group)):
                pipes.append(f"{group.name}/{shard}/{route_priority(handler, priority)}")
        return pipes

    async def length(self, pipe: str) -> int:
        """How many requests wait in a pipe."""
        place = self._place(pipe)
        found = await self._run(self.broker.waiting(place.group, place.shard))
        return sum(messages for _, priority, messages in found if priority == place.priority)

    async def range(self, pipe: str, max: int) -> list[str]:  # noqa: A002 - as the original has it
        """The first requests of a pipe, so many at most."""
        return [text for _, text in await self._read(self._place(pipe), 0, max)]

    async def contains(self, pipe: str, msg: str) -> bool:
        """Whether a request waits in a pipe."""
        return bool(await self.find(pipe, [msg]))

    async def find(self, pipe: str, msgs: Iterable[str]) -> dict[int, int]:
        """The requests of which an equal one waits in a pipe.

        Returns:
            By their positions among `msgs`: the number of the first equal one.
        """
        place = self._place(pipe)
        request = place.handler.request_cls()
        wanted: dict[str, list[int]] = {}
        for index, msg in enumerate(msgs):
            text = self.serializer.serialize(read_request(self.serializer, request, msg))
            wanted.setdefault(text, []).append(index)
        found: dict[int, int] = {}
        first = 0
        while wanted and (page := await self._read(place, first, PAGE)):
            for sequence, text in page:
                found.update(dict.fromkeys(wanted.pop(text, ()), sequence))
            first += PAGE
        return found

    async def append(self, pipe: str, *msgs: str) -> int:
        """Put requests behind those of a pipe; returns how many wait there then."""
        place = self._place(pipe)
        request = place.handler.request_cls()
        requests = [read_request(self.serializer, request, msg) for msg in msgs]
        options = {"shard": place.shard, "priority": place.priority}
        await self.opened()
        await self.task(place.handler).aenqueue_many(requests, **options)
        return await self.length(pipe)

    async def pop(self, pipe: str, max: int) -> list[str]:  # noqa: A002 - as the original has it
        """Take the first requests out of a pipe, so many at most; they are not handled."""
        place = self._place(pipe)
        found = dict(await self._read(place, 0, max))
        return [found[sequence] for sequence in await self._withdraw(place, list(found))]

    async def remove(self, pipe: str, msg: str) -> None:
        """Take the first request that is the same out of a pipe, if there is one."""
        found = await self.find(pipe, [msg])
        if found:
            await self._withdraw(self._place(pipe), list(found.values()))

    async def aclose(self) -> None:
        """Close the connections that were opened here; the storage can be used again."""
        for yard in self._yards.values():
            await yard.aclose()

    def _place(self, pipe: str) -> _Place:
        name, thread, priority = (["", "", "", *pipe.rsplit("/", 2)])[-3:]
        handler = find_handler(name)
        if handler is None or not priority.removeprefix("-").isdigit():
            raise NotFound(
                f"no handler of the pipe {pipe!r} is defined here: import its module, and name the "
                f"pipe by Tube(handler, route).pipe"
            )
        group = self.task(handler).group
        return _Place(handler, group, thread, priority_of(handler, int(priority)))

    async def _read(self, place: _Place, first: int, limit: int) -> list[tuple[int, str]]:
        """Requests with their sequences."""
        found = await self._run(
            self.broker.peek(place.group, place.shard, place.priority, first=first, limit=limit)
        )
        decode, serialize = self.task(place.handler).codec.decode_item, self.serializer.serialize
        return [(one.sequence, serialize(decode(one.body)[1])) for one in found]

    async def _withdraw(self, place: _Place, sequences: list[int]) -> list[int]:
        return await self._run(
            self.broker.withdraw(place.group, place.shard, place.priority, sequences)
        )

    async def _run(self, operation: Operation[R]) -> R:
        return await (await self.opened()).async_driver.run(operation)


class _Place(NamedTuple):
    """What a pipe means."""

    handler: type[Handler[Any]]
    group: Group
    shard: str
    priority: int


class RuntimeStorage(Storage):
    """Requests in the memory of this process."""

    def __init__(self) -> None:
        super().__init__("memory://")


class RedisStorage(Storage):
    """Requests in Redis.

    Arguments:
        redis: a client object of redis-py, synchronous or not, with or without
            `decode_responses`. It says where the server is; its connections are not used.

    Raises:
        BrokerError: it is no such client, or has a setting that cannot be carried over.
    """

    def __init__(self, redis: Any) -> None:
        super().__init__(redis)
        self.redis = redis
