"""Carrying out a script of handler calls: in a thread, or on an event loop.

A script is a generator that yields calls and is sent what they returned or raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextvars import Context as Variables
from functools import partial
from types import CoroutineType
from typing import Any, TypeAlias

from taskyard.worker.calls import Invocation
from taskyard.worker.hooks import Hooks
from taskyard.worker.own_context import OwnContext, variables_for
from taskyard.worker.verdict import HandlerTimeout

__all__ = ["OnLoop", "Reply", "Script", "run_here"]

Reply: TypeAlias = tuple[Any, BaseException | None]
"""What a call returned, and what it raised."""

Script: TypeAlias = Generator[Invocation, Reply, None]


def run_here(script: Script, hooks: Hooks | None) -> None:
    """Run the calls of a script in this thread.

    Arguments:
        script: what to run.
        hooks: the middleware around each call, if there is any.
    """
    call = _call if hooks is None else partial(_call_within, hooks)
    try:
        invocation = next(script)
        while True:
            invocation = script.send(call(invocation, variables_for(invocation.context)))
    except StopIteration:
        pass


def _call(invocation: Invocation, variables: Variables) -> Reply:
    try:
        value = variables.run(invocation.function, *invocation.args, **invocation.kwargs)
        reply: Reply = (value, None)
        if type(value) is CoroutineType:
            reply = (None, _not_awaited(value))
    except BaseException as error:  # noqa: BLE001 - a handler may raise what it likes
        reply = (None, error)
    if invocation.context.timed_out:
        reply = (None, _late(invocation, reply[1]))
    return reply


def _call_within(hooks: Hooks, invocation: Invocation, variables: Variables) -> Reply:
    around = variables.run(hooks.enter, invocation.context)
    reply = _call(invocation, variables)
    variables.run(hooks.leave, around, reply[1])
    return reply


class OnLoop:
    """Runs the calls of a script on an event loop.

    Arguments:
        hooks: the middleware around each call, if there is any.
    """

    def __init__(self, hooks: Hooks | None) -> None:
        self._hooks = hooks
        self._cancels = 0  # of the call that runs, because its message was cancelled

    def expect_cancel(self) -> None:
        """Say that the call that runs is about to be cancelled, and not what runs the script."""
        self._cancels += 1

    async def run(self, script: Script) -> None:
        """Run the calls of a script."""
        call = self._await if self._hooks is None else partial(self._await_within, self._hooks)
        try:
            invocation = next(script)
            while True:
                invocation = script.send(await call(invocation, variables_for(invocation.context)))
        except StopIteration:
            pass

    async def _await_within(
        self, hooks: Hooks, invocation: Invocation, variables: Variables
    ) -> Reply:
        around = variables.run(hooks.enter, invocation.context)
        error: BaseException | None = None
        try:
            reply = await self._await(invocation, variables)
            error = reply[1]
            return reply
        except BaseException as raised:
            error = raised
            raise
        finally:
            variables.run(hooks.leave, around, error)

    async def _await(self, invocation: Invocation, variables: Variables) -> Reply:
        function, args, kwargs, context, timeout = invocation
        call = OwnContext(variables, function, args, kwargs)
        try:
            if timeout is None:
                return await call, None
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    return await call, None
            except TimeoutError as error:
                if not limit.expired():
                    return None, error
                context.time_out()
                return None, _late(invocation, error)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling() > self._cancels:
                raise
            return None, error  # its message was cancelled, or something inside the handler
        except BaseException as error:  # noqa: BLE001 - a handler may raise what it likes
            return None, error
        finally:
            self._forget_cancels()

    def _forget_cancels(self) -> None:
        """A message was cancelled, not what runs it: others follow."""
        task = asyncio.current_task()
        while self._cancels and task is not None:
            self._cancels -= 1
            task.uncancel()


def _not_awaited(value: CoroutineType[Any, Any, Any]) -> TypeError:
    """A decorator around an async function hid that it is one; nothing of it has run."""
    value.close()
    return TypeError("the handler is no async function, but returned an awaitable")


def _late(invocation: Invocation, error: BaseException | None) -> HandlerTimeout:
    late = HandlerTimeout(f"it took longer than the task's timeout of {invocation.timeout:g} s")
    late.__cause__ = error
    return late
