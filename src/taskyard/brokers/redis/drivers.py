"""Running operations on a Redis, from threads and from event loops."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from taskyard.brokers.base import Listener, Operation
from taskyard.brokers.redis.async_lines import AsyncLines
from taskyard.brokers.redis.attempts import Check, Scene
from taskyard.brokers.redis.bell import Bell, Leave
from taskyard.brokers.redis.lines import Pool
from taskyard.brokers.redis.options import RedisOptions
from taskyard.brokers.redis.outages import Outages

__all__ = ["RedisAsyncDriver", "RedisDriver"]

T = TypeVar("T")


class RedisDriver:
    """Runs operations in the calling thread; as many at once as there may be connections.

    Arguments:
        options: where the server is.
        clock: gives microseconds, for tests; None: the server's clock.
        check: looks at each server before its first call.
        leave: makes the operation by which the broker forgets a listener.
        outages: where those are noted that it meets; None: it has its own.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Callable[[], int] | None = None,
        check: Check | None = None,
        leave: Leave | None = None,
        outages: Outages | None = None,
    ) -> None:
        outages = Outages() if outages is None else outages
        self._pool = Pool(options, clock, check, outages)
        self._bell = Bell(options, clock, leave, outages)

    def run(self, operation: Operation[T]) -> T:
        """See `Driver.run`."""
        return self._pool.run(operation)

    def listener(self) -> Listener:
        """See `Driver.listener`."""
        return self._bell.listener()

    def close(self) -> None:
        """See `Driver.close`."""
        self._bell.close()
        self._pool.close()


class RedisAsyncDriver:
    """Runs operations on event loops; as many at once as there may be connections.

    Each loop has its own connections, and so has a child after a fork.

    Arguments:
        options: where the server is.
        clock: gives microseconds, for tests; None: the server's clock.
        check: looks at each server before its first call.
        leave: makes the operation by which the broker forgets a listener.
        outages: where those are noted that it meets; None: it has its own.
    """

    def __init__(
        self,
        options: RedisOptions,
        clock: Callable[[], int] | None = None,
        check: Check | None = None,
        leave: Leave | None = None,
        outages: Outages | None = None,
    ) -> None:
        outages = Outages() if outages is None else outages
        self._scene = partial(Scene, options, clock, check, outages)
        self._bell = Bell(options, clock, leave, outages)
        self._pid = os.getpid()
        self._loops: dict[asyncio.AbstractEventLoop, AsyncLines] = {}

    def _own(self) -> AsyncLines:
        loop = asyncio.get_running_loop()
        lines = self._loops.get(loop)
        if lines is None or self._pid != os.getpid():
            lines = self._begin(loop)
        return lines

    def _begin(self, loop: asyncio.AbstractEventLoop) -> AsyncLines:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._loops = {}  # the sockets, and the selectors of the loops, are the parent's
        for old in [old for old in self._loops if old.is_closed()]:
            self._loops.pop(old).close()
        self._loops[loop] = lines = AsyncLines(self._scene())
        return lines

    async def run(self, operation: Operation[T]) -> T:
        """See `AsyncDriver.run`."""
        return await self._own().run(operation)

    def listener(self) -> Listener:
        """See `AsyncDriver.listener`."""
        return self._bell.listener()

    async def close(self) -> None:
        """See `AsyncDriver.close`."""
        loop = asyncio.get_running_loop()
        lines = self._loops.pop(loop, None)
        if lines is not None and self._pid == os.getpid():
            await lines.finish()
        await loop.run_in_executor(None, self._bell.close)
        self.shut_down()

    def shut_down(self) -> None:
        """See `AsyncDriver.shut_down`."""
        if self._pid != os.getpid():
            self._loops = {}
        while self._loops:
            loop, lines = self._loops.popitem()
            if loop.is_running():
                with contextlib.suppress(RuntimeError):  # closed meanwhile
                    loop.call_soon_threadsafe(lines.close)
            else:
                lines.close()
        self._bell.close()
