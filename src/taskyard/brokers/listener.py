"""A sleeper that is woken from within its own process: by a thread of any kind."""

from __future__ import annotations

import asyncio
import contextlib
import threading

__all__ = ["WokenListener"]


class WokenListener:
    """Lets a thread or a task sleep until `wake` is called. A wake-up is heard once.

    Arguments:
        name: what operations take as `listener`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._changed = threading.Condition()
        self._woken = False
        self._closed = False
        self._tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def wake(self) -> None:
        """End a wait: the one that is going on, or else the next."""
        with self._changed:
            self._woken = True
            self._notify()

    def wait(self, timeout: float) -> bool:
        """See `Listener.wait`."""
        with self._changed:
            self._changed.wait_for(self._is_over, min(timeout, threading.TIMEOUT_MAX))
            return self._consume()

    async def wait_async(self, timeout: float, also: asyncio.Event | None = None) -> bool:
        """See `Listener.wait_async`."""
        event = asyncio.Event() if also is None else also
        entry = (asyncio.get_running_loop(), event)
        with self._changed:
            if self._is_over():
                return self._consume()
            self._tasks.append(entry)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(timeout, threading.TIMEOUT_MAX)):
                    await event.wait()
        finally:
            with self._changed:
                self._tasks.remove(entry)
        with self._changed:
            return self._consume()

    def ignore_changes(self) -> None:
        """See `Listener.ignore_changes`; it looks for none."""

    def close(self) -> None:
        """Stop listening; a wait that is going on ends."""
        with self._changed:
            closed, self._closed = self._closed, True
            self._notify()
        if not closed:
            self.leave()

    def leave(self) -> None:
        """Called once, when it is closed: whoever would wake it is to forget it."""

    def renew(self) -> None:
        """Forget who waits: after a fork, in the child, where none of them is."""
        self._changed = threading.Condition()
        self._tasks = []

    @property
    def closed(self) -> bool:
        """Whether it stopped listening."""
        return self._closed

    def _notify(self) -> None:
        self._changed.notify_all()
        for loop, event in self._tasks:
            # A loop that was closed has nobody left to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(event.set)

    def _is_over(self) -> bool:
        return self._woken or self._closed

    def _consume(self) -> bool:
        woken, self._woken = self._woken, False
        return woken and not self._closed
