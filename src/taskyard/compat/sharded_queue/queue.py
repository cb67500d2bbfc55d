"""The queue: requests go to where their handler routes them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Generic, TypeVar

from taskyard.compat.sharded_queue.drivers import Storage
from taskyard.compat.sharded_queue.handlers import Handler, Route, Tube, awaited, check_handler
from taskyard.compat.sharded_queue.recurrence import schedule_name, when_of
from taskyard.compat.sharded_queue.requests import Serializer
from taskyard.compat.sharded_queue.settings import settings
from taskyard.compat.sharded_queue.tasks import priority_of
from taskyard.errors import EnqueueError, PolicyError
from taskyard.schedule import When
from taskyard.values import brief

__all__ = ["Queue"]

T = TypeVar("T")


class Queue(Generic[T]):
    """Registers requests.

    Arguments:
        storage: where they wait.
        serializer: how they are encoded, instead of by their types.

    Raises:
        PolicyError: the storage is none of this package's.
    """

    def __init__(self, storage: Storage, serializer: Serializer | None = None) -> None:
        if not isinstance(storage, Storage):
            raise PolicyError(
                f"a queue needs a RuntimeStorage or a RedisStorage of taskyard.compat."
                f"sharded_queue, not {storage!r}"
            )
        self.storage = storage
        if serializer is not None:
            storage.serializer = serializer
        self.serializer = storage.serializer

    async def register(
        self,
        handler: type[Handler[Any]],
        *requests: T,
        defer: float | timedelta | None = None,
        recurrent: float | timedelta | Any = None,
        if_not_exists: bool = False,
    ) -> None:
        """Store requests; they are kept when this returns.

        Arguments:
            handler: whose `route` says where they wait.
            requests: in the order in which they are handled within a thread.
            defer: seconds until they may be handled; at once, if that is 0 or less.
            recurrent: handle them again and again: every so many seconds, or by an `rrule` of
                `dateutil` (or a schedule of taskyard). Each is one schedule; registered again, the
                same request has the new times.
            if_not_exists: leave out requests of which an equal one waits in its thread. One that
                was stored so keeps others away until it is done.

        Raises:
            PolicyError: the handler is none, it is not known what its requests are, or `defer` and
                `recurrent` are both given.
            PayloadError: a request does not fit its class.
            EnqueueError: a route or a time is wrong.
            BrokerError: the storage failed.
        """
        check_handler(handler)
        if defer and recurrent:
            raise PolicyError("defer= and recurrent= contradict each other: give one of them")
        routes = await _routes(handler, requests)
        if recurrent:
            await self._schedule(handler, requests, routes, when_of(recurrent))
            return
        options: dict[str, Any] = {}
        if defer is not None and not _is_over(defer):
            options["delay"] = defer
        missing: Sequence[T] = requests
        if if_not_exists:
            missing, routes = await self._missing(handler, requests, routes)
            options["unique_key"] = self.serializer.serialize
        if missing:
            await self._store(handler, missing, routes, options)

    async def _store(
        self,
        handler: type[Handler[Any]],
        requests: Sequence[T],
        routes: Sequence[tuple[int, int]],
        options: dict[str, Any],
    ) -> None:
        await self.storage.opened()
        ranks = {priority: priority_of(handler, priority) for _, priority in set(routes)}
        await self.storage.task(handler).aenqueue_many(
            requests,
            shard=[thread for thread, _ in routes],
            priority=[ranks[priority] for _, priority in routes],
            **options,
        )

    async def _missing(
        self,
        handler: type[Handler[Any]],
        requests: Sequence[T],
        routes: Sequence[tuple[int, int]],
    ) -> tuple[Sequence[T], Sequence[tuple[int, int]]]:
        """Those requests of which none waits, however it was stored."""
        of_route: dict[tuple[int, int], list[int]] = {}
        for index, route in enumerate(routes):
            of_route.setdefault(route, []).append(index)
        waiting: set[int] = set()
        for route, indices in of_route.items():
            msgs = [self.serializer.serialize(requests[index]) for index in indices]
            found = await self.storage.find(Tube(handler, Route(*route)).pipe, msgs)
            waiting.update(indices[position] for position in found)
        left = [index for index in range(len(requests)) if index not in waiting]
        return [requests[index] for index in left], [routes[index] for index in left]

    async def _schedule(
        self,
        handler: type[Handler[Any]],
        requests: Sequence[T],
        routes: Sequence[tuple[int, int]],
        when: When,
    ) -> None:
        storage = self.storage
        yard = await storage.opened()
        for request, route in zip(requests, routes, strict=True):
            text = self.serializer.serialize(request)
            enqueuer = storage.task(handler).options(
                shard=route[0], priority=priority_of(handler, route[1]), unique_key=text
            )
            pipe = Tube(handler, Route(*route)).pipe
            name = schedule_name(f"{settings.tube_prefix}{pipe}", text)
            await yard.schedules.aadd(enqueuer, request, when=when, name=name)


async def _routes(
    handler: type[Handler[Any]], requests: Sequence[Any]
) -> Sequence[tuple[int, int]]:
    routes = await awaited(handler.route(*requests)) if requests else []
    if not isinstance(routes, Sequence):
        raise EnqueueError(
            f"{handler.__qualname__}.route() must return a list of routes, not {brief(routes)}"
        )
    if len(routes) != len(requests):
        raise EnqueueError(
            f"{handler.__qualname__}.route() must return a route per request: it got "
            f"{len(requests)} and returned {len(routes)}"
        )
    for route in routes:
        if type(route) is not Route and not (isinstance(route, tuple) and len(route) == 2):
            raise EnqueueError(
                f"{handler.__qualname__}.route() must return Route(thread, priority) per request, "
                f"not {brief(route)}"
            )
    return routes


def _is_over(defer: object) -> bool:
    """Whether the time until which a request is deferred is over already."""
    if isinstance(defer, timedelta):
        return defer <= timedelta()
    return isinstance(defer, int | float) and not isinstance(defer, bool) and defer <= 0
