"""Items of an async iterable, for those who ask from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, Callable
from contextlib import suppress
from typing import Any

from taskyard.dispatch.source import Pulled

__all__ = ["Feed"]


class Feed:
    """Reads an async iterable as far as it is asked to, and no further.

    Arguments:
        items: what to read.
        loop: where; None: in a loop of its own, in a thread of its own.
    """

    def __init__(
        self, items: AsyncIterable[Any], loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._iterable = items
        self._given = loop
        self._loop: asyncio.AbstractEventLoop | None = loop
        self._items: deque[Any] = deque()
        self._wanted = 0
        self._closed = False
        self._ended = False
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._asked: asyncio.Event
        self._task: asyncio.Task[None] | None = None

    def open(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        if self._given is not None:
            self._task = self._given.create_task(self._read())
        else:
            threading.Thread(target=self._run, name="taskyard-items", daemon=True).start()

    def pull(self, limit: int) -> Pulled:
        with self._lock:
            items = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            if items or self._ended:
                if not items and self._error is not None:
                    raise self._error
                return items, not self._ended or bool(items)
            self._wanted = limit
        self._call(self._ask)
        return [], True

    def close(self) -> None:
        self._closed = True
        self._call(self._cancel)

    def _run(self) -> None:
        asyncio.run(self._read())

    async def _read(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        self._asked = asyncio.Event()
        if self._wanted:
            self._asked.set()
        try:
            if not self._closed:
                await self._read_all()
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - the caller's; told where items are taken
            self._error = error
        with self._lock:
            self._ended = True
        self._tell()

    async def _read_all(self) -> None:
        items = aiter(self._iterable)
        try:
            await self._asked.wait()
            async for item in items:
                with self._lock:
                    self._items.append(item)
                    first, enough = len(self._items) == 1, len(self._items) >= self._wanted
                if first or enough:
                    self._tell()
                if enough:
                    self._asked.clear()
                    await self._asked.wait()
        finally:
            if hasattr(items, "aclose"):
                await items.aclose()

    def _ask(self) -> None:
        if hasattr(self, "_asked"):
            self._asked.set()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _call(self, function: Callable[[], object]) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: there is nobody to tell
                self._loop.call_soon_threadsafe(function)
