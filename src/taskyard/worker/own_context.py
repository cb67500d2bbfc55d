"""A context (in the sense of `contextvars`) of its own for every handler call.

What a handler sets, a tenant or a log field, must not be seen by the next message that runs in the
same thread or task.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from typing import Any

from taskyard.context import Context, running

__all__ = ["OwnContext", "variables_for"]


def variables_for(context: Context) -> Variables:
    """A copy of the current context variables, in which a handler runs with `context`."""
    variables = copy_context()
    variables.run(running.set, context)
    return variables


class OwnContext:
    """Awaits a call in a context of its own, without the cost of a task.

    Arguments:
        variables: the context variables that it runs in.
        function: gives something to await.
        args: its arguments by position.
        kwargs: its arguments by name.
    """

    def __init__(
        self,
        variables: Variables,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:
        self._variables = variables
        self._coroutine: Coroutine[Any, Any, Any] = _call(function, args, kwargs)

    def __await__(self) -> Generator[Any, Any, Any]:
        step, value = self._coroutine.send, None
        while True:
            try:
                awaited = self._variables.run(step, value)
            except StopIteration as end:
                return end.value
            try:
                value = yield awaited
                step = self._coroutine.send
            except BaseException as error:  # noqa: BLE001 - a cancellation, say: it is the handler's
                step, value = self._coroutine.throw, error


async def _call(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    return await function(*args, **kwargs)
