"""What the memory broker remembers of messages: records and dead letters."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator

import msgspec

from taskyard.brokers.base import DeadLetter, DeadQuery, Group
from taskyard.message import Failure, State

__all__ = ["DeadLetters", "Kept", "Records"]


class Kept(msgspec.Struct):
    """A record as it is kept.

    Attributes:
        group: the group under which the message was put.
        ttl: microseconds that it is kept after the message ended.
        state: what is known for sure; a due time may have passed meanwhile.
        due: when a delayed or retried message enters its lane.
        expires: when it is forgotten; 0: the message has not ended.
        result: the encoded result.
        failure: why it is dead, or was before its dead letter was discarded.
        shard: the key of its lane.
        priority: its priority.
        sequence: its number, in its lane or outside.
        progress: what its handler told last.
        told_at: when that was.
    """

    group: Group
    ttl: int
    state: State = State.WAITING
    due: int = 0
    expires: int = 0
    result: bytes | None = None
    failure: Failure | None = None
    shard: str = ""
    priority: int = 0
    sequence: int = 0
    progress: bytes | None = None
    told_at: int = 0


class Records:
    """Records by id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Kept] = {}
        self._expiring: list[tuple[int, str]] = []

    def get(self, id_: str, now: int) -> Kept | None:
        """The record of a message, None if there is none, or none any more."""
        record = self._by_id.get(id_)
        return None if record is None or 0 < record.expires <= now else record

    def open(self, id_: str, record: Kept) -> None:
        """Begin to remember a message."""
        self._by_id[id_] = record

    def postpone(self, id_: str, due: int) -> None:
        """Note that a message is to be tried again."""
        record = self._by_id.get(id_)
        if record is not None:
            record.state, record.due = State.RETRYING, due

    def reopen(self, id_: str, now: int, sequence: int) -> None:
        """Note that a dead message waits again, under a new number."""
        record = self.get(id_, now)
        if record is not None:
            self._by_id[id_] = Kept(
                record.group,
                record.ttl,
                shard=record.shard,
                priority=record.priority,
                sequence=sequence,
            )

    def relocate(self, id_: str, old: int, new: int) -> None:
        """Note that a message entered its lane, and got a new number by that."""
        record = self._by_id.get(id_)
        if record is not None and record.sequence == old:
            record.sequence = new

    def note_progress(self, id_: str, now: int, told: bytes) -> None:
        """Note what a handler told."""
        record = self._by_id.get(id_)
        if record is not None:
            record.progress, record.told_at = told, now

    def finish(
        self,
        id_: str,
        now: int,
        state: State,
        *,
        result: bytes | None = None,
        failure: Failure | None = None,
    ) -> None:
        """Note how a message ended; an unknown id is passed over."""
        record = self._by_id.get(id_)
        if record is not None:
            record.state, record.result, record.failure = state, result, failure
            record.expires = max(1, now + record.ttl)
            heapq.heappush(self._expiring, (record.expires, id_))

    def tidy(self, now: int, limit: int) -> int:
        """Remove expired records, `limit` at most; say how many."""
        removed = 0
        while removed < limit and self._expiring and self._expiring[0][0] <= now:
            expires, id_ = heapq.heappop(self._expiring)
            record = self._by_id.get(id_)
            # It may have been reopened, or its id used again, since then.
            if record is not None and record.expires == expires:
                del self._by_id[id_]
                removed += 1
        return removed


class DeadLetters:
    """Dead letters by number: of each group the newest, and none for ever.

    Arguments:
        limit: how many of a group are kept.
        age: microseconds for which one is kept.
    """

    def __init__(self, limit: int, age: int) -> None:
        self._limit = limit
        self._age = age
        self._last = 0
        self._groups: dict[Group, dict[int, DeadLetter]] = {}

    def of(self, group: Group) -> int:
        """How many a group has."""
        return len(self._groups.get(group, ()))

    def next_number(self) -> int:
        """A number that no dead letter ever had."""
        self._last += 1
        return self._last

    def newest(self) -> int:
        """The highest number that any dead letter had; 0: there was none."""
        return self._last

    def add(self, letter: DeadLetter) -> DeadLetter | None:
        """Keep a dead letter; returns the one that had to go for it."""
        letters = self._groups.setdefault(letter.group, {})
        letters[letter.number] = letter
        if len(letters) <= self._limit:
            return None
        oldest = next(iter(letters.values()))
        self.remove(oldest)
        return oldest

    def remove(self, letter: DeadLetter) -> None:
        """Forget a dead letter."""
        letters = self._groups[letter.group]
        del letters[letter.number]
        if not letters:
            del self._groups[letter.group]

    def find(self, query: DeadQuery) -> list[DeadLetter]:
        """The dead letters that are meant, oldest first."""
        return list(itertools.islice(self._matching(query), max(0, query.limit)))

    def expired(self, now: int, limit: int) -> list[DeadLetter]:
        """Those that were kept long enough, `limit` at most."""
        old: list[DeadLetter] = []
        for letters in self._groups.values():
            for letter in letters.values():
                if letter.at + self._age > now or len(old) >= limit:
                    break
                old.append(letter)
        return old

    def _matching(self, query: DeadQuery) -> Iterator[DeadLetter]:
        numbers = None if query.numbers is None else frozenset(query.numbers)
        for letter in self._in_order(query.queue):
            if query.upto is not None and letter.number > query.upto:
                return
            if (
                letter.number > query.after
                and (query.task is None or letter.task == query.task)
                and (numbers is None or letter.number in numbers)
            ):
                yield letter

    def _in_order(self, queue: str | None) -> Iterator[DeadLetter]:
        of_groups = [
            letters.values()
            for group, letters in self._groups.items()
            if queue in (None, group.queue)
        ]
        return heapq.merge(*of_groups, key=lambda letter: letter.number)
