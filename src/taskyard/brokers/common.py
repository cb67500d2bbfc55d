"""What brokers have in common beside the rules of lanes: how much a step does, how losses end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from taskyard.brokers.base import DeadQuery, Operation, Put
from taskyard.brokers.unique import Keys, Mode
from taskyard.message import Failure, Reason, read_id

__all__ = [
    "CHUNK",
    "FORGOTTEN",
    "NO_ATTEMPT",
    "PROMOTED",
    "REAPED",
    "STEP_BYTES",
    "SUPERVISED",
    "Changed",
    "changed_letters",
    "earliest",
    "enters_now",
    "in_chunks",
    "lost_failure",
    "parts_of",
    "room_needed",
    "stored_parts",
]

PROMOTED = 500
"""Messages, and lanes, whose time has come, that one step lets in."""
REAPED = 4
"""Lost claims that one step takes back."""
FORGOTTEN = 2
"""Lanes that nothing is left of, and that are forgotten whenever another one joins them."""
CHUNK = 500
"""Records and dead letters that a step of a longer operation touches."""
STEP_BYTES = 4 << 20
"""Payload bytes after which a step leaves the rest to the next, though it may touch more rows."""

SUPERVISED = "TASKYARD_SUPERVISED"
"""Set in the environment of worker processes that a supervisor replaces at times."""

NO_ATTEMPT = frozenset({Reason.EXPIRED, Reason.UNREADABLE, Reason.WORKER_LOST})
"""Reasons to bury a message whose handler did not fail."""


def earliest(*times: int) -> int:
    """The first of some times, of which 0 is none."""
    return min(filter(None, times), default=0)


def lost_failure(losses: int) -> Failure:
    """Say why a message is dead that was lost too often."""
    text = f"its worker died or lost its lease {losses} times while running it"
    return Failure(Reason.WORKER_LOST, message=text)


class Changed(NamedTuple):
    """What a step did with dead letters.

    Attributes:
        changed: how many it took away.
        seen: how many it looked at; it may have left some where they were.
        last: the number of the last of these.
    """

    changed: int
    seen: int
    last: int


def changed_letters(changed: int, numbers: Sequence[int]) -> Changed:
    """What a step did that looked at these numbers, in order."""
    return Changed(changed, len(numbers), numbers[-1] if numbers else 0)


def in_chunks(query: DeadQuery, newest: Any, change: Callable[[DeadQuery], Any]) -> Operation[int]:
    """Change dead letters, a bounded number in each step.

    Arguments:
        query: which ones.
        newest: a step that says the highest number of a dead letter, 0: there is none.
        change: makes a step that changes the first of the letters that are meant, and answers with
            `Changed`.
    """
    # Letters that are retried may die again meanwhile, under higher numbers: they are not meant.
    last: int = yield newest
    upto = last if query.upto is None else min(last, query.upto)
    total, left, after = 0, query.limit, query.after
    while left > 0:
        chunk = msgspec.structs.replace(query, after=after, upto=upto, limit=min(CHUNK, left))
        changed, seen, after = yield change(chunk)
        if not seen:
            break
        total += changed
        left -= seen
    return total


def parts_of(put: Put, indices: Sequence[int]) -> list[Put]:
    """Puts of some of the messages of one whose messages have unique keys.

    Arguments:
        put: the whole.
        indices: which messages, in order.

    Returns:
        One put; of debounced messages, which have a time each, one per message.
    """
    if put.unique is not None and put.unique.mode is Mode.DEBOUNCE:
        return [_part_of(put, put.unique, [index]) for index in indices]
    if put.unique is None or len(indices) == len(put.bodies):
        return [put]
    return [_part_of(put, put.unique, indices)]


def stored_parts(put: Put) -> list[Put]:
    """What was stored of a put that was carried out: not what unique keys kept back."""
    if put.unique is None:
        return [put]
    standing, ids = put.unique.standing or {}, map(read_id, put.bodies)
    indices = [index for index, id_ in enumerate(ids) if standing.get(index, id_) == id_]
    return parts_of(put, indices) if indices else []


def enters_now(put: Put, now: int) -> bool:
    """Whether the messages of a put enter their lane at once."""
    if put.unique is not None and put.unique.mode is Mode.DEBOUNCE:
        return False
    return (put.due or now + put.delay) <= now


def room_needed(put: Put) -> int:
    """How many messages more there are once a put is stored that unique keys admit.

    One that takes the place of another that was put off under its key adds none.
    """
    if put.unique is None or put.unique.mode is not Mode.DEBOUNCE or not put.unique.standing:
        return len(put.bodies)
    replacing = set(put.unique.standing.values())
    return sum(read_id(body) not in replacing for body in put.bodies)


def _part_of(put: Put, unique: Keys, indices: Sequence[int]) -> Put:
    return msgspec.structs.replace(
        put,
        bodies=[put.bodies[index] for index in indices],
        ids=None if put.ids is None else [put.ids[index] for index in indices],
        unique=msgspec.structs.replace(unique, keys=[unique.keys[index] for index in indices]),
    )
