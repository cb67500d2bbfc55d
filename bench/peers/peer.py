"""What the measurements need of a task queue. Each file here defines one `Peer`.

It runs in an environment of its own, so nothing of what it imports may come from elsewhere than
the standard library and that queue.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeAlias

Seen: TypeAlias = Callable[[], None]
"""The first line of every handler, and the only one."""


class SyncPeer(ABC):
    """A task queue with plain functions.

    Arguments:
        url: of the Redis server.
        seen: what its handler calls; it takes a number and a text.
    """

    DISTRIBUTIONS: ClassVar[tuple[str, ...]]
    """Whose versions are shown."""
    SETTINGS: ClassVar[str]
    """How it is used; the file says why."""
    COUNT: ClassVar[int] = 5_000
    """Of how many messages it is drained: some seconds."""

    @abstractmethod
    def __init__(self, url: str, seen: Seen) -> None: ...

    @abstractmethod
    def enqueue(self, n: int, text: str) -> object:
        """Store a message; it is kept when this returns. Called from several threads."""

    def fill(self, numbers: range, text: str) -> None:
        """Store many, by any means."""
        for n in numbers:
            self.enqueue(n, text)

    @abstractmethod
    def work(self) -> object:
        """Run a worker in this process. The process is killed, so it need not end."""


class AsyncPeer(ABC):
    """A task queue with coroutines; everything happens in one event loop."""

    DISTRIBUTIONS: ClassVar[tuple[str, ...]]
    SETTINGS: ClassVar[str]
    COUNT: ClassVar[int] = 5_000

    @abstractmethod
    def __init__(self, url: str, seen: Seen) -> None: ...

    @staticmethod
    def run(main: Coroutine[Any, Any, Any]) -> Any:
        """Run the event loop."""
        return asyncio.run(main)

    @abstractmethod
    async def open(self) -> object:
        """Connect, before anything is measured."""

    @abstractmethod
    async def close(self) -> object:
        """End, so that nothing complains."""

    @abstractmethod
    async def enqueue(self, n: int, text: str) -> object:
        """Store a message; it is kept when this returns. Called from several coroutines."""

    async def fill(self, numbers: range, text: str) -> None:
        """Store many, by any means."""
        for n in numbers:
            await self.enqueue(n, text)

    @abstractmethod
    async def work(self) -> object:
        """Run a worker in this event loop."""
