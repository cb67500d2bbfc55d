"""An ordered set: what comes first among many things that come and go."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Agenda", "Key"]

Item = TypeVar("Item")
Key: TypeAlias = tuple[int, int] | tuple[int, int, str]
"""Of one shape within an agenda. Texts go by code point: by their UTF-8 bytes, as elsewhere."""

_SLACK = 64


class Agenda(Generic[Item]):
    """Items in the order of their keys; no two items have the same key at a time.

    A heap whose outdated entries are dropped when they surface, or when they are the majority.
    """

    __slots__ = ("_heap", "_keys", "_pushed")

    def __init__(self) -> None:
        # Numbered: an outdated entry may have the key of a new item, and items have no order.
        self._heap: list[tuple[Key, int, Item]] = []
        self._pushed = 0
        self._keys: dict[Item, Key] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, item: Item) -> Key | None:
        """The key of an item; None if it is not here."""
        return self._keys.get(item)

    def put(self, item: Item, key: Key) -> None:
        """Add an item, or move it."""
        if self._keys.get(item) == key:
            return
        self._keys[item] = key
        self._pushed += 1
        heapq.heappush(self._heap, (key, self._pushed, item))
        self._shrink()

    def drop(self, item: Item) -> None:
        """Remove an item if it is here."""
        if self._keys.pop(item, None) is not None:
            self._shrink()

    def first(self) -> tuple[Key, Item] | None:
        """The first item with its key; None when there is none."""
        heap = self._heap
        while heap:
            key, _, item = heap[0]
            if self._keys.get(item) == key:
                return key, item
            heapq.heappop(heap)
        return None

    def in_order(self) -> Iterator[tuple[Key, Item]]:
        """The items with their keys, in order, without more work than for those that are taken."""
        heap, seen = self._heap, set[Item]()
        ahead = [(*heap[0][:2], 0)] if heap else []
        while ahead:
            key, _, index = heapq.heappop(ahead)
            item = heap[index][2]
            if self._keys.get(item) == key and item not in seen:
                seen.add(item)
                yield key, item
            for child in range(2 * index + 1, min(2 * index + 3, len(heap))):
                heapq.heappush(ahead, (*heap[child][:2], child))

    def before(self, item: Item) -> int:
        """How many items come before one; 0 if it is not here. It looks at all of them."""
        own = self._keys.get(item)
        return 0 if own is None else sum([key < own for key in self._keys.values()])

    def take_until(self, moment: int, limit: int) -> list[Item]:
        """Remove, in order, the items whose key begins with `moment` or less."""
        taken: list[Item] = []
        while len(taken) < limit:
            first = self.first()
            if first is None or first[0][0] > moment:
                break
            heapq.heappop(self._heap)
            del self._keys[first[1]]
            taken.append(first[1])
        return taken

    def _shrink(self) -> None:
        if len(self._heap) > 2 * len(self._keys) + _SLACK:
            self._heap = [(key, 0, item) for item, key in self._keys.items()]
            heapq.heapify(self._heap)
