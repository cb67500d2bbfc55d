"""Who sleeps, for what, and how the memory broker wakes them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from taskyard.brokers.base import Group, GroupWant
from taskyard.brokers.listener import WokenListener

__all__ = ["Listeners", "MemoryListener"]

Key = TypeVar("Key")
Item = TypeVar("Item")

_numbers = itertools.count(1)


class MemoryListener(WokenListener):
    """A sleeper of the memory broker.

    Arguments:
        leave: tells the broker that it stops listening.

    Attributes:
        wants: the groups that it serves; the broker's.
        next_at: when it wakes by itself, 0: never; the broker's.
    """

    def __init__(self, leave: Callable[[MemoryListener], None]) -> None:
        super().__init__(f"memory-{next(_numbers)}")
        self.wants: dict[Group, GroupWant] = {}
        self.next_at = 0
        self._leave = leave

    def leave(self) -> None:
        """Tell the broker."""
        self._leave(self)


class Listeners:
    """The sleepers by name, by the groups that they serve, and by the ids that they wait for."""

    def __init__(self) -> None:
        self._by_name: dict[str, MemoryListener] = {}
        self._idle: dict[Group, dict[MemoryListener, None]] = {}
        self._waiting: dict[str, dict[MemoryListener, None]] = {}
        self._ids: dict[MemoryListener, dict[str, None]] = {}

    def add(self, listener: MemoryListener) -> None:
        """Know a listener from now on."""
        self._by_name[listener.name] = listener

    def remove(self, listener: MemoryListener) -> None:
        """Forget a listener."""
        if self._by_name.pop(listener.name, None) is not None:
            self._unregister(listener)
            for id_ in self._ids.pop(listener, {}):
                _leave(self._waiting, id_, listener)

    def wake(self, name: str) -> None:
        """Wake a listener, if it is known."""
        listener = self._by_name.get(name)
        if listener is not None:
            listener.wake()

    # Sleepers that serve groups

    def idle(self, name: str, wants: Sequence[GroupWant], next_at: int) -> None:
        """Register a worker that found nothing to do."""
        listener = self._by_name.get(name)
        if listener is None:
            return
        self._unregister(listener)
        listener.wants = {want.group: want for want in wants}
        listener.next_at = next_at
        for group in listener.wants:
            self._idle.setdefault(group, {})[listener] = None

    def busy(self, name: str) -> None:
        """Note that a worker found something to do."""
        listener = self._by_name.get(name)
        if listener is not None:
            self._unregister(listener)
            listener.wants = {}

    def wake_one(self, group: Group, members: Iterable[str]) -> None:
        """Wake the worker that has been idle longest of those that may serve the group."""
        for listener in self._serving(group, members):
            self._unregister(listener)
            listener.wake()
            return

    def wake_for(self, group: Group, members: Iterable[str], at: int) -> None:
        """Wake a worker of the group, unless one will wake in time by itself."""
        if all(not 0 < listener.next_at <= at for listener in self._serving(group, members)):
            self.wake_one(group, members)

    def _serving(self, group: Group, members: Iterable[str]) -> list[MemoryListener]:
        return [
            listener
            for listener in self._idle.get(group, ())
            if listener.wants[group].members.issuperset(members)
        ]

    def _unregister(self, listener: MemoryListener) -> None:
        for group in listener.wants:
            _leave(self._idle, group, listener)

    # Sleepers that wait for records

    def wait_for(self, name: str, id_: str) -> None:
        """Register somebody who waits for a message to end."""
        listener = self._by_name.get(name)
        if listener is not None:
            self._waiting.setdefault(id_, {})[listener] = None
            self._ids.setdefault(listener, {})[id_] = None

    def ended(self, id_: str) -> None:
        """Wake all who wait for a message."""
        for listener in self._waiting.pop(id_, ()):
            _leave(self._ids, listener, id_)
            listener.wake()


def _leave(places: dict[Key, dict[Item, None]], key: Key, item: Item) -> None:
    items = places.get(key)
    if items is not None:
        items.pop(item, None)
        if not items:
            del places[key]
