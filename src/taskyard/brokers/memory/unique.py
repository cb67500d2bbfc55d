"""The unique keys of the memory broker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from taskyard.brokers.base import Group
from taskyard.brokers.memory.agenda import Agenda
from taskyard.brokers.unique import (
    Finding,
    Holder,
    Mode,
    find,
    is_taken_again,
    key_of,
    mode_of,
)

__all__ = ["KeyRing", "ShardKeys"]

ShardKeys: TypeAlias = dict[str, Holder]


class KeyRing:
    """Who holds which key: by group and shard, then by key."""

    def __init__(self) -> None:
        self._held: dict[tuple[Group, str], ShardKeys] = {}
        self._windows: Agenda[tuple[Group, str, str]] = Agenda()
        self._opened = 0

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def __iter__(self) -> Iterator[tuple[Group, str, str, Holder]]:
        for (group, shard), keys in self._held.items():
            for key, holder in keys.items():
                yield group, shard, key, holder

    def of(self, group: Group, shard: str) -> ShardKeys:
        """The keys of a shard, to look at."""
        return self._held.get((group, shard), {})

    def hold(self, group: Group, shard: str, key: str, holder: Holder) -> None:
        """Let a message hold a key."""
        self._held.setdefault((group, shard), {})[key] = holder
        if holder.mode is Mode.WINDOW:
            self._opened += 1
            self._windows.put((group, shard, key), (holder.until, self._opened))
        else:  # the window may have ended just now
            self._windows.drop((group, shard, key))

    def release(self, group: Group, shard: str, mark: str, id_: str) -> None:
        """Release the key of a message, if it is this one that holds it."""
        keys = self._held.get((group, shard))
        holder = keys.get(key_of(mark)) if keys and mark else None
        if keys and holder and holder.id == id_ and holder.mode is not Mode.WINDOW:
            del keys[key_of(mark)]
            self._forget_empty(group, shard)

    def free(self, group: Group, shard: str, key: str) -> None:
        """Let nobody hold a key, whoever does."""
        del self._held[group, shard][key]
        self._windows.drop((group, shard, key))
        self._forget_empty(group, shard)

    def take_again(self, group: Group, shard: str, mark: str, id_: str, now: int) -> bool:
        """Let a dead letter that is retried have its key again; False: another one holds it."""
        if not is_taken_again(mark):
            return True
        holder = self.of(group, shard).get(key_of(mark))
        if find(holder, mode_of(mark), now) is not Finding.FREE:
            return False
        self.hold(group, shard, key_of(mark), Holder(mode_of(mark), id_))
        return True

    def tidy(self, now: int, limit: int) -> int:
        """Forget windows that are over, `limit` at most; say how many."""
        over = self._windows.take_until(now, limit)
        for group, shard, key in over:
            del self._held[group, shard][key]
            self._forget_empty(group, shard)
        return len(over)

    def _forget_empty(self, group: Group, shard: str) -> None:
        if not self._held[group, shard]:
            del self._held[group, shard]
