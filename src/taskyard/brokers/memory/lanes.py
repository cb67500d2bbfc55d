"""Lanes as the memory broker keeps them: messages in their places."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from taskyard.brokers.base import Delivery
from taskyard.brokers.lane import LaneState, Place, deadline_of

if TYPE_CHECKING:
    from taskyard.brokers.memory.groups import GroupState

__all__ = ["Fifo", "Lane", "Room"]

_COMPACT = 64


class Room:
    """What still fits into a claim.

    Arguments:
        messages: how many messages the claim may hold.
        size: how many bytes, unless it is a single message.
        alone: whether a suspect may begin it (see `Claim.suspect`).

    Attributes:
        messages: how many messages more it may hold; none from the first one that is too large.
        suspects: whether a suspect was passed over.
    """

    __slots__ = ("_alone", "_history", "_size", "messages", "suspects")

    def __init__(self, messages: int, size: int, *, alone: bool) -> None:
        self.messages = max(1, messages)
        self.suspects = False
        self._size = size
        self._alone = alone
        self._history: tuple[int, int] | None = None

    def book(self, message: Delivery) -> bool:
        """Let a message in if it may join."""
        size, history = len(message.body), (message.losses, message.cap)
        if self._history is None:
            if message.cap == 1 and not self._alone:
                self.suspects = True
                return False
            if message.cap:
                self.messages = min(self.messages, message.cap)
        elif history != self._history:
            return False
        elif size > self._size:
            self.messages = 0
        if self.messages == 0:
            return False
        self._enter(1, size, history)
        return True

    def book_new(self, count: int, size: int) -> bool:
        """Let in messages that were never lost, if they may all join."""
        if size > self._size or count > self.messages or self._history not in (None, (0, 0)):
            return False
        self._enter(count, size, (0, 0))
        return True

    def _enter(self, count: int, size: int, history: tuple[int, int]) -> None:
        self._history = history
        self.messages -= count
        self._size -= size


class Fifo:
    """Messages of one lane and priority, in order of sequence.

    New ones are appended to a list. Those that came back, or were lost once, stand in a heap
    beside it, so that a claim takes whole slices of what was never touched.
    """

    __slots__ = ("_back", "_fresh", "_start")

    def __init__(self) -> None:
        self._fresh: list[Delivery] = []
        self._start = 0
        self._back: list[tuple[int, Delivery]] = []

    def extend(self, messages: Sequence[Delivery]) -> None:
        """Append new messages: later than all others here, and never lost."""
        self._fresh.extend(messages)

    def put_back(self, message: Delivery) -> None:
        """Put a message into its place."""
        heapq.heappush(self._back, (message.sequence, message))

    def first(self) -> Delivery | None:
        """The first message."""
        fresh = self._fresh[self._start] if self._start < len(self._fresh) else None
        if self._back and (fresh is None or self._back[0][0] < fresh.sequence):
            return self._back[0][1]
        return fresh

    def take_first(self) -> Delivery:
        """Remove the first message; there must be one."""
        message = self.first()
        assert message is not None  # noqa: S101 - the caller has looked
        self._remove_first(message)
        return message

    def __iter__(self) -> Iterator[Delivery]:
        yield from itertools.islice(self._fresh, self._start, None)
        for _, message in sorted(self._back):
            yield message

    def find(self, sequence: int) -> Delivery | None:
        """A message from anywhere; None: it is not here."""
        return next((message for message in self if message.sequence == sequence), None)

    def before(self, sequence: int) -> int:
        """How many messages come before a sequence."""
        return sum([message.sequence < sequence for message in self])

    def take(self, count: int, room: Room) -> list[Delivery]:
        """Remove the first messages, `count` at most, as far as there is room."""
        if not self._back:
            taken = self._fresh[self._start : self._start + count]
            if room.book_new(len(taken), sum([len(message.body) for message in taken])):
                self._advance(len(taken))
                return taken
        taken = []
        while len(taken) < count and (message := self.first()) is not None:
            if not room.book(message):
                break
            taken.append(message)
            self._remove_first(message)
        return taken

    def remove(self, sequence: int) -> Delivery | None:
        """Remove a message from anywhere; None: it is not here."""
        for index, (number, message) in enumerate(self._back):
            if number == sequence:
                del self._back[index]
                heapq.heapify(self._back)
                return message
        index = bisect_left(self._fresh, sequence, self._start, key=lambda one: one.sequence)
        if index == len(self._fresh) or self._fresh[index].sequence != sequence:
            return None
        return self._fresh.pop(index)

    def _remove_first(self, message: Delivery) -> None:
        if self._back and self._back[0][1] is message:
            heapq.heappop(self._back)
        else:
            self._advance(1)

    def _advance(self, count: int) -> None:
        self._start += count
        if self._start == len(self._fresh):
            self._fresh = []
            self._start = 0
        elif self._start >= _COMPACT and 2 * self._start >= len(self._fresh):
            del self._fresh[: self._start]
            self._start = 0


class Lane:
    """One shard of a group.

    Attributes:
        group: its group.
        shard: its key.
        state: what decides about its place.
        place: where it is.
        at: when it must be looked at again, while it is `LATER`.
        changed: whether its state was changed since its place was decided.
    """

    __slots__ = ("_fifos", "at", "changed", "group", "place", "shard", "state")

    def __init__(self, group: GroupState, shard: str) -> None:
        self.group = group
        self.shard = shard
        self.state = LaneState()
        self.place = Place.NOWHERE
        self.at = 0
        self.changed = False
        self._fifos: dict[int, Fifo] = {}

    @property
    def idle(self) -> bool:
        """Whether the lane is to be forgotten."""
        state = self.state
        # The lane of a task that does not shard stays: it would come and go with every message.
        used = state.waiting or state.held or state.parked or state.tat
        return not used and self.shard != ""

    def extend(self, priority: int, messages: Sequence[Delivery], size: int) -> None:
        """Append new messages of `size` bytes, which may wait for equally long."""
        if messages:
            self._fifo(priority).extend(messages)
            self._count_in(priority, messages[0], len(messages), size)

    def put_back(self, priority: int, message: Delivery) -> None:
        """Put a message into its place."""
        self._fifo(priority).put_back(message)
        self._count_in(priority, message, 1, len(message.body))

    def take(self, count: int, room: Room) -> list[tuple[int, Delivery]]:
        """Remove the first messages, `count` at most, as far as there is room."""
        taken: list[tuple[int, Delivery]] = []
        for priority in sorted(self._fifos):
            fifo = self._fifos[priority]
            taken += [(priority, message) for message in fifo.take(count - len(taken), room)]
            if fifo.first() is not None:
                break
            del self._fifos[priority]
        if taken:
            self._count_out(taken)
        return taken

    def remove(self, priority: int, sequence: int) -> Delivery | None:
        """Remove one message; None: it is not here."""
        fifo = self._fifos.get(priority)
        message = None if fifo is None else fifo.remove(sequence)
        if fifo is None or message is None:
            return None
        if fifo.first() is None:
            del self._fifos[priority]
        self._count_out([(priority, message)])
        return message

    def take_oldest(self, count: int) -> list[tuple[int, Delivery]]:
        """Remove the oldest messages, whatever their priority."""
        taken: list[tuple[int, Delivery]] = []
        firsts = [
            (first.sequence, priority)
            for priority, fifo in self._fifos.items()
            if (first := fifo.first()) is not None
        ]
        heapq.heapify(firsts)
        while firsts and len(taken) < count:
            _, priority = firsts[0]
            taken.append((priority, self._fifos[priority].take_first()))
            following = self._fifos[priority].first()
            if following is None:
                heapq.heappop(firsts)
                del self._fifos[priority]
            else:
                heapq.heapreplace(firsts, (following.sequence, priority))
        if taken:
            self._count_out(taken)
        return taken

    def find(self, priority: int, sequence: int) -> Delivery | None:
        """A message; None: it is not here."""
        fifo = self._fifos.get(priority)
        return None if fifo is None else fifo.find(sequence)

    def before(self, priority: int, sequence: int) -> list[tuple[int, int]]:
        """What is claimed before a place: priority, how many messages."""
        return [
            (one, len(list(fifo)) if one < priority else fifo.before(sequence))
            for one, fifo in sorted(self._fifos.items())
            if one <= priority
        ]

    def heads(self) -> list[Delivery]:
        """The first message of each priority, in their order."""
        firsts = [fifo.first() for _, fifo in sorted(self._fifos.items())]
        return [first for first in firsts if first is not None]

    def numbers(self) -> list[tuple[int, int]]:
        """How many messages there are of each priority."""
        return [(priority, sum(1 for _ in fifo)) for priority, fifo in sorted(self._fifos.items())]

    def of_priority(self, priority: int) -> list[Delivery]:
        """The messages of a priority, in order."""
        return sorted(self._fifos.get(priority, ()), key=lambda message: message.sequence)

    def messages(self) -> Iterator[tuple[int, Delivery]]:
        """All messages with their priorities."""
        for priority, fifo in self._fifos.items():
            for message in fifo:
                yield priority, message

    def _fifo(self, priority: int) -> Fifo:
        fifo = self._fifos.get(priority)
        if fifo is None:
            fifo = self._fifos[priority] = Fifo()
        return fifo

    def _count_in(self, priority: int, first: Delivery, count: int, size: int) -> None:
        state, oldest = self.state, first.sequence
        self.changed = True
        if state.waiting == 0:
            state.oldest, state.priority = oldest, priority
        else:
            state.oldest = min(state.oldest, oldest)
            state.priority = min(state.priority, priority)
        state.mixed = len(self._fifos) > 1
        state.waiting += count
        state.bytes += size
        self.group.waiting += count
        if first.expires:
            state.note_deadline(deadline_of(self.group.policy, oldest, first.expires))

    def _count_out(self, taken: list[tuple[int, Delivery]]) -> None:
        state = self.state
        self.changed = True
        state.waiting -= len(taken)
        self.group.waiting -= len(taken)
        state.bytes -= sum([len(message.body) for _, message in taken])
        state.mixed = len(self._fifos) > 1
        if state.waiting:
            firsts = [fifo.first() for fifo in self._fifos.values()]
            state.oldest = min(first.sequence for first in firsts if first is not None)
            state.priority = min(self._fifos)
        else:
            state.oldest = state.priority = state.blocked = state.deadline = 0
