"""The tasks that a program declares: made, checked against each other, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from taskyard.codec import Codec
from taskyard.enqueue import Outlet
from taskyard.errors import NotFound, PolicyError
from taskyard.packing import Packing
from taskyard.policy import Policy, checked_name, policy
from taskyard.task import ORDER, BatchTask, Handler, Task

__all__ = ["BatchMaker", "Registry", "TaskMaker"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class TaskMaker(Protocol):
    """What `@yard.task(...)` decorates a function with."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: type[Handler[T]], /) -> Task[[T], Any]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BatchMaker(Protocol):
    """The same with `batch=`: the function takes a list."""

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


class Registry:
    """Tasks by name.

    Arguments:
        outlet: where their messages are put.
        packing: what is done to these.

    Attributes:
        tasks: the tasks that were declared.
    """

    def __init__(self, outlet: Outlet, packing: Packing) -> None:
        self.tasks: dict[str, Task[..., Any]] = {}
        self._outlet = outlet
        self._packing = packing

    def declare(
        self, function: Any, name: str | None, declared: Policy, *, shared: bool
    ) -> Task[..., Any]:
        """Make a task; see `Yard.task`.

        Arguments:
            function: its handler.
            name: its own; the function's, if left out.
            declared: its policy.
            shared: whether workers in other processes have to find the function.

        Raises:
            PolicyError: something of it is wrong, or contradicts another task.
        """
        _check_handler(function)
        if name is None:
            _check_importable(function, shared=shared)
        chosen = checked_name("name", function.__name__ if name is None else name)
        self._check_free(chosen)
        kind: type[Task[..., Any]] = Task if declared.batch is None else BatchTask
        task = kind(self._outlet, chosen, function, declared, packing=self._packing)
        self._check_order(task)
        self.tasks[chosen] = task
        return task

    def _check_free(self, name: str) -> None:
        if name.startswith(ORDER):
            raise PolicyError(
                f"a task cannot be called {name!r}: its messages would be among those of "
                f"order={name.removeprefix(ORDER)!r}"
            )
        if name in self.tasks:
            raise PolicyError(
                f"there are two tasks called {name!r}; their messages could not be told apart. "
                f"Give one of them another name=, or its function"
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
        queue: str | None,
        batch: bool,
        order: str | None,
        codec: Codec | Sequence[Codec] | None,
    ) -> Task[..., Any]:
        """Make a task that is declared elsewhere, and leave it out of `tasks`; see `Yard.remote`.

        Raises:
            PolicyError: a name is wrong, or the order is not that of the task of the name here.
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
        return kind(self._outlet, name, elsewhere, declared, packing=self._packing, known=False)

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

    def find(self, task: Task[..., Any] | str) -> Task[..., Any]:
        """Find a task by its name; a task is itself.

        Raises:
            NotFound: there is none of the name.
        """
        if isinstance(task, Task):
            return task
        if task not in self.tasks:
            known = ", ".join(sorted(self.tasks)) or "none"
            raise NotFound(f"this yard has no task {task!r}; it has {known}")
        return self.tasks[task]


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


def _check_importable(function: Any, *, shared: bool) -> None:
    own = getattr(function, "__name__", None)
    qualified = getattr(function, "__qualname__", own or "")
    if own is None or own == "<lambda>":
        raise PolicyError(f"{function!r} has no name that a worker could know it by: give name=")
    if "<locals>" in qualified and shared:
        raise PolicyError(
            f"{qualified} is defined inside a function, so a worker process that imports "
            f"{function.__module__} does not find it. Move it to the module, or give name= "
            f"if every worker process declares it as this one does"
        )
