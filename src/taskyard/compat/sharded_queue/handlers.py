"""What a program declares: handlers, and the routes of their requests."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from inspect import Parameter
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, get_args, get_origin

from taskyard.annotations import inspect_handler
from taskyard.compat.sharded_queue.changes import note_change
from taskyard.compat.sharded_queue.settings import settings
from taskyard.errors import PolicyError

__all__ = [
    "Handler",
    "Route",
    "Tube",
    "awaited",
    "check_handler",
    "defined_handlers",
    "find_handler",
    "name_of",
]

T = TypeVar("T")

log = logging.getLogger("taskyard.sharded_queue")


class _Route(NamedTuple):
    thread: int
    priority: int


class Route(_Route):
    """Where a request waits.

    Arguments:
        thread: requests of one thread are handled in order, by one worker at a time;
            `settings.default_thread` if left out.
        priority: lower first within the thread, or as the handler's `priorities` say;
            `settings.default_priority` if left out. -1024 to 1023.
    """

    __slots__ = ()

    def __new__(cls, thread: int | None = None, priority: int | None = None) -> Self:
        if thread is None:
            thread = settings.default_thread
        if priority is None:
            priority = settings.default_priority
        return tuple.__new__(cls, (thread, priority))


class Handler(Generic[T]):
    """Handles requests in batches. A subclass is known to workers by being defined.

    Attributes:
        priorities: priorities in the order in which they are served, others behind them; None:
            lower first.
    """

    priorities: ClassVar[list[int] | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _defined[name_of(cls)] = cls
        note_change()

    @classmethod
    async def create(cls) -> Self:
        """Make a handler when a worker binds a thread; override it to pass dependencies."""
        return cls()

    @classmethod
    def request_cls(cls) -> type[T]:
        """The class of its requests.

        Raises:
            PolicyError: no annotation tells it.
        """
        found: type[T] | None = _request_type(cls)
        if found is None:
            raise PolicyError(
                f"it is not known what the requests of {name_of(cls)} are: annotate the *requests "
                f"of its handle(), perform() or route() with their class"
            )
        return found

    @classmethod
    async def route(cls, *requests: T) -> list[Route]:
        """Say for each request where it waits."""
        return [Route() for _ in requests]

    async def start(self) -> None:
        """Called when a worker has bound a thread, before its first request."""

    async def perform(self, *requests: T) -> None:
        """Handle a batch of requests. Override it, or `handle`."""
        raise NotImplementedError(f"{name_of(type(self))} defines neither perform() nor handle()")

    async def handle(self, *requests: T) -> None:
        """Handle a batch of requests: calls `perform`, unless it is overridden."""
        await awaited(self.perform(*requests))

    async def stop(self) -> None:
        """Called when the worker leaves the thread."""

    def batch_size(self) -> int | None:
        """Say how many requests it gets at once; None: `settings.worker_batch_size`.

        A worker asks when its loop begins, one instance that `create` makes for that.
        """
        return None

    @classmethod
    def is_complete(cls) -> bool:
        """Whether it can be worked with: it overrides a method whose requests are of a class."""
        if cls.handle is Handler.handle and cls.perform is Handler.perform:
            return False
        if cls.request_cls.__func__ is Handler.request_cls.__func__:  # type: ignore[attr-defined]
            try:
                return _request_type(cls) is not None
            except PolicyError as error:
                log.error("requests of %s are left waiting: %s", name_of(cls), error)
                return False
        return True  # it says so itself


class Tube(NamedTuple):
    """The requests of a handler that have a route in common.

    Attributes:
        handler: whose.
        route: their thread and priority.
    """

    handler: type[Handler[Any]]
    route: Route

    @property
    def pipe(self) -> str:
        """Its name, as methods of storages take it."""
        return f"{name_of(self.handler)}/{self.route.thread}/{self.route.priority}"


_defined: dict[str, type[Handler[Any]]] = {}


def name_of(handler: type[Handler[Any]]) -> str:
    """What a handler is known by in all processes."""
    return f"{handler.__module__}/{handler.__name__}"


def check_handler(given: object) -> None:
    """Check that something is a handler.

    Raises:
        PolicyError: it is none.
    """
    if not (isinstance(given, type) and issubclass(given, Handler)):
        raise PolicyError(f"a handler is a subclass of Handler, not {given!r}")


async def awaited(value: Any) -> Any:
    """What a method of a handler gave, which may be async or not."""
    return await value if inspect.isawaitable(value) else value


def defined_handlers() -> Iterator[type[Handler[Any]]]:
    """The handlers that this process can work with now, the last one of each name."""
    return (handler for handler in list(_defined.values()) if handler.is_complete())


def find_handler(name: str) -> type[Handler[Any]] | None:
    """The handler of a name; None: none is defined here, and none is imported."""
    return _defined.get(name)


def _request_type(handler: type[Handler[Any]]) -> Any:
    """The annotation of whichever of its methods is overridden; None if there is none.

    Raises:
        PolicyError: an annotation names what cannot be found.
    """
    methods = [getattr(handler, name) for name in ("handle", "perform")]
    own = [method for method in methods if method.__module__ != __name__]
    for method in [*own, handler.route]:
        function = getattr(method, "__func__", method)
        signature = inspect_handler(function, task=name_of(handler), skip_self=True)
        for argument in signature.arguments:
            if argument.kind is Parameter.VAR_POSITIONAL and _tells(argument.type):
                return argument.type
    return _type_argument(handler)


def _type_argument(handler: type[Handler[Any]]) -> Any:
    """`X` of a `class Some(Handler[X])`."""
    for base in getattr(handler, "__orig_bases__", ()):
        if get_origin(base) is Handler and _tells(get_args(base)[0]):
            return get_args(base)[0]
    return None


def _tells(annotation: Any) -> bool:
    return annotation is not Any and not isinstance(annotation, TypeVar)
