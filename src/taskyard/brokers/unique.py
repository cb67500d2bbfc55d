"""The rules of unique keys: pure functions, the same for every broker.

A key belongs to a shard of a group. It is held by a message, under the message's id, so that only
the step that moves this message releases it. What a message holds travels with it, as its *mark*.

| mode | held | released |
|---|---|---|
| started | while the message waits | by the first claim, or its end |
| done | while the message is there | by its end: done, dead, discarded |
| window | for a time from the put | by the end of that time alone |
| debounce | while the message is put off | when it enters its lane |
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from enum import Enum, StrEnum

import msgspec

__all__ = [
    "Admission",
    "Finding",
    "Holder",
    "Keys",
    "Mode",
    "admit",
    "debounced_due",
    "find",
    "is_released_at_entry",
    "is_released_at_start",
    "is_taken_again",
    "key_of",
    "letter_of",
    "mark_of",
    "mode_of",
]


class Mode(StrEnum):
    """How long a key is held."""

    STARTED = "started"
    DONE = "done"
    WINDOW = "window"
    DEBOUNCE = "debounce"


_LETTERS = {Mode.STARTED: "s", Mode.DONE: "d", Mode.WINDOW: "w", Mode.DEBOUNCE: "b"}
_MODES = {letter: mode for mode, letter in _LETTERS.items()}


class Keys(msgspec.Struct):
    """The unique keys of the messages of a put.

    Attributes:
        mode: how long they are held.
        keys: one per message.
        span: microseconds of a window, or by which a debounced message is put off.
        longest: microseconds by which debounced messages are put off at most, from the first one.
        standing: what the broker answered, None: nothing yet. By the index of each message that
            found its key held, the id that stands now: that of the holder, which it was not put
            beside; or its own, since it replaced the holder (debounce).
    """

    mode: Mode
    keys: list[str]
    span: int = 0
    longest: int = 0
    standing: dict[int, str] | None = None


class Holder(msgspec.Struct):
    """Who holds a key.

    Attributes:
        mode: for how long.
        id: the message's id.
        until: the microsecond at which a window ends.
        first: when the first of the messages was put that a debounced one replaced.
        sequence: of a debounced message, where it waits.
        due: of a debounced message, when it enters its lane.
    """

    mode: Mode
    id: str
    until: int = 0
    first: int = 0
    sequence: int = 0
    due: int = 0


class Finding(Enum):
    """What a put finds at its key."""

    FREE = 0
    """Nothing: the message is put."""
    HELD = 1
    """A message that stands: nothing is put."""
    REPLACES = 2
    """A message that is still put off, and is replaced."""


def find(holder: Holder | None, mode: Mode, now: int) -> Finding:
    """Say what follows from who holds a key.

    Arguments:
        holder: who does; None: nobody.
        mode: that of the put.
        now: the broker's time, microseconds.
    """
    if holder is None or (holder.mode is Mode.WINDOW and holder.until <= now):
        return Finding.FREE
    if mode is holder.mode is Mode.DEBOUNCE:
        return Finding.REPLACES
    return Finding.HELD


def debounced_due(first: int, now: int, span: int, longest: int) -> int:
    """Say when a debounced message enters its lane.

    Arguments:
        first: when the first of those that it replaces was put; `now`: it is that.
        now: the broker's time, microseconds.
        span: by how much each call puts it off.
        longest: by how much all of them do at most.
    """
    return min(now + span, first + longest)


class Admission(msgspec.Struct):
    """Which messages of a put are stored.

    Attributes:
        admitted: their indices.
        standing: see `Keys.standing`.
    """

    admitted: list[int]
    standing: dict[int, str]


def admit(keys: Keys, ids: Sequence[str], held: MutableMapping[str, Holder], now: int) -> Admission:
    """Decide about the messages of a put, one after the other.

    Arguments:
        keys: theirs.
        ids: theirs.
        held: who holds which key; gets the new ones.
        now: the broker's time, microseconds.
    """
    mode, made = keys.mode, Admission([], {})
    until = now + keys.span if mode is Mode.WINDOW else 0
    for index, (key, id_) in enumerate(zip(keys.keys, ids, strict=True)):
        holder, first = held.get(key), now
        if holder is not None:
            finding = find(holder, mode, now)
            if finding is Finding.HELD:
                made.standing[index] = holder.id
                continue
            if finding is Finding.REPLACES:
                made.standing[index] = id_
                first = holder.first
        made.admitted.append(index)
        held[key] = Holder(mode, id_, until, first)
    return made


# Marks: what travels with a message


def mark_of(mode: Mode, key: str) -> str:
    """What travels with a message that holds a key; "": nothing, since no message releases it."""
    return "" if mode is Mode.WINDOW else letter_of(mode) + key


def letter_of(mode: Mode) -> str:
    """What the marks of a mode begin with."""
    return _LETTERS[mode]


def mode_of(mark: str) -> Mode:
    """The mode of a mark."""
    return _MODES[mark[0]]


def key_of(mark: str) -> str:
    """The key of a mark."""
    return mark[1:]


def is_released_at_start(mark: str) -> bool:
    """Whether the key is released by a claim."""
    return mark.startswith("s")


def is_released_at_entry(mark: str) -> bool:
    """Whether the key is released when the message enters its lane."""
    return mark.startswith("b")


def is_taken_again(mark: str) -> bool:
    """Whether a dead letter takes its key again when it is retried."""
    return mark.startswith(("s", "d"))
