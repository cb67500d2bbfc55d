"""Handler classes: an instance per shard, for as long as its messages keep coming."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any

from taskyard.brokers.base import Claim, Group
from taskyard.task import Task

__all__ = ["Instances"]

log = logging.getLogger("taskyard.worker")

Key = tuple[Group, str, str]


class _Held:
    """An instance and who uses it."""

    def __init__(self, task: Task[..., Any]) -> None:
        self.task = task
        self.users = 0
        self.ready = asyncio.Lock()
        self.handler: Any = None
        self.timer: asyncio.TimerHandle | None = None


class Instances:
    """The handler instances of a worker.

    Arguments:
        threads: runs the life cycle methods of synchronous handlers.
    """

    def __init__(self, threads: Executor) -> None:
        self._threads = threads
        self._held: dict[Key, _Held] = {}
        self._stopping: set[asyncio.Task[None]] = set()

    async def acquire(
        self, claim: Claim, tasks: Mapping[str, Task[..., Any]]
    ) -> dict[tuple[str, str], Any]:
        """The instances for a claim, made and started where they are new.

        Arguments:
            claim: whose shards.
            tasks: the tasks of its group.

        Returns:
            By task and shard the instance, or the error that `create` or `start` raised.
        """
        # All are held before the first is waited for: a cancelled claim releases all.
        needed = {name: self._hold(key, task) for name, key, task in _needed(claim, tasks)}
        return {key: await self._started(held) for key, held in needed.items()}

    def acquire_ready(
        self, claim: Claim, tasks: Mapping[str, Task[..., Any]]
    ) -> dict[tuple[str, str], Any] | None:
        """The instances for a claim, if all are started already; None: `acquire` them.

        Arguments:
            claim: whose shards.
            tasks: the tasks of its group.
        """
        needed = _needed(claim, tasks)
        for _, key, _ in needed:
            held = self._held.get(key)
            if held is None or held.handler is None or isinstance(held.handler, BaseException):
                return None
        return {name: self._hold(key, task).handler for name, key, task in needed}

    def _hold(self, key: Key, task: Task[..., Any]) -> _Held:
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = _Held(task)
        held.users += 1
        if held.timer is not None:
            held.timer.cancel()
            held.timer = None
        return held

    async def _started(self, held: _Held) -> Any:
        async with held.ready:
            if held.handler is None or isinstance(held.handler, BaseException):
                held.handler = await self._make(held.task)
        return held.handler

    async def _make(self, task: Task[..., Any]) -> Any:
        handler_class: Any = task.function
        try:
            handler = await self._call(task, handler_class.create)
            if not callable(getattr(handler, "handle", None)):
                raise TypeError(f"create() returned {handler!r}, which has no handle()")
            await self._call(task, handler.start)
        except BaseException as error:  # the user's; its messages fail with it
            current = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and current and current.cancelling():
                raise
            return error
        return handler

    async def _call(self, task: Task[..., Any], method: Callable[[], Any]) -> Any:
        if task.is_async or inspect.iscoroutinefunction(method):
            value = method()
        else:
            loop = asyncio.get_running_loop()
            value = await loop.run_in_executor(self._threads, method)
        return await value if inspect.isawaitable(value) else value

    def release(self, claim: Claim, tasks: Mapping[str, Task[..., Any]]) -> None:
        """Let go of a claim's instances; each is stopped when it was idle for `linger`."""
        loop = asyncio.get_running_loop()
        for _, key, task in _needed(claim, tasks):
            held = self._held.get(key)
            if held is None:
                continue  # cancelled before it was acquired
            held.users -= 1
            if held.users == 0:
                held.timer = loop.call_later(task.policy.linger, self._retire, key)

    def _retire(self, key: Key) -> None:
        held = self._held.get(key)
        if held is None or held.users:
            return
        del self._held[key]
        stopping = asyncio.get_running_loop().create_task(self._stop(held))
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    async def _stop(self, held: _Held) -> None:
        if held.handler is None or isinstance(held.handler, BaseException):
            return
        try:
            await self._call(held.task, held.handler.stop)
        except Exception:  # the user's; there is no message that could fail with it
            log.exception("stop() of a handler of task %s raised", held.task.name)

    async def close(self) -> None:
        """Stop all that are idle, and wait for them."""
        for key, held in list(self._held.items()):
            if held.timer is not None:
                held.timer.cancel()
            if not held.users:
                self._retire(key)
        if self._stopping:
            await asyncio.gather(*self._stopping)


def _needed(
    claim: Claim, tasks: Mapping[str, Task[..., Any]]
) -> list[tuple[tuple[str, str], Key, Task[..., Any]]]:
    """What a claim needs instances of: task and shard, the key of the instance, the task."""
    return [
        ((task.name, lane.shard), (claim.group, task.name, lane.shard), task)
        for task in tasks.values()
        if task.is_class
        for lane in claim.lanes
    ]
